//! A stream with two users: the connection, which reads and sends commands, and a [`Writer`] in another task.
//!
//! Promises: the stream is closed when the [`Duplex`] is dropped, whatever the writer does. Each holds the lock for one
//! system call. Reading and writing wake their own task; that holds for TLS too, where neither does the other's work once
//! the handshake is over.

use super::transport::Stream;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream, as its owner sees it.
pub struct Duplex(Arc<Mutex<Stream>>);

/// The sending side, for another task.
pub struct Writer(Weak<Mutex<Stream>>);

impl Duplex {
    /// A stream that can be shared.
    pub fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Another user of the sending side. Two must not write at the same time: their messages would mix.
    pub fn writer(&self) -> Writer {
        Writer(Arc::downgrade(&self.0))
    }

    /// For a look at the stream itself.
    pub fn lock(&self) -> MutexGuard<'_, Stream> {
        lock(&self.0)
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    fn with<T>(&self, work: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.upgrade() {
            Some(stream) => work(Pin::new(&mut *lock(&stream))),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
