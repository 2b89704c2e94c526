//! Tokens of clients that do not exist: signed by a key that the file is given in the place of its own.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Map, Value};

use super::{ImpossibleClient, TrialClient};
use crate::acl::token::{TokenPlace, TokenRules};
use crate::jwt::{TokenKey, TokenKeys};

/// Good for what never leaves the process.
const SECRET: &[u8; 32] = b"the key of tokens in rules tests";

/// Seconds that a token is valid for.
const VALID: u64 = 86400;

/// What tokens have to be like.
pub(super) struct TrialTokens {
    place: Option<TokenPlace>,
    username: Box<str>,
    groups: Option<Box<str>>,
    issuer: Option<Box<str>>,
    audience: Option<Box<str>>,
}

impl TrialTokens {
    /// From now on those are valid that are signed here.
    pub(super) fn take_over(rules: &mut TokenRules) -> Self {
        let terms = &mut rules.terms;
        // It cannot fail: the secret is as long as it has to be.
        terms.keys = TokenKeys::new(TokenKey::secret(SECRET, None, &[]).into_iter().collect());
        terms.key_set = None;
        Self {
            place: rules.from.first().copied(),
            username: rules.username.clone(),
            groups: rules.groups.clone(),
            issuer: terms.issuers.first().cloned(),
            audience: terms.audiences.first().cloned(),
        }
    }

    pub(super) fn is_in_password(&self) -> bool {
        self.place == Some(TokenPlace::Password)
    }

    pub(super) fn is_in_username(&self) -> bool {
        self.place == Some(TokenPlace::Username)
    }

    pub(super) fn is_in_request(&self) -> bool {
        self.place == Some(TokenPlace::WebSocket)
    }

    /// A token with these claims. What they do not say and the file asks for is as it has to be: issuer, audience and end;
    /// and so are user name and groups, where the client has them.
    ///
    /// # Errors
    /// Nobody would say that the client is in its groups.
    pub(super) fn sign(
        &self,
        claims: &Map<String, Value>,
        client: &TrialClient,
    ) -> Result<String, ImpossibleClient> {
        let groups = match &self.groups {
            None if !client.groups.is_empty() => return Err(ImpossibleClient::NoGroups),
            groups => groups.as_deref().filter(|_| !client.groups.is_empty()),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = |value: &Option<Box<str>>| value.as_deref().map(Value::from);
        let filled = [
            ("exp", Some(Value::from(now.as_secs() + VALID))),
            ("iss", text(&self.issuer)),
            ("aud", text(&self.audience)),
            (&*self.username, client.username.as_deref().map(Value::from)),
        ];
        let mut all = claims.clone();
        let filled =
            filled.into_iter().chain(groups.map(|name| (name, Some(Value::from(client.groups.clone())))));
        for (name, value) in filled {
            if let Some(value) = value {
                all.entry(name).or_insert(value);
            }
        }
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let message =
            format!("{}.{}", part(r#"{"typ":"JWT","alg":"HS256"}"#), part(&Value::Object(all).to_string()));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
