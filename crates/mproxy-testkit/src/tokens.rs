//! Tokens (JWT) of any kind, right and wrong, with the keys that they are signed with.
#![expect(clippy::unwrap_used, reason = "a token that cannot be made fails its test")]

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
};
use ring::{hmac, signature};
use serde_json::{Value, json};

/// An RSA key of 2048 bits in PEM format, as `openssl genpkey` writes it. It is in this repository, and good for tests only.
const RSA: &str = include_str!("tokens/rsa.pem");

/// The public part of it.
pub const RSA_PUBLIC: &str = include_str!("tokens/rsa-public.pem");

/// One that is too short.
pub const RSA_1024_PUBLIC: &str = include_str!("tokens/rsa-1024-public.pem");

/// How the DER of a public key on a curve begins, up to its point (RFC 5480, RFC 8410).
const P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const P384: &str = "3076301006072a8648ce3d020106052b81040022036200";
const ED25519: &str = "302a300506032b6570032100";

/// A key that signs tokens.
pub enum TokenSigner {
    /// HS256 with this secret.
    Hs256(Vec<u8>),
    /// ES256.
    Es256(EcdsaKeyPair),
    /// ES384.
    Es384(EcdsaKeyPair),
    /// EdDSA with Ed25519.
    EdDsa(Ed25519KeyPair),
    /// RS256 with the key of this repository.
    Rs256(RsaKeyPair),
    /// RS512 with the same.
    Rs512(RsaKeyPair),
    /// PS256 with the same.
    Ps256(RsaKeyPair),
}

impl TokenSigner {
    /// A secret of 32 bytes.
    pub fn hs256() -> Self {
        Self::Hs256(b"0123456789abcdef0123456789abcdef".to_vec())
    }

    /// A new key.
    pub fn es256() -> Self {
        Self::Es256(curve(&ECDSA_P256_SHA256_FIXED_SIGNING))
    }

    /// A new key.
    pub fn es384() -> Self {
        Self::Es384(curve(&ECDSA_P384_SHA384_FIXED_SIGNING))
    }

    /// A new key.
    pub fn ed_dsa() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    /// The key of this repository.
    pub fn rs256() -> Self {
        Self::Rs256(rsa())
    }

    /// The same.
    pub fn rs512() -> Self {
        Self::Rs512(rsa())
    }

    /// The same.
    pub fn ps256() -> Self {
        Self::Ps256(rsa())
    }

    /// One of each kind.
    pub fn each() -> Vec<Self> {
        vec![
            Self::hs256(),
            Self::es256(),
            Self::es384(),
            Self::ed_dsa(),
            Self::rs256(),
            Self::rs512(),
            Self::ps256(),
        ]
    }

    /// `RS256` for example.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::EdDsa(_) => "EdDSA",
            Self::Rs256(_) => "RS256",
            Self::Rs512(_) => "RS512",
            Self::Ps256(_) => "PS256",
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({}), claims)
    }

    /// A token with these claims, and with more in its header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let mut full = json!({ "typ": "JWT", "alg": self.algorithm() });
        for (name, value) in header.as_object().unwrap() {
            full[name] = value.clone();
        }
        self.sign_text(&full.to_string(), &claims.to_string())
    }

    /// A token of these texts, whatever they are.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let by_rsa = |key: &RsaKeyPair, padding: &'static dyn signature::RsaEncoding| {
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match self {
            Self::Hs256(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
            Self::Es256(key) | Self::Es384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
            Self::Rs256(key) => by_rsa(key, &RSA_PKCS1_SHA256),
            Self::Rs512(key) => by_rsa(key, &RSA_PKCS1_SHA512),
            Self::Ps256(key) => by_rsa(key, &RSA_PSS_SHA256),
        }
    }

    /// What verifies it, as it stands in a file: a public key in PEM format, or the secret.
    pub fn verifying_file(&self) -> Vec<u8> {
        match self {
            Self::Hs256(secret) => secret.clone(),
            Self::Es256(key) => pem(P256, key.public_key().as_ref()),
            Self::Es384(key) => pem(P384, key.public_key().as_ref()),
            Self::EdDsa(key) => pem(ED25519, key.public_key().as_ref()),
            Self::Rs256(_) | Self::Rs512(_) | Self::Ps256(_) => RSA_PUBLIC.as_bytes().to_vec(),
        }
    }

    /// What verifies it, as a member of a JSON Web Key Set.
    pub fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let on_curve = |curve: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y), "kid": id, "use": "sig" })
        };
        match self {
            Self::Hs256(secret) => json!({ "kty": "oct", "k": text(secret), "kid": id }),
            Self::Es256(key) => on_curve("P-256", key.public_key().as_ref()),
            Self::Es384(key) => on_curve("P-384", key.public_key().as_ref()),
            Self::EdDsa(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref()), "kid": id })
            }
            Self::Rs256(key) | Self::Rs512(key) | Self::Ps256(key) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({ "kty": "RSA", "n": text(&public.n), "e": text(&public.e), "kid": id, "alg": self.algorithm() })
            }
        }
    }
}

/// A set of these keys.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Seconds since 1970, so far from now.
pub fn seconds_from_now(seconds: i64) -> i64 {
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now: Duration| now.as_secs());
    i64::try_from(now).unwrap() + seconds
}

fn rsa() -> RsaKeyPair {
    let body: String = RSA.lines().filter(|line| !line.starts_with("-----")).collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(body).unwrap()).unwrap()
}

fn curve(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
}

fn pem(prefix: &str, point: &[u8]) -> Vec<u8> {
    let prefix = (0..prefix.len()).step_by(2).map(|at| u8::from_str_radix(&prefix[at..at + 2], 16).unwrap());
    let der: Vec<u8> = prefix.chain(point.iter().copied()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)).into_bytes()
}
