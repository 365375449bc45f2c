//! The one writer of servers' output: a thread of its own, because a terminal that is stopped blocks who writes to it.

use std::io::{self, Write};
use std::thread::JoinHandle;

use bytes::Bytes;
use indicatif::ProgressBar;
use reeve_link::Credit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces that may wait; each is at most a frame.
const QUEUE: usize = 32;

/// One of our own streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Std {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

struct Piece {
    to: Std,
    bytes: Bytes,
    /// Goes back to the server when the bytes are written.
    _credit: Option<Credit>,
}

/// The writer. Its end is waited for by [`Printer::finish`].
#[derive(Debug)]
pub struct Printer {
    printing: Printing,
    thread: JoinHandle<()>,
}

/// Hands pieces to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Printing {
    queue: mpsc::Sender<Piece>,
    unread: CancellationToken,
}

impl Printer {
    /// Writes to `out` and `err`, with `bar` out of the way while it does.
    pub fn start(out: impl Write + Send + 'static, err: impl Write + Send + 'static, bar: ProgressBar) -> Self {
        let (queue, pieces) = mpsc::channel(QUEUE);
        let unread = CancellationToken::new();
        let printing = Printing { queue, unread: unread.clone() };
        let thread = std::thread::spawn(move || write_all(pieces, out, err, &bar, &unread));
        Self { printing, thread }
    }

    /// For those who have something to print.
    pub fn printing(&self) -> Printing {
        self.printing.clone()
    }

    /// Is cancelled when nobody reads standard output any more.
    pub fn unread(&self) -> CancellationToken {
        self.printing.unread.clone()
    }

    /// Waits until everything is written. Whoever still holds a [`Printing`] makes it wait.
    pub fn finish(self) {
        drop(self.printing);
        if self.thread.join().is_err() {
            tracing::error!("the writer of output panicked");
        }
    }
}

impl Printing {
    /// Hands over bytes; waits while the writer has enough to do. Where nobody reads, they are dropped.
    pub async fn print(&self, to: Std, bytes: Bytes, credit: Option<Credit>) {
        if bytes.is_empty() && credit.is_none() {
            return;
        }
        let piece = Piece { to, bytes, _credit: credit };
        if self.queue.send(piece).await.is_err() {
            self.unread.cancel();
        }
    }
}

fn write_all(
    mut pieces: mpsc::Receiver<Piece>,
    mut out: impl Write,
    mut err: impl Write,
    bar: &ProgressBar,
    unread: &CancellationToken,
) {
    while let Some(piece) = pieces.blocking_recv() {
        let written = bar.suspend(|| match piece.to {
            Std::Out if unread.is_cancelled() => Ok(()),
            Std::Out => write(&mut out, &piece.bytes),
            Std::Err => write(&mut err, &piece.bytes),
        });
        // Standard error is for people; who closes it wants to hear nothing.
        if let (Err(error), Std::Out) = (written, piece.to) {
            tracing::debug!(%error, "standard output takes no more");
            unread.cancel();
        }
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::ErrorKind::Other)?.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe whose reader left after so many bytes.
    struct Closed(usize);

    impl Write for Closed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn pieces_are_written_to_their_streams_in_order() {
        let (out, err) = (Shared::default(), Shared::default());
        let printer = Printer::start(out.clone(), err.clone(), ProgressBar::hidden());
        let printing = printer.printing();
        for number in 0..100 {
            printing.print(Std::Out, format!("{number} ").into(), None).await;
            printing.print(Std::Err, "e".into(), None).await;
        }
        drop(printing);
        printer.finish();

        let expected: String = (0..100).map(|number| format!("{number} ")).collect();
        assert_eq!(String::from_utf8(out.0.lock().unwrap().clone()).unwrap(), expected);
        assert_eq!(err.0.lock().unwrap().len(), 100);
    }

    #[tokio::test]
    async fn a_closed_pipe_is_told_and_nobody_waits_for_it() {
        let printer = Printer::start(Closed(8), io::sink(), ProgressBar::hidden());
        let printing = printer.printing();
        for _ in 0..(10 * QUEUE) {
            printing.print(Std::Out, "1234".into(), None).await;
        }

        printer.unread().cancelled().await;
        drop(printing);
        printer.finish();
    }
}
