//! A socket that ends when a token is cancelled, whoever else is waiting on it.
//!
//! russh's own disconnect queues behind data, and a peer that stops reading survives it. This does not.
//!
//! The socket also reads ahead while a write waits. A russh session does not read while it writes: two that write at
//! each other more than the sockets between them hold would wait for each other for ever. What is read ahead is no
//! more than the window that was granted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Read ahead beyond the channel's window: packet headers, keepalives, a key exchange.
const SLACK: usize = 1024 * 1024;
const PIECE: usize = 16 * 1024;

/// A socket with a kill switch.
pub struct Killable<S> {
    inner: S,
    // A reader and a writer are polled from different places, and each needs its own waker to be woken.
    dead_reading: Pin<Box<WaitForCancellationFutureOwned>>,
    dead_writing: Pin<Box<WaitForCancellationFutureOwned>>,
    ahead: BytesMut,
    most_ahead: usize,
    end: Option<End>,
}

/// How the inner socket's bytes ended while they were read ahead.
enum End {
    Eof,
    Broken(io::Error),
}

impl<S> Killable<S> {
    /// Wraps a socket whose SSH channel grants `window` bytes to the other side.
    pub fn new(inner: S, kill: &CancellationToken, window: u32) -> Self {
        Self {
            inner,
            dead_reading: Box::pin(kill.clone().cancelled_owned()),
            dead_writing: Box::pin(kill.clone().cancelled_owned()),
            ahead: BytesMut::new(),
            most_ahead: (window as usize).saturating_add(SLACK),
            end: None,
        }
    }
}

impl<S: AsyncRead + Unpin> Killable<S> {
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() && self.ahead.len() < self.most_ahead {
            let mut piece = [0; PIECE];
            let mut buf = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.end = Some(End::Eof),
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(buf.filled()),
                Poll::Ready(Err(error)) => self.end = Some(End::Broken(error)),
            }
        }
    }
}

fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut")
}

impl<S: AsyncRead + Unpin> AsyncRead for Killable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.dead_reading.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(this.ahead.get(..count).unwrap_or_default());
            this.ahead.advance(count);
            if this.ahead.is_empty() {
                this.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        match this.end.take() {
            None => Pin::new(&mut this.inner).poll_read(cx, buf),
            Some(End::Broken(error)) => Poll::Ready(Err(error)),
            Some(End::Eof) => {
                this.end = Some(End::Eof);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Killable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.dead_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        match Pin::new(&mut this.inner).poll_write(cx, buf) {
            Poll::Pending => {
                this.read_ahead(cx);
                Poll::Pending
            }
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.dead_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        match Pin::new(&mut this.inner).poll_flush(cx) {
            Poll::Pending => {
                this.read_ahead(cx);
                Poll::Pending
            }
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Killed: there is no farewell to wait for.
        if this.dead_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(killed()));
        }
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;

        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_reader_and_a_writer_that_wait_are_both_woken_by_the_switch() {
        let (near, far) = tokio::io::duplex(16);
        let kill = CancellationToken::new();
        let (mut read, mut write) = tokio::io::split(Killable::new(near, &kill, 0));
        let reading = async { read.read_u8().await.map_err(|error| error.kind()) };
        let writing = async { write.write_all(&[0; 100]).await.map_err(|error| error.kind()) };

        let (read, written, ()) = timeout(LIMIT, async {
            tokio::join!(reading, writing, async {
                tokio::task::yield_now().await;
                kill.cancel();
            })
        })
        .await
        .unwrap();

        assert_eq!(read, Err(io::ErrorKind::ConnectionAborted));
        assert_eq!(written, Err(io::ErrorKind::ConnectionAborted));
        drop(far);
    }

    #[tokio::test]
    async fn two_sides_that_write_before_they_read_do_not_wait_for_each_other() {
        let (near, far) = tokio::io::duplex(1024);
        let kill = CancellationToken::new();
        let sent = vec![7; 500_000];
        let talk = |socket| {
            let (sent, kill) = (sent.clone(), kill.clone());
            async move {
                let mut socket = Killable::new(socket, &kill, 500_000);
                socket.write_all(&sent).await.unwrap();
                let mut got = vec![0; sent.len()];
                socket.read_exact(&mut got).await.unwrap();
                (got, socket)
            }
        };

        let ((near_got, _near), (far_got, _far)) =
            timeout(LIMIT, async { tokio::join!(talk(near), talk(far)) }).await.unwrap();

        assert!(near_got == sent && far_got == sent);
    }

    /// Reads for ever and never takes a byte.
    struct Torrent;

    impl AsyncRead for Torrent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(&[1; 1000]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Torrent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn no_more_is_read_ahead_than_was_granted() {
        let granted = 100_000;
        let mut socket = Killable::new(Torrent, &CancellationToken::new(), granted);

        let wrote = timeout(Duration::from_millis(10), socket.write_all(b"nobody takes this")).await;

        assert!(wrote.is_err());
        let most = granted as usize + SLACK + PIECE;
        assert!((granted as usize..most).contains(&socket.ahead.len()), "{} read ahead", socket.ahead.len());
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_before_the_end() {
        let (near, mut far) = tokio::io::duplex(16);
        let kill = CancellationToken::new();
        let mut socket = Killable::new(near, &kill, 0);
        far.write_all(b"last words").await.unwrap();
        far.shutdown().await.unwrap();
        let wrote = timeout(Duration::from_millis(50), socket.write_all(&[0; 100])).await;
        assert!(wrote.is_err(), "the far side does not read");

        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.unwrap();

        assert_eq!(got, b"last words");
    }
}
