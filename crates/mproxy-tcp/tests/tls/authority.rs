//! Identities of `mproxy-tcp` out of what the test certificates are.

use mproxy_tcp::tls::Identity;

use crate::certificates::{Folder, Signed};

/// Files that a side of TLS is made of.
pub(crate) trait Identities {
    /// Writes `NAME.crt` and `NAME.key`.
    fn identity(&self, name: &str, signed: &Signed) -> Identity;
}

impl Identities for Folder {
    fn identity(&self, name: &str, signed: &Signed) -> Identity {
        let (cert, key) = self.keep(name, signed);
        Identity { cert, key, ocsp: None }
    }
}
