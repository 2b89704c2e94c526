//! What the clients of a listener have to show before anything else is asked about them: a certificate, a token, or either.

use mproxy_core::peer::Peer;

use super::Acl;
use super::client_match::certificate_of;

/// One of these is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Requirement {
    pub(super) certificate: bool,
    pub(super) token: bool,
    /// Where that stands.
    pub(super) line: usize,
}

/// How a client without a token stands to what its listener requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShownCredentials {
    /// Nothing is required there.
    NothingRequired,
    /// Its certificate is what is required.
    Certificate,
    /// It lacks this.
    Lacks(&'static str),
}

impl Acl {
    /// Of a client that has no token.
    pub(super) fn shown_by(&self, peer: &Peer) -> ShownCredentials {
        let required = self.required.get(&*peer.origin.listener).or_else(|| self.required.get("*"));
        match required {
            None => ShownCredentials::NothingRequired,
            Some(required) if required.certificate && certificate_of(peer).is_some() => {
                ShownCredentials::Certificate
            }
            Some(Requirement { certificate: true, token: true, .. }) => {
                ShownCredentials::Lacks("certificate or token required")
            }
            Some(Requirement { certificate: true, token: false, .. }) => {
                ShownCredentials::Lacks("certificate required")
            }
            Some(_) => ShownCredentials::Lacks("token required"),
        }
    }
}
