//! Clients whose token names a key that is not in the key set: it is read once more, and judged by what there is then.
//!
//! Whoever makes up names of keys can use up the readings that there may be, but not have others refused for it: each waits
//! for a reading that begins after it came, whoever has it begun, and without one nothing was said of its token.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::neighbours::Neighbours;
use mproxy_core::policy::{Answer, ConnectDecision, ConnectQuestion, KeptConnect};
use tokio::time::timeout;

use super::{Acl, TokenRules, conclude, now, refuse_token, without_keys};
use crate::jwt::{KeySet, KeysNow, NextReading, TokenError, TokenTerms, ValidToken};

/// How long a client waits for keys. Half of the connect deadline: the broker has to be dialled in the rest.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// Why nobody can tell whether a token is valid.
pub(super) const NO_KEYS: &str = "there are no keys to verify tokens with";

/// What such a client waits for.
pub(super) struct KeyWait {
    pub(super) set: Arc<KeySet>,
    /// How many readings had begun when it came.
    pub(super) begun: u64,
    /// The reading that is under way.
    pub(super) first: Option<NextReading>,
}

/// What is said of a token by the keys of a moment.
pub(super) struct JudgedAgain {
    judged: Result<ValidToken, TokenError>,
    /// Another reading of the set may have its key.
    lacks_key: bool,
}

impl JudgedAgain {
    pub(super) fn of(tokens: &TokenRules, token: &str, keys: &KeysNow) -> Self {
        let judged = tokens.terms.judge(token, now(), keys.keys());
        let lacks_key =
            judged.as_ref().is_err_and(|error| TokenTerms::may_have_other_key(token, error, keys.keys()));
        Self { judged, lacks_key }
    }
}

impl KeyWait {
    /// What is said of the token by the keys that are read for it. `judge`: what is said of it by some; `None`: it is not
    /// there any more. May be dropped at any time.
    ///
    /// # Errors
    /// Why nobody can tell.
    pub(super) async fn judged(
        self,
        from: Neighbours,
        judge: impl Fn(&KeysNow) -> Option<JudgedAgain>,
    ) -> Result<Result<ValidToken, TokenError>, &'static str> {
        let Self { set, begun, first } = self;
        let waited = async {
            if let Some(first) = first {
                first.ended().await;
            }
            let lacks_key = || set.kept().is_some_and(|keys| judge(&keys).is_some_and(|it| it.lacks_key));
            if !set.has_read_after(begun) && lacks_key() {
                set.read_after(begun, from).await;
            }
        };
        // Whether it came to its end or not: what counts is which keys there are then.
        let _ = timeout(KEYS_WITHIN, waited).await;
        let keys = set.kept().ok_or(NO_KEYS)?;
        match judge(&keys) {
            // It may be a new key: nobody has looked since the client came. That is no refusal.
            Some(JudgedAgain { lacks_key: true, .. }) if !set.has_read_after(begun) => {
                Err("the key of the token is not in the key set, which could not be read again in time")
            }
            Some(JudgedAgain { judged, .. }) => Ok(judged),
            None => Ok(Err(TokenError::Malformed)),
        }
    }

    /// Judges a CONNECT once more when the keys were read. Holds the session's own bytes of it meanwhile.
    pub(super) fn admit_later(
        self,
        acl: &Arc<Acl>,
        question: &ConnectQuestion<'_>,
    ) -> Answer<ConnectDecision> {
        let (acl, kept) = (Arc::clone(acl), KeptConnect::of(question));
        let from = Neighbours::from(&question.peer.origin.remote);
        Answer::Later(Box::pin(async move {
            match self.judged(from, |keys| judge_kept(&acl, &kept, keys)).await {
                Ok(judged) => kept
                    .put(|question| conclude(&acl, question, judged))
                    .unwrap_or_else(|| refuse_token(&acl, &TokenError::Malformed)),
                Err(why) => without_keys(&acl, why),
            }
        }))
    }
}

fn judge_kept(acl: &Acl, kept: &KeptConnect, keys: &KeysNow) -> Option<JudgedAgain> {
    let judged = kept.put(|question| {
        let tokens = acl.tokens.as_ref()?;
        let token = tokens.find(question).ok()??;
        Some(JudgedAgain::of(tokens, &token, keys))
    });
    judged.flatten()
}
