//! Frames: what travels on the one SSH channel of a connection, and nothing else does.
//!
//! ```text
//! u32 length | u8 kind | u32 stream | length bytes of body          integers big-endian
//!
//! kind  1 open    content byte, payload     the first body of a stream; an empty body opens without one
//!       2 data    content byte, payload
//!       3 end     empty                     this side has sent all
//!       4 reset   u8 reason                 both directions are over
//!       5 credit  u32 bytes                 so much more may be sent, never 0
//! flag  0x80 on open and data: end follows this body, and needs no frame of its own
//! ```
//!
//! `length` counts the body alone and is at most 64 KiB; it and the kind are judged before a byte of body is kept.
//! Stream 0 is control and carries data only. Of the others the master opens the even ones and the dialler the odd.
//! Which frame may follow which is not decided here but by whoever keeps the table of streams.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest body of a frame, in bytes. Who has more sends more frames.
pub const MAX_BODY: usize = 64 * 1024;

/// The longest payload of an open or data frame: a body without its content byte.
pub const MAX_PAYLOAD: usize = MAX_BODY - 1;

/// Bytes before the body: length, kind, stream.
pub const HEADER: usize = 9;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const RESET: u8 = 4;
const CREDIT: u8 = 5;
const END_FLAG: u8 = 0x80;

/// The number of a stream on its connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The control stream, open for as long as its connection.
    pub const CONTROL: Self = Self(0);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a payload is: the first byte of an open or data body.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Content {
    /// A signed thing or JSON, one a frame.
    Message = 0,
    /// Bytes for the standard input of what runs.
    Stdin = 1,
    /// Bytes from its standard output.
    Stdout = 2,
    /// Bytes from its standard error.
    Stderr = 3,
    /// A terminal's new size.
    Resize = 4,
    /// A signal for what runs.
    Signal = 5,
}

impl Content {
    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            0 => Self::Message,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Resize,
            5 => Self::Signal,
            unknown => return Err(FrameError::UnknownContent(unknown)),
        })
    }
}

/// Why one side ends a stream before its time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Reason {
    /// Nobody wants the rest.
    Cancelled = 0,
    /// The technician lost the right to it.
    RightLost = 1,
    /// The other side has as many streams as it takes.
    TooMany = 2,
    /// It ran out of time.
    Deadline = 3,
    /// The other side does not serve it.
    Refused = 4,
}

impl Reason {
    fn from_byte(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            0 => Self::Cancelled,
            1 => Self::RightLost,
            2 => Self::TooMany,
            3 => Self::Deadline,
            4 => Self::Refused,
            unknown => return Err(FrameError::UnknownReason(unknown)),
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::RightLost => "the right to it was lost",
            Self::TooMany => "too many streams are open",
            Self::Deadline => "out of time",
            Self::Refused => "refused by the other side",
        })
    }
}

/// One payload and what it is. Fits into a frame by construction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    content: Content,
    payload: Bytes,
}

impl Part {
    /// Takes a payload of at most [`MAX_PAYLOAD`] bytes.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]: split it over several frames, or refuse it.
    pub fn new(content: Content, payload: Bytes) -> Result<Self, FrameError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(FrameError::TooLong(payload.len().saturating_add(1)));
        }

        Ok(Self { content, payload })
    }

    /// What the payload is.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content
    }

    /// The payload, without its content byte.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Gives both up.
    #[must_use]
    pub fn into_parts(self) -> (Content, Bytes) {
        (self.content, self.payload)
    }
}

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Opens `stream`, with its first body, and ends this direction at once when `end` is set.
    Open {
        /// A number that is not in use, of the sender's parity.
        stream: StreamId,
        /// The first body, if there is one already.
        first: Option<Part>,
        /// Nothing more will come on this direction.
        end: bool,
    },
    /// One body on `stream`.
    Data {
        /// An open stream, or [`StreamId::CONTROL`].
        stream: StreamId,
        /// The body.
        part: Part,
        /// Nothing more will come on this direction.
        end: bool,
    },
    /// Nothing more will come on this direction of `stream`.
    End {
        /// An open stream.
        stream: StreamId,
    },
    /// Both directions of `stream` are over, and what was queued for it is void.
    Reset {
        /// An open stream.
        stream: StreamId,
        /// Why.
        reason: Reason,
    },
    /// The receiver of this frame may send `bytes` more on `stream`.
    Credit {
        /// An open stream, or [`StreamId::CONTROL`].
        stream: StreamId,
        /// More than none.
        bytes: u32,
    },
}

/// Why bytes are no frame. Each of these ends the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than a frame's.
    #[error("a body of {0} bytes is longer than the {MAX_BODY} of a frame")]
    TooLong(usize),
    /// The kind byte is none of the table, or carries a flag that it may not.
    #[error("frame kind {0:#04x} is unknown")]
    UnknownKind(u8),
    /// An end, reset or credit whose body has another length than its kind's, or a data frame without content.
    #[error("a frame of kind {kind} cannot have a body of {length} bytes")]
    WrongLength {
        /// The kind byte.
        kind: u8,
        /// The announced length of the body.
        length: usize,
    },
    /// The content byte is none of the table.
    #[error("content byte {0} is unknown")]
    UnknownContent(u8),
    /// The reason byte of a reset is none of the table.
    #[error("reset reason {0} is unknown")]
    UnknownReason(u8),
    /// A credit of nothing.
    #[error("a credit of 0 bytes says nothing")]
    EmptyCredit,
}

impl Frame {
    /// Puts the frame's bytes at the end of `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Open { stream, first, end } => encode_body(out, OPEN, *end, *stream, first.as_ref()),
            Self::Data { stream, part, end } => encode_body(out, DATA, *end, *stream, Some(part)),
            Self::End { stream } => encode_header(out, 0, END, *stream),
            Self::Reset { stream, reason } => {
                encode_header(out, 1, RESET, *stream);
                out.put_u8(*reason as u8);
            }
            Self::Credit { stream, bytes } => {
                encode_header(out, 4, CREDIT, *stream);
                out.put_u32(*bytes);
            }
        }
    }

    /// How many bytes [`encode`](Self::encode) puts out.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER
            + match self {
                Self::Open { first, .. } => first.as_ref().map_or(0, |part| part.payload.len() + 1),
                Self::Data { part, .. } => part.payload.len() + 1,
                Self::End { .. } => 0,
                Self::Reset { .. } => 1,
                Self::Credit { .. } => 4,
            }
    }
}

fn encode_body(out: &mut BytesMut, kind: u8, end: bool, stream: StreamId, part: Option<&Part>) {
    let kind = if end { kind | END_FLAG } else { kind };
    let Some(part) = part else {
        return encode_header(out, 0, kind, stream);
    };
    encode_header(out, part.payload.len() + 1, kind, stream);
    out.put_u8(part.content as u8);
    out.extend_from_slice(&part.payload);
}

fn encode_header(out: &mut BytesMut, length: usize, kind: u8, stream: StreamId) {
    out.reserve(HEADER + length);
    // No part is longer than a frame, so the length always fits.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u8(kind);
    out.put_u32(stream.0);
}

/// The header of a frame whose body is still to come.
#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    kind: u8,
    stream: StreamId,
}

impl Header {
    /// Reads and judges a header, before any of the body is looked at.
    fn parse([a, b, c, d, kind, e, f, g, h]: [u8; HEADER]) -> Result<Self, FrameError> {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_BODY {
            return Err(FrameError::TooLong(length));
        }
        let allowed = match kind & !END_FLAG {
            OPEN => true,
            DATA => length > 0,
            END if kind == END => length == 0,
            RESET if kind == RESET => length == 1,
            CREDIT if kind == CREDIT => length == 4,
            _ => return Err(FrameError::UnknownKind(kind)),
        };
        if !allowed {
            return Err(FrameError::WrongLength { kind, length });
        }

        Ok(Self { length, kind, stream: StreamId(u32::from_be_bytes([e, f, g, h])) })
    }

    /// Makes the frame from a body of exactly the announced length.
    fn with_body(self, mut body: Bytes) -> Result<Frame, FrameError> {
        let Self { length, kind, stream } = self;
        let end = kind & END_FLAG != 0;
        Ok(match kind & !END_FLAG {
            OPEN if length == 0 => Frame::Open { stream, first: None, end },
            OPEN => Frame::Open { stream, first: Some(part(body)?), end },
            DATA => Frame::Data { stream, part: part(body)?, end },
            END => Frame::End { stream },
            RESET => Frame::Reset { stream, reason: Reason::from_byte(body.try_get_u8().unwrap_or(u8::MAX))? },
            CREDIT => match body.try_get_u32().unwrap_or(0) {
                0 => return Err(FrameError::EmptyCredit),
                bytes => Frame::Credit { stream, bytes },
            },
            _ => return Err(FrameError::UnknownKind(kind)),
        })
    }
}

fn part(mut body: Bytes) -> Result<Part, FrameError> {
    let content = Content::from_byte(body.try_get_u8().unwrap_or(u8::MAX))?;

    Ok(Part { content, payload: body })
}

/// Makes frames of bytes that come in pieces of any size.
///
/// Each body gets memory of its own and no more than its length, so that a small body that somebody keeps does not
/// hold a large buffer; between frames a decoder holds nothing.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    got: usize,
    expected: Option<Header>,
    body: BytesMut,
}

impl Decoder {
    /// Takes bytes off the front of `input` up to the end of one frame; `None` when it needs more than there is.
    ///
    /// # Errors
    ///
    /// The bytes are no frame. There is no way to find the next one: end the connection.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        let header = match self.expected {
            Some(header) => header,
            None => match self.take_header(input)? {
                Some(header) => header,
                None => return Ok(None),
            },
        };
        let missing = header.length.saturating_sub(self.body.len());
        let (piece, rest) = input.split_at_checked(missing).unwrap_or((input, &[]));
        self.body.extend_from_slice(piece);
        *input = rest;
        if self.body.len() < header.length {
            return Ok(None);
        }
        self.expected = None;
        self.got = 0;

        header.with_body(std::mem::take(&mut self.body).freeze()).map(Some)
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, FrameError> {
        let missing = self.header.get_mut(self.got..).unwrap_or_default();
        let count = missing.len().min(input.len());
        input.copy_to_slice(missing.get_mut(..count).unwrap_or_default());
        self.got += count;
        if self.got < HEADER {
            return Ok(None);
        }
        let header = Header::parse(self.header)?;
        self.body = BytesMut::with_capacity(header.length);
        self.expected = Some(header);

        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests;
