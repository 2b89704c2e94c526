//! Generates the server side of the contract, without protoc. In a project of your own, put `events.proto` beside this
//! file: it is looked for there first.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = if Path::new("events.proto").exists() { "." } else { "../../proto" };
    let file = Path::new(folder).join("events.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let contract = protox::compile([&file], [folder])?;
    tonic_prost_build::configure().build_client(false).generate_default_stubs(true).compile_fds(contract)?;
    Ok(())
}
