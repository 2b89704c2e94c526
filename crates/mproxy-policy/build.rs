//! Generates the contract's Rust types from `proto/events.proto`, without a protoc on the machine.

use std::error::Error;
use std::path::Path;

const PROTO: &str = "../../proto/events.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let contract = protox::compile([PROTO], ["../../proto"])?;

    // The names of fields, for JSON and for `mproxy hooks check`: the generated types know only numbers.
    let descriptors = protox::Compiler::new(["../../proto"])?
        .include_imports(true)
        .open_file(PROTO)?
        .encode_file_descriptor_set();
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), descriptors)?;

    // What mproxy speaks. No `HooksClient::connect(url)`: the RPC called Connect has that name.
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        // They hold a password, or what is as good.
        .skip_debug([".mproxy.v1.AuthConnectRequest", ".mproxy.v1.AuthExchangeRequest"])
        .compile_fds(contract)?;
    Ok(())
}
