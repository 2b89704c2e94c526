//! Passwords: argon2 hashes in PHC format, made and verified. Verifying takes tens of milliseconds on purpose.

use std::fmt;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHashString, SaltString};
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};

/// A checked hash. Its `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Password(PasswordHashString);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// Takes a PHC string that can be verified against; the error says why it cannot.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const NOT: &str =
            "not an argon2 hash in PHC format (`$argon2id$v=19$…`); a password is never written plainly";
        let hash = PasswordHashString::new(text).map_err(|_| NOT)?;
        let parsed = hash.password_hash();
        if !parsed.algorithm.as_str().starts_with("argon2") || Params::try_from(&parsed).is_err() {
            return Err(NOT);
        }
        if parsed.salt.is_none() || parsed.hash.is_none() {
            return Err("an argon2 hash that lacks its salt or its hash");
        }
        Ok(Self(hash))
    }

    /// Whether it is the hash of this password. Slow: not for an async thread.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        // The parameters of the hash count, not the defaults of this crate: files made elsewhere verify.
        Argon2::default().verify_password(password, &self.0.password_hash()).is_ok()
    }
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

    #[test]
    fn a_hash_verifies_its_password_and_no_other() {
        let hash = hash_password("sesame").unwrap();
        let password = Password::parse(&hash).unwrap();
        assert!(password.verify(b"sesame"));
        assert!(!password.verify(b"Sesame"));
        assert!(!password.verify(b""));
        assert_eq!(format!("{password:?}"), "Password(..)");
    }

    #[test]
    fn what_cannot_be_verified_is_no_hash() {
        for text in ["", "sesame", "$2b$12$abc", "$argon2id$v=19$m=19456,t=2,p=1", "$argon2id$v=19$m=x$a$b"] {
            assert!(Password::parse(text).is_err(), "{text}");
        }
    }
}
