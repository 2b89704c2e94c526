//! What mosquitto 2.0 decides by an `acl_file`, in as few lines as it takes to say it. Slow, and right: the rules that are
//! made out of it are held against this, and this against a real mosquitto.
//!
//! A client's own lines (those of its user, or the anonymous ones) come first, then the patterns; in each of the two, what
//! denies comes before what allows, and what no line allows is denied.

use std::borrow::Cow;

use mproxy_codec::topic::matches;

use super::acl_lines::{AclLine, AclOwner};

/// The only topics below `$SYS` that mosquitto lets anybody publish to.
pub(super) const BRIDGE_STATE: &str = "$SYS/broker/connection/+/state";

/// A client, as mosquitto knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AclClient<'a> {
    pub(super) id: &'a str,
    pub(super) username: Option<&'a str>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclAsked {
    /// May it be sent this?
    Read,
    /// May it publish this, or have it as a will?
    Write,
}

pub(super) fn allows(lines: &[AclLine], client: AclClient<'_>, asked: AclAsked, topic: &str) -> bool {
    let is_reserved = topic.starts_with("$SYS") && asked == AclAsked::Write && !matches(BRIDGE_STATE, topic);
    if is_reserved || topic.starts_with("$share") {
        return false;
    }
    let is_own = |line: &&AclLine| match (&line.owner, client.username) {
        (AclOwner::Anonymous, None) => true,
        (AclOwner::User(name), Some(own)) => name == own,
        _ => false,
    };
    let is_pattern = |line: &&AclLine| line.owner == AclOwner::Everybody;
    if let Some(answer) =
        decide(lines.iter().filter(is_own), asked, topic, |line| Some((*line.filter).into()))
    {
        return answer;
    }
    if is_dangerous(client) {
        return false;
    }
    decide(lines.iter().filter(is_pattern), asked, topic, |line| written_out(&line.filter, client))
        .unwrap_or(false)
}

fn decide<'l>(
    lines: impl Iterator<Item = &'l AclLine> + Clone,
    asked: AclAsked,
    topic: &str,
    filter: impl Fn(&'l AclLine) -> Option<Cow<'l, str>>,
) -> Option<bool> {
    let mut met = lines.filter(|line| filter(line).is_some_and(|filter| matches(&filter, topic)));
    if met.clone().any(|line| !line.access.reads() && !line.access.writes()) {
        return Some(false);
    }
    let gives = |line: &AclLine| match asked {
        AclAsked::Read => line.access.reads(),
        AclAsked::Write => line.access.writes(),
    };
    met.any(gives).then_some(true)
}

/// Patterns give nothing to those whose names could be wildcards.
fn is_dangerous(client: AclClient<'_>) -> bool {
    client.id.contains(['+', '#']) || client.username.is_some_and(|name| name.contains(['+', '#']))
}

/// A pattern with `%c` and `%u` replaced wherever they stand; none for a client without a user name where there is `%u`.
fn written_out<'l>(pattern: &'l str, client: AclClient<'_>) -> Option<Cow<'l, str>> {
    if !pattern.contains("%c") && !pattern.contains("%u") {
        return Some(pattern.into());
    }
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find("%c").into_iter().chain(rest.find("%u")).min() {
        out.push_str(&rest[..at]);
        out.push_str(if rest[at..].starts_with("%c") { client.id } else { client.username? });
        rest = &rest[at + 2..];
    }
    out.push_str(rest);
    Some(out.into())
}
