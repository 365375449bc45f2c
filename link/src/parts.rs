//! Message parts over a stream: what every conversation between the programs is made of.

use bytes::Bytes;
use reeve_wire::frame::Content;
use reeve_wire::message::{MessageError, Part, PartReader};

use crate::ended::Ended;
use crate::link::{Credit, Receiver, Sender};

/// What came next on a stream.
#[derive(Debug)]
pub enum Item {
    /// A whole part.
    Part(Part),
    /// Bytes of a program's input or output, with the credit that they hold until they are done with.
    Bytes(Content, Bytes, Credit),
}

/// The conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The stream or connection is over.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The other side sent what does not belong here.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The other side ended before it had said all.
    #[error("the other side ended in the middle of a message")]
    Short,
}

/// One direction in, read part by part.
#[derive(Debug)]
pub struct Inbound {
    receiver: Receiver,
    reader: PartReader,
}

impl Inbound {
    /// Reads parts from `receiver`.
    #[must_use]
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver, reader: PartReader::default() }
    }

    /// Reads parts of at most `most` bytes: what a peer may make this side hold on one stream.
    #[must_use]
    pub fn bounded(receiver: Receiver, most: usize) -> Self {
        Self { receiver, reader: PartReader::bounded(most) }
    }

    /// What comes next; `None` is the other side's end. Safe to drop and ask again.
    ///
    /// # Errors
    ///
    /// The stream is over, or what came is no part.
    pub async fn next(&mut self) -> Result<Option<Item>, PartsError> {
        loop {
            if let Some(part) = self.reader.next_part()? {
                return Ok(Some(Item::Part(part)));
            }
            let Some(taken) = self.receiver.next().await? else {
                return Ok(None);
            };
            match taken.into_parts() {
                (Content::Message, body, _) => self.reader.feed(&body),
                (content, body, credit) => return Ok(Some(Item::Bytes(content, body, credit))),
            }
        }
    }

    /// The next part, where nothing else belongs.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); [`PartsError::Short`] at the other side's end.
    pub async fn part(&mut self) -> Result<Part, PartsError> {
        match self.next().await? {
            Some(Item::Part(part)) => Ok(part),
            Some(Item::Bytes(..)) | None => Err(PartsError::Short),
        }
    }
}

/// Parts as they travel, to be sent in as few frames as they fit in.
#[must_use]
pub fn pack(parts: &[Part]) -> Bytes {
    let mut run = Vec::with_capacity(parts.iter().map(|part| part.bytes.len().saturating_add(5)).sum());
    for part in parts {
        part.encode(&mut run);
    }
    run.into()
}

/// Sends parts, waiting for credit.
///
/// # Errors
///
/// The stream or connection is over.
pub async fn send(sender: &mut Sender, parts: &[Part]) -> Result<(), Ended> {
    sender.send_all(Content::Message, pack(parts)).await
}
