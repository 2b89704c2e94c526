//! Generates the contract's Rust types from `proto/events.proto`, without a protoc on the machine.

use std::error::Error;

const PROTO: &str = "../../proto/events.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let contract = protox::compile([PROTO], ["../../proto"])?;

    // What mproxy speaks. No `HooksClient::connect(url)`: the RPC called Connect has that name.
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        // It holds a password.
        .btree_map(".")
        .skip_debug([".mproxy.v1.AuthConnectRequest"])
        .compile_fds(contract)?;
    Ok(())
}
