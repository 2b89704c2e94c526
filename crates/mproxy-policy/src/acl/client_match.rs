//! For whom a `[[grants]]` or a `[[rewrites]]` entry is: users, groups, client ids, listeners, claims, certificates, and of
//! grants a condition. Each that is named has to fit.

use mproxy_core::peer::{Peer, TlsFacts};
use mproxy_core::rule::condition::{Condition, ConditionSubject};
use mproxy_core::rule::{WallTime, Who};

use super::NameSet;

/// The attribute under which a client's groups stand, one for each.
pub(super) const GROUP: &str = "group";

/// Which clients are meant; all, if nothing is named.
#[derive(Debug, Default)]
pub(super) struct ClientMatch {
    pub(super) users: Option<NameSet>,
    pub(super) groups: Option<NameSet>,
    pub(super) client_ids: Option<NameSet>,
    pub(super) listeners: Option<NameSet>,
    /// Names of attributes, `claim.tenant`, with the values of which one has to be there.
    pub(super) claims: Vec<(Box<str>, NameSet)>,
    pub(super) certificate: Option<CertificateMatch>,
    /// What else has to hold when the client comes.
    pub(super) condition: Option<Condition>,
}

/// Which certificates are meant; all, if nothing is named.
#[derive(Debug, Default)]
pub(super) struct CertificateMatch {
    pub(super) common_names: Option<Box<[NamePattern]>>,
    pub(super) dns: Option<Box<[NamePattern]>>,
    pub(super) uris: Option<Box<[NamePattern]>>,
    pub(super) fingerprints: Option<NameSet>,
}

/// A name in which `*` stands for any text without the separator, and `**` for any text.
#[derive(Debug)]
pub(super) struct NamePattern {
    pieces: Vec<NamePiece>,
    separator: Option<u8>,
}

#[derive(Debug, PartialEq)]
enum NamePiece {
    Text(Box<[u8]>),
    Within,
    Any,
}

/// Whether what is meant for some clients is for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Its condition has no value.
    Unknown,
}

impl ClientMatch {
    /// Whether this client is meant, which comes at this time.
    pub(super) fn fits(&self, peer: &Peer, time: Option<WallTime>) -> Fit {
        if !self.is(peer) {
            return Fit::No;
        }
        let held = |condition: &Condition| condition.holds(Who::from(peer), ConditionSubject::Client(time));
        match self.condition.as_ref().map(held) {
            None | Some(Ok(true)) => Fit::Yes,
            Some(Ok(false)) => Fit::No,
            Some(Err(_)) => Fit::Unknown,
        }
    }

    /// The same without its condition.
    pub(super) fn is(&self, peer: &Peer) -> bool {
        let has = |name: &str, wanted: &NameSet| {
            peer.attributes.iter().any(|(own, value)| own == name && wanted.has(value))
        };
        self.users.as_ref().is_none_or(|users| peer.username.as_deref().is_some_and(|name| users.has(name)))
            && self.groups.as_ref().is_none_or(|groups| has(GROUP, groups))
            && self.client_ids.as_ref().is_none_or(|ids| ids.has(&peer.client_id))
            && self.listeners.as_ref().is_none_or(|names| names.has(&peer.origin.listener))
            && self.claims.iter().all(|(name, wanted)| has(name, wanted))
            && self
                .certificate
                .as_ref()
                .is_none_or(|wanted| certificate_of(peer).is_some_and(|tls| wanted.is(tls)))
    }
}

/// What is known of the client's certificate, if it has shown one that is trusted.
pub(super) fn certificate_of(peer: &Peer) -> Option<&TlsFacts> {
    let tls = peer.origin.tls.as_deref()?;
    // Of one that a PROXY header told of, and was verified there, the name is all that is known.
    (tls.fingerprint.is_some() || tls.common_name.is_some()).then_some(tls)
}

impl CertificateMatch {
    fn is(&self, tls: &TlsFacts) -> bool {
        let named =
            |kind: &'static str| tls.subject_alt_names.iter().filter_map(move |name| name.strip_prefix(kind));
        fits(&self.common_names, tls.common_name.as_deref().into_iter())
            && fits(&self.dns, named("DNS:"))
            && fits(&self.uris, named("URI:"))
            && self
                .fingerprints
                .as_ref()
                .is_none_or(|own| tls.fingerprint.as_deref().is_some_and(|fingerprint| own.has(fingerprint)))
    }
}

/// Whether one of the names is as one of the patterns, if there are any.
fn fits<'n>(patterns: &Option<Box<[NamePattern]>>, mut names: impl Iterator<Item = &'n str>) -> bool {
    patterns.as_ref().is_none_or(|patterns| names.any(|name| patterns.iter().any(|own| own.is(name))))
}

impl NamePattern {
    /// `separator`: what `*` does not stand for. Names with a `.` between their labels are compared in any case.
    pub(super) fn new(text: &str, separator: Option<u8>) -> Self {
        let text = if separator == Some(b'.') { text.to_ascii_lowercase() } else { text.to_owned() };
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('*') {
            if !before.is_empty() {
                pieces.push(NamePiece::Text(before.as_bytes().into()));
            }
            (pieces, rest) = match after.strip_prefix('*') {
                Some(after) => (pushed(pieces, NamePiece::Any), after),
                None => (pushed(pieces, NamePiece::Within), after),
            };
        }
        if !rest.is_empty() {
            pieces.push(NamePiece::Text(rest.as_bytes().into()));
        }
        Self { pieces, separator }
    }

    fn is(&self, name: &str) -> bool {
        let name = if self.separator == Some(b'.') { name.to_ascii_lowercase() } else { name.to_owned() };
        let name = name.as_bytes();
        // Where the pieces so far may end. Work is their number times the name's length, whatever is in it.
        let mut ends = vec![false; name.len() + 1];
        ends[0] = true;
        for piece in &self.pieces {
            let mut next = vec![false; name.len() + 1];
            match piece {
                NamePiece::Text(text) => {
                    for at in (0..=name.len()).filter(|at| ends[*at]) {
                        if name[at..].starts_with(text) {
                            next[at + text.len()] = true;
                        }
                    }
                }
                NamePiece::Within | NamePiece::Any => {
                    let mut open = false;
                    for at in 0..=name.len() {
                        let behind = at.checked_sub(1).map(|before| name[before]);
                        open &= *piece == NamePiece::Any || behind != self.separator;
                        open |= ends[at];
                        next[at] = open;
                    }
                }
            }
            ends = next;
        }
        ends[name.len()]
    }
}

fn pushed(mut pieces: Vec<NamePiece>, piece: NamePiece) -> Vec<NamePiece> {
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_what_is_between_separators() {
        let is = |pattern: &str, separator, name| NamePattern::new(pattern, separator).is(name);
        let uri = |pattern, name| is(pattern, Some(b'/'), name);
        assert!(uri("spiffe://prod.example/ns/*/sa/sensor", "spiffe://prod.example/ns/a/sa/sensor"));
        assert!(!uri("spiffe://prod.example/ns/*/sa/sensor", "spiffe://prod.example/ns/a/b/sa/sensor"));
        assert!(uri("spiffe://prod.example/**", "spiffe://prod.example/ns/a"));
        for other in
            ["spiffe://prod.example", "spiffe://prod.example.evil/ns/a", "spiffe://test.example/ns/a"]
        {
            assert!(!uri("spiffe://prod.example/**", other), "{other}");
        }
        assert!(
            is("*.example.org", Some(b'.'), "A.Example.org")
                && !is("*.example.org", Some(b'.'), "a.b.example.org")
        );
        assert!(
            is("sensor-*", None, "sensor-a/b.c")
                && is("sensor-*", None, "sensor-")
                && !is("sensor-*", None, "x-sensor-1")
        );
        assert!(
            is("a*b*c", None, "abcbc")
                && !is("a*b*c", None, "acb")
                && is("**", Some(b'/'), "")
                && is("x", None, "x")
        );
        // Names of many stars cost no more than their length allows.
        let (stars, name) = ("*a".repeat(200), "a".repeat(2000));
        assert!(is(&stars, None, &name) && !is(&format!("{stars}b"), None, &name));
    }
}
