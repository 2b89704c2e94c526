//! What kind of key a file or a certificate holds, in words: for messages about those that cannot be used.

use std::fmt;

use x509_parser::x509::SubjectPublicKeyInfo;

use rustls::pki_types::PrivateKeyDer;

/// Keys of others that are understood.
pub(super) const THEIRS: &str = "RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519";

/// Keys of our own that can be used.
const OURS: &str = "RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519";

/// An algorithm, and what is particular about this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa(usize),
    Curve(&'static str),
    Other(&'static str),
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::Curve(curve) => write!(f, "an ECDSA key on {curve}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl KeyKind {
    /// Whether signatures made with it can be verified.
    pub(super) fn is_understood(self) -> bool {
        match self {
            Self::Rsa(bits) => (2048..=8192).contains(&bits),
            Self::Curve(curve) => matches!(curve, "P-256" | "P-384"),
            Self::Other(name) => name == ED25519,
        }
    }
}

const ED25519: &str = "an Ed25519 key";

/// Why this key of ours cannot be used.
pub(super) fn refusal(key: &PrivateKeyDer<'_>) -> String {
    match private(key) {
        Some(kind) => format!("it is {kind}, and what can be used is {OURS}"),
        None => format!("it cannot be read as a private key; what can be used is {OURS}"),
    }
}

fn private(key: &PrivateKeyDer<'_>) -> Option<KeyKind> {
    let (SEQUENCE, inner, _) = value(key.secret_der())? else { return None };
    let (INTEGER, _, inner) = value(inner)? else { return None };
    match key {
        // RFC 8017, A.1.2: version, modulus.
        PrivateKeyDer::Pkcs1(_) => modulus_bits(inner).map(KeyKind::Rsa),
        // RFC 5915: version, key, [0] curve.
        PrivateKeyDer::Sec1(_) => {
            let (_, _, inner) = value(inner)?;
            let (_, parameters, _) = value(inner)?;
            curve(parameters)
        }
        // RFC 5958: version, algorithm, key.
        PrivateKeyDer::Pkcs8(_) => {
            let (_, algorithm, inner) = value(inner)?;
            let (_, key, _) = value(inner)?;
            let (_, oid, parameters) = value(algorithm)?;
            kind(oid, parameters, || {
                let (_, inner, _) = value(key)?;
                let (_, _, inner) = value(inner)?;
                modulus_bits(inner)
            })
        }
        _ => None,
    }
}

/// The key of a certificate.
pub(super) fn public(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyKind> {
    let (_, inner, _) = value(key.raw)?;
    let (_, algorithm, _) = value(inner)?;
    let (_, oid, parameters) = value(algorithm)?;
    kind(oid, parameters, || {
        let (_, inner, _) = value(&key.subject_public_key.data)?;
        modulus_bits(inner)
    })
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

fn kind(oid: &[u8], parameters: &[u8], rsa_bits: impl FnOnce() -> Option<usize>) -> Option<KeyKind> {
    Some(match oid {
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01] => KeyKind::Rsa(rsa_bits()?),
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A] => {
            KeyKind::Other("a key for RSASSA-PSS alone")
        }
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01] => curve(parameters)?,
        [0x2B, 0x65, 0x70] => KeyKind::Other(ED25519),
        [0x2B, 0x65, 0x71] => KeyKind::Other("an Ed448 key"),
        [0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x01] => KeyKind::Other("a DSA key"),
        _ => KeyKind::Other("a key of an unknown algorithm"),
    })
}

fn curve(parameters: &[u8]) -> Option<KeyKind> {
    let (tag, oid, _) = value(parameters)?;
    Some(KeyKind::Curve(match oid {
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07] => "P-256",
        [0x2B, 0x81, 0x04, 0x00, 0x22] => "P-384",
        [0x2B, 0x81, 0x04, 0x00, 0x23] => "P-521",
        [0x2B, 0x81, 0x04, 0x00, 0x21] => "P-224",
        [0x2B, 0x81, 0x04, 0x00, 0x0A] => "secp256k1",
        [0x2B, 0x24, 0x03, 0x03, ..] => "a Brainpool curve",
        _ if tag == SEQUENCE => "a curve given by explicit parameters",
        _ => "an unknown curve",
    }))
}

fn modulus_bits(input: &[u8]) -> Option<usize> {
    let (INTEGER, modulus, _) = value(input)? else { return None };
    // DER puts a zero before a number whose first bit is set.
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

/// One DER value: its tag, what is in it, and what follows.
fn value(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7F => (short, rest),
        // Four bytes of length say more than any file that is read has. A length without an end is none in DER.
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (inner, rest) = rest.split_at_checked(length)?;
    Some((*tag, inner, rest))
}
