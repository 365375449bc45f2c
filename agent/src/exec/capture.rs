//! Reads one output stream of a running program: counts it, commits to it, and hands it on.
//!
//! Waiting for the [`Sink`] is the back-pressure: while it waits the pipe is not read, the pipe fills, and the
//! program waits in turn. Memory stays at one chunk a stream however much the program writes.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reeve_wire::id::{Digest, Salt};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

/// The most bytes that a [`Sink`] gets at once. With its headers such a chunk fits into one frame.
pub const CHUNK: usize = 32 * 1024;

/// How long a pipe that some background process still holds open must stay quiet, once the program has ended, before
/// its output counts as over.
pub const QUIET: Duration = Duration::from_millis(500);

/// One of a program's two output streams.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Which {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The sink takes nothing more; what the program still writes is counted and dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("nobody takes this output any more")]
pub struct SinkClosed;

/// Where output goes.
pub trait Sink: Sync {
    /// Takes a chunk of at most [`CHUNK`] bytes of one stream, in order; returns when there is room for the next.
    ///
    /// Both streams may call at the same time. A call that is dropped before it returns must not have taken the
    /// chunk, as with a bounded channel's `send`: the commitment covers exactly what was taken.
    ///
    /// # Errors
    ///
    /// [`SinkClosed`]: it takes no more of this stream.
    fn take(&self, which: Which, chunk: Bytes) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

/// What became of one output stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamSummary {
    /// SHA-256(salt ‖ the bytes that the sink took).
    pub commitment: Digest,
    /// What the commitment is salted with; it travels beside the content.
    pub salt: Salt,
    /// How many bytes the program wrote, as far as they were read.
    pub length: u64,
    /// How many of them, from the beginning, the sink took.
    pub stored: u64,
    /// Whether there are some that it did not take, for whatever reason.
    pub truncated: bool,
}

/// One stream while it is read. What it has counted stays when a read is abandoned.
#[derive(Debug)]
pub(super) struct Capture<R> {
    which: Which,
    pipe: R,
    salt: Salt,
    room: u64,
    hash: Sha256,
    length: u64,
    stored: u64,
    over: bool,
}

impl<R: AsyncRead + Unpin> Capture<R> {
    /// Reads `pipe` and hands at most `max_output` bytes on.
    pub(super) fn new(which: Which, pipe: R, salt: Salt, max_output: u64) -> Self {
        let hash = Sha256::new().chain_update(salt.0);
        Self { which, pipe, salt, room: max_output, hash, length: 0, stored: 0, over: false }
    }

    /// Reads until the stream ends, or until `ended` and then [`QUIET`].
    pub(super) async fn read(&mut self, sink: &impl Sink, ended: &CancellationToken) {
        let mut buffer = BytesMut::new();
        while let Some(chunk) = self.next(&mut buffer, ended).await {
            self.length = self.length.saturating_add(len(&chunk));
            self.hand_on(chunk, sink).await;
        }
        self.over = true;
    }

    /// Counts what is still in the pipe, and drops it, for at most [`QUIET`]: nobody took it in time.
    pub(super) async fn discard(&mut self) {
        if self.over {
            return;
        }
        let to_the_end = async {
            let mut buffer = BytesMut::new();
            while let Some(chunk) = read_chunk(&mut self.pipe, &mut buffer).await {
                self.length = self.length.saturating_add(len(&chunk));
            }
        };
        drop(tokio::time::timeout(QUIET, to_the_end).await);
    }

    /// What has become of the stream.
    pub(super) fn summary(self) -> StreamSummary {
        let commitment = Digest(self.hash.finalize().into());
        let truncated = self.stored < self.length;
        StreamSummary { commitment, salt: self.salt, length: self.length, stored: self.stored, truncated }
    }

    async fn next(&mut self, buffer: &mut BytesMut, ended: &CancellationToken) -> Option<Bytes> {
        let quiet = async {
            ended.cancelled().await;
            tokio::time::sleep(QUIET).await;
        };
        tokio::select! {
            biased;
            chunk = read_chunk(&mut self.pipe, buffer) => chunk,
            () = quiet => None,
        }
    }

    async fn hand_on(&mut self, mut chunk: Bytes, sink: &impl Sink) {
        chunk.truncate(usize::try_from(self.room).unwrap_or(usize::MAX));
        if chunk.is_empty() {
            return;
        }
        match sink.take(self.which, chunk.clone()).await {
            Ok(()) => {
                self.hash.update(&chunk);
                self.stored = self.stored.saturating_add(len(&chunk));
                self.room = self.room.saturating_sub(len(&chunk));
            }
            Err(SinkClosed) => self.room = 0,
        }
    }
}

/// A stream that was never opened.
pub(super) fn nothing(salt: Salt) -> StreamSummary {
    StreamSummary { commitment: Digest::salted(&salt, b""), salt, length: 0, stored: 0, truncated: false }
}

/// The next bytes of `pipe`; nothing at its end, and nothing where it cannot be read.
async fn read_chunk(pipe: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<Bytes> {
    // Small chunks share one allocation, so that a queue of a thousand lines does not hold a thousand buffers.
    if buffer.capacity() < CHUNK / 8 {
        buffer.reserve(CHUNK);
    }
    let mut space = bytes::BufMut::limit(&mut *buffer, CHUNK);
    match pipe.read_buf(&mut space).await {
        Ok(0) => None,
        Ok(_) => Some(buffer.split().freeze()),
        Err(error) => {
            report(&error);
            None
        }
    }
}

fn report(error: &io::Error) {
    tracing::warn!(%error, "A program's output could not be read any further");
}

fn len(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}
