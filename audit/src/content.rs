//! Content too long for a record: output, recordings, long signed things.
//!
//! A record commits to content as SHA-256(salt ‖ bytes), which is also what the host's receipt commits to. What is
//! stored is salt ‖ bytes as zstd, addressed by the SHA-256 of the stored bytes: salt and content are shredded
//! together, and the address can be checked without unpacking anything.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use reeve_wire::id::{Digest, Salt};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zstd::stream::write::Encoder;

const ZSTD_LEVEL: i32 = 3;

/// Up to here content is kept as it is and packed at once: an encoder costs more memory than this.
const PACK_AT_ONCE: usize = 128 * 1024;

/// Packs content as it comes: at most `limit` bytes are kept, all are counted.
///
/// Writing is quick (64 KiB take about 0.2 ms) and waits for nothing, so it may be done in an async task.
#[derive(Debug)]
pub struct ContentWriter {
    salt: Salt,
    hash: Sha256,
    kept: u64,
    seen: u64,
    limit: u64,
    packing: Packing,
}

enum Packing {
    Held(Vec<u8>),
    Stream(Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Held(_) => "Held",
            Self::Stream(_) => "Stream",
        })
    }
}

/// zstd could not pack or unpack.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The library refused, for want of memory.
    #[error("cannot pack content")]
    Pack(#[source] std::io::Error),
    /// The stored bytes are not what the address says.
    #[error("the stored bytes are not those of their address")]
    Address,
    /// The stored bytes cannot be unpacked to the length that the record states.
    #[error("the stored bytes do not unpack to the recorded length")]
    Unpack,
    /// The content is not what the record commits to.
    #[error("the content is not what the record commits to")]
    Commitment,
    /// The content is sealed under a key, and this version opens none.
    #[error("the content is sealed under a key that is not here")]
    Sealed,
    /// There is no such content.
    #[error("the content is missing")]
    Missing,
}

impl ContentWriter {
    /// Begins content of which at most `limit` bytes are kept.
    pub fn new(salt: Salt, limit: u64) -> Self {
        let hash = Sha256::new().chain_update(salt.0);
        Self { salt, hash, kept: 0, seen: 0, limit, packing: Packing::Held(salt.0.to_vec()) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`]; what was written before is lost then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        let room = usize::try_from(self.limit.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        let kept = bytes.get(..room).unwrap_or(bytes);
        if kept.is_empty() {
            return Ok(());
        }
        self.kept = self.kept.saturating_add(kept.len() as u64);
        self.hash.update(kept);
        self.pack(kept).map_err(ContentError::Pack)
    }

    fn pack(&mut self, kept: &[u8]) -> std::io::Result<()> {
        match &mut self.packing {
            Packing::Held(held) if held.len().saturating_add(kept.len()) <= PACK_AT_ONCE => {
                held.extend_from_slice(kept);
                Ok(())
            }
            Packing::Held(held) => {
                let mut encoder = Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.write_all(held)?;
                encoder.write_all(kept)?;
                self.packing = Packing::Stream(encoder);
                Ok(())
            }
            Packing::Stream(encoder) => encoder.write_all(kept),
        }
    }

    /// How many bytes have come so far, kept or not.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Ends the content.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`].
    pub fn finish(self) -> Result<Content, ContentError> {
        let packed = match self.packing {
            Packing::Held(held) => zstd::bulk::compress(&held, ZSTD_LEVEL),
            Packing::Stream(encoder) => encoder.finish(),
        };
        let packed = packed.map_err(ContentError::Pack)?;
        let pointer = Pointer {
            commitment: Digest(self.hash.finalize().into()),
            blob: Digest::of(&packed),
            length: self.seen,
            stored: self.kept,
            truncated: self.kept < self.seen,
        };
        Ok(Content { salt: self.salt, pointer, packed: packed.into() })
    }
}

/// Content packed for the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    salt: Salt,
    pointer: Pointer,
    packed: Arc<[u8]>,
}

impl Content {
    /// Packs `bytes`, whole.
    ///
    /// # Errors
    ///
    /// [`ContentError::Pack`].
    pub fn new(salt: Salt, bytes: &[u8]) -> Result<Self, ContentError> {
        let mut writer = ContentWriter::new(salt, u64::MAX);
        writer.write(bytes)?;
        writer.finish()
    }

    /// States that the process wrote `length` bytes of which these are the first; a smaller figure is ignored.
    #[must_use]
    pub fn cut_from(mut self, length: u64) -> Self {
        self.pointer.length = self.pointer.length.max(length);
        self.pointer.truncated = self.pointer.stored < self.pointer.length;
        self
    }

    /// SHA-256(salt ‖ bytes).
    pub const fn commitment(&self) -> Digest {
        self.pointer.commitment
    }

    /// The salt.
    pub const fn salt(&self) -> Salt {
        self.salt
    }

    /// What a record says of it.
    pub const fn pointer(&self) -> &Pointer {
        &self.pointer
    }

    /// The bytes as they are stored.
    pub(crate) fn packed(&self) -> &[u8] {
        &self.packed
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("pointer", &self.pointer).finish_non_exhaustive()
    }
}

/// What a record says of content that lies beside it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    /// SHA-256(salt ‖ stored content).
    pub commitment: Digest,
    /// The SHA-256 of the stored bytes: where they are.
    pub blob: Digest,
    /// How many bytes there were.
    pub length: u64,
    /// How many of them are stored: the first ones.
    pub stored: u64,
    /// Whether some are not stored.
    pub truncated: bool,
}

impl Pointer {
    /// Unpacks `packed` and checks it against this pointer; returns the salt and the content.
    ///
    /// No more memory is taken than the pointer states.
    ///
    /// # Errors
    ///
    /// [`ContentError::Address`], [`ContentError::Unpack`] or [`ContentError::Commitment`].
    pub fn open(&self, packed: &[u8]) -> Result<(Salt, Vec<u8>), ContentError> {
        if Digest::of(packed) != self.blob {
            return Err(ContentError::Address);
        }
        let expected = self.stored.saturating_add(size_of::<Salt>() as u64);
        let decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| ContentError::Unpack)?;
        let mut salted = Vec::new();
        let read = decoder.take(expected.saturating_add(1)).read_to_end(&mut salted);
        if read.is_err() || salted.len() as u64 != expected {
            return Err(ContentError::Unpack);
        }
        if Digest::of(&salted) != self.commitment {
            return Err(ContentError::Commitment);
        }
        let salt = *salted.first_chunk().ok_or(ContentError::Unpack)?;
        salted.drain(..size_of::<Salt>());
        Ok((Salt(salt), salted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt([9; 16]);

    #[test]
    fn content_comes_back_whole_whatever_its_size_and_pieces() {
        for size in [0, 1, 1000, PACK_AT_ONCE - 16, PACK_AT_ONCE - 15, 1_000_000] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut writer = ContentWriter::new(SALT, u64::MAX);
            bytes.chunks(60_000).for_each(|piece| writer.write(piece).unwrap());
            let content = writer.finish().unwrap();

            assert_eq!(content.pointer().open(content.packed()).unwrap(), (SALT, bytes.clone()), "{size} bytes");
            assert_eq!(content.commitment(), Digest::salted(&SALT, &bytes));
            assert!(!content.pointer().truncated);
        }
    }

    #[test]
    fn what_is_over_the_limit_is_counted_and_not_kept() {
        let mut writer = ContentWriter::new(SALT, 5);
        for piece in [b"abc".as_slice(), b"defg", b"hi"] {
            writer.write(piece).unwrap();
        }
        let content = writer.finish().unwrap();

        assert_eq!(content.pointer().open(content.packed()).unwrap().1, b"abcde");
        assert_eq!((content.pointer().length, content.pointer().stored), (9, 5));
        assert!(content.pointer().truncated);
        let whole = Content::new(SALT, b"abcde").unwrap();
        assert!(!whole.clone().cut_from(3).pointer().truncated);
        assert!(whole.cut_from(6).pointer().truncated);
    }

    #[test]
    fn every_flipped_bit_of_stored_content_is_noticed() {
        let content = Content::new(SALT, b"up 3 days, load average 0.00").unwrap();
        for bit in 0..content.packed().len() * 8 {
            let mut stored = content.packed().to_vec();
            stored[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(content.pointer().open(&stored), Err(ContentError::Address)), "bit {bit}");
        }
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_recorded_length() {
        let bomb = Content::new(SALT, &vec![0; 50_000_000]).unwrap();
        let lying = Pointer { stored: 100, ..*bomb.pointer() };
        assert!(bomb.packed().len() < 10_000);
        assert!(matches!(lying.open(bomb.packed()), Err(ContentError::Unpack)));
    }
}
