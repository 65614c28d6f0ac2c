//! The byte stream to a server: TCP, an SSH tunnel or a Unix socket, plain or TLS. It stands below both clients.
//!
//! It knows one trick: while a COPY runs at speed it lets bytes gather in the kernel. The server sends
//! 8 KiB at a time, and waking this process for each of them costs both sides a quarter of the time.

use super::connect::{Host, TlsOptions};
use super::tunnel::{Channel, SshConnection};
use super::{frame, sqlstate, tls};
use crate::error::Error;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use std::future::Future as _;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::client::TlsStream;

/// Bytes the kernel gathers before it wakes us; half a receive buffer, so that a late read still finds room.
/// It halves our CPU time on TCP and TLS (client CPU in `./build.sh bench`, with and without it). Unix
/// sockets ignore the mark; sleeping 1 ms after a short read there cost more than it saved.
const LOW_WATER: i32 = 256 << 10;

/// How long bytes below the mark may wait: a server that pauses is slower than this anyway.
pub const LOW_WATER_WAIT: Duration = Duration::from_millis(10);

/// rustls reads 4 KiB at a time; a buffer below it makes that one system call in sixteen.
const TLS_READ_BYTES: usize = 64 << 10;

/// Whether to use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// No.
    Plain,
    /// If the server offers it.
    Offered,
    /// Yes, or fail.
    Required,
}

/// Why there is no stream. sslmodes `allow` and `prefer` tell the cases apart.
#[derive(Debug)]
pub enum Failure {
    /// The server could not be reached, or does not speak our protocol.
    Reach(Error),
    /// TLS is not to be had.
    Tls(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Reach(error) | Failure::Tls(error) => error,
        }
    }
}

/// An open stream.
pub enum Stream {
    /// Not encrypted.
    Plain(Socket),
    /// TLS.
    Tls(Box<TlsStream<BufReader<Socket>>>),
}

/// When a silent peer is asked for a sign of life, and when it counts as dead (libpq's `keepalives_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first question.
    pub idle: Duration,
    /// Between two questions.
    pub interval: Duration,
    /// Questions without an answer.
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(15), count: 4 }
    }
}

impl Keepalive {
    /// How long an answer may take.
    pub fn answer(&self) -> Duration {
        self.interval * self.count
    }
}

/// Connects to `host`, through an SSH connection if there is one: then the name is the bastion's to resolve. `deadline` divides
/// the time fairly among the addresses of a name; the caller enforces it.
pub async fn open(
    host: &Host,
    ssh: Option<&Arc<SshConnection>>,
    encryption: Encryption,
    tls: &TlsOptions,
    keepalive: Keepalive,
    deadline: Option<Instant>,
) -> Result<Stream, Failure> {
    let (io, name) = match (host, ssh) {
        // As in libpq, sslmode does not apply to Unix sockets. The source file has refused one beside a tunnel.
        (Host::Unix(directory, port), _) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let socket = UnixStream::connect(&path).await.map_err(|e| Failure::Reach(unix_error(&e)))?;
            return Ok(Stream::Plain(Socket::new(Io::Unix(socket))));
        }
        (Host::Tcp(name, port), None) => {
            (Io::Tcp(dial(name, *port, keepalive, deadline).await.map_err(|e| Failure::Reach(tcp_error(name, &e)))?), name)
        }
        (Host::Tcp(name, port), Some(ssh)) => (Io::Tunnel(Box::new(ssh.channel(name, *port).await.map_err(Failure::Reach)?)), name),
    };
    let mut socket = Socket::new(io);
    if encryption == Encryption::Plain {
        return Ok(Stream::Plain(socket));
    }
    if !request_tls(&mut socket).await.map_err(Failure::Reach)? {
        return match encryption {
            Encryption::Required => Err(Failure::Tls(
                Error::source_db("the server does not offer TLS")
                    .hint("turn `ssl` on at the server, or set sslmode to `prefer` or `disable`"),
            )),
            _ => Ok(Stream::Plain(socket)),
        };
    }
    let (connector, name) = tls::connector(tls, name).map_err(Failure::Reach)?;
    let stream = connector.connect(name, BufReader::with_capacity(TLS_READ_BYTES, socket)).await;
    Ok(Stream::Tls(Box::new(stream.map_err(|e| Failure::Tls(sqlstate::io_error(&e)))?)))
}

/// Why there is no TCP connection.
#[derive(Debug)]
pub enum Unreached {
    /// The name cannot be resolved.
    Name(io::Error),
    /// The name has no address.
    NoAddress,
    /// The last address that was tried cannot be connected to.
    Connect(io::Error),
}

/// Whether a name that cannot be resolved may be resolved later: the resolver's EAI_AGAIN has no error kind of its own.
pub fn resolves_later(e: &io::Error) -> bool {
    e.to_string().contains("emporary")
}

/// Connects to the first address of a name that answers.
pub async fn dial(name: &str, port: u16, keepalive: Keepalive, deadline: Option<Instant>) -> Result<TcpStream, Unreached> {
    let addresses: Vec<_> = tokio::net::lookup_host((name, port)).await.map_err(Unreached::Name)?.collect();
    let mut last = Unreached::NoAddress;
    for (tried, address) in addresses.iter().enumerate() {
        let share = deadline.map(|end| end.saturating_duration_since(Instant::now()) / u32::try_from(addresses.len() - tried).unwrap_or(1));
        let connecting = TcpStream::connect(address);
        let result = match share {
            Some(share) => tokio::time::timeout(share, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            None => connecting.await,
        };
        match result.and_then(|stream| prepare(&stream, keepalive).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Unreached::Connect(e),
        }
    }
    Err(last)
}

/// No delay for small messages; a dead peer is noticed, whether it owes us bytes or we have sent it some.
fn prepare(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Keepalive { idle, interval, count } = keepalive;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count))?;
    socket.set_tcp_user_timeout(Some(idle + keepalive.answer()))
}

/// Asks for TLS (manual, "SSL Session Encryption"). Exactly one byte is read: nothing that a man in the
/// middle sends ahead of the handshake can end up in a buffer (CVE-2021-23222).
async fn request_tls(socket: &mut Socket) -> Result<bool, Error> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let io = |e: io::Error| sqlstate::io_error(&e);
    socket.write_all(&request).await.map_err(io)?;
    match socket.read_u8().await.map_err(io)? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // Not shown: nobody has vouched for this text (CVE-2024-10977).
        b'E' => Err(Error::source_db("the server answered the request for TLS with an error").hint("the server's log tells why")),
        other => Err(frame::garbage(format!("the byte 0x{other:02x}"))),
    }
}

fn tcp_error(name: &str, failure: &Unreached) -> Error {
    const CHECK_NAME: &str = "check the host name in the source file";
    let e = match failure {
        Unreached::Name(e) => {
            let error = Error::source_db(format!("the host name {name} cannot be resolved ({e})")).hint(CHECK_NAME);
            return if resolves_later(e) { error.transient() } else { error };
        }
        Unreached::NoAddress => return Error::source_db(format!("the host name {name} has no address")).hint(CHECK_NAME),
        Unreached::Connect(e) => e,
    };
    let (message, hint) = match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            ("the connection was refused".to_owned(), "check host and port, that the server runs, and its listen_addresses")
        }
        io::ErrorKind::TimedOut => ("no answer in time".to_owned(), "check host, port and firewalls, or raise connect_timeout"),
        _ => (format!("the connection failed ({e})"), "check host, port and the network between"),
    };
    Error::source_db(message).transient().hint(hint)
}

fn unix_error(e: &io::Error) -> Error {
    let (message, hint) = match e.kind() {
        io::ErrorKind::NotFound => {
            ("there is no such socket".to_owned(), "check that the server runs, its unix_socket_directories, and the port")
        }
        io::ErrorKind::ConnectionRefused => ("the connection was refused".to_owned(), "check that the server runs"),
        io::ErrorKind::PermissionDenied => {
            ("this user may not open the socket".to_owned(), "check the permissions of the socket's directory")
        }
        _ => (format!("the connection failed ({e})"), "check the socket's directory and the port"),
    };
    Error::source_db(message).transient().hint(hint)
}

impl Stream {
    /// Whether the stream is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The certificate the server presented.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Starts or stops to let bytes gather before a read returns.
    pub fn gather(&mut self, on: bool) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0.get_mut(),
        };
        socket.gather(on);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A socket that can let bytes gather.
pub struct Socket {
    io: Io,
    gathering: bool,
    /// Ends the wait for bytes below the mark.
    patience: Option<Pin<Box<Sleep>>>,
    /// Whether `patience` has been wound up.
    waiting: bool,
}

enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tunnel(Box<Channel>),
}

impl Socket {
    fn new(io: Io) -> Self {
        Self { io, gathering: false, patience: None, waiting: false }
    }

    fn gather(&mut self, on: bool) {
        if let Io::Tcp(stream) = &self.io
            && self.gathering != on
        {
            // The option is an optimisation: where a system lacks it, reads return earlier.
            let set = set_low_water(stream, if on { LOW_WATER } else { 1 });
            self.gathering = on && set.is_ok();
            self.waiting = false;
        }
    }

    /// Below the mark the socket never becomes "readable", so the kernel is asked directly now and then.
    fn poll_below_mark(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Io::Tcp(stream) = &self.io else { return Poll::Pending };
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOW_WATER_WAIT)));
        loop {
            if !self.waiting {
                patience.as_mut().reset(Instant::now() + LOW_WATER_WAIT);
                self.waiting = true;
            }
            ready!(patience.as_mut().poll(cx));
            self.waiting = false;
            match (&*SockRef::from(stream)).read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if polled.is_pending() && this.gathering {
            return this.poll_below_mark(cx, buf);
        }
        this.waiting = false;
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(_) | Io::Unix(_) => Poll::Ready(Ok(())),
            Io::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[expect(unsafe_code, reason = "no crate in the tree offers SO_RCVLOWAT")]
fn set_low_water(stream: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `stream` is borrowed; pointer and length describe one c_int that outlives the call.
    let result = unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
