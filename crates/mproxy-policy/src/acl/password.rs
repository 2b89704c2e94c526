//! Passwords: hashes of several kinds, made and verified. Verifying takes tens of milliseconds on purpose; how long at most
//! is bounded when the file is read.
//!
//! argon2 is what `mproxy hash-password` makes. The others are for those who come from elsewhere: mosquitto's two, bcrypt,
//! and PBKDF2 as PHC strings, passlib and Django write it.

use std::fmt;
use std::num::NonZeroU32;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHashString, SaltString};
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest::{Context, SHA512};
use ring::pbkdf2;
use subtle::ConstantTimeEq;

/// Memory of one argon2 hash at most, and memory times passes, in KiB: a second or two of a core. A CONNECT waits for five.
const ARGON2_MEMORY: u32 = 256 << 10;
const ARGON2_WORK: u64 = 1 << 20;

/// The most rounds of PBKDF2 with SHA-256 for a hash of 32 bytes: as many as Django makes by now, a second or two of a core.
/// A round of SHA-512 costs two of them, and so does one for a hash of two blocks.
const PBKDF2_ROUNDS: u32 = 1_200_000;

/// The highest cost of bcrypt: each one more doubles the time, and 14 are a second of a core.
const BCRYPT_COST: u32 = 14;

/// Bytes of the longest salt or hash.
const PART_MOST: usize = 512;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A checked hash. Its `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Password(PasswordKind);

#[derive(Clone)]
enum PasswordKind {
    Argon2(PasswordHashString),
    Bcrypt(Box<str>),
    Pbkdf2 {
        algorithm: pbkdf2::Algorithm,
        rounds: NonZeroU32,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    /// SHA-512 over the password and the salt, once: what mosquitto made before 2.0.
    Sha512 {
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
}

/// Why a text is no hash that passwords can be verified against.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error(
        "not a hash that is known: argon2 (`$argon2id$v=19$…`, made by `mproxy hash-password`), bcrypt (`$2b$…`), \
         mosquitto's (`$7$…`, `$6$…`) or PBKDF2 (`$pbkdf2-sha256$…`); a password is never written plainly"
    )]
    Unknown,
    #[error("{0} hash that lacks its salt or its hash, or has something wrong in it")]
    Incomplete(&'static str),
    #[error("{0} hash that costs too much to verify: {1}")]
    TooCostly(&'static str, String),
}

/// Whether a text is a hash that passwords can be verified against.
pub(crate) fn check_password(text: &str) -> Result<(), PasswordError> {
    Password::parse(text).map(drop)
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// Takes a hash that can be verified against; the error says why it cannot.
    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let parts: Vec<_> = text.split('$').collect();
        let kind = match parts[..] {
            ["", name, ..] if name.starts_with("argon2") => argon2(text),
            ["", "2a" | "2b" | "2y", cost, rest] => bcrypt(text, cost, rest),
            ["", "7", rounds, salt, hash] => pbkdf2(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, hash),
            ["", "6", salt, hash] => sha512(salt, hash),
            ["", "pbkdf2-sha256", rounds, salt, hash] => {
                pbkdf2(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, hash)
            }
            ["", "pbkdf2-sha512", rounds, salt, hash] => {
                pbkdf2(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, hash)
            }
            // Django's, whose salt is written as it is.
            ["pbkdf2_sha256", rounds, salt, hash] => {
                pbkdf2(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &BASE64.encode(salt), hash)
            }
            _ => Err(PasswordError::Unknown),
        };
        kind.map(Self)
    }

    /// A hash of this password that is verified in no time; for passwords that are no secrets.
    pub(super) fn quick(password: &[u8]) -> Self {
        let mut context = Context::new(&SHA512);
        context.update(password);
        Self(PasswordKind::Sha512 { salt: Box::default(), hash: context.finish().as_ref().into() })
    }

    /// Whether it is the hash of this password. Slow: not for an async thread.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        // Each compares in constant time.
        match &self.0 {
            // The parameters of the hash count, not the defaults of this crate: files made elsewhere verify.
            PasswordKind::Argon2(hash) => {
                Argon2::default().verify_password(password, &hash.password_hash()).is_ok()
            }
            PasswordKind::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            PasswordKind::Pbkdf2 { algorithm, rounds, salt, hash } => {
                pbkdf2::verify(*algorithm, *rounds, salt, password, hash).is_ok()
            }
            PasswordKind::Sha512 { salt, hash } => {
                let mut context = Context::new(&SHA512);
                context.update(password);
                context.update(salt);
                context.finish().as_ref().ct_eq(hash).into()
            }
        }
    }
}

fn argon2(text: &str) -> Result<PasswordKind, PasswordError> {
    const NAME: &str = "an argon2";
    let hash = PasswordHashString::new(text).map_err(|_| PasswordError::Incomplete(NAME))?;
    let parsed = hash.password_hash();
    let params = Params::try_from(&parsed).map_err(|_| PasswordError::Incomplete(NAME))?;
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return Err(PasswordError::Incomplete(NAME));
    }
    let (memory, passes) = (params.m_cost(), params.t_cost());
    if memory > ARGON2_MEMORY || u64::from(memory) * u64::from(passes) > ARGON2_WORK {
        let most = format!("m={memory},t={passes}; at most m={ARGON2_MEMORY}, and m*t={ARGON2_WORK}");
        return Err(PasswordError::TooCostly(NAME, most));
    }
    Ok(PasswordKind::Argon2(hash))
}

fn bcrypt(text: &str, cost: &str, rest: &str) -> Result<PasswordKind, PasswordError> {
    const NAME: &str = "a bcrypt";
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let cost: u32 = cost.parse().map_err(|_| PasswordError::Incomplete(NAME))?;
    // 22 characters of salt, 31 of hash. That it can be read is seen with any password, at the lowest price there is.
    if cost < 4 || rest.len() != 53 || !rest.bytes().all(is_base64) {
        return Err(PasswordError::Incomplete(NAME));
    }
    if cost > BCRYPT_COST {
        return Err(PasswordError::TooCostly(NAME, format!("cost {cost}, at most {BCRYPT_COST}")));
    }
    let cheap = text.replacen(&format!("${cost:02}$"), "$04$", 1);
    bcrypt::verify("", &cheap).map_err(|_| PasswordError::Incomplete(NAME))?;
    Ok(PasswordKind::Bcrypt(text.into()))
}

/// `rounds` is a number, or `i=1000,l=32` as in PHC strings.
fn pbkdf2(
    algorithm: pbkdf2::Algorithm,
    rounds: &str,
    salt: &str,
    hash: &str,
) -> Result<PasswordKind, PasswordError> {
    const NAME: &str = "a PBKDF2";
    let wrong = || PasswordError::Incomplete(NAME);
    let rounds = rounds.split(',').find_map(|part| part.strip_prefix("i=")).unwrap_or(rounds);
    let rounds: NonZeroU32 = rounds.parse().map_err(|_| wrong())?;
    let (salt, hash) = (part(salt).ok_or_else(wrong)?, part(hash).ok_or_else(wrong)?);
    // A hash of a few bytes is found by trying; one of many is worked on once for each block.
    if !(16..=64).contains(&hash.len()) {
        return Err(wrong());
    }
    let (name, costs) = if algorithm == pbkdf2::PBKDF2_HMAC_SHA512 {
        ("SHA-512", 2)
    } else {
        ("SHA-256", if hash.len() > 32 { 2 } else { 1 })
    };
    let most = PBKDF2_ROUNDS / costs;
    if rounds.get() > most {
        let what = format!("{rounds} rounds of {name} for {} bytes, at most {most}", hash.len());
        return Err(PasswordError::TooCostly(NAME, what));
    }
    Ok(PasswordKind::Pbkdf2 { algorithm, rounds, salt, hash })
}

fn sha512(salt: &str, hash: &str) -> Result<PasswordKind, PasswordError> {
    let wrong = || PasswordError::Incomplete("a SHA-512");
    let (salt, hash) = (part(salt).ok_or_else(wrong)?, part(hash).ok_or_else(wrong)?);
    // crypt(3) writes its own kind of `$6$` with the same look, in another alphabet and length.
    if hash.len() == 64 { Ok(PasswordKind::Sha512 { salt, hash }) } else { Err(wrong()) }
}

/// A salt or a hash in base64; passlib writes `.` for `+`.
fn part(text: &str) -> Option<Box<[u8]>> {
    let bytes = BASE64.decode(text.replace('.', "+")).ok()?;
    (!bytes.is_empty() && bytes.len() <= PART_MOST).then(|| bytes.into())
}

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash this password: {0}")]
pub struct HashError(argon2::password_hash::Error);

/// Hashes a password for the `password` key of a rule file: argon2id with the crate's recommended cost.
///
/// # Errors
/// The password is longer than argon2 takes (4 GiB).
pub fn hash_password(password: &str) -> Result<String, HashError> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(HashError)?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sesame`, hashed by others: mosquitto_passwd 2.0 (both), Python's hashlib and passlib's format, Django's format,
    /// Perl's and PHP's crypt.
    const SESAME: [&str; 9] = [
        "$7$101$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
        "$6$C3jJZyMsTWCv284S$eq412ovdObwvtHcGzb/WPodmdHf4GlhjmmQ5qD8FAFfoR2J4DHdlupW3gbOKi+5FjfBaLULPwc8MPscqNEiQZg==",
        "$pbkdf2-sha256$1000$c2FsdHNhbHRzYWx0c2FsdA$UXegv3iw.P..sJrKscZ5X9cDJtWE.4gBtZ53ipISm5M",
        "$pbkdf2-sha256$i=1000,l=32$c2FsdHNhbHRzYWx0c2FsdA$UXegv3iw+P++sJrKscZ5X9cDJtWE+4gBtZ53ipISm5M",
        "$pbkdf2-sha512$1000$c2FsdHNhbHRzYWx0c2FsdA$yRdwRmeTw6SgY2YbJzWrlapaGXUFk/ONnzunwWANJOA7BUoTjmueE4hdpXWdTTK8ftdpvnB.EGeMeACX.aGkdQ",
        "pbkdf2_sha256$1000$saltsalt$b1sSN7v0pV6yqCwkohsSs5IT/7joKePbt3l5oxs1ch4=",
        "$2b$04$JgixAy6Sr20kZFAr3AXMNu6VIjhPxDu/kc9zxhuHBDIHwXMzeIHJ2",
        "$2b$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
        "$2y$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
    ];

    #[test]
    fn a_hash_verifies_its_password_and_no_other() {
        let own = hash_password("sesame").unwrap();
        for hash in SESAME.into_iter().chain([own.as_str()]) {
            let password = Password::parse(hash).unwrap_or_else(|error| panic!("{hash}: {error}"));
            assert!(password.verify(b"sesame"), "{hash}");
            for other in [&b"Sesame"[..], b"", b"sesame ", b"sesam", b"\xff"] {
                assert!(!password.verify(other), "{hash}");
            }
            assert_eq!(format!("{password:?}"), "Password(..)");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_no_hash() {
        for text in [
            "",
            "sesame",
            "$",
            "$2b$12$abc",
            "$2b$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85R!",
            "$2b$3$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
            "$2x$04$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$argon2id$v=19$m=x$a$b",
            "$7$0$c2FsdA==$AAAA",
            "$7$101$c2FsdA==$AAAA",
            "$7$101$$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
            "$7$-1$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
            "$6$salt$tooshort",
            "$6$rounds=5000$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
            "$1$abc$def",
            "pbkdf2_sha1$1000$saltsalt$AAAA",
        ] {
            assert!(Password::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hash_that_costs_too_much_is_no_hash() {
        for text in [
            "$2b$15$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
            "$2b$31$abcdefghijklmnopqrstuuinwY/tkBVrn3xrxQI/TgnMHhkvl85RW",
            "$7$600001$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
            "$pbkdf2-sha256$1200001$c2FsdHNhbHRzYWx0c2FsdA$UXegv3iw.P..sJrKscZ5X9cDJtWE.4gBtZ53ipISm5M",
            "$pbkdf2-sha256$600001$c2FsdHNhbHRzYWx0c2FsdA$yRdwRmeTw6SgY2YbJzWrlapaGXUFk/ONnzunwWANJOA7BUoTjmueE4hdpXWdTTK8ftdpvnB.EGeMeACX.aGkdQ",
            "$argon2id$v=19$m=65536,t=17,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=1048576,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=19456,t=1000,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(matches!(Password::parse(text), Err(PasswordError::TooCostly(..))), "{text}");
        }
        for text in [
            "$7$600000$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
            "$pbkdf2-sha256$1200000$c2FsdHNhbHRzYWx0c2FsdA$UXegv3iw.P..sJrKscZ5X9cDJtWE.4gBtZ53ipISm5M",
            "$argon2id$v=19$m=65536,t=16,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(Password::parse(text).is_ok(), "{text}");
        }
        let told = Password::parse(
            "$7$2000000$La9fhkdCL2PcA++z$+8uKm6DiV/rF+5szDdJGpEswEvXyYhV7DFQ2fsREIni8nqDqoRn3Y6OA9LpwE5okVx9MDFziSHzEIvpWL5MPSw==",
        );
        let told = told.unwrap_err().to_string();
        assert!(told.ends_with("2000000 rounds of SHA-512 for 64 bytes, at most 600000"), "{told}");
    }
}
