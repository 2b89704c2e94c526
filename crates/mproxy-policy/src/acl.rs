//! Static rules: a TOML file with users and what they may do. It knows no service and reads no network.
//!
//! ```toml
//! anonymous = true                      # clients without a user name may connect; false if left out
//! allow_empty = true                    # a reload may leave no users or no rules; false if left out
//! client_ids = ["${cn}", "${username}-*"]  # what a client may call itself; anything if left out
//!
//! [[users]]
//! name = "ann"
//! password = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$…"
//!
//! [[rules]]                             # the first rule that matches decides
//! effect = "deny"
//! actions = ["publish"]                 # publish, subscribe, receive, will; all of them if left out
//! topics = ["devices/+/config"]         # topic filters, with ${clientid}, ${username}, ${cn}, ${attr.name}
//!
//! [[rules]]
//! effect = "allow"
//! users = ["ann"]                       # whose rule it is; everybody's if left out
//! client_ids = ["c1", "c2"]             # likewise
//! anonymous = false                     # only those without (true) or with (false) a user name; both if left out
//! topics = ["devices/${clientid}/#"]
//! max_qos = 1                           # allow only; 2 if left out
//! retain = false                        # allow only; whether publishes may be retained, true if left out
//! max_payload = 1024                    # allow only; bytes of the largest payload, any if left out
//! when = 'size(payload) <= 1024'        # what else has to hold; nothing if left out
//! ```
//!
//! - **Silence denies.** What no rule speaks of is refused, unless an adviser after this one knows.
//! - **PUBLISH, will and delivery** match a rule if one of its filters matches the topic.
//! - **SUBSCRIBE**: an *allow* rule decides if one of its filters contains the asked one whole; a *deny* rule
//!   decides if some topic matches both, so that nothing denied is had through a wider filter.
//!   `$share/group/filter` is judged as `filter`.
//! - **Topics that begin with `$`** are allowed only by rules that begin with a written `$`. A deny rule's
//!   wildcards reach them.
//! - **Variables** are compared literally, as (part of) one level: no value widens a rule. Where the value is absent,
//!   empty, or holds `/`, `+` or `#`, an *allow* rule matches nothing, a *deny* rule any levels from there on.
//! - **`max_qos`** refuses a publish above it (0x9B) and lowers what a subscription is granted;
//!   **`retain = false`** refuses retained publishes (0x9A), **`max_payload`** larger payloads (0x97). They hold for wills,
//!   too.
//! - **`when`** is a condition in CEL. Where it has no value, an *allow* rule does not apply, and a *deny* rule does.
//! - **`receive`** is looked at only where some rule names it; from then on every delivery needs a rule.
//! - **`[[rewrites]]`** give the topics of clients other names at the broker, both ways; **`client_id_prefix`** in `[[grants]]`
//!   and **`[broker]`** say as whom it knows them. Rules go by what the clients say themselves.
//! - **Users** are checked only where the file has `[[users]]` or says `anonymous`; a file of rules alone leaves
//!   the question who somebody is to others.

mod adviser;
mod client_match;
mod condition;
mod connecting;
mod file;
mod password;
mod queue;
mod require;
mod stable_read;
mod static_grants;
mod static_rewrites;
mod token;
mod trial;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mproxy_codec::reason::ReasonCode;
use mproxy_codec::types::QoS;
use mproxy_core::grant::{Grant, Mapping};
use mproxy_core::peer::Peer;
use mproxy_core::policy::{BrokerLogin, Foreseen, ForeseenDecision, Ground, RuleFile, Silence, Supposed};
use mproxy_core::rule::{Act, AskedFilter, Message, Name, Rule, RuleEffect, WallTime, Who};

pub use self::adviser::{AclAdviser, KeySetState, UnknownUsers};
use self::client_match::GROUP;
use self::file::NamedListener;
pub use self::file::{AclError, AclErrors, TrialCase, parse_moment};
use self::password::Password;
pub(crate) use self::password::check_password;
pub use self::password::{HashError, hash_password};
use self::require::Requirement;
use self::static_grants::{NoPrefix, StaticGrants};
use self::static_rewrites::{NoRewrite, StaticRewrites};
use self::token::TokenRules;
pub use self::trial::{ImpossibleClient, RuleTrial, TrialClient, TrialGround, TrialOutcome, TrialQuestion};
use crate::nearest;

/// A rule file that was read and checked.
#[derive(Debug)]
pub struct Acl {
    path: Option<PathBuf>,
    /// What the decision log says of it.
    file: Arc<RuleFile>,
    /// `None`: the file does not say.
    anonymous: Option<bool>,
    /// What a client may call itself; `None`: anything.
    client_ids: Option<Box<[Name]>>,
    users: HashMap<Box<str>, User>,
    rules: Vec<AclRule>,
    /// What clients may do for whom they are.
    grants: StaticGrants,
    /// By which names the broker knows their topics.
    rewrites: Vec<StaticRewrites>,
    /// Listeners that entries of the file are for.
    listeners: Vec<NamedListener>,
    /// What clients have to show, by listener; `*` for all others.
    required: HashMap<Box<str>, Requirement>,
    /// What the broker gets in the place of user names and passwords.
    broker_login: Option<Arc<BrokerLogin>>,
    /// How tokens are judged, if they are.
    tokens: Option<TokenRules>,
    /// Some rule names `receive`.
    receives: bool,
    /// Some rule has a condition on more than client, topic, QoS and RETAIN.
    has_varying_rules: bool,
    /// The file says that it may have no users or no rules where there were some.
    allow_empty: bool,
}

/// What a rule file holds, for a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// `[[users]]` in it.
    pub users: usize,
    /// `[[rules]]` in it.
    pub rules: usize,
    /// `[[grants]]` in it.
    pub grants: usize,
}

/// A reload that took: what was in force before, and what is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Before.
    pub old: Size,
    /// Now.
    pub new: Size,
}

/// One `[[users]]` entry.
#[derive(Debug)]
struct User {
    password: Password,
    groups: Box<[Box<str>]>,
}

/// One `[[rules]]` entry.
#[derive(Debug)]
struct AclRule {
    users: Option<NameSet>,
    client_ids: Option<NameSet>,
    /// Only for clients without a user name, or only for those with one.
    anonymous: Option<bool>,
    rule: Rule,
}

/// Names in order, to be searched.
#[derive(Debug)]
struct NameSet(Box<[Box<str>]>);

impl NameSet {
    fn new(mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        Self(names.into())
    }

    fn has(&self, name: &str) -> bool {
        self.0.binary_search_by(|own| (**own).cmp(name)).is_ok()
    }
}

/// Why a client's topics have no place at the broker: a variable has no value that can stand there, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoTopics {
    /// In the prefix of its grant.
    Prefix,
    /// In its rewrites.
    Rewrite,
}

impl From<NoPrefix> for NoTopics {
    fn from(_: NoPrefix) -> Self {
        Self::Prefix
    }
}

impl From<NoRewrite> for NoTopics {
    fn from(_: NoRewrite) -> Self {
        Self::Rewrite
    }
}

impl NoTopics {
    /// What the client is told.
    const fn text(self) -> &'static str {
        match self {
            Self::Prefix => "no topic prefix for this client",
            Self::Rewrite => "no topic rewrites for this client",
        }
    }
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleAnswer<A> {
    /// No rule speaks of it.
    Silence,
    /// Yes.
    Allow(A),
    /// No, the reason code for it, and which rule said so.
    Refuse(ReasonCode, u32),
}

impl Acl {
    /// Reads and checks a file. One that was changed just now is read again until it stays as it is, for at most two
    /// seconds: half of a file may be a good one, with half of the rules. Sleeps meanwhile: not for an async thread.
    ///
    /// # Errors
    /// The file cannot be read, or all that is wrong in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, AclErrors> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = stable_read::read_stable(path).map_err(|error| AclErrors::unreadable(&name, &error))?;
        Ok(Self { path: Some(path.to_owned()), ..Self::parse(&text, &name)? })
    }

    /// Checks the text of a file; `name` is for the errors.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(text: &str, name: &str) -> Result<Self, AclErrors> {
        file::parse(text, name)
    }

    /// Whether the file says who may connect: it has users, or speaks of those who have no name.
    #[must_use]
    pub fn knows_users(&self) -> bool {
        !self.users.is_empty()
            || self.anonymous.is_some()
            || self.tokens.is_some()
            || !self.required.is_empty()
    }

    /// Whether each listener that it names is one of these.
    ///
    /// # Errors
    /// Those that are none: what their clients have to show would be looked for at nobody.
    pub fn knows_listeners(&self, listeners: &[&str]) -> Result<(), AclErrors> {
        let unknown =
            self.required.iter().filter(|(name, _)| &***name != "*" && !listeners.contains(&&***name));
        let required = unknown.map(|(name, requirement)| (name, requirement.line, format!("require.{name}")));
        let of_entries = self.listeners.iter().filter(|one| !listeners.contains(&&*one.name));
        let of_entries = of_entries.map(|one| (&one.name, one.line, one.key.clone()));
        let faults = required.chain(of_entries).map(|(name, line, key)| AclError {
            line,
            key,
            what: match nearest(name, listeners.iter().copied()) {
                Some(near) => format!("there is no such listener; the nearest one is {near}"),
                None => format!("there is no such listener; there are {}", listeners.join(", ")),
            },
        });
        AclErrors::of(&self.file.name, faults.collect())
    }

    /// Topic patterns of all rules: what a filter that none of them names is held against.
    pub(crate) fn patterns(&self) -> usize {
        self.rules.iter().map(|entry| entry.rule.effort().max(1)).sum()
    }

    /// Users, rules and grants in it, for a log line.
    #[must_use]
    pub fn size(&self) -> Size {
        Size { users: self.users.len(), rules: self.rules.len(), grants: self.grants.all.len() }
    }

    /// Whether it may take the place of `old`. A file that was cut short, or not written yet, still reads as one, and
    /// would leave the question who somebody is to nobody.
    ///
    /// # Errors
    /// It has lost all users, all rules, or all that it said on who may connect or on what they may call themselves, and
    /// does not say `allow_empty`.
    fn may_follow(&self, old: &Self) -> Result<(), AclErrors> {
        let (lost_users, lost_rules) = (old.users.len(), old.rules.len());
        // A file that was cut short at a table's boundary parses: without this, a full disk turns authentication off.
        let lost = if self.allow_empty {
            return Ok(());
        } else if self.users.is_empty() && lost_users > 0 {
            format!("has no users any more, where {lost_users} are in force")
        } else if self.rules.is_empty() && lost_rules > 0 {
            format!("has no rules any more, where {lost_rules} are in force")
        } else if old.knows_users() && !self.knows_users() {
            "does not say any more who may connect".to_owned()
        } else if old.tokens.is_some() && self.tokens.is_none() {
            "does not say any more how tokens are verified".to_owned()
        } else if !old.required.is_empty() && self.required.is_empty() {
            "does not say any more what clients have to show".to_owned()
        } else if !old.grants.all.is_empty() && self.grants.all.is_empty() {
            format!("has no grants any more, where {} are in force", old.grants.all.len())
        } else if !old.rewrites.is_empty() && self.rewrites.is_empty() {
            format!("has no rewrites any more, where {} are in force", old.rewrites.len())
        } else if old.grants.client_id_separator().is_some() && self.grants.client_id_separator().is_none() {
            "has no client_id_prefix any more".to_owned()
        } else if old.broker_login.is_some() && self.broker_login.is_none() {
            "does not say any more as whom the broker knows clients".to_owned()
        } else if old.client_ids.is_some() && self.client_ids.is_none() {
            "does not say any more what clients may call themselves".to_owned()
        } else {
            return Ok(());
        };
        let name = self.path.as_deref().map_or_else(String::new, |path| path.display().to_string());
        Err(AclErrors::whole(&name, format!("{lost}; if that is meant, write allow_empty = true in it")))
    }

    /// Whether the client may call itself as it does.
    fn allows_name(&self, peer: &Peer) -> bool {
        let names = self.client_ids.as_deref();
        // Whoever knows one user's password could otherwise take over any session by its client id.
        names.is_none_or(|names| names.iter().any(|name| name.matches(&peer.client_id, Who::from(peer))))
    }

    /// The rules about this client, with their places in the file.
    fn rules_of<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = (u32, &'a Rule)> {
        (0..).zip(&self.rules).filter(|(_, entry)| entry.is_for(peer)).map(|(at, entry)| (at, &entry.rule))
    }

    /// The client with the groups that the file has for its user name.
    fn with_groups<'p>(&self, peer: &'p Arc<Peer>) -> Cow<'p, Arc<Peer>> {
        let user = peer.username.as_deref().and_then(|name| self.users.get(name));
        let Some(user) = user.filter(|user| !user.groups.is_empty()) else { return Cow::Borrowed(peer) };
        let mut peer = Arc::clone(peer);
        let groups = user.groups.iter().map(|group| (GROUP.to_owned(), group.to_string()));
        Peer::change(&mut peer).attributes = groups.collect();
        Cow::Owned(peer)
    }

    /// What the file grants this client, which comes at this time, and where its topics stand at the broker.
    fn grant_for(&self, peer: &Peer, time: Option<WallTime>) -> Result<Option<Grant>, NoTopics> {
        let grant = self.grants.of(peer, time, &self.file)?;
        let Some(table) = StaticRewrites::table(&self.rewrites, peer)? else { return Ok(grant) };
        let mut grant = grant.unwrap_or_else(|| {
            let mut grant = Grant::new(Vec::new(), RuleEffect::Ask);
            (grant.received, grant.rule_file) = (Some(Instant::now()), Some(Arc::clone(&self.file)));
            grant
        });
        grant.mapping = Some(match grant.mapping.take() {
            Some(prefix) => prefix.with_rewrites(table),
            None => Mapping::rewriting(table),
        });
        Ok(Some(grant))
    }

    /// What something is refused by: this rule, or what the file says about who may connect.
    fn ground(&self, rule: Option<u32>) -> Ground {
        Ground::RuleFile(Arc::clone(&self.file), rule)
    }

    /// What it would say to this now.
    fn foresee(&self, supposed: &Supposed<'_>) -> Foreseen {
        let (peer, who) = (&**supposed.peer, Who::from(&**supposed.peer));
        let silence = match supposed.act {
            // Not a matter of this file.
            Act::Receive if !self.receives => return Foreseen::Passes(Silence::Abstains, self.ground(None)),
            Act::Publish | Act::Subscribe | Act::Receive | Act::Will => Silence::DENIES,
        };
        let applies = |rule: &Rule| match supposed.act {
            Act::Subscribe => rule.applies_to_filter(supposed.filter(), who),
            act => rule.applies_to_message(act, supposed.message(), who),
        };
        let Some((at, rule)) = self.rules_of(peer).find(|(_, rule)| applies(rule)) else {
            return Foreseen::Passes(silence, self.ground(None));
        };
        let verdict = match rule.effect {
            RuleEffect::Ask => return Foreseen::Passes(silence, self.ground(Some(at))),
            RuleEffect::Deny => Err(ReasonCode::NOT_AUTHORIZED),
            RuleEffect::Allow => rule.bounds(supposed.act, supposed.message()).map(|()| {
                if supposed.act == Act::Subscribe { rule.max_qos.min(supposed.qos) } else { supposed.qos }
            }),
        };
        Foreseen::Decides(ForeseenDecision { verdict, ground: self.ground(Some(at)) })
    }

    /// Whether its rules may say something else the next time of this topic or filter, with the same QoS and RETAIN.
    fn varies(&self, act: Act, name: &str, peer: &Peer) -> bool {
        // Most files have none, and are not looked through.
        self.has_varying_rules
            && self
                .rules_of(peer)
                .any(|(_, rule)| rule.has_varying_condition() && rule.varies(act, name, Who::from(peer)))
    }

    /// May this be published, stand as a will, or be delivered?
    fn message(&self, act: Act, peer: &Peer, message: Message<'_>) -> RuleAnswer<()> {
        let who = Who::from(peer);
        // The first rule that names it decides. A bound that it breaks is a refusal then, and not left to later rules.
        let Some((at, rule)) =
            self.rules_of(peer).find(|(_, rule)| rule.applies_to_message(act, message, who))
        else {
            return RuleAnswer::Silence;
        };
        match rule.effect {
            RuleEffect::Allow => rule
                .bounds(act, message)
                .map_or_else(|reason| RuleAnswer::Refuse(reason, at), RuleAnswer::Allow),
            RuleEffect::Deny => RuleAnswer::Refuse(ReasonCode::NOT_AUTHORIZED, at),
            // A file cannot say "ask"; of a rule that did, silence is what sends the question on.
            RuleEffect::Ask => RuleAnswer::Silence,
        }
    }

    /// May this filter be subscribed to, and up to which QoS?
    fn filter(&self, peer: &Peer, asked: AskedFilter<'_>) -> RuleAnswer<QoS> {
        let who = Who::from(peer);
        let Some((at, rule)) = self.rules_of(peer).find(|(_, rule)| rule.applies_to_filter(asked, who))
        else {
            return RuleAnswer::Silence;
        };
        match rule.effect {
            // Lowered and not refused: a SUBACK may grant less than was asked for (3.9.3), a PUBACK cannot.
            RuleEffect::Allow => RuleAnswer::Allow(rule.max_qos),
            RuleEffect::Deny => RuleAnswer::Refuse(ReasonCode::NOT_AUTHORIZED, at),
            RuleEffect::Ask => RuleAnswer::Silence,
        }
    }
}

impl AclRule {
    fn is_for(&self, peer: &Peer) -> bool {
        self.client_ids.as_ref().is_none_or(|names| names.has(&peer.client_id))
            && self.anonymous.is_none_or(|wanted| wanted == peer.username.is_none())
            && self
                .users
                .as_ref()
                .is_none_or(|names| peer.username.as_deref().is_some_and(|name| names.has(name)))
    }
}
