//! Says to the program which commit it is built from: the variable MPROXY_COMMIT where that is set (an image is built
//! without `.git`), else what git says, else `unknown`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// As long as git shows it.
const SHORT: &str = "--short=7";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MPROXY_COMMIT");
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    // Each commit would build a debug build and all its tests anew, for a text that nobody looks at.
    let is_optimised = variable("PROFILE").is_some_and(|profile| profile == "release");
    let commit = variable("MPROXY_COMMIT").map(|commit| commit.trim().chars().take(40).collect());
    let commit = commit.or_else(|| if is_optimised { git_commit() } else { Some("debug build".to_owned()) });
    println!("cargo:rustc-env=MPROXY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    // Without it, events are not always served in the order in which they came: docs/adr/0009.
    let features = if variable_is_set("CARGO_CFG_TOKIO_UNSTABLE") { "tokio_unstable" } else { "none" };
    println!("cargo:rustc-env=MPROXY_FEATURES={features}");
    let (profile, target) = (variable("PROFILE").unwrap_or_default(), variable("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=MPROXY_BUILD={profile}, {target}");
}

fn variable_is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// The commit of this very repository: the source may also lie, without a repository of its own, in somebody else's.
fn git_commit() -> Option<String> {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let root = package.ancestors().nth(2)?;
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // The log of HEAD grows with each commit and each checkout. HEAD itself mostly only names a branch.
    for path in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(root, &["rev-parse", "--git-path", path])?);
        // Of a file that is not there cargo thinks that it changes all the time.
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(root, &["rev-parse", SHORT, "HEAD"])
}

fn git(at: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(at).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
