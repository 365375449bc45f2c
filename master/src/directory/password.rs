//! Passwords: which ones are never sent, and how the directory file keeps them.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

use super::AuthFailure;

/// The longest password that is looked at, in bytes.
const LONGEST: usize = 1024;

/// The memory of one hash: 19 MiB, with 2 passes in 1 lane (OWASP's first choice for argon2id).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a hash in the file may cost at least and at most: below it is guessed too fast, above it one login holds
/// the machine.
const MEMORY_KIB_ALLOWED: std::ops::RangeInclusive<u32> = 7 * 1024..=256 * 1024;
const PASSES_ALLOWED: std::ops::RangeInclusive<u32> = 1..=10;

/// A password that could not be hashed, or a hash that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// Empty, blank, with a NUL, or over 1024 bytes.
    #[error("a password has 1 to {LONGEST} bytes, no NUL, and is not blank")]
    Unusable,
    /// The text is not an argon2id hash in PHC form.
    #[error("password is not an argon2id hash ($argon2id$v=19$...): make one with `reeve-master hash-password`")]
    NotArgon2id,
    /// The hash is too cheap to be safe or too dear to be checked.
    #[error("password is hashed with m={memory},t={passes}: use m from 7168 to 262144 and t from 1 to 10")]
    Cost {
        /// KiB.
        memory: u32,
        /// Passes.
        passes: u32,
    },
    /// The machine gave no random bytes or no memory.
    #[error("the password could not be hashed: {0}")]
    Machine(String),
}

/// Refuses what an LDAP server may take for "no password" (RFC 4513, 5.1.2) or cut short.
pub(super) fn screen(password: &str) -> Result<(), AuthFailure> {
    if usable(password) { Ok(()) } else { Err(AuthFailure::WrongPassword) }
}

fn usable(password: &str) -> bool {
    password.len() <= LONGEST && !password.trim().is_empty() && !password.contains('\0')
}

/// Hashes `password` for the directory file: argon2id with 19 MiB, 2 passes, 1 lane and a random salt, in PHC form.
///
/// # Errors
///
/// [`PasswordError`] when the password cannot be used or the machine has no random bytes.
pub fn hash_password(password: &str) -> Result<String, PasswordError> {
    if !usable(password) {
        return Err(PasswordError::Unusable);
    }
    let machine = |e: &dyn std::fmt::Display| PasswordError::Machine(e.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|e| machine(&e))?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = hasher.hash_password(password.as_bytes()).map_err(|e| machine(&e))?;

    Ok(hash.to_string())
}

/// An argon2id hash whose cost is known to be sane.
#[derive(Clone, Debug)]
pub(super) struct Hash(PasswordHash);

impl Hash {
    /// Reads the PHC form.
    ///
    /// # Errors
    ///
    /// [`PasswordError`] when it is something else, or costs too little or too much.
    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let hash = PasswordHash::new(text).map_err(|_| PasswordError::NotArgon2id)?;
        let complete = hash.hash.is_some() && hash.salt.is_some();
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() || !complete {
            return Err(PasswordError::NotArgon2id);
        }
        let params = Params::try_from(&hash).map_err(|_| PasswordError::NotArgon2id)?;
        if !MEMORY_KIB_ALLOWED.contains(&params.m_cost()) || !PASSES_ALLOWED.contains(&params.t_cost()) {
            return Err(PasswordError::Cost { memory: params.m_cost(), passes: params.t_cost() });
        }
        Ok(Self(hash))
    }

    /// Whether `password` is the one that was hashed. Takes tens of milliseconds of one core.
    pub(super) fn matches(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_a_server_could_take_for_none_is_wrong() {
        let too_long = "x".repeat(1025);
        for bad in ["", " ", " \t\n", "\u{a0}", "\0", "a\0b", too_long.as_str()] {
            assert_eq!(screen(bad), Err(AuthFailure::WrongPassword), "{bad:?}");
            assert_eq!(hash_password(bad), Err(PasswordError::Unusable), "{bad:?}");
        }
        for good in ["x", " a ", "pässwörd", &"x".repeat(1024)] {
            assert_eq!(screen(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn a_hash_accepts_its_password_and_no_other() {
        let text = hash_password("correct horse").unwrap();
        let hash = Hash::parse(&text).unwrap();

        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert!(hash.matches("correct horse"));
        assert!(!hash.matches("correct horsf"));
        assert_ne!(text, hash_password("correct horse").unwrap(), "the salt is random");
    }

    #[test]
    fn other_hashes_are_refused() {
        let good = hash_password("correct horse").unwrap();
        for bad in ["", "hunter2", "{SSHA}abc", &good.replace("argon2id", "argon2i"), &good[..good.len() / 2]] {
            assert!(Hash::parse(bad).is_err(), "{bad:?}");
        }
        let cheap = good.replace("m=19456", "m=1024");
        assert_eq!(Hash::parse(&cheap).unwrap_err(), PasswordError::Cost { memory: 1024, passes: 2 });
        let dear = good.replace("m=19456", "m=4194304");
        assert_eq!(Hash::parse(&dear).unwrap_err(), PasswordError::Cost { memory: 4_194_304, passes: 2 });
    }
}
