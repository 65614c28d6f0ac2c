//! Thrift's binary protocol: values as they are on the wire, so that a struct can be read, changed and sent back without losing fields
//! that nobody here knows. Pure.
//!
//! Bytes from outside neither panic nor allocate more than they are: lengths are compared with what has arrived, depth is bounded.

/// How deep values may be nested.
const DEPTH_MAX: usize = 32;

/// A value. Texts are bytes here: Thrift does not say which they are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    /// A double's bits.
    Double(u64),
    I16(i16),
    I32(i32),
    I64(i64),
    Bytes(Vec<u8>),
    Struct(Struct),
    /// Type codes of keys and values, which an empty map has too.
    Map(u8, u8, Vec<(Value, Value)>),
    /// Type code of the set itself (list or set) and of its elements.
    List(u8, u8, Vec<Value>),
}

/// Fields by their numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Struct(Vec<(i16, Value)>);

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// More have to come.
    Short,
    /// What is wrong.
    Wrong(&'static str),
}

const STOP: u8 = 0;
const MAP: u8 = 13;
const SET: u8 = 14;
pub(super) const LIST: u8 = 15;
pub(super) const STRING: u8 = 11;
pub(super) const STRUCT: u8 = 12;
const VERSION: u32 = 0x8001_0000;

/// Kind of message: a call.
const CALL: u32 = 1;

/// What a message holds.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    /// 2: a reply, 3: the server refused the call as such.
    pub(super) kind: u32,
    pub(super) name: Vec<u8>,
    pub(super) sequence: i32,
    pub(super) body: Struct,
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(text.into().into_bytes())
    }

    /// A map of texts.
    pub(super) fn texts<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        Self::Map(STRING, STRING, pairs.into_iter().map(|(key, value)| (Self::text(key), Self::text(value))).collect())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Bool(_) => 2,
            Self::Byte(_) => 3,
            Self::Double(_) => 4,
            Self::I16(_) => 6,
            Self::I32(_) => 8,
            Self::I64(_) => 10,
            Self::Bytes(_) => STRING,
            Self::Struct(_) => STRUCT,
            Self::Map(..) => MAP,
            Self::List(code, ..) => *code,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Byte(value) => out.push(*value),
            Self::Double(bits) => out.extend(bits.to_be_bytes()),
            Self::I16(value) => out.extend(value.to_be_bytes()),
            Self::I32(value) => out.extend(value.to_be_bytes()),
            Self::I64(value) => out.extend(value.to_be_bytes()),
            Self::Bytes(bytes) => {
                out.extend(length(bytes.len()));
                out.extend(bytes);
            }
            Self::Struct(fields) => fields.write(out),
            Self::Map(key, value, pairs) => {
                out.extend([*key, *value]);
                out.extend(length(pairs.len()));
                for (key, value) in pairs {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::List(_, element, values) => {
                out.push(*element);
                out.extend(length(values.len()));
                values.iter().for_each(|value| value.write(out));
            }
        }
    }
}

/// What is sent is far below 2 GiB.
fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

impl Struct {
    pub(super) fn new(fields: impl IntoIterator<Item = (i16, Value)>) -> Self {
        Self(fields.into_iter().collect())
    }

    pub(super) fn get(&self, number: i16) -> Option<&Value> {
        self.0.iter().find(|(field, _)| *field == number).map(|(_, value)| value)
    }

    /// Puts a value in the place of what is there.
    pub(super) fn set(&mut self, number: i16, value: Value) {
        match self.0.iter_mut().find(|(field, _)| *field == number) {
            Some((_, old)) => *old = value,
            None => self.0.push((number, value)),
        }
    }

    pub(super) fn text(&self, number: i16) -> Option<String> {
        match self.get(number)? {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub(super) fn inner(&self, number: i16) -> Option<&Self> {
        match self.get(number)? {
            Value::Struct(inner) => Some(inner),
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (number, value) in &self.0 {
            out.push(value.code());
            out.extend(number.to_be_bytes());
            value.write(out);
        }
        out.push(STOP);
    }
}

/// The bytes of a call.
pub(super) fn call(name: &str, sequence: i32, arguments: &Struct) -> Vec<u8> {
    let mut out = (VERSION | CALL).to_be_bytes().to_vec();
    Value::text(name).write(&mut out);
    out.extend(sequence.to_be_bytes());
    arguments.write(&mut out);
    out
}

/// The message that `bytes` begin with, and how long it is.
pub(super) fn message(bytes: &[u8]) -> Result<(Message, usize), Bad> {
    let mut reader = Reader { bytes, depth: 0 };
    let head = u32::from_be_bytes(reader.array()?);
    if head & 0xFFFF_0000 != VERSION {
        return Err(Bad::Wrong("it does not speak Thrift's binary protocol without frames"));
    }
    let name = reader.counted()?.to_vec();
    let sequence = i32::from_be_bytes(reader.array()?);
    let body = reader.fields()?;
    Ok((Message { kind: head & 0xFF, name, sequence, body }, bytes.len() - reader.bytes.len()))
}

struct Reader<'b> {
    bytes: &'b [u8],
    depth: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], Bad> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Bad::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        self.take(N)?.try_into().map_err(|_| Bad::Short)
    }

    fn byte(&mut self) -> Result<u8, Bad> {
        Ok(self.array::<1>()?[0])
    }

    fn count(&mut self) -> Result<usize, Bad> {
        usize::try_from(i32::from_be_bytes(self.array()?)).map_err(|_| Bad::Wrong("a length is negative"))
    }

    fn counted(&mut self) -> Result<&'b [u8], Bad> {
        let count = self.count()?;
        self.take(count)
    }

    /// A number of elements, each of which takes a byte at least.
    fn elements(&mut self) -> Result<usize, Bad> {
        let count = self.count()?;
        if count > self.bytes.len() { Err(Bad::Short) } else { Ok(count) }
    }

    fn fields(&mut self) -> Result<Struct, Bad> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Bad::Wrong("values are nested too deep"));
        }
        let mut fields = Vec::new();
        loop {
            let code = self.byte()?;
            if code == STOP {
                break;
            }
            let number = i16::from_be_bytes(self.array()?);
            fields.push((number, self.value(code)?));
        }
        self.depth -= 1;
        Ok(Struct(fields))
    }

    fn value(&mut self, code: u8) -> Result<Value, Bad> {
        Ok(match code {
            2 => Value::Bool(self.byte()? != 0),
            3 => Value::Byte(self.byte()?),
            4 => Value::Double(u64::from_be_bytes(self.array()?)),
            6 => Value::I16(i16::from_be_bytes(self.array()?)),
            8 => Value::I32(i32::from_be_bytes(self.array()?)),
            10 => Value::I64(i64::from_be_bytes(self.array()?)),
            STRING => Value::Bytes(self.counted()?.to_vec()),
            STRUCT => Value::Struct(self.fields()?),
            MAP | SET | LIST => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(Bad::Wrong("values are nested too deep"));
                }
                let value = if code == MAP { self.map()? } else { self.list(code)? };
                self.depth -= 1;
                value
            }
            _ => return Err(Bad::Wrong("a value is of an unknown type")),
        })
    }

    fn map(&mut self) -> Result<Value, Bad> {
        let [key, value] = self.array()?;
        let count = self.elements()?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.value(key)?, self.value(value)?));
        }
        Ok(Value::Map(key, value, pairs))
    }

    fn list(&mut self, code: u8) -> Result<Value, Bad> {
        let element = self.byte()?;
        let count = self.elements()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(element)?);
        }
        Ok(Value::List(code, element, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Struct {
        let inner = Struct::new([(1, Value::text("a")), (2, Value::List(LIST, STRING, vec![Value::text("b")]))]);
        Struct::new([
            (1, Value::Bool(true)),
            (2, Value::I32(-5)),
            (3, Value::I64(1 << 40)),
            (4, Value::Struct(inner)),
            (5, Value::texts([("k", "v"), ("", "")])),
            (6, Value::List(SET, 6, vec![Value::I16(3)])),
            (7, Value::Double(f64::to_bits(1.5))),
            (8, Value::Byte(7)),
            (9, Value::Map(STRING, STRUCT, Vec::new())),
        ])
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = call("get_table", 7, &sample());
        let (read, length) = message(&bytes).expect("a message");
        assert_eq!(read, Message { kind: CALL, name: b"get_table".to_vec(), sequence: 7, body: sample() });
        assert_eq!(length, bytes.len());
        for cut in 0..bytes.len() {
            assert_eq!(message(&bytes[..cut]).expect_err("cut"), Bad::Short, "{cut}");
        }
    }

    #[test]
    fn damaged_bytes_neither_panic_nor_allocate() {
        let bytes = call("get_table", 7, &sample());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _: Result<(Message, usize), Bad> = message(&damaged);
            }
        }
        assert!(matches!(message(b"HTTP/1.1 400 Bad Request"), Err(Bad::Wrong(_))));
        let mut deep = call("x", 1, &Struct::default());
        deep.pop();
        (0..1000).for_each(|_| deep.extend([STRUCT, 0, 1]));
        assert!(matches!(message(&deep), Err(Bad::Wrong(_))));
    }
}
