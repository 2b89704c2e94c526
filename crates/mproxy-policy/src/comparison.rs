//! What two services said to one question, side by side: by outcome for a counter, in words for a log line.

use std::fmt::Write as _;
use std::sync::Arc;

use mproxy_core::grant::Grant;
use mproxy_core::peer::Peer;
use mproxy_core::policy::{
    Action, Admission, ConnectDecision, Decided, Decision, FilterChange, Hook, PublishChange,
    PublishDecision, Refusal, SubscribeDecision, Undecided,
};

/// An answer by kind; a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowOutcome {
    /// Allowed as it is.
    Allowed,
    /// Allowed with changes, or a SUBSCRIBE in part.
    Changed,
    /// Refused.
    Refused,
    /// Nothing was decided: the answer failed, or cannot be used.
    Undecided,
    /// It does not want to be asked.
    Unasked,
}

impl ShadowOutcome {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Changed => "changed",
            Self::Refused => "refused",
            Self::Undecided => "undecided",
            Self::Unasked => "unasked",
        }
    }
}

/// What both said.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// The hook.
    pub hook: Hook,
    /// Whose question it was.
    pub peer: &'a Arc<Peer>,
    /// The topic of a PUBLISH.
    pub topic: Option<&'a str>,
    /// The first filter of a SUBSCRIBE about which both decided otherwise.
    pub filter: Option<&'a str>,
    /// Further filters of the same SUBSCRIBE about which they did.
    pub more_filters: usize,
    /// What holds.
    pub active: ShadowOutcome,
    /// What the shadow would have decided.
    pub shadow: ShadowOutcome,
    /// Both in words, where both decided and not the same: what holds, and what the shadow would have decided. Of a SUBSCRIBE
    /// with several filters, of the first one that differs. Without payloads, passwords and other content.
    pub difference: Option<(String, String)>,
}

impl<'a> Comparison<'a> {
    /// `Err(())`: it does not want to be asked.
    pub(crate) fn of<D: Compared>(
        hook: Hook,
        peer: &'a Arc<Peer>,
        about: &'a Subject,
        active: Result<Result<D, Undecided>, ()>,
        shadow: Result<Result<D, Undecided>, ()>,
    ) -> Self {
        let outcome = |answer: &Result<Result<D, Undecided>, ()>| match answer {
            Err(()) => ShadowOutcome::Unasked,
            Ok(Err(_)) => ShadowOutcome::Undecided,
            Ok(Ok(decision)) => decision.outcome(),
        };
        let (topic, filters) = match about {
            Subject::Connection => (None, &[][..]),
            Subject::Topic(topic) => (Some(&**topic), &[][..]),
            Subject::Filters(filters) => (None, &**filters),
        };
        let (kind, other) = (outcome(&active), outcome(&shadow));
        let mut compared = Self {
            hook,
            peer,
            topic,
            filter: None,
            more_filters: 0,
            active: kind,
            shadow: other,
            difference: None,
        };
        if let (Ok(Ok(active)), Ok(Ok(shadow))) = (active, shadow)
            && !active.is_like(&shadow)
        {
            let differing = active.differing(&shadow, filters.len());
            let first = differing.first().copied();
            compared.filter = first.and_then(|at| filters.get(at)).map(|filter| &**filter);
            compared.more_filters = differing.len().saturating_sub(1);
            compared.difference = Some((active.in_words(first), shadow.in_words(first)));
        }
        compared
    }
}

/// What a question is about.
#[derive(Debug)]
pub(crate) enum Subject {
    /// The client.
    Connection,
    /// A message with this topic.
    Topic(Box<str>),
    /// These filters.
    Filters(Box<[Box<str>]>),
}

/// A decision that can be compared with another.
pub(crate) trait Compared: Decided + Clone {
    fn outcome(&self) -> ShadowOutcome;

    /// Whether it comes to the same for client and broker. How long it may be used again is no part of it.
    fn is_like(&self, other: &Self) -> bool;

    /// The places, of so many filters, about which both say something else. There are none but those of a SUBSCRIBE.
    fn differing(&self, _other: &Self, _filters: usize) -> Vec<usize> {
        Vec::new()
    }

    /// Of the filter in this place, where there is one.
    fn in_words(&self, filter: Option<usize>) -> String;
}

const fn of_decision<A>(decision: &Decision<Option<A>>, is_changed: bool) -> ShadowOutcome {
    match decision {
        Decision::Refuse(_) => ShadowOutcome::Refused,
        Decision::Allow(_) if is_changed => ShadowOutcome::Changed,
        Decision::Allow(_) => ShadowOutcome::Allowed,
    }
}

fn refusal_in_words(refusal: &Refusal) -> String {
    let action = match refusal.action {
        Action::Reject => "",
        Action::Drop => ", DROP",
        Action::Disconnect => ", DISCONNECT",
        Action::NoAck => ", NO_ACK",
    };
    format!("refused 0x{:02x}{action}", refusal.reason.0)
}

/// `allowed`, or `allowed with` the names of what is changed.
fn allowed_with(changes: &[(&str, bool)]) -> String {
    let names: Vec<_> = changes.iter().filter_map(|(name, is)| is.then_some(*name)).collect();
    if names.is_empty() { "allowed".to_owned() } else { format!("allowed with {}", names.join(", ")) }
}

impl Compared for ConnectDecision {
    fn outcome(&self) -> ShadowOutcome {
        let changed = matches!(self, Self::Allow(Some(admission)) if **admission != Admission::default());
        of_decision(self, changed)
    }

    fn is_like(&self, other: &Self) -> bool {
        let none = Admission::default();
        match (self, other) {
            (Self::Refuse(a), Self::Refuse(b)) => a == b,
            (Self::Allow(a), Self::Allow(b)) => {
                let (a, b) = (a.as_deref().unwrap_or(&none), b.as_deref().unwrap_or(&none));
                grants_are_alike(a.grant.as_deref(), b.grant.as_deref())
                    && Admission { grant: None, ..a.clone() } == Admission { grant: None, ..b.clone() }
            }
            (Self::Allow(_), Self::Refuse(_)) | (Self::Refuse(_), Self::Allow(_)) => false,
        }
    }

    fn in_words(&self, _: Option<usize>) -> String {
        match self {
            Self::Refuse(refusal) => refusal_in_words(refusal),
            Self::Allow(None) => allowed_with(&[]),
            Self::Allow(Some(admission)) => {
                let mut words = allowed_with(&[
                    ("client id", admission.client_id.is_some()),
                    ("user name", admission.username.is_some()),
                    ("password", admission.password.is_some()),
                    ("will", admission.will.is_some()),
                    ("attributes", !admission.attributes.is_empty()),
                    ("grant", admission.grant.is_some()),
                ]);
                if let Some(grant) = admission.grant.as_deref().filter(|grant| !grant.version.is_empty()) {
                    // The text of a service, which nobody has bounded for a log line.
                    let version: String = grant.version.chars().take(64).collect();
                    let _ = write!(words, " {version}");
                }
                words
            }
        }
    }
}

/// Whether both grants say the same. When they end is left out: most services count from now, and two never are as quick.
fn grants_are_alike(a: Option<&Grant>, b: Option<&Grant>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.judges_like(b) && a.limits == b.limits && a.expires_at.is_some() == b.expires_at.is_some()
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Compared for PublishDecision {
    fn outcome(&self) -> ShadowOutcome {
        of_decision(self, matches!(self, Self::Allow(Some(change)) if !change.is_empty()))
    }

    fn is_like(&self, other: &Self) -> bool {
        let none = PublishChange::default();
        match (self, other) {
            (Self::Refuse(a), Self::Refuse(b)) => a == b,
            (Self::Allow(a), Self::Allow(b)) => {
                let plain = |change: &Option<Box<PublishChange>>| PublishChange {
                    cache_for: None,
                    ..change.as_deref().unwrap_or(&none).clone()
                };
                plain(a) == plain(b)
            }
            (Self::Allow(_), Self::Refuse(_)) | (Self::Refuse(_), Self::Allow(_)) => false,
        }
    }

    fn in_words(&self, _: Option<usize>) -> String {
        match self {
            Self::Refuse(refusal) => refusal_in_words(refusal),
            Self::Allow(None) => allowed_with(&[]),
            Self::Allow(Some(change)) => allowed_with(&[
                ("topic", change.topic.is_some()),
                ("payload", change.payload.is_some()),
                ("retain", change.retain.is_some()),
                (
                    "user properties",
                    !change.set_user_properties.is_empty() || !change.remove_user_properties.is_empty(),
                ),
            ]),
        }
    }
}

/// One for each filter.
fn each(decision: &SubscribeDecision) -> Vec<Decision<FilterChange>> {
    let plain = |one: &Decision<FilterChange>| match one {
        Decision::Allow(change) => Decision::Allow(FilterChange { cache_for: None, ..change.clone() }),
        Decision::Refuse(refusal) => Decision::Refuse(refusal.clone()),
    };
    match decision {
        // Of which there may be any number: compared with another of the kind, or with each.
        SubscribeDecision::All(Decision::Allow(())) => Vec::new(),
        SubscribeDecision::All(Decision::Refuse(refusal)) => vec![Decision::Refuse(refusal.clone())],
        SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _) => {
            each.iter().map(plain).collect()
        }
    }
}

impl Compared for SubscribeDecision {
    fn outcome(&self) -> ShadowOutcome {
        let unchanged = |one: &Decision<FilterChange>| *one == Decision::Allow(FilterChange::default());
        let each = each(self);
        if each.iter().all(unchanged) {
            ShadowOutcome::Allowed
        } else if each.iter().all(|one| matches!(one, Decision::Refuse(_))) {
            ShadowOutcome::Refused
        } else {
            ShadowOutcome::Changed
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let whole = |decision: &Self| match decision {
            Self::All(Decision::Allow(())) => Some(Decision::Allow(FilterChange::default())),
            Self::All(Decision::Refuse(refusal)) => Some(Decision::Refuse(refusal.clone())),
            Self::Each(_) | Self::InPart(..) => None,
        };
        match (whole(self), whole(other)) {
            (Some(a), Some(b)) => a == b,
            (Some(one), None) => each(other).iter().all(|other| *other == one),
            (None, Some(one)) => each(self).iter().all(|other| *other == one),
            (None, None) => each(self) == each(other),
        }
    }

    fn differing(&self, other: &Self, filters: usize) -> Vec<usize> {
        let (a, b) = (each(self), each(other));
        let unchanged = Decision::Allow(FilterChange::default());
        // What was decided of all at once is told once, or not at all.
        let of = |decision: &Self, each: &[Decision<FilterChange>], at: usize| match decision {
            Self::All(_) => each.first().unwrap_or(&unchanged).clone(),
            Self::Each(_) | Self::InPart(..) => each.get(at).unwrap_or(&unchanged).clone(),
        };
        (0..filters).filter(|at| of(self, &a, *at) != of(other, &b, *at)).collect()
    }

    fn in_words(&self, filter: Option<usize>) -> String {
        let words = |one: &Decision<FilterChange>| match one {
            Decision::Refuse(refusal) => refusal_in_words(refusal),
            Decision::Allow(change) => {
                let mut words = allowed_with(&[("filter", change.filter.is_some())]);
                if let Some(most) = change.max_qos {
                    let _ = write!(words, " at QoS {}", most as u8);
                }
                words
            }
        };
        match self {
            Self::All(Decision::Allow(())) => "allowed".to_owned(),
            Self::All(Decision::Refuse(refusal)) => refusal_in_words(refusal),
            Self::Each(_) | Self::InPart(..) => {
                let one = filter.and_then(|at| each(self).get(at).map(words));
                one.unwrap_or_else(|| format!("verdicts on {} filters", each(self).len()))
            }
        }
    }
}
