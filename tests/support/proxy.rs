//! A network that can be cut: a TCP proxy on 127.0.0.1 before a server.

use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// The proxy. Its threads end with their connections, or with the test process.
pub struct Proxy {
    /// Its port.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Connections so far.
    opened: AtomicU64,
    /// Connections up to this one are silent for ever.
    silent: AtomicU64,
    /// The next connection that brings more than this many bytes from the server is reset; 0 means none.
    reset_after: AtomicU64,
    /// Connections that were reset.
    resets: AtomicU64,
    /// Connections up to this one end.
    ended: AtomicU64,
    /// Whether each answer of the server is held back for a moment.
    slow: AtomicBool,
    /// Whether connections are refused.
    away: AtomicBool,
    /// The server's port.
    to: AtomicU16,
}

impl Proxy {
    /// A proxy to a port of 127.0.0.1.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { to: AtomicU16::new(to), ..State::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.away.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", shared.to.load(SeqCst))) else { continue };
                let (state, number) = (shared.clone(), shared.opened.fetch_add(1, SeqCst) + 1);
                std::thread::spawn(move || state.forward(client, server, number));
            }
        });
        Self { port, state }
    }

    /// From now on nothing passes on the connections that are open; they stay open. New ones work.
    pub fn cut(&self) {
        self.state.silent.store(self.state.opened.load(SeqCst), SeqCst);
    }

    /// Resets the next connection on which the server has sent this many bytes; one only.
    pub fn reset_after(&self, bytes: u64) {
        self.state.reset_after.store(bytes, SeqCst);
    }

    /// Ends all connections in the middle of whatever they are saying, as a server does that goes away. New ones work.
    pub fn end(&self) {
        self.state.ended.store(self.state.opened.load(SeqCst), SeqCst);
    }

    /// From now on each piece from the server takes some milliseconds, or no longer.
    pub fn slow(&self, slow: bool) {
        self.state.slow.store(slow, SeqCst);
    }

    /// From now on connections are ended as soon as they are made, or no longer.
    pub fn away(&self, away: bool) {
        self.state.away.store(away, SeqCst);
        if away {
            self.end();
        }
    }

    /// From now on connections lead to another port, as an address does that moves with a fail-over.
    pub fn redirect(&self, to: u16) {
        self.state.to.store(to, SeqCst);
        self.end();
    }

    /// Connections that were reset so far.
    pub fn resets(&self) -> u64 {
        self.state.resets.load(SeqCst)
    }
}

impl State {
    fn forward(&self, mut client: TcpStream, mut server: TcpStream, number: u64) {
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_millis(2))).expect("set a timeout");
        }
        let mut received = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            if number <= self.ended.load(SeqCst) {
                return;
            }
            if number <= self.silent.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            for up in [true, false] {
                let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
                match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => {
                        if !up && self.slow.load(SeqCst) {
                            std::thread::sleep(Duration::from_millis(7));
                        }
                        // The connection may end in the middle of a message.
                        let passed = if number <= self.ended.load(SeqCst) { n / 2 } else { n };
                        if to.write_all(&buffer[..passed]).is_err() {
                            return;
                        }
                        if !up {
                            received += n as u64;
                        }
                    }
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => return,
                }
            }
            let limit = self.reset_after.load(SeqCst);
            if limit > 0 && received > limit && self.reset_after.compare_exchange(limit, 0, SeqCst, SeqCst).is_ok() {
                self.resets.fetch_add(1, SeqCst);
                // Closing now sends RST and not FIN.
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("set linger");
                return;
            }
        }
    }
}
