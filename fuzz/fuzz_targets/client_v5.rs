#![no_main]
//! What a client may send in this version.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mproxy_fuzz::check(
    bytes,
    mproxy_codec::Sender::Client,
    mproxy_codec::Version::V5
));
