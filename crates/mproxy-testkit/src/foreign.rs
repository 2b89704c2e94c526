//! Clients of other people in other languages: what devices really run. A package is installed once, into the target
//! folder, by the language's own tool; a script of the test then finds it as if it were installed on the machine.
//! A test that needs them fails without `python3` with `pip`, `node` with `npm`, or `chromium`: skipping would prove nothing.

use crate::hook::profile_folder;
use crate::process::program;
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command as Installer,
};
use tokio::{process::Command, task::spawn_blocking};

/// `python3 SCRIPT`, with paho in reach (`import paho.mqtt.client`).
pub async fn paho(script: &Path) -> Command {
    let mut python = python_with("paho-mqtt==2.1.0").await;
    python.arg(script);
    python
}

/// `python3` with Flask in reach (`-m flask`); arguments are to follow.
pub async fn flask() -> Command {
    python_with("flask==3.1.2").await
}

/// `python3` with gRPC in reach (`import grpc`, `-m grpc_tools.protoc`); arguments are to follow.
pub async fn python_grpc() -> Command {
    python_with("grpcio-tools==1.76.0").await
}

/// `node SCRIPT`, with Express in reach (`require('express')`).
pub async fn express(script: &Path) -> Command {
    node_with(node_modules("express@5.1.0", &["express@5.1.0"]).await, script)
}

/// `node SCRIPT`, with gRPC in reach (`require('@grpc/grpc-js')`, `require('@grpc/proto-loader')`).
pub async fn node_grpc(script: &Path) -> Command {
    const PACKAGES: &[&str] = &["@grpc/grpc-js@1.14.0", "@grpc/proto-loader@0.8.0"];
    node_with(node_modules("grpc-js-1.14.0", PACKAGES).await, script)
}

/// `python3`, with this package of pip in reach; arguments are to follow.
async fn python_with(package: &'static str) -> Command {
    let packages = installed(package, |package, folder| {
        let mut pip = Installer::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        pip.arg(folder).arg(package);
        (pip, "python3 with pip (Debian: python3-pip)")
    });
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages.await).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// `node SCRIPT`, with these packages of npm in reach.
fn node_with(modules: PathBuf, script: &Path) -> Command {
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(script);
    node
}

/// The folder that these packages of npm are in, kept under `name`.
async fn node_modules(name: &'static str, packages: &'static [&'static str]) -> PathBuf {
    let folder = installed(name, move |_, folder| {
        let mut npm = Installer::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--prefix"]);
        npm.arg(folder).args(packages);
        (npm, "node and npm (Debian: nodejs, npm)")
    });
    folder.await.join("node_modules")
}

/// A program of Go, built from this folder, which needs no packages; `None` where there is no Go, unless
/// `MPROXY_TEST_ALL` is set, as `.ci/test` does after it has installed everything.
pub async fn go(source: &Path, program: &Path) -> Option<Command> {
    let mut go = Command::new("go");
    // What it builds is kept for the next run, and with all the rest of what tests install.
    let cache = profile_folder().join("foreign-go");
    go.env("GOCACHE", &cache).env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
    go.args(["build", "-o"]).arg(program).arg(".").current_dir(source);
    match go.output().await {
        Ok(built) if built.status.success() => Some(Command::new(program)),
        Ok(built) => panic!("{}: {}", source.display(), String::from_utf8_lossy(&built.stderr)),
        Err(error) if std::env::var_os("MPROXY_TEST_ALL").is_some() => {
            panic!("this test needs go (Debian: golang-go): {error}")
        }
        Err(error) => {
            eprintln!("NOT TESTED: {} needs go (Debian: golang-go): {error}", source.display());
            None
        }
    }
}

/// `node SCRIPT`, with mqtt.js in reach (`require('mqtt')`).
pub async fn mqttjs(script: &Path) -> Command {
    node_with(mqttjs_modules().await, script)
}

/// mqtt.js in one file, for a page in a browser.
pub async fn mqttjs_for_pages() -> PathBuf {
    mqttjs_modules().await.join("mqtt/dist/mqtt.min.js")
}

async fn mqttjs_modules() -> PathBuf {
    node_modules("mqtt@5.16.0", &["mqtt@5.16.0"]).await
}

/// A Chromium without a window that shows this page, with nothing remembered and nobody else called. It takes every
/// certificate. `home` is where it keeps what it has to.
pub fn chromium(home: &Path, url: &str) -> Command {
    let mut chromium = Command::new(program("chromium", "chromium"));
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    chromium.args(["--disable-dev-shm-usage", "--ignore-certificate-errors"]);
    chromium.arg(format!("--user-data-dir={}", home.display())).arg(url).env("TMPDIR", home);
    chromium
}

/// The folder that holds the package, installed now if it was not.
async fn installed(
    package: &'static str,
    how: impl FnOnce(&OsStr, &Path) -> (Installer, &'static str) + Send + 'static,
) -> PathBuf {
    let done = spawn_blocking(move || {
        let target = profile_folder();
        let foreign = target.parent().unwrap_or(&target).join("foreign");
        let folder = foreign.join(package);
        // Written last.
        let complete = folder.join("complete");
        fs::create_dir_all(&foreign).unwrap_or_else(|error| panic!("{}: {error}", foreign.display()));
        // Tests are many processes, and one of them is enough to install. The lock goes with the file.
        let lock = File::create(foreign.join(format!("{package}.lock"))).and_then(|lock| {
            lock.lock()?;
            Ok(lock)
        });
        let _lock = lock.unwrap_or_else(|error| panic!("no lock in {}: {error}", foreign.display()));
        if !complete.exists() {
            // Half an installation is begun anew.
            let _ = fs::remove_dir_all(&folder);
            let (mut installer, needs) = how(package.as_ref(), &folder);
            match installer.output() {
                Err(error) => panic!("this test needs {needs}: {error}"),
                Ok(output) if !output.status.success() => panic!(
                    "{package} could not be installed; this test needs {needs} and a registry:\n{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                ),
                Ok(_) => {}
            }
            File::create(&complete).unwrap_or_else(|error| panic!("{}: {error}", complete.display()));
        }
        folder
    });
    done.await.unwrap_or_else(|error| panic!("{package}: {error}"))
}
