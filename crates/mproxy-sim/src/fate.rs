//! What will become of a packet: drawn when it is sent, told to the session when it asks, expected at the other side.

use bytes::Bytes;
use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::policy::{
    Action, Decision, Failure, FailureKind, FilterChange, Overload, PublishChange, Refusal, Unusable,
};

use super::rng::Rng;
use super::verdict::Verdict;

/// The fate of one PUBLISH.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It goes as it is.
    Pass,
    /// It goes with these changes.
    Change(PublishChange),
    /// It goes nowhere.
    Refuse(Refusal),
    /// Nothing is decided: the answer fails, and the failure rule decides; or it cannot be used, or a limit of our own
    /// is met, and it goes nowhere.
    Undecided(Verdict),
}

impl Fate {
    /// Draws one. `ends`: refusals may end the session, too.
    pub(super) fn draw(rng: &mut Rng, ends: bool, v5: bool) -> Self {
        match rng.below(20) {
            0..12 => Self::Pass,
            12..15 => Self::Change(change(rng)),
            15..18 => Self::Refuse(refusal(rng, ends)),
            _ => Self::Undecided(match rng.below(9) {
                0..2 => Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow")),
                2 => Verdict::Unusable(Unusable::too_large("a rewrite")),
                3 => Verdict::Overloaded(Overload::new("sim", "too much")),
                4 => Verdict::Unusable(Unusable::invalid("a rewrite")),
                5 => {
                    changed_publish(PublishChange { topic: Some("bad/#".into()), ..PublishChange::default() })
                }
                6 => changed_publish(PublishChange {
                    topic: Some("x".repeat(65_536).into()),
                    ..PublishChange::default()
                }),
                // Over the Maximum Packet Size, which 3.x knows nothing of.
                7 if v5 => changed_publish(PublishChange {
                    payload: Some(vec![b'x'; MAX_PACKET as usize].into()),
                    ..PublishChange::default()
                }),
                _ => Verdict::Failed(Failure::new(FailureKind::Unreadable, "no words")),
            }),
        }
    }

    /// As the decider says it.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Pass => Verdict::Publish(Decision::Allow(None)),
            Self::Change(change) => changed_publish(change.clone()),
            Self::Refuse(refusal) => Verdict::Publish(Decision::Refuse(refusal.clone())),
            Self::Undecided(verdict) => verdict.clone(),
        }
    }

    /// What follows, where failed answers `open` the way or not: how the packet arrives, or how it is refused.
    pub(super) fn outcome(&self, open: bool) -> Result<Option<&PublishChange>, Refusal> {
        match self {
            Self::Pass => Ok(None),
            Self::Change(change) => Ok(Some(change)),
            Self::Refuse(refusal) => Err(refusal.clone()),
            Self::Undecided(verdict) => match undecided_code(verdict, open) {
                None => Ok(None),
                Some(reason) => Err(Refusal::new(reason)),
            },
        }
    }
}

/// The code of a packet about which nothing was decided; `None`: it passes as it is.
fn undecided_code(verdict: &Verdict, open: bool) -> Option<ReasonCode> {
    match verdict {
        Verdict::Failed(_) if open => None,
        // In an acknowledgement, neither 0x88 nor 0x95 may stand.
        Verdict::Overloaded(_) => Some(ReasonCode::QUOTA_EXCEEDED),
        Verdict::Unusable(unusable) if unusable.reason == ReasonCode::PACKET_TOO_LARGE => {
            Some(ReasonCode::QUOTA_EXCEEDED)
        }
        Verdict::Publish(Decision::Allow(Some(change))) if large(change) => Some(ReasonCode::QUOTA_EXCEEDED),
        Verdict::Subscribe(all) if all.iter().any(long) => Some(ReasonCode::QUOTA_EXCEEDED),
        _ => Some(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR),
    }
}

/// Bytes of the largest packet that either side of 5.0 takes.
pub(super) const MAX_PACKET: u32 = 90_000;

fn large(change: &PublishChange) -> bool {
    change.topic.as_ref().is_some_and(|topic| topic.len() > 65_535)
        || change.payload.as_ref().is_some_and(|payload| payload.len() >= MAX_PACKET as usize)
}

fn long(one: &Decision<FilterChange>) -> bool {
    matches!(one, Decision::Allow(FilterChange { filter: Some(filter), .. }) if filter.len() > 65_535)
}

/// What is said of a CONNECT about which nothing is decided.
pub(super) fn undecided_connect(rng: &mut Rng) -> Verdict {
    match rng.below(5) {
        0 => Verdict::Unusable(Unusable::invalid("a grant")),
        1 => Verdict::Overloaded(Overload::new("sim", "too much")),
        2 => Verdict::Unusable(Unusable::invalid("another grant")),
        _ => Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow")),
    }
}

fn changed_publish(change: PublishChange) -> Verdict {
    Verdict::Publish(Decision::Allow(Some(Box::new(change))))
}

fn change(rng: &mut Rng) -> PublishChange {
    let mut change = PublishChange::default();
    if !rng.one_in(3) {
        change.topic = Some((*rng.pick(&["new/1", "new/2"])).into());
    }
    if rng.one_in(3) {
        change.payload = Some(Bytes::from(vec![b'n'; rng.below(40)]));
    }
    if rng.one_in(3) {
        change.retain = Some(rng.one_in(2));
    }
    change
}

fn refusal(rng: &mut Rng, ends: bool) -> Refusal {
    let action = match rng.below(if ends { 121 } else { 120 }) {
        // Disconnect is rare, as it ends the game and all that could still go wrong in it.
        0..70 => Action::Reject,
        70..100 => Action::Drop,
        100..120 => Action::NoAck,
        _ => Action::Disconnect,
    };
    let reason = *rng.pick(&[ReasonCode::NOT_AUTHORIZED, ReasonCode::QUOTA_EXCEEDED]);
    Refusal { action, ..Refusal::new(reason) }
}

/// The fate of a SUBSCRIBE: of each filter, or of the whole where nothing is decided.
#[derive(Clone, Debug)]
pub(super) enum SubscribeFate {
    /// One for each filter, in order.
    Each(Vec<Decision<FilterChange>>),
    /// Nothing is decided.
    Undecided(Verdict),
}

impl SubscribeFate {
    pub(super) fn draw(rng: &mut Rng, filters: usize) -> Self {
        if rng.one_in(12) {
            return Self::Undecided(match rng.below(7) {
                0 => Verdict::Subscribe(vec![Decision::Allow(FilterChange::default()); filters + 1]),
                1 => Verdict::Unusable(Unusable::invalid("a filter")),
                2 => Verdict::Unusable(Unusable::too_large("a rewrite")),
                3 => Verdict::Overloaded(Overload::new("sim", "too much")),
                4 => Verdict::Subscribe(vec![
                    Decision::Allow(FilterChange {
                        filter: Some("x".repeat(65_536).into()),
                        max_qos: None,
                        ..FilterChange::default()
                    });
                    filters
                ]),
                _ => Verdict::Failed(Failure::new(FailureKind::Unavailable, "gone")),
            });
        }
        let whole = rng.one_in(6);
        Self::Each(
            (0..filters)
                .map(|_| match rng.below(6) {
                    // All refused: the SUBSCRIBE goes nowhere and the session answers alone, a way of its own.
                    _ if whole => Decision::Refuse(Refusal::default()),
                    0 => Decision::Refuse(Refusal::new(ReasonCode::QUOTA_EXCEEDED)),
                    1 => Decision::Allow(FilterChange {
                        filter: Some(format!("renamed/{}/#", rng.any()).into()),
                        max_qos: None,
                        ..FilterChange::default()
                    }),
                    2 => Decision::Allow(FilterChange {
                        filter: None,
                        max_qos: Some(QoS::AtLeastOnce),
                        ..FilterChange::default()
                    }),
                    _ => Decision::Allow(FilterChange::default()),
                })
                .collect(),
        )
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Each(each) => Verdict::Subscribe(each.clone()),
            Self::Undecided(verdict) => verdict.clone(),
        }
    }

    /// What follows for each filter.
    pub(super) fn outcome(&self, filters: usize, open: bool) -> Vec<Decision<FilterChange>> {
        match self {
            Self::Each(each) => each.clone(),
            Self::Undecided(verdict) => match undecided_code(verdict, open) {
                None => vec![Decision::Allow(FilterChange::default()); filters],
                Some(reason) => vec![Decision::Refuse(Refusal::new(reason)); filters],
            },
        }
    }
}
