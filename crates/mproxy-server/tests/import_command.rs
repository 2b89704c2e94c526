//! `mproxy import mosquitto`: what it writes, what it says, and what it ends with.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn mproxy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mproxy")).args(arguments).env_clear().output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The example of docs/migrating.md.
const ACL: &str = "topic read news/#\nuser ann\ntopic readwrite home/#\ntopic deny home/alarm\npattern write sensors/%c/%u\n";
const PASSWORDS: &str = "ann:$7$101$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==\n";

#[test]
fn a_rule_file_is_written_that_decides_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let acl = written(folder.path(), "acl", ACL);
    let passwords = written(folder.path(), "passwords", PASSWORDS);
    let out = folder.path().join("rules.toml");
    let out = out.to_str().unwrap();
    let arguments = ["import", "mosquitto", "--acl", &acl, "--passwords", &passwords, "--out", out];
    let (code, said, told) = mproxy(&arguments);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{told}");
    assert!(told.ends_with(" decisions compared with those of mosquitto, 0 differ\n"), "{told}");
    assert!(told.contains(&format!("{acl}:5: unusual names: ")), "{told}");
    assert_eq!(fs::metadata(out).unwrap().permissions().mode() & 0o777, 0o600);
    for (what, expected) in [
        (["publish", "home/lamp", "--username", "ann"], 0),
        (["receive", "home/lamp", "--username", "ann"], 0),
        (["receive", "home/alarm", "--username", "ann"], 1),
        (["subscribe", "home/#", "--username", "ann"], 0),
        (["publish", "sensors/c1/ann", "--username", "ann"], 0),
        (["publish", "sensors/c1/bob", "--username", "ann"], 1),
        (["receive", "news/x", "--username", "ann"], 1),
        (["receive", "news/x", "--client-id", "c2"], 0),
        (["publish", "news/x", "--client-id", "c2"], 1),
    ] {
        let given = [
            &["rules", "explain", out][..],
            &what[..],
            if what.contains(&"c2") { &["--service"][..] } else { &["--client-id", "c1"][..] },
        ];
        let (code, said, told) = mproxy(&given.concat());
        assert_eq!(code, Some(expected), "{what:?}: {said}{told}");
    }
    // What is there is not written over.
    let (code, _, told) = mproxy(&arguments);
    assert!(code == Some(2) && told.contains("cannot be written"), "{told}");
}

#[test]
fn with_strict_subscriptions_are_refused_and_deliveries_not_judged() {
    let folder = tempfile::tempdir().unwrap();
    let acl = written(folder.path(), "acl", ACL);
    let (code, rules, told) = mproxy(&["import", "mosquitto", "--acl", &acl, "--strict"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(!rules.contains("receive"), "{rules}");
    let rules = written(folder.path(), "rules.toml", &rules);
    for (filter, expected) in [("home/#", 1), ("home/lamp/#", 0), ("news/#", 1)] {
        let (code, ..) = mproxy(&["rules", "explain", &rules, "subscribe", filter, "--username", "ann"]);
        assert_eq!(code, Some(expected), "{filter}");
    }
}

#[test]
fn what_cannot_be_carried_over_is_told_and_what_is_wrong_refused() {
    let folder = tempfile::tempdir().unwrap();
    let acl = written(folder.path(), "acl", "topic a/${x}\ntopic b\n");
    let (code, rules, told) = mproxy(&["import", "mosquitto", "--acl", &acl]);
    assert!(code == Some(1) && rules.contains("[[rules]]"), "{told}");
    assert!(
        told.starts_with(&format!("{acl}:1: changed: left out, so that nothing is allowed by it")),
        "{told}"
    );
    assert!(
        told.contains("differs: a client without a user name publish a/${x}: mosquitto allows it"),
        "{told}"
    );
    let acl = written(folder.path(), "wrong", "topics a\ntopic a/#/b\n");
    let none = folder.path().join("none");
    let (code, rules, told) = mproxy(&["import", "mosquitto", "--acl", &acl]);
    assert_eq!((code, rules.as_str(), told.lines().count()), (Some(2), "", 2), "{told}");
    assert!(told.contains(": line 1: \"topics\" is none of user, topic, pattern"), "{told}");
    let (code, _, told) = mproxy(&["import", "mosquitto", "--acl", none.to_str().unwrap()]);
    assert!(code == Some(2) && told.contains("cannot be read"), "{told}");
}
