//! Randomness for masks and keys. A mask must not be guessed by whoever chose the payload (RFC 6455, 10.3).

use std::cell::RefCell;

use ring::rand::{SecureRandom, SystemRandom};

/// Bytes fetched at a time: a system call for 64 frames instead of one for each.
const FETCH: usize = 256;

struct Store {
    bytes: [u8; FETCH],
    used: usize,
}

thread_local! {
    static STORE: RefCell<Store> = const { RefCell::new(Store { bytes: [0; FETCH], used: FETCH }) };
}

/// A fresh mask.
pub(crate) fn mask() -> [u8; 4] {
    STORE.with_borrow_mut(|store| {
        if let Some(mask) = store.bytes.get(store.used..).and_then(|unused| unused.first_chunk()) {
            store.used += 4;
            return *mask;
        }
        fill(&mut store.bytes);
        store.used = 4;
        let [a, b, c, d, ..] = store.bytes;
        [a, b, c, d]
    })
}

/// Random bytes for a key of a handshake.
pub(crate) fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the kernel's generator does not fail once the machine is up");
}
