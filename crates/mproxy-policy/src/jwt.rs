//! Tokens (JWT, RFC 7519): what is one, whether it is valid, and what it says. The time is an argument, and so are the keys
//! of the moment. Knows no client and no packet.
//!
//! | room | holds |
//! |---|---|
//! | `claims` | what a token says |
//! | `fetch` | a key set over HTTP |
//! | `key` | keys, and what each of them verifies |
//! | `key_set` | a key set that is read again when it is time, or when a token names a key that it does not have |
//! | `provider` | the cryptography, by ring |
//! | `reading_budget` | how often a key set is read |

mod claims;
mod fetch;
mod key;
mod key_set;
mod provider;
mod reading_budget;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde::de::IgnoredAny;

pub(crate) use self::claims::Claims;
use self::fetch::FetchError;
pub(crate) use self::fetch::KeyUrl;
pub(crate) use self::key::{ALGORITHMS, KeyError, TokenKey, TokenKeys, algorithm};
pub(crate) use self::key_set::{KeySet, KeySetSource, KeySetTimes, KeysNow, NextReading, read_file};
use crate::watch::TokenOutcome;

/// Bytes of the longest token. Those of identity providers have one or two thousand.
pub(crate) const TOKEN_MOST: usize = 16 << 10;

/// Keys that one token is held against: it costs a signature each.
const TRIES: usize = 8;

/// What makes a token valid.
#[derive(Debug, Default)]
pub(crate) struct TokenTerms {
    /// Keys that stand in files of their own.
    pub(crate) keys: TokenKeys,
    /// A set of keys that is read again.
    pub(crate) key_set: Option<Arc<KeySet>>,
    /// One of these has issued it. Empty: whoever has a key.
    pub(crate) issuers: Box<[Box<str>]>,
    /// It is meant for one of these. Empty: only one that says nothing of whom it is meant for.
    pub(crate) audiences: Box<[Box<str>]>,
    /// It says these.
    pub(crate) required: Box<[Box<str>]>,
    /// How far `nbf` and `iat` may lie in the future, by clocks that differ.
    pub(crate) leeway: Duration,
}

/// A token that is valid.
#[derive(Clone, Debug)]
pub(crate) struct ValidToken {
    pub(crate) claims: Claims,
    /// Seconds since 1970 from which on it is not valid any more.
    pub(crate) expires: u64,
}

/// Why a token is not valid. Whoever sent it may read it; it says nothing that is not in the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("token too large")]
    TooLarge,
    #[error("token malformed")]
    Malformed,
    #[error("token header or algorithm not accepted")]
    Algorithm,
    #[error("token has a critical header")]
    Critical,
    #[error("token key unknown")]
    UnknownKey,
    #[error("token signature wrong")]
    Signature,
    #[error("token claims malformed")]
    Claims,
    #[error("token expired")]
    Expired,
    #[error("token not valid yet")]
    NotYet,
    #[error("token issuer not accepted")]
    Issuer,
    #[error("token audience not accepted")]
    Audience,
    #[error("token lacks claim {0}")]
    Missing(Box<str>),
    #[error("token claim {0} not usable")]
    Claim(Box<str>),
    #[error("more than one token")]
    Several,
    #[error("token required")]
    Absent,
    #[error("token of another client")]
    OtherClient,
}

impl TokenError {
    /// As it is counted.
    pub(crate) const fn outcome(&self) -> TokenOutcome {
        match self {
            Self::TooLarge | Self::Malformed | Self::Several | Self::Absent => TokenOutcome::Malformed,
            Self::OtherClient => TokenOutcome::OtherClient,
            Self::Algorithm | Self::Critical => TokenOutcome::Algorithm,
            Self::UnknownKey => TokenOutcome::UnknownKey,
            Self::Signature => TokenOutcome::Signature,
            Self::Expired => TokenOutcome::Expired,
            Self::NotYet => TokenOutcome::NotYet,
            Self::Issuer => TokenOutcome::Issuer,
            Self::Audience => TokenOutcome::Audience,
            Self::Claims | Self::Missing(_) | Self::Claim(_) => TokenOutcome::Claim,
        }
    }
}

impl TokenTerms {
    /// Whether the token is valid now, by the keys of files and by these.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn judge(
        &self,
        token: &str,
        now: Duration,
        keys: &TokenKeys,
    ) -> Result<ValidToken, TokenError> {
        if token.len() > TOKEN_MOST {
            return Err(TokenError::TooLarge);
        }
        provider::install();
        let header = decode_header(token).map_err(|error| header_error(&error))?;
        // None is understood here, and what is not understood must be refused (RFC 7515, 4.1.11).
        if header.crit.is_some() || names_crit(token) {
            return Err(TokenError::Critical);
        }
        let claims = self.verify(token, &header, keys)?;
        let expires = self.check(&claims, now.as_secs())?;
        Ok(ValidToken { claims, expires })
    }

    /// Whether another reading of the key set may have the key of a token that is not valid for this reason: it names a key
    /// that is not in there, or none.
    pub(crate) fn may_have_other_key(token: &str, error: &TokenError, keys: &TokenKeys) -> bool {
        let is_in_set = |header: &Header| header.kid.as_deref().is_some_and(|id| keys.has(id));
        matches!(error, TokenError::UnknownKey | TokenError::Signature)
            && decode_header(token).is_ok_and(|header| !is_in_set(&header))
    }

    fn verify(&self, token: &str, header: &Header, keys: &TokenKeys) -> Result<Claims, TokenError> {
        let (algorithm, id) = (header.alg, header.kid.as_deref());
        let mut terms = Validation::new(algorithm);
        // Claims are checked here, with a leeway that is not one of their end.
        terms.required_spec_claims.clear();
        (terms.validate_exp, terms.validate_nbf, terms.validate_aud) = (false, false, false);
        let mut last = TokenError::UnknownKey;
        let candidates = self.keys.candidates(algorithm, id).chain(keys.candidates(algorithm, id));
        for key in candidates.take(TRIES) {
            match decode::<Claims>(token, key.key(), &terms) {
                Ok(token) => return Ok(token.claims),
                Err(error) => last = signature_error(&error),
            }
            if last == TokenError::Claims {
                break;
            }
        }
        Err(last)
    }

    /// Whether what it says is acceptable, and until when it is.
    fn check(&self, claims: &Claims, now: u64) -> Result<u64, TokenError> {
        let seconds = |name: &str| claims.seconds(name).map_err(|()| TokenError::Claim(name.into()));
        let expires = seconds("exp")?.ok_or_else(|| TokenError::Missing("exp".into()))?;
        // "On or after" (RFC 7519, 4.1.4): a session that it admits would end at once.
        if now >= expires {
            return Err(TokenError::Expired);
        }
        for name in ["nbf", "iat"] {
            if seconds(name)?.is_some_and(|from| from > now.saturating_add(self.leeway.as_secs())) {
                return Err(TokenError::NotYet);
            }
        }
        self.check_names(claims)?;
        match self.required.iter().find(|name| claims.find(name).is_none()) {
            Some(name) => Err(TokenError::Missing(name.clone())),
            None => Ok(expires),
        }
    }

    fn check_names(&self, claims: &Claims) -> Result<(), TokenError> {
        let is_one = |known: &[Box<str>], name: &str| known.iter().any(|known| **known == *name);
        // More than one issuer is not RFC 7519's.
        if !self.issuers.is_empty() && !claims.text("iss").is_some_and(|issuer| is_one(&self.issuers, issuer))
        {
            return Err(TokenError::Issuer);
        }
        let audiences = claims.texts("aud").map_err(|()| TokenError::Audience)?;
        // One that is meant for somebody is not for whoever has no name (RFC 7519, 4.1.3).
        let is_meant = audiences.iter().any(|audience| is_one(&self.audiences, audience));
        let is_for_all = audiences.is_empty() && self.audiences.is_empty() && claims.find("aud").is_none();
        if is_meant || is_for_all { Ok(()) } else { Err(TokenError::Audience) }
    }
}

/// Whether the header has `crit`, be it `null`, which the library takes for absent.
fn names_crit(token: &str) -> bool {
    let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|json| serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&json).ok());
    header.is_some_and(|header| header.contains_key("crit"))
}

fn header_error(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        // `none` among them, and whatever else is no algorithm of ours.
        ErrorKind::Json(error) if error.is_data() => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

fn signature_error(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        // After the signature: these are the issuer's own.
        ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidClaimFormat(_) => TokenError::Claims,
        ErrorKind::InvalidKeyFormat | ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests;
