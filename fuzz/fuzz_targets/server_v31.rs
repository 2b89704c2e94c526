#![no_main]
//! What a server may send in this version.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mproxy_fuzz::check(
    bytes,
    mproxy_codec::Sender::Server,
    mproxy_codec::Version::V31
));
