//! Random ids and digests, written as lower-case hex.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::name::as_json_text;

/// A text that is not the lower-case hex it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {bytes} bytes as lower-case hex")]
pub struct HexError {
    bytes: usize,
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let mut bytes = [0; N];
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
        return Err(HexError { bytes: N });
    }
    Ok(bytes)
}

macro_rules! hex_type {
    ($(#[$doc:meta])* $kind:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $kind(pub [u8; $bytes]);

        impl FromStr for $kind {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                unhex(text).map(Self)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($kind))
            }
        }

        as_json_text!($kind);
    };
}

hex_type!(
    /// One operation, on all its hosts. With a host name it identifies one operation on one host.
    OperationId,
    16
);
hex_type!(
    /// Sixteen random bytes that keep a commitment from being guessed.
    Salt,
    16
);
hex_type!(
    /// A SHA-256.
    Digest,
    32
);

impl OperationId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl Salt {
    /// A fresh random salt.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The commitment to `content`: SHA-256(salt ‖ content).
    pub fn salted(salt: &Salt, content: &[u8]) -> Self {
        Self(Sha256::new().chain_update(salt.0).chain_update(content).finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lower_case_and_whole() {
        let id = OperationId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [id.to_string().to_uppercase(), "ab".into(), format!("{id}0"), format!(" {id}")] {
            assert!(bad.parse::<OperationId>().is_err(), "{bad}");
        }
    }
}
