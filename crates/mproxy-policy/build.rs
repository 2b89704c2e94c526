//! Generates the contract's Rust types from `proto/events.proto`, without a protoc on the machine.

use std::env;
use std::error::Error;
use std::path::PathBuf;

const PROTO: &str = "../../proto/events.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let contract = protox::compile([PROTO], ["../../proto"])?;

    // What mproxy speaks. No `HooksClient::connect(url)`: the RPC called Connect has that name.
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        // It holds a password.
        .btree_map(".")
        .skip_debug([".mproxy.v1.AuthConnectRequest"])
        .compile_fds(contract.clone())?;

    // What the tests' services speak: generated on its own, as theirs would be.
    let service = out.join("service");
    std::fs::create_dir_all(&service)?;
    tonic_prost_build::configure()
        .build_client(false)
        .generate_default_stubs(true)
        .out_dir(service)
        .compile_fds(contract)?;
    Ok(())
}
