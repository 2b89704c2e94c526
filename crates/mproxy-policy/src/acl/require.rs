//! What the clients of a listener have to show before anything else is asked about them: a certificate, a token, or either.

use mproxy_core::peer::Peer;

use super::Acl;
use super::client_match::certificate_of;

/// What a client is told that would have needed one.
pub(super) const CERTIFICATE_REQUIRED: &str = "certificate required";

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
    fn required_of(&self, peer: &Peer) -> Option<&Requirement> {
        self.required.get(&*peer.origin.listener).or_else(|| self.required.get("*"))
    }

    /// Whether the client's listener requires a certificate that it has not shown, and would take no token for it.
    pub(super) fn lacks_certificate(&self, peer: &Peer) -> bool {
        let needs = |required: &Requirement| required.certificate && !required.token;
        self.required_of(peer).is_some_and(needs) && certificate_of(peer).is_none()
    }

    /// Of a client that has no token.
    pub(super) fn shown_by(&self, peer: &Peer) -> ShownCredentials {
        match self.required_of(peer) {
            None => ShownCredentials::NothingRequired,
            Some(required) if required.certificate && certificate_of(peer).is_some() => {
                ShownCredentials::Certificate
            }
            Some(Requirement { certificate: true, token: true, .. }) => {
                ShownCredentials::Lacks("certificate or token required")
            }
            Some(Requirement { certificate: true, token: false, .. }) => {
                ShownCredentials::Lacks(CERTIFICATE_REQUIRED)
            }
            Some(_) => ShownCredentials::Lacks("token required"),
        }
    }
}
