//! The few calls of a Hive Metastore that a catalog needs, on one connection that is made again when it was lost.
//!
//! Knows Hive's structs by the numbers of their fields (hive_metastore.thrift); does not know Iceberg.

use super::thrift::{self, Bad, LIST, STRUCT, Struct, Value};
use crate::{Error, Kind, Result};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// No answer that is expected here is near this.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A metastore, at one of several addresses.
#[derive(Debug)]
pub(super) struct Client {
    /// `host:port`.
    addresses: Vec<String>,
    connection: Mutex<Option<TcpStream>>,
    sequence: AtomicI32,
}

/// Why a call has not done what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// The metastore threw what its interface declares under this number.
    Thrown(i16, Error),
    /// It does not know the call.
    Unknown(Error),
    /// There is no connection, and nothing was sent.
    Apart(Error),
    /// It did not answer.
    Lost(Error),
}

impl Failure {
    pub(super) fn error(self) -> Error {
        match self {
            Self::Thrown(_, error) | Self::Unknown(error) => error,
            Self::Apart(error) | Self::Lost(error) => error.transient(),
        }
    }
}

/// A lock's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    Acquired,
    Waiting,
    Gone,
}

impl Client {
    /// `thrift://host:port[,thrift://host:port…]`. Nothing is connected yet.
    pub(super) fn new(uris: &str) -> Result<Self> {
        let wrong = |part: &str| {
            Error::new(Kind::Config, format!("`hive_uri`: found {part:?}, accepted: thrift://host:port"))
                .hint("write the address of the metastore, or several with commas between them")
        };
        let address = |part: &str| {
            let rest = part.trim().strip_prefix("thrift://").map(|rest| rest.trim_end_matches('/')).ok_or_else(|| wrong(part))?;
            match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(rest.to_owned()),
                None if !rest.is_empty() => Ok(format!("{rest}:9083")),
                _ => Err(wrong(part)),
            }
        };
        let addresses = uris.split(',').map(address).collect::<Result<Vec<_>>>()?;
        Ok(Self { addresses, connection: Mutex::new(None), sequence: AtomicI32::new(0) })
    }

    /// Calls `name`; gives what it returns, if it returns something.
    async fn call(&self, name: &str, arguments: Struct) -> Result<Option<Value>, Failure> {
        let mut slot = self.connection.lock().await;
        let mut stream = match slot.take() {
            Some(stream) if is_open(&stream) => stream,
            _ => self.connect().await.map_err(Failure::Apart)?,
        };
        let sequence = self.sequence.fetch_add(1, Relaxed);
        let bytes = thrift::call(name, sequence, &arguments);
        let lost = |why: String| {
            Failure::Lost(
                Error::new(Kind::Storage, format!("the Hive metastore did not answer {name}: {why}"))
                    .hint("look at the metastore and its log, then run again"),
            )
        };
        let reply = tokio::time::timeout(PATIENCE, exchange(&mut stream, &bytes)).await;
        let reply = reply.map_err(|_| lost(format!("nothing came for {} seconds", PATIENCE.as_secs())))?.map_err(lost)?;
        if reply.sequence != sequence {
            return Err(lost("it answered something else".into()));
        }
        *slot = Some(stream);
        returned(name, reply)
    }

    /// [`Client::call`] for what can be asked twice.
    async fn ask(&self, name: &str, arguments: Struct) -> Result<Option<Value>, Failure> {
        match self.call(name, arguments.clone()).await {
            Err(Failure::Lost(_)) => self.call(name, arguments).await,
            other => other,
        }
    }

    async fn connect(&self) -> Result<TcpStream> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).ok();
                    return Ok(stream);
                }
                Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
                Err(_) => reasons.push(format!("{address}: no answer")),
            }
        }
        Err(Error::new(Kind::Storage, format!("cannot connect to the Hive metastore: {}", reasons.join("; ")))
            .hint("start the metastore, or correct `hive_uri`")
            .transient())
    }

    pub(super) async fn get_database(&self, name: &str) -> Result<Option<Struct>, Failure> {
        match self.ask("get_database", Struct::new([(1, Value::text(name))])).await {
            Err(Failure::Thrown(1, _)) => Ok(None),
            other => found(other?),
        }
    }

    /// Says whether it was created; it may be there already.
    pub(super) async fn create_database(&self, database: Struct) -> Result<bool, Failure> {
        match self.call("create_database", Struct::new([(1, Value::Struct(database))])).await {
            Err(Failure::Thrown(1, _)) => Ok(false),
            other => other.map(|_| true),
        }
    }

    pub(super) async fn get_table(&self, database: &str, name: &str) -> Result<Option<Struct>, Failure> {
        match self.ask("get_table", Struct::new([(1, Value::text(database)), (2, Value::text(name))])).await {
            Err(Failure::Thrown(2, _)) => Ok(None),
            // Newer metastores have only the other form.
            Err(Failure::Unknown(_)) => self.get_table_req(database, name).await,
            other => found(other?),
        }
    }

    pub(super) async fn get_table_req(&self, database: &str, name: &str) -> Result<Option<Struct>, Failure> {
        let request = Struct::new([(1, Value::text(database)), (2, Value::text(name))]);
        match self.ask("get_table_req", Struct::new([(1, Value::Struct(request))])).await {
            Err(Failure::Thrown(2, _)) => Ok(None),
            other => Ok(found(other?)?.and_then(|result| result.inner(1).cloned())),
        }
    }

    /// Says whether it was created; it may be there already.
    pub(super) async fn create_table(&self, table: Struct) -> Result<bool, Failure> {
        match self.call("create_table", Struct::new([(1, Value::Struct(table))])).await {
            Err(Failure::Thrown(1, _)) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// The files stay.
    pub(super) async fn drop_table(&self, database: &str, name: &str) -> Result<(), Failure> {
        let arguments = Struct::new([(1, Value::text(database)), (2, Value::text(name)), (3, Value::Bool(false))]);
        match self.call("drop_table", arguments).await {
            Err(Failure::Thrown(1, _)) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) async fn alter_table(&self, database: &str, name: &str, table: Struct, context: Value) -> Result<(), Failure> {
        let context = Struct::new([(1, context)]);
        let arguments =
            Struct::new([(1, Value::text(database)), (2, Value::text(name)), (3, Value::Struct(table)), (4, Value::Struct(context))]);
        self.call("alter_table_with_environment_context", arguments).await.map(drop)
    }

    /// Asks for a table's exclusive lock.
    pub(super) async fn lock(&self, database: &str, table: &str, user: &str, host: &str) -> Result<(i64, Lock), Failure> {
        const EXCLUSIVE: i32 = 3;
        const TABLE: i32 = 2;
        let component =
            Struct::new([(1, Value::I32(EXCLUSIVE)), (2, Value::I32(TABLE)), (3, Value::text(database)), (4, Value::text(table))]);
        let request = Struct::new([
            (1, Value::List(LIST, STRUCT, vec![Value::Struct(component)])),
            (3, Value::text(user)),
            (4, Value::text(host)),
            (5, Value::text("lakeward")),
        ]);
        locked(self.call("lock", Struct::new([(1, Value::Struct(request))])).await?)
    }

    /// Looks whether a lock was acquired meanwhile, and says that it is still wanted.
    pub(super) async fn check_lock(&self, lock: i64) -> Result<Lock, Failure> {
        let request = Struct::new([(1, Value::I64(lock))]);
        Ok(locked(self.ask("check_lock", Struct::new([(1, Value::Struct(request))])).await?)?.1)
    }

    pub(super) async fn unlock(&self, lock: i64) -> Result<(), Failure> {
        let request = Struct::new([(1, Value::I64(lock))]);
        self.ask("unlock", Struct::new([(1, Value::Struct(request))])).await.map(drop)
    }
}

/// Whether the other side has not closed the connection, as metastores do after some minutes.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<thrift::Message, String> {
    stream.write_all(bytes).await.map_err(|e| e.to_string())?;
    let mut reply = Vec::new();
    loop {
        if stream.read_buf(&mut reply).await.map_err(|e| e.to_string())? == 0 {
            return Err("it closed the connection; does it want SASL or TLS, which are not supported?".into());
        }
        match thrift::message(&reply) {
            Ok((message, length)) if length == reply.len() => return Ok(message),
            Ok(_) => return Err("there is more in its answer than one".into()),
            Err(Bad::Short) if reply.len() < REPLY_BYTES_MAX => reply.reserve(reply.len().clamp(4 << 10, 1 << 20)),
            Err(Bad::Short) => return Err("its answer has no end".into()),
            Err(Bad::Wrong(why)) => return Err(why.into()),
        }
    }
}

/// What a reply returns: field 0, or what was thrown.
fn returned(name: &str, reply: thrift::Message) -> Result<Option<Value>, Failure> {
    let refused = |message: Option<String>| {
        Error::new(Kind::Storage, format!("the Hive metastore refused {name}: {}", message.unwrap_or_else(|| "it does not say why".into())))
    };
    if reply.kind == 3 {
        let error = refused(reply.body.text(1));
        const UNKNOWN_METHOD: Value = Value::I32(1);
        return Err(if reply.body.get(2) == Some(&UNKNOWN_METHOD) { Failure::Unknown(error) } else { Failure::Lost(error) });
    }
    for number in 1..=8 {
        if let Some(thrown) = reply.body.inner(number) {
            return Err(Failure::Thrown(number, refused(thrown.text(1))));
        }
    }
    Ok(reply.body.get(0).cloned())
}

fn found(value: Option<Value>) -> Result<Option<Struct>, Failure> {
    match value {
        Some(Value::Struct(found)) => Ok(Some(found)),
        _ => Err(Failure::Lost(Error::new(Kind::Storage, "the Hive metastore answered without saying anything"))),
    }
}

fn locked(value: Option<Value>) -> Result<(i64, Lock), Failure> {
    let response = found(value)?.unwrap_or_default();
    match (response.get(1), response.get(2)) {
        (Some(Value::I64(lock)), Some(Value::I32(state))) => Ok((
            *lock,
            match state {
                1 => Lock::Acquired,
                2 => Lock::Waiting,
                _ => Lock::Gone,
            },
        )),
        _ => Err(Failure::Lost(Error::new(Kind::Storage, "the Hive metastore answered without a lock"))),
    }
}
