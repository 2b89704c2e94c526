//! What a ruling comes to, for CONNECT, PUBLISH, SUBSCRIBE, delivery and renewal: the one room where verdicts, failed
//! answers and changes that cannot be carried out are told apart. The failure rule is looked at here and nowhere else.

use std::sync::Arc;

use mproxy_codec::reason::ReasonCode;

use super::Setting;
use crate::fault::Fault;
use crate::meter::Outcome;
use crate::peer::Peer;
use crate::policy::{
    Action, ConnectDecision, Decision, ExchangeDecision, ExchangeStep, FilterChange, Ground, Hook, OnError,
    Refusal, Ruling, Source, SubscribeDecision, Undecided, Unusable,
};
use crate::record::DecisionOutcome;

/// What a ruling comes to.
#[derive(Debug)]
pub(super) enum Resolution<T> {
    /// Nobody objects, or the failure rule releases it: it goes on, in this form.
    Allow(T),
    /// It goes on with the changes that were asked for, in this form.
    AllowChanged(T),
    /// Somebody refused it: an adviser, or the client's grant.
    Refuse(Refusal),
    /// It is refused by mproxy: the answer failed, a limit of our own was met, or what was decided cannot be carried out.
    Undecided(Undecided),
}

/// A resolution, and whose it is.
#[derive(Debug)]
pub(super) struct Resolved<T> {
    pub(super) source: Source,
    /// The endpoint of the policy service whose answer it is.
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) what: Resolution<T>,
}

/// Why a packet that was allowed cannot go as it was allowed.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The change makes no valid packet.
    Unusable(Unusable),
    /// A limit forbids it.
    Refused(Refusal),
    /// The client's grant forbids it.
    Denied(Refusal),
}

impl From<Unusable> for Unfit {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

/// How an allowed packet goes.
pub(super) enum CarriedOut<T> {
    /// Nothing is changed that anybody asked for.
    Plain(T),
    /// With changes.
    Changed(T),
}

impl<T> CarriedOut<T> {
    pub(super) fn into_inner(self) -> T {
        let (Self::Plain(form) | Self::Changed(form)) = self;
        form
    }
}

/// What a ruling about this client comes to; `carry_out` gives what is allowed its form.
pub(super) fn resolve<C, T>(
    setting: &Setting,
    peer: &Peer,
    hook: Hook,
    ruling: Ruling<Decision<Option<C>>>,
    mut carry_out: impl FnMut(Option<C>) -> Result<CarriedOut<T>, Unfit>,
) -> Resolved<T> {
    let Ruling { source, verdict, endpoint } = ruling;
    let (source, endpoint, formed) = match verdict {
        Ok(Decision::Allow(change)) => (source, endpoint, carry_out(change)),
        Ok(Decision::Refuse(mut refusal)) => {
            refusal.ground = refusal.ground.or_source(source);
            (source, endpoint, Err(Unfit::Refused(refusal)))
        }
        Err(undecided) => match apply_failure_rule(setting, peer, hook, undecided) {
            // As it came, but under the prefix and aliases that hold: the failure rule lifts a decision, not the mapping.
            Ok(()) => (Source::FailedOpen, None, carry_out(None)),
            Err(undecided) => {
                let source = undecided.source();
                return Resolved { source, endpoint: None, what: Resolution::Undecided(undecided) };
            }
        },
    };
    let (source, what) = match formed {
        Ok(CarriedOut::Plain(form)) => (source, Resolution::Allow(form)),
        Ok(CarriedOut::Changed(form)) => (source, Resolution::AllowChanged(form)),
        Err(Unfit::Refused(refusal)) => (source, Resolution::Refuse(refusal)),
        Err(Unfit::Denied(refusal)) => (Source::Grant, Resolution::Refuse(refusal)),
        Err(Unfit::Unusable(unusable)) => {
            let undecided = Undecided::Unusable(unusable);
            count_undecided(setting, peer, hook, &undecided);
            (Source::Unusable, Resolution::Undecided(undecided))
        }
    };
    Resolved { source, endpoint, what }
}

/// The same for a SUBSCRIBE, whose form is a decision for each of its filters.
pub(super) fn resolve_subscribe(
    setting: &Setting,
    peer: &Peer,
    filters: usize,
    ruling: Ruling<SubscribeDecision>,
    check: impl Fn(Vec<Decision<FilterChange>>) -> Result<Vec<Decision<FilterChange>>, Unfit>,
) -> Resolved<Vec<Decision<FilterChange>>> {
    let Ruling { source, verdict, endpoint } = ruling;
    let verdict = verdict.and_then(|decision| {
        Ok(match decision {
            SubscribeDecision::All(Decision::Allow(())) => Decision::Allow(None),
            SubscribeDecision::All(Decision::Refuse(refusal)) => Decision::Refuse(refusal),
            SubscribeDecision::Each(each) | SubscribeDecision::InPart(each, _) if each.len() != filters => {
                return Err(Unusable::wrong_length(each.len(), filters).into());
            }
            SubscribeDecision::Each(each) => Decision::Allow(Some(each)),
            // Filters that others decided keep their verdicts; the failure rule, one for the whole packet, would lift those.
            SubscribeDecision::InPart(each, undecided) => {
                count_undecided(setting, peer, Hook::Subscribe, &undecided);
                Decision::Allow(Some(each))
            }
        })
    });
    resolve(setting, peer, Hook::Subscribe, Ruling { source, verdict, endpoint }, |each| match each {
        None => Ok(CarriedOut::Plain(vec![Decision::Allow(FilterChange::default()); filters])),
        Some(each) => check(each).map(CarriedOut::Changed),
    })
}

/// The same for a renewal, which no failure rule releases: the old grant serves, and after it each packet has its own rule.
pub(super) fn resolve_renewal(
    setting: &Setting,
    peer: &Peer,
    ruling: Ruling<ConnectDecision>,
) -> Resolution<crate::policy::Admission> {
    match ruling.verdict {
        Ok(Decision::Allow(admission)) => {
            setting.meter.decisions(Hook::Connect, ruling.source, Outcome::Allowed, 1);
            Resolution::AllowChanged(admission.map(|admission| *admission).unwrap_or_default())
        }
        Ok(Decision::Refuse(mut refusal)) => {
            refusal.ground = refusal.ground.or_source(ruling.source);
            setting.meter.decisions(Hook::Connect, ruling.source, Outcome::Refused, 1);
            Resolution::Refuse(refusal)
        }
        Err(undecided) => {
            count_undecided(setting, peer, Hook::Connect, &undecided);
            Resolution::Undecided(undecided)
        }
    }
}

/// The same for a step of an authentication, which no failure rule releases either.
pub(super) fn resolve_exchange(
    setting: &Setting,
    peer: &Peer,
    ruling: Ruling<ExchangeDecision>,
) -> Resolution<ExchangeStep> {
    let (hook, source) = (Hook::Exchange, ruling.source);
    let count = |source, outcome| setting.meter.decisions(hook, source, outcome, 1);
    match ruling.verdict {
        // Nothing is decided yet.
        Ok(Decision::Allow(step @ ExchangeStep::Continue { .. })) => Resolution::Allow(step),
        Ok(Decision::Allow(step @ ExchangeStep::Success(_))) => {
            count(source, Outcome::Allowed);
            Resolution::Allow(step)
        }
        Ok(Decision::Refuse(mut refusal)) => {
            refusal.ground = refusal.ground.or_source(source);
            count(source, Outcome::Refused);
            Resolution::Refuse(refusal)
        }
        Err(undecided) => {
            count_undecided(setting, peer, hook, &undecided);
            count(undecided.source(), Outcome::Refused);
            Resolution::Undecided(undecided)
        }
    }
}

/// The refusal of a packet that nobody objected to, and that cannot go as it came.
pub(super) fn refuse(setting: &Setting, peer: &Peer, hook: Hook, unfit: Unfit) -> Rejection {
    match unfit {
        Unfit::Refused(refusal) | Unfit::Denied(refusal) => Rejection::Said(refusal),
        Unfit::Unusable(unusable) => {
            let undecided = Undecided::Unusable(unusable);
            count_undecided(setting, peer, hook, &undecided);
            Rejection::Undecided(undecided)
        }
    }
}

/// What became of a question that was not decided, told to the meter. `Ok`: the failure rule releases the packet as it
/// came, which it does for a failed answer alone.
fn apply_failure_rule(
    setting: &Setting,
    peer: &Peer,
    hook: Hook,
    undecided: Undecided,
) -> Result<(), Undecided> {
    count_undecided(setting, peer, hook, &undecided);
    // By name: a case that is added must not go through by a wildcard.
    match (&undecided, setting.on_error.of(hook)) {
        (Undecided::Failed(_), OnError::Allow) => Ok(()),
        (Undecided::Failed(_), OnError::Deny) | (Undecided::Unusable(_) | Undecided::Overloaded(_), _) => {
            Err(undecided)
        }
    }
}

fn count_undecided(setting: &Setting, peer: &Peer, hook: Hook, undecided: &Undecided) {
    match undecided {
        Undecided::Failed(failure) => setting.meter.failed(hook, failure, setting.on_error.of(hook), peer),
        Undecided::Unusable(unusable) => setting.meter.unusable(hook, unusable, peer),
        Undecided::Overloaded(overload) => setting.meter.overloaded(hook, overload, peer),
    }
}

impl<T> Resolved<T> {
    /// It goes on: whether with changes. `None`: it does not.
    pub(super) const fn is_changed(&self) -> Option<bool> {
        match self.what {
            Resolution::Allow(_) => Some(false),
            Resolution::AllowChanged(_) => Some(true),
            Resolution::Refuse(_) | Resolution::Undecided(_) => None,
        }
    }

    /// Tells the meter of one decision.
    pub(super) fn count(&self, setting: &Setting, hook: Hook) {
        let outcome = match self.what {
            Resolution::Allow(_) => Outcome::Allowed,
            Resolution::AllowChanged(_) => Outcome::Changed,
            Resolution::Refuse(_) | Resolution::Undecided(_) => Outcome::Refused,
        };
        setting.meter.decisions(hook, self.source, outcome, 1);
    }
}

/// Why a packet goes no further.
#[derive(Debug)]
pub(super) enum Rejection {
    /// Somebody said so.
    Said(Refusal),
    /// Nothing was decided.
    Undecided(Undecided),
}

impl<T> Resolution<T> {
    /// The form in which it goes on.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn form(self) -> Result<T, Rejection> {
        match self {
            Self::Allow(form) | Self::AllowChanged(form) => Ok(form),
            Self::Refuse(refusal) => Err(Rejection::Said(refusal)),
            Self::Undecided(undecided) => Err(Rejection::Undecided(undecided)),
        }
    }
}

impl Rejection {
    /// In our own name, with this code, for this reason.
    pub(super) fn with(reason: ReasonCode, ground: Ground) -> Self {
        Self::Said(Refusal::new(reason).by(ground))
    }

    /// For the decision log.
    pub(super) const fn outcome(&self) -> DecisionOutcome<'_> {
        match self {
            Self::Said(refusal) => DecisionOutcome::Refused(refusal),
            Self::Undecided(undecided) => DecisionOutcome::Undecided(undecided),
        }
    }

    /// What becomes of the packet.
    pub(super) const fn action(&self) -> Action {
        match self {
            Self::Said(refusal) => refusal.action,
            Self::Undecided(_) => Action::Reject,
        }
    }

    /// The code and the text that the client may be told.
    pub(super) fn words(&self) -> (ReasonCode, Option<&str>) {
        match self {
            Self::Said(refusal) => (refusal.reason, refusal.text.as_deref()),
            // What is wrong with the policy's answer is for the log, and not for clients.
            Self::Undecided(undecided) => (undecided.reason(), None),
        }
    }

    /// The end of a session because of it.
    pub(super) fn fault(self, hook: Hook) -> Fault {
        match self {
            Self::Said(refusal) => Fault::Refused { hook, refusal: Box::new(refusal) },
            Self::Undecided(undecided) => undecided.fault(hook),
        }
    }
}

impl Undecided {
    /// The end of a session because of it.
    pub(super) fn fault(self, hook: Hook) -> Fault {
        match self {
            Self::Failed(failure) => Fault::PolicyFailed { hook, failure: Box::new(failure) },
            Self::Unusable(unusable) => Fault::PolicyUnusable { hook, unusable: Box::new(unusable) },
            Self::Overloaded(overload) => Fault::Overloaded { hook, overload: Box::new(overload) },
        }
    }
}
