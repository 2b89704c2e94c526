//! Generates the server side of the contract. In a project of your own: copy `proto/events.proto` beside it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto/events.proto");
    let contract = protox::compile(["../../proto/events.proto"], ["../../proto"])?;
    tonic_prost_build::configure().build_client(false).generate_default_stubs(true).compile_fds(contract)?;
    Ok(())
}
