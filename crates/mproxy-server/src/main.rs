//! The `mproxy` binary: reads the command line and lets the house do the rest.

fn main() {}
