//! What holds where no adviser has spoken.

use std::sync::Arc;

use crate::grant::{Grant, GrantGround};
use crate::peer::Peer;
use crate::policy::{Decided, Failure, FailureKind, Ground, Hook, Refusal, Ruling, Silence, Source};

/// The ruling where nobody spoke: the one place in which silence means something.
///
/// - A step of an authentication: a failed answer. Nobody's silence says who a client is.
/// - A client with a grant: its grant said to ask, and nobody could be asked. Refused, or, once the grant is stale, as
///   undecided as its renewal. Never allowed: whoever gave the grant did not leave it out, but asked for it.
/// - Somebody passed whose silence [`Denies`](Silence::Denies): refused.
/// - Else those who were there told beforehand that they do not want to be asked, or have no objection, or nobody was
///   there: allowed.
#[must_use]
pub fn resolve_silence<D: Decided>(hook: Hook, peer: &Peer, silence: Silence) -> Ruling<D> {
    if hook == Hook::Exchange {
        let failure = Failure::new(FailureKind::Unavailable, "nobody answers it");
        return Ruling::new(Source::Unknown, Err(failure.into()));
    }
    // Before silence: whoever gave the grant said "ask", which is more than nothing (ADR 0017).
    if let Some(ruling) = peer.grant.as_ref().and_then(|grant| unanswered(grant, hook)) {
        return ruling;
    }
    match silence {
        Silence::Abstains => Ruling::allow(Source::Unasked),
        Silence::Agrees(source) => Ruling::allow(source),
        Silence::Denies(source, about) => {
            Ruling::refuse(source, Refusal::default().about(about).by(Ground::Source(source)))
        }
    }
}

/// Where a grant says to ask, and nobody can be asked: `None` if it has nothing to say on this hook.
fn unanswered<D: Decided>(grant: &Arc<Grant>, hook: Hook) -> Option<Ruling<D>> {
    match hook {
        // A grant is what the answer to CONNECT brings. It has nothing to say about that itself.
        Hook::Connect | Hook::Exchange => return None,
        Hook::Deliver if !grant.receives() => return None,
        Hook::Publish | Hook::Subscribe | Hook::Deliver => {}
    }
    // A stale grant has no rules left to refuse by: the failure rule holds for what it would have decided (ADR
    // 0017).
    let verdict = match grant.stale_because() {
        Some(because) => Err(because.clone()),
        None => {
            let ground = Ground::Grant(Arc::clone(grant), GrantGround::Unanswered);
            Ok(D::refuse(Refusal::default().by(ground)))
        }
    };
    Some(Ruling::new(Source::Grant, verdict))
}
