//! Keys by which tokens are verified: of PEM files, of secrets, of JSON Web Key Sets. Each verifies the algorithms of its
//! own kind alone. Opens no file.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::provider::without_zeros;

/// Keys of one set at most: a token without a key id is held against each that fits.
const KEYS: usize = 64;

/// Bits of an RSA key, from and to (RFC 7518, 3.3, and what ring verifies with).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How the DER of a public key on these curves begins, up to its point (RFC 5480, RFC 8410).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// How each part of a PEM file begins.
const BEGIN: &[u8] = b"-----BEGIN ";

/// A key, and what it may verify.
#[derive(Clone, Debug)]
pub(crate) struct TokenKey {
    /// The `kid` of tokens that it verifies; `None`: of all.
    pub(crate) id: Option<Box<str>>,
    algorithms: Box<[Algorithm]>,
    key: DecodingKey,
}

/// Keys in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenKeys(Vec<TokenKey>);

/// What is in a key set.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetKeys {
    pub(crate) keys: TokenKeys,
    /// The ids of those that cannot verify tokens, and why.
    pub(super) left_out: Vec<(String, String)>,
}

/// Why something is no key for tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("holds a private key, and a public one is enough: `openssl pkey -in FILE -pubout`")]
    Private,
    #[error("is no public key in PEM format (`-----BEGIN PUBLIC KEY-----`) of RSA, P-256, P-384 or Ed25519")]
    NotPublic,
    #[error("holds more than one key: write each to a file of its own, with its own [[jwt.keys]]")]
    SeveralKeys,
    #[error("is an RSA key of {0} bits; from 2048 to 8192 are supported")]
    RsaSize(usize),
    #[error("holds PEM, which is no secret; a public key is named by `public_key`")]
    PublicSecret,
    #[error("is a secret of {0} bytes; {1} needs at least {2}: `openssl rand -base64 48`")]
    ShortSecret(usize, &'static str, usize),
    #[error("cannot verify {0}: it is a key for {1}")]
    Algorithm(&'static str, String),
    #[error("is no JSON Web Key Set: {0}")]
    NotASet(String),
    #[error("has no key that can verify tokens{0}")]
    NoKey(String),
    #[error("has {0} keys, more than {KEYS}")]
    TooMany(usize),
}

impl TokenKey {
    /// A public key in PEM format, for these algorithms; all that it can verify, if none is named.
    pub(crate) fn public(pem: &[u8], id: Option<&str>, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let begins = |tag: &str| pem.windows(tag.len()).any(|window| window == tag.as_bytes());
        if begins("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        // Which of them was meant, nobody can tell, and tokens of the other would be refused.
        if pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count() > 1 {
            return Err(KeyError::SeveralKeys);
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok();
        let key = match der.as_deref() {
            Some(der) if der.starts_with(P256) || der.starts_with(P384) => DecodingKey::from_ec_pem(pem),
            Some(der) if der.starts_with(ED25519) => DecodingKey::from_ed_pem(pem),
            // A PKCS #1 key (`BEGIN RSA PUBLIC KEY`) is none of these.
            Some(_) | None => DecodingKey::from_rsa_pem(pem),
        };
        Self::of(key.map_err(|_| KeyError::NotPublic)?, id, algorithms)
    }

    /// A secret, for these algorithms; HS256, if none is named.
    pub(crate) fn secret(
        secret: &[u8],
        id: Option<&str>,
        algorithms: &[Algorithm],
    ) -> Result<Self, KeyError> {
        // Editors end a file with a newline, and nobody means it.
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.starts_with(b"-----BEGIN") {
            return Err(KeyError::PublicSecret);
        }
        let algorithms = if algorithms.is_empty() { &[Algorithm::HS256] } else { algorithms };
        Self::of(DecodingKey::from_secret(secret), id, algorithms)
    }

    fn of(key: DecodingKey, id: Option<&str>, wanted: &[Algorithm]) -> Result<Self, KeyError> {
        let able = able(&key)?;
        for algorithm in wanted {
            if !able.contains(algorithm) {
                let able: Vec<_> = able.iter().map(|able| name(*able)).collect();
                return Err(KeyError::Algorithm(name(*algorithm), able.join(", ")));
            }
        }
        let algorithms = if wanted.is_empty() { &able } else { wanted };
        check_secret(&key, algorithms)?;
        Ok(Self { id: id.map(Into::into), algorithms: algorithms.into(), key })
    }

    pub(super) const fn key(&self) -> &DecodingKey {
        &self.key
    }
}

/// What a key can verify.
fn able(key: &DecodingKey) -> Result<Vec<Algorithm>, KeyError> {
    match key.family() {
        AlgorithmFamily::Rsa => {
            let bits = rsa_bits(key).ok_or(KeyError::NotPublic)?;
            if !RSA_BITS.contains(&bits) {
                return Err(KeyError::RsaSize(bits));
            }
        }
        AlgorithmFamily::Ec => {
            return match key.try_get_as_bytes().map(<[u8]>::len) {
                // An uncompressed point (SEC 1, 2.3.3).
                Ok(65) => Ok(vec![Algorithm::ES256]),
                Ok(97) => Ok(vec![Algorithm::ES384]),
                Ok(_) | Err(_) => Err(KeyError::NotPublic),
            };
        }
        AlgorithmFamily::Ed if !matches!(key.try_get_as_bytes().map(<[u8]>::len), Ok(32)) => {
            return Err(KeyError::NotPublic);
        }
        AlgorithmFamily::Ed | AlgorithmFamily::Hmac => {}
    }
    Ok(key.family().algorithms().to_vec())
}

/// A secret must be as long as the hash (RFC 7518, 3.2): a shorter one is guessed from any token.
fn check_secret(key: &DecodingKey, algorithms: &[Algorithm]) -> Result<(), KeyError> {
    let (AlgorithmFamily::Hmac, Ok(secret)) = (key.family(), key.try_get_as_bytes()) else { return Ok(()) };
    for algorithm in algorithms {
        let least = match algorithm {
            Algorithm::HS512 => 64,
            Algorithm::HS384 => 48,
            _ => 32,
        };
        if secret.len() < least {
            return Err(KeyError::ShortSecret(secret.len(), name(*algorithm), least));
        }
    }
    Ok(())
}

/// Bits of an RSA key's modulus.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let modulus = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n,
        DecodingKeyKind::SecretOrDer(der) => der_modulus(der)?,
    };
    let modulus = without_zeros(modulus);
    Some(modulus.len() * 8 - usize::try_from(modulus.first()?.leading_zeros()).ok()?)
}

/// The first number in an `RSAPublicKey` (RFC 8017, A.1.1).
fn der_modulus(der: &[u8]) -> Option<&[u8]> {
    let inner = der_value(der, 0x30)?;
    der_value(inner, 0x02)
}

/// What is in the first element, which has this tag.
fn der_value(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7F => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    rest.get(..length).filter(|_| *first == tag)
}

impl TokenKeys {
    /// Of a file or an answer with a JSON Web Key Set (RFC 7517). Keys for other purposes and of other kinds are left out,
    /// and so are secrets: what is published is none.
    pub(crate) fn of_set(json: &[u8]) -> Result<SetKeys, KeyError> {
        let not = |error: &dyn std::fmt::Display| KeyError::NotASet(error.to_string());
        let set: serde_json::Value = serde_json::from_slice(json).map_err(|error| not(&error))?;
        let keys =
            set.get("keys").and_then(|keys| keys.as_array()).ok_or_else(|| not(&"it has no list `keys`"))?;
        if keys.len() > KEYS {
            return Err(KeyError::TooMany(keys.len()));
        }
        let (mut usable, mut left_out) = (Vec::new(), Vec::new());
        for key in keys {
            match key_of_set(key) {
                Ok(key) => usable.push(key),
                Err(why) => left_out.push((shown_id(key), why)),
            }
        }
        if usable.is_empty() {
            return Err(KeyError::NoKey(
                left_out.pop().map_or_else(String::new, |(_, why)| format!(": {why}")),
            ));
        }
        Ok(SetKeys { keys: Self(usable), left_out })
    }

    pub(crate) const fn new(keys: Vec<TokenKey>) -> Self {
        Self(keys)
    }

    /// Whether one has this id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that may verify a token with this header.
    pub(super) fn candidates<'k>(
        &'k self,
        algorithm: Algorithm,
        id: Option<&'k str>,
    ) -> impl Iterator<Item = &'k TokenKey> {
        self.0.iter().filter(move |key| {
            let is_named = match (key.id.as_deref(), id) {
                (Some(own), Some(id)) => own == id,
                (None, _) | (_, None) => true,
            };
            is_named && key.algorithms.contains(&algorithm)
        })
    }
}

/// The id of a key, for the log.
fn shown_id(key: &serde_json::Value) -> String {
    key.get("kid")
        .and_then(|id| id.as_str())
        .map_or_else(|| "-".to_owned(), |id| id.chars().take(64).collect())
}

fn key_of_set(value: &serde_json::Value) -> Result<TokenKey, String> {
    let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return Err("a key for another use than signatures".to_owned());
    }
    if common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return Err("a key that may not verify".to_owned());
    }
    let point = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => None,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(65),
            EllipticCurve::P384 => Some(97),
            _ => return Err("a curve that is not supported".to_owned()),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(32),
        AlgorithmParameters::OctetKey(_) => return Err("a secret, and what is published is none".to_owned()),
        _ => return Err("a kind of key that is not supported".to_owned()),
    };
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    if point.is_some_and(|bytes| !matches!(key.try_get_as_bytes().map(<[u8]>::len), Ok(len) if len == bytes))
    {
        return Err("a point that is not of its curve".to_owned());
    }
    let wanted = match common.key_algorithm {
        None => Vec::new(),
        Some(algorithm) => match Algorithm::try_from(algorithm) {
            Ok(algorithm) => vec![algorithm],
            Err(_) => return Err("an algorithm that is not supported".to_owned()),
        },
    };
    TokenKey::of(key, common.key_id.as_deref(), &wanted).map_err(|error| error.to_string())
}

/// The algorithm of this name.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(own, _)| *own == name).map(|(_, algorithm)| *algorithm)
}

/// Its name.
pub(crate) fn name(algorithm: Algorithm) -> &'static str {
    ALGORITHMS.iter().find(|(_, own)| *own == algorithm).map_or("another algorithm", |(name, _)| name)
}

/// The algorithms and their names (RFC 7518, 3.1; RFC 8037, 3.1).
pub(crate) const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
];
