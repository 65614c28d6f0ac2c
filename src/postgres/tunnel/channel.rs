//! One forwarded connection as a byte stream.
//!
//! russh has such a stream. This one also says why it ended when the SSH connection did, takes an empty packet for what it is,
//! and can be dropped outside of a runtime.

use super::SshConnection;
use bytes::{Buf as _, Bytes};
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection from the bastion to a database server. Dropping it closes it.
pub struct Channel {
    reader: ChannelReadHalf,
    writer: Pin<Box<dyn AsyncWrite + Send + Sync>>,
    /// `None` once it is being closed.
    closer: Option<ChannelWriteHalf<Msg>>,
    /// What came and has not been read.
    rest: Bytes,
    ended: bool,
    ssh: Arc<SshConnection>,
}

impl Channel {
    pub(super) fn new(channel: russh::Channel<Msg>, ssh: Arc<SshConnection>) -> Self {
        let (reader, closer) = channel.split();
        Self { reader, writer: Box::pin(closer.make_writer()), closer: Some(closer), rest: Bytes::new(), ended: false, ssh }
    }

    /// The error of a stream that goes nowhere any more.
    fn gone(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, self.ssh.seen.why_ended())
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.rest.is_empty() {
                let taken = this.rest.len().min(buf.remaining());
                buf.put_slice(&this.rest[..taken]);
                this.rest.advance(taken);
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            // Nothing is lost with this future: it only looks into a queue.
            let next = pin!(this.reader.wait()).poll(cx);
            match ready!(next) {
                Some(ChannelMsg::Data { data }) => this.rest = data,
                Some(ChannelMsg::Eof | ChannelMsg::Close) => this.ended = true,
                Some(_) => {}
                None if this.ssh.handle.is_closed() => return Poll::Ready(Err(this.gone())),
                None => this.ended = true,
            }
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // russh takes an empty write for a mistake.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = ready!(this.writer.as_mut().poll_write(cx, buf));
        Poll::Ready(written.map_err(|e| if this.ssh.handle.is_closed() { this.gone() } else { e }))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().writer.as_mut().poll_shutdown(cx)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Without a runtime the SSH connection is over as well.
        if let (Some(closer), Ok(runtime)) = (self.closer.take(), tokio::runtime::Handle::try_current()) {
            let ssh = self.ssh.clone();
            runtime.spawn(async move {
                let _ = closer.close().await;
                drop(ssh);
            });
        }
    }
}
