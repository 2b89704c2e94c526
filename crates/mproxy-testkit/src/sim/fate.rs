//! What will become of a packet: drawn when it is sent, told to the session when it asks, expected at the other side.

use bytes::Bytes;
use mproxy_codec::{QoS, ReasonCode};
use mproxy_core::chain::allowed;
use mproxy_core::policy::{
    Action, Decision, Failure, FailureKind, FilterChange, Hook, PublishChange, Refusal, Verdict,
};

use super::rng::Rng;

/// The fate of one PUBLISH.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It goes as it is.
    Pass,
    /// It goes with these changes.
    Change(PublishChange),
    /// It goes nowhere.
    Refuse(Refusal),
    /// The answer fails, one way or another; the failure rule decides.
    Fail(Verdict),
}

impl Fate {
    /// Draws one. `ends`: refusals may end the session, too.
    pub(super) fn draw(rng: &mut Rng, hook: Hook, ends: bool) -> Self {
        match rng.below(20) {
            0..12 => Self::Pass,
            12..15 => Self::Change(change(rng)),
            15..18 => Self::Refuse(refusal(rng, ends)),
            _ => Self::Fail(match rng.below(4) {
                0 => Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow")),
                1 => allowed(if hook == Hook::Connect { Hook::Publish } else { Hook::Connect }),
                2 => changed(PublishChange { topic: Some("bad/#".into()), ..PublishChange::default() }),
                _ => Verdict::Subscribe(Vec::new()),
            }),
        }
    }

    /// As the decider says it.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Pass => allowed(Hook::Publish),
            Self::Change(change) => changed(change.clone()),
            Self::Refuse(refusal) => Verdict::Publish(Decision::Refuse(refusal.clone())),
            Self::Fail(verdict) => verdict.clone(),
        }
    }

    /// What follows, where failed answers `open` the way or not: how the packet arrives, or how it is refused.
    pub(super) fn outcome(&self, open: bool) -> Result<Option<&PublishChange>, Refusal> {
        match self {
            Self::Pass => Ok(None),
            Self::Change(change) => Ok(Some(change)),
            Self::Refuse(refusal) => Err(refusal.clone()),
            Self::Fail(_) if open => Ok(None),
            Self::Fail(_) => Err(Refusal::new(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR)),
        }
    }
}

fn changed(change: PublishChange) -> Verdict {
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
        0..70 => Action::Reject,
        70..100 => Action::Drop,
        100..120 => Action::NoAck,
        _ => Action::Disconnect,
    };
    let reason = *rng.pick(&[ReasonCode::NOT_AUTHORIZED, ReasonCode::QUOTA_EXCEEDED]);
    Refusal { action, ..Refusal::new(reason) }
}

/// The fate of a SUBSCRIBE: of each filter, or of the whole where the answer fails.
#[derive(Clone, Debug)]
pub(super) enum SubscribeFate {
    /// One for each filter, in order.
    Each(Vec<Decision<FilterChange>>),
    /// The answer fails.
    Fail(Verdict),
}

impl SubscribeFate {
    pub(super) fn draw(rng: &mut Rng, filters: usize) -> Self {
        if rng.one_in(12) {
            return Self::Fail(if rng.one_in(2) {
                Verdict::Subscribe(vec![Decision::Allow(FilterChange::default()); filters + 1])
            } else {
                allowed(Hook::Publish)
            });
        }
        let whole = rng.one_in(6);
        Self::Each(
            (0..filters)
                .map(|_| match rng.below(6) {
                    _ if whole => Decision::Refuse(Refusal::default()),
                    0 => Decision::Refuse(Refusal::new(ReasonCode::QUOTA_EXCEEDED)),
                    1 => Decision::Allow(FilterChange {
                        filter: Some(format!("renamed/{}/#", rng.any()).into()),
                        max_qos: None,
                    }),
                    2 => Decision::Allow(FilterChange { filter: None, max_qos: Some(QoS::AtLeastOnce) }),
                    _ => Decision::Allow(FilterChange::default()),
                })
                .collect(),
        )
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Each(each) => Verdict::Subscribe(each.clone()),
            Self::Fail(verdict) => verdict.clone(),
        }
    }

    /// What follows for each filter.
    pub(super) fn outcome(&self, filters: usize, open: bool) -> Vec<Decision<FilterChange>> {
        match self {
            Self::Each(each) => each.clone(),
            Self::Fail(_) if open => vec![Decision::Allow(FilterChange::default()); filters],
            Self::Fail(_) => {
                let refusal = Refusal::new(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR);
                vec![Decision::Refuse(refusal); filters]
            }
        }
    }
}
