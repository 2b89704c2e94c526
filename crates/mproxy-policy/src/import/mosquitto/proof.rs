//! The rule file held against what mosquitto decides, for everybody whom the lines name and for topics made out of theirs.

use std::collections::BTreeSet;

use mproxy_core::rule::Act;

use super::ImportOptions;
use super::acl_lines::{AclLine, AclOwner};
use super::model::{AclAsked, AclClient, allows};
use crate::acl::{Acl, TrialClient, TrialQuestion};

/// Comparisons of a topic with a line, at most: a second or so.
const WORK: usize = 1_000_000;

/// So many topics, and so many users whose names are put into patterns.
const TOPICS: usize = 20_000;
const NAMES: usize = 20;

/// So many differences are told.
const MISMATCHES: usize = 20;

/// The client id of all of them.
const CLIENT_ID: &str = "c1";

/// A user whom no line names.
const STRANGER: &str = "somebody-else";

/// What comparing has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportProof {
    /// Decisions that were compared.
    pub compared: usize,
    /// How many of them differ.
    pub different: usize,
    /// The first of those.
    pub mismatches: Vec<ImportMismatch>,
}

/// A decision that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportMismatch {
    /// Of whom; none: of a client without a user name.
    pub username: Option<String>,
    /// About what: `publish`, `receive` or `will`.
    pub action: &'static str,
    /// The topic.
    pub topic: String,
    /// What mosquitto says. The rule file says the other.
    pub mosquitto_allows: bool,
}

/// Compares them. A rule file that cannot be read has nothing to be compared with: that is a difference, too.
pub(super) fn compare(lines: &[AclLine], text: &str, options: ImportOptions) -> ImportProof {
    let mut proof = ImportProof::default();
    let rules = match Acl::parse(text, "the rule file") {
        Ok(rules) => rules,
        Err(errors) => {
            let mismatch = ImportMismatch {
                username: None,
                action: "read",
                topic: errors.to_string(),
                mosquitto_allows: true,
            };
            return ImportProof { compared: 0, different: 1, mismatches: vec![mismatch] };
        }
    };
    let names: BTreeSet<_> = (lines.iter())
        .filter_map(|line| match &line.owner {
            AclOwner::User(name) => Some(name.as_str()),
            AclOwner::Anonymous | AclOwner::Everybody => None,
        })
        .collect();
    let users: Vec<_> = [None, Some(STRANGER)].into_iter().chain(names.into_iter().map(Some)).collect();
    let topics = topics(lines, &users);
    // Of what is too much, evenly some.
    let questions = users.len().saturating_mul(topics.len());
    let step = (questions.saturating_mul(lines.len().max(1)) / WORK).max(1);
    // No divisor of the number of topics, or some would never be looked at.
    let step = if step > 1 { step | 1 } else { step };
    for at in (0..questions).step_by(step) {
        let (Some(user), Some(topic)) = (users.get(at / topics.len()), topics.get(at % topics.len())) else {
            continue;
        };
        proof.ask(lines, &rules, options, *user, topic);
    }
    proof
}

impl ImportProof {
    fn ask(
        &mut self,
        lines: &[AclLine],
        rules: &Acl,
        options: ImportOptions,
        username: Option<&str>,
        topic: &str,
    ) {
        let client = AclClient { id: CLIENT_ID, username };
        let trial = TrialClient {
            client_id: CLIENT_ID.to_owned(),
            username: username.map(ToOwned::to_owned),
            ..TrialClient::default()
        };
        for (act, action, asked) in [
            (Act::Publish, "publish", AclAsked::Write),
            (Act::Will, "will", AclAsked::Write),
            (Act::Receive, "receive", AclAsked::Read),
        ] {
            // Where deliveries are not judged, subscriptions are; and of those, only fewer than here.
            let act = if options.strict && act == Act::Receive { Act::Subscribe } else { act };
            let question = TrialQuestion::plain(act, topic);
            let mosquitto_allows = allows(lines, client, asked, topic);
            let is_allowed = rules.rules_allow(&trial, &question);
            self.compared += 1;
            if is_allowed != mosquitto_allows {
                self.different += 1;
                if self.mismatches.len() < MISMATCHES {
                    let (username, topic) = (trial.username.clone(), topic.to_owned());
                    self.mismatches.push(ImportMismatch { username, action, topic, mosquitto_allows });
                }
            }
        }
    }
}

/// Topics that the lines are about, and those beside them.
fn topics(lines: &[AclLine], users: &[Option<&str>]) -> Vec<String> {
    let mut topics =
        BTreeSet::from(["other".to_owned(), "$other/x".to_owned(), "$SYS/broker/uptime".to_owned()]);
    for line in lines {
        let has_name =
            line.owner == AclOwner::Everybody && (line.filter.contains("%c") || line.filter.contains("%u"));
        // Where nobody's name is in it, it is the same for all.
        for user in users.iter().take(if has_name { NAMES } else { 1 }) {
            if topics.len() >= TOPICS {
                break;
            }
            let filter = if has_name {
                line.filter.replace("%c", CLIENT_ID).replace("%u", user.unwrap_or(STRANGER))
            } else {
                line.filter.clone()
            };
            add_topics(&mut topics, &filter);
        }
    }
    topics.remove("");
    topics.into_iter().collect()
}

fn add_topics(topics: &mut BTreeSet<String>, filter: &str) {
    let whole = filter.strip_suffix("/#").unwrap_or(filter);
    let whole = if whole == "#" { "x" } else { whole };
    for word in ["x", ""] {
        let topic: Vec<_> = whole.split('/').map(|level| if level == "+" { word } else { level }).collect();
        let topic = topic.join("/");
        topics.extend([
            format!("{topic}/x"),
            format!("{topic}/x/y"),
            format!("{topic}x"),
            format!("x{topic}"),
        ]);
        if let Some((parent, _)) = topic.rsplit_once('/') {
            topics.extend([parent.to_owned(), format!("{parent}/other")]);
        }
        topics.insert(topic);
    }
}
