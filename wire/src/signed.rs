//! A signed document: the exact JSON bytes, and an SSHSIG over them.
//!
//! On the wire it is two SSH strings (RFC 4251 5: `u32` length, bytes), the JSON and the raw signature blob. It is
//! kept as it was signed and parsed once, after the signature holds: only [`Signed::verify`] gives a value, wrapped
//! in [`Verified`], which nothing else can make.

use serde::Serialize;
use serde::de::DeserializeOwned;
use ssh_key::PrivateKey;
use ssh_key::public::KeyData;

use crate::id::Digest;
use crate::sshsig::{self, BadSignature, Namespace};
use crate::strict::{self, NotStrict};

/// The largest signed document, JSON and signature together, in bytes. Trust bundle and library index may have
/// [`MAX_LARGE`].
pub const MAX_SIGNED: usize = 48 * 1024;

/// The largest trust bundle or library index, in bytes.
pub const MAX_LARGE: usize = 4 * 1024 * 1024;

/// A kind of document, with the one namespace in which it is signed.
pub trait Document: Serialize + DeserializeOwned {
    /// What a signature over it means.
    const NAMESPACE: Namespace;
    /// The most bytes that it may have, signature included.
    const LIMIT: usize = MAX_SIGNED;
}

/// Bytes and signature, not yet believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    json: Vec<u8>,
    signature: Vec<u8>,
}

/// A signed document that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The two strings are not there, or something follows them.
    #[error("a signed document must be two SSH strings, JSON and signature, and nothing else")]
    Framing,
    /// Larger than its kind may be.
    #[error("a signed document of {0} bytes is larger than its kind may be")]
    TooLarge(usize),
    /// The signature does not hold.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The signature holds, but the document is not one that this build reads.
    #[error(transparent)]
    Document(#[from] NotStrict),
}

impl Signed {
    /// Signs `document` with `key`.
    ///
    /// # Errors
    /// When the key cannot sign or the document is too large.
    pub fn make<D: Document>(document: &D, key: &PrivateKey) -> Result<Self, SignedError> {
        Self::make_with(document, |json| sshsig::sign(key, D::NAMESPACE, json))
    }

    /// Signs `document` with whatever `sign` asks, such as an ssh-agent: JSON in, raw SSHSIG blob out.
    ///
    /// # Errors
    /// When `sign` fails or the document is too large.
    pub fn make_with<D: Document>(
        document: &D,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, BadSignature>,
    ) -> Result<Self, SignedError> {
        let json = serde_json::to_vec(document).map_err(NotStrict::from)?;
        let signature = sign(&json)?;
        let signed = Self { json, signature };
        signed.within(D::LIMIT)?;
        Ok(signed)
    }

    /// Takes bytes and signature as they came, to be verified.
    pub const fn from_parts(json: Vec<u8>, signature: Vec<u8>) -> Self {
        Self { json, signature }
    }

    /// Reads the two strings.
    ///
    /// # Errors
    /// When they are not exactly two.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.len() > MAX_LARGE + 8 {
            return Err(SignedError::TooLarge(bytes.len()));
        }
        let (json, rest) = ssh_string(bytes).ok_or(SignedError::Framing)?;
        let (signature, rest) = ssh_string(rest).ok_or(SignedError::Framing)?;
        if !rest.is_empty() {
            return Err(SignedError::Framing);
        }
        Ok(Self { json: json.to_vec(), signature: signature.to_vec() })
    }

    /// The two strings.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.json.len() + self.signature.len() + 8);
        put_ssh_string(&mut out, &self.json);
        put_ssh_string(&mut out, &self.signature);
        out
    }

    /// The bytes that were signed.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The raw SSHSIG blob.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// SHA-256 over the signed bytes: how other documents refer to this one.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.json)
    }

    /// Checks the signature by `key` in the namespace of `D`, then parses.
    ///
    /// # Errors
    /// When it is too large, the signature does not hold or the document is not strict.
    pub fn verify<D: Document>(self, key: &KeyData) -> Result<Verified<D>, SignedError> {
        self.within(D::LIMIT)?;
        sshsig::verify(key, D::NAMESPACE, &self.json, &self.signature)?;
        let value = strict::exact_from_slice(&self.json)?;
        Ok(Verified { digest: self.digest(), signed: self, value })
    }

    /// Reads the document before its signature was checked, only to learn which key to check it with.
    ///
    /// # Errors
    /// When the document is too large or not strict.
    pub fn peek_unverified<D: Document>(&self) -> Result<D, SignedError> {
        self.within(D::LIMIT)?;
        Ok(strict::exact_from_slice(&self.json)?)
    }

    fn within(&self, limit: usize) -> Result<(), SignedError> {
        let size = self.json.len().saturating_add(self.signature.len());
        if size > limit { Err(SignedError::TooLarge(size)) } else { Ok(()) }
    }
}

/// A document whose signature holds, with the bytes that were signed.
#[derive(Clone, Debug)]
pub struct Verified<D> {
    value: D,
    signed: Signed,
    digest: Digest,
}

impl<D> Verified<D> {
    /// The document.
    pub const fn value(&self) -> &D {
        &self.value
    }

    /// Its bytes and signature.
    pub const fn signed(&self) -> &Signed {
        &self.signed
    }

    /// SHA-256 over the signed bytes.
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

impl<D> std::ops::Deref for Verified<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.value
    }
}

/// Splits one SSH string (RFC 4251 5) off the front.
pub fn ssh_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Appends one SSH string. A string of 4 GiB or more cannot be written; callers bound theirs far below.
pub fn put_ssh_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        n: u64,
    }

    impl Document for Sample {
        const NAMESPACE: Namespace = Namespace::Grant;
    }

    #[test]
    fn a_document_comes_back_only_through_its_signature() {
        let (key, other) = (sshsig::generate("").unwrap(), sshsig::generate("").unwrap());
        let signed = Signed::make(&Sample { n: 7 }, &key).unwrap();
        let back = Signed::from_wire(&signed.to_wire()).unwrap();
        assert_eq!(back, signed);
        assert_eq!(back.clone().verify::<Sample>(key.public_key().key_data()).unwrap().n, 7);
        assert!(back.verify::<Sample>(other.public_key().key_data()).is_err());
    }

    #[test]
    fn bytes_after_the_two_strings_are_refused() {
        let key = sshsig::generate("").unwrap();
        let mut bytes = Signed::make(&Sample { n: 7 }, &key).unwrap().to_wire();
        bytes.push(0);
        assert!(matches!(Signed::from_wire(&bytes), Err(SignedError::Framing)));
        for end in 0..bytes.len() - 1 {
            assert!(Signed::from_wire(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
