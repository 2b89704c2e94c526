//! Clients whose token names a key that is not in the key set: it is read once more, and judged by what there is then.
//!
//! Whoever makes up names of keys can use up the readings that there may be, but not have others refused for it: each waits
//! for a reading that begins after it came, whoever has it begun, and without one nothing was said of its token.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::neighbours::Neighbours;
use mproxy_core::policy::{Answer, ConnectDecision, ConnectQuestion, KeptConnect};
use tokio::time::timeout;

use super::{Acl, conclude, now, refuse_token, without_keys};
use crate::jwt::{KeySet, KeysNow, NextReading, TokenError, TokenTerms, ValidToken};

/// How long a CONNECT waits for keys. Half of the connect deadline: the broker has to be dialled in the rest.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// What such a client waits for.
pub(super) struct KeyWait {
    pub(super) set: Arc<KeySet>,
    /// How many readings had begun when it came.
    pub(super) begun: u64,
    /// The reading that is under way.
    pub(super) first: Option<NextReading>,
}

impl KeyWait {
    /// Judges it once more when the keys were read. Holds the session's own bytes of the CONNECT meanwhile.
    pub(super) fn judge_later(
        self,
        acl: &Arc<Acl>,
        question: &ConnectQuestion<'_>,
    ) -> Answer<ConnectDecision> {
        let (acl, kept) = (Arc::clone(acl), KeptConnect::of(question));
        let from = Neighbours::from(&question.peer.origin.remote);
        let Self { set, begun, first } = self;
        Answer::Later(Box::pin(async move {
            let waited = async {
                if let Some(first) = first {
                    first.ended().await;
                }
                let lacks_key = || {
                    set.kept()
                        .is_some_and(|keys| judge_kept(&acl, &kept, &keys).is_some_and(|it| it.lacks_key))
                };
                if !set.has_read_after(begun) && lacks_key() {
                    set.read_after(begun, from).await;
                }
            };
            // Whether it came to its end or not: what counts is which keys there are then.
            let _ = timeout(KEYS_WITHIN, waited).await;
            let Some(keys) = set.kept() else {
                return without_keys(&acl, "there are no keys to verify tokens with");
            };
            match judge_kept(&acl, &kept, &keys) {
                // It may be a new key: nobody has looked since the client came. That is no refusal.
                Some(JudgedAgain { lacks_key: true, .. }) if !set.has_read_after(begun) => without_keys(
                    &acl,
                    "the key of the token is not in the key set, which could not be read again in time",
                ),
                Some(JudgedAgain { judged, .. }) => kept
                    .put(|question| conclude(&acl, question, judged))
                    .unwrap_or_else(|| refuse_token(&acl, &TokenError::Malformed)),
                None => refuse_token(&acl, &TokenError::Malformed),
            }
        }))
    }
}

/// What is said of a token by the keys of a moment.
struct JudgedAgain {
    judged: Result<ValidToken, TokenError>,
    /// Another reading of the set may have its key.
    lacks_key: bool,
}

fn judge_kept(acl: &Acl, kept: &KeptConnect, keys: &KeysNow) -> Option<JudgedAgain> {
    let judged = kept.put(|question| {
        let tokens = acl.tokens.as_ref()?;
        let token = tokens.find(question.peer, question.connect).ok()??;
        let judged = tokens.terms.judge(&token, now(), keys.keys());
        let lacks_key =
            judged.as_ref().is_err_and(|error| TokenTerms::may_have_other_key(&token, error, keys.keys()));
        Some(JudgedAgain { judged, lacks_key })
    });
    judged.flatten()
}
