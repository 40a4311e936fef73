//! How long a connection waits for a client that does not read: a socket whose write makes no progress for ten
//! seconds is given up, so that a slow client holds neither memory nor a place for longer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Longest time without progress while something is to be written.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// A socket whose writes fail once they were stuck for [`WRITE_PATIENCE`].
pub struct Patient<S> {
    socket: S,
    patience: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

// === impl Patient ===

impl<S> Patient<S> {
    /// Wraps a socket.
    pub const fn new(socket: S) -> Self {
        Self::with(socket, WRITE_PATIENCE)
    }

    const fn with(socket: S, patience: Duration) -> Self {
        Self { socket, patience, stuck: None }
    }

    /// Starts waiting at the first write that gets stuck, and stops at the first that does not.
    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let until = Instant::now() + self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.judge(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.judge(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_write_that_is_stuck_is_given_up_and_one_that_moves_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut patient = Patient::with(ours, Duration::from_millis(50));
        patient.write_all(b"12345678").await.unwrap();
        // Somebody reads, slowly: each write waits for a part of the patience and goes on.
        let reader = tokio::spawn(async move {
            let mut read = [0; 4];
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                theirs.read_exact(&mut read).await.unwrap();
            }
            theirs
        });
        patient.write_all(b"1234567890123456").await.unwrap();
        let _open = reader.await.unwrap();
        let error = patient.write_all(b"123456789").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
