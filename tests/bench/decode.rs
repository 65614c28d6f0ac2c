//! How fast a COPY stream becomes record batches on one core: `./build.sh bench decode [--rounds N]`.
//!
//! Makes the streams in memory, one message per row as the server sends them, and decodes them as a backfill does: a push per
//! message, a batch whenever 8 MB have come together. No sockets, no files, no second thread. Prints the best of some rounds for
//! both wire forms of three tables: TPC-H's lineitem (numbers, dates and short text), a wide one of many types, and one of structs. Timings on
//! a shared machine are no test: nothing here fails because it is slow.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use lakeward::postgres::catalog::ColumnInfo;
use lakeward::postgres::decode::Decoder;
use lakeward::types::pg_type::{Attribute, PgType, TypeKind};
use lakeward::types::special::SpecialValues;
use lakeward::types::{ColumnPlan, Wire, exact_type, plan_column};
use std::hint::black_box;

/// About as much as this is one stream; decoded again in every round.
const STREAM_BYTES: usize = 32 << 20;
/// What a batch holds when memory is not short.
const BATCH_BYTES: usize = 8 << 20;

fn main() {
    keep_memory();
    let mut rounds = 15;
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            rounds = arguments.next().and_then(|n| n.parse().ok()).expect("--rounds needs a number");
        }
    }
    println!("{:<10} {:<7} {:>7} {:>8} {:>8} {:>8}", "table", "form", "bytes", "GB/s", "Mrows/s", "ns/row");
    for (table, columns, row) in
        [("lineitem", lineitem(), lineitem_row as MakeRow), ("wide", wide(), wide_row), ("structs", structs(), structs_row)]
    {
        for wire in [Wire::Binary, Wire::Text] {
            let stream = Stream::of(&columns, row, wire);
            let seconds = (0..rounds).map(|_| stream.decode(&columns, wire)).fold(f64::INFINITY, f64::min);
            let (bytes, rows) = (stream.bytes.len() as f64, stream.rows as f64);
            println!(
                "{table:<10} {:<7} {:>7.1} {:>8.3} {:>8.3} {:>8.1}",
                if wire == Wire::Text { "text" } else { "binary" },
                bytes / rows,
                bytes / seconds / 1e9,
                rows / seconds / 1e6,
                seconds / rows * 1e9
            );
        }
    }
}

/// A stream as it lies in the receive buffer, and where its messages are.
struct Stream {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    rows: usize,
}

impl Stream {
    fn of(columns: &[ColumnPlan], make: MakeRow, wire: Wire) -> Self {
        let (mut bytes, mut ends, mut rows) = (Vec::new(), Vec::new(), 0);
        if wire == Wire::Binary {
            bytes.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        }
        let mut random = Random(0x1A4E_3A2D);
        while bytes.len() < STREAM_BYTES {
            let mut row = Row { wire, bytes: &mut bytes, columns: 0, random: &mut random };
            if wire == Wire::Binary {
                row.bytes.extend((columns.len() as i16).to_be_bytes());
            }
            make(&mut row, rows as i64);
            assert_eq!(row.columns, columns.len());
            if wire == Wire::Text {
                bytes.push(b'\n');
            }
            ends.push(bytes.len());
            rows += 1;
        }
        if wire == Wire::Binary {
            bytes.extend((-1_i16).to_be_bytes());
            ends.push(bytes.len());
        }
        Self { bytes, ends, rows }
    }

    /// Seconds that it took.
    fn decode(&self, columns: &[ColumnPlan], wire: Wire) -> f64 {
        let started = on_processor();
        let mut decoder = Decoder::new(columns, "public.bench", wire);
        let (mut at, mut rows) = (0, 0);
        for end in &self.ends {
            decoder.push(&self.bytes[at..*end]).expect("a good stream");
            at = *end;
            if decoder.bytes() >= BATCH_BYTES {
                rows += black_box(decoder.finish_batch().expect("a batch")).num_rows();
            }
        }
        let last = decoder.finish_batch().expect("a batch");
        rows += last.num_rows();
        decoder.finish().expect("a whole stream");
        let seconds = on_processor() - started;
        assert_eq!(rows, self.rows);
        assert!(last.columns().iter().all(|column| column.len() == last.num_rows()));
        seconds
    }
}

/// Has what a batch leaves given to the next instead of back to the kernel: what its pages cost changes with what else is running, and
/// is not decoding.
fn keep_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt(3) has no safe form")]
    // SAFETY: the parameters are documented in mallopt(3); there is no other thread.
    unsafe {
        // The highest that it takes.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// Seconds that this thread has been on a processor: on a shared machine, other programs are not part of it.
fn on_processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the standard library has no clock of a thread")]
    // SAFETY: the pointer is to a timespec that lives on.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of the thread");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

type MakeRow = fn(&mut Row<'_>, i64);

fn plan(name: &str, ty: PgType) -> ColumnPlan {
    let wanted = exact_type(&ty);
    let column = ColumnInfo { not_null: true, ..ColumnInfo::of_type(name, ty) };
    plan_column(&column, name, &wanted, SpecialValues::Error).expect("a plan")
}

fn numeric(precision: i32, scale: i32) -> PgType {
    PgType { typmod: (precision << 16 | scale) + 4, ..PgType::built_in(1700, "numeric") }
}

fn array_of(element: PgType) -> PgType {
    let name = format!("_{}", element.name);
    PgType { kind: TypeKind::Array { element: Box::new(element), dimensions: 1 }, ..PgType::built_in(1, &name) }
}

fn lineitem() -> Vec<ColumnPlan> {
    let built_in = PgType::built_in;
    [
        ("l_orderkey", built_in(20, "int8")),
        ("l_partkey", built_in(23, "int4")),
        ("l_suppkey", built_in(23, "int4")),
        ("l_linenumber", built_in(23, "int4")),
        ("l_quantity", numeric(15, 2)),
        ("l_extendedprice", numeric(15, 2)),
        ("l_discount", numeric(15, 2)),
        ("l_tax", numeric(15, 2)),
        ("l_returnflag", built_in(1042, "bpchar")),
        ("l_linestatus", built_in(1042, "bpchar")),
        ("l_shipdate", built_in(1082, "date")),
        ("l_commitdate", built_in(1082, "date")),
        ("l_receiptdate", built_in(1082, "date")),
        ("l_shipinstruct", built_in(1042, "bpchar")),
        ("l_shipmode", built_in(1042, "bpchar")),
        ("l_comment", built_in(1043, "varchar")),
    ]
    .map(|(name, ty)| plan(name, ty))
    .into()
}

fn lineitem_row(row: &mut Row<'_>, at: i64) {
    const WORDS: &str = "furiously regular deposits sleep carefully among the ironic requests. blithely pending accounts nag quickly ";
    let quantity = 1 + row.random.below(50);
    let (part, supplier) = (1 + row.random.below(200_000), 1 + row.random.below(10_000));
    row.int8(at / 4 * 8 + 1);
    row.int4(part);
    row.int4(supplier);
    row.int4(1 + at % 4);
    row.cents(quantity * 100);
    let price = quantity * (90_000 + row.random.below(110_000));
    row.cents(price);
    let (discount, tax) = (row.random.below(11), row.random.below(9));
    row.cents(discount);
    row.cents(tax);
    let (flag, status) = (row.random.below(3), row.random.below(2));
    row.text(["A", "N", "R"][flag as usize]);
    row.text(["F", "O"][status as usize]);
    // 1992-01-02 to 1998-12-01, in days since 2000.
    let shipped = -2921 + row.random.below(2525);
    row.date(shipped);
    let (committed, received) = (shipped - 30 + row.random.below(90), shipped + 1 + row.random.below(30));
    row.date(committed);
    row.date(received);
    let (instruct, mode) = (row.random.below(4), row.random.below(7));
    row.text(
        ["DELIVER IN PERSON        ", "COLLECT COD              ", "NONE                     ", "TAKE BACK RETURN         "]
            [instruct as usize],
    );
    row.text(["REG AIR   ", "AIR       ", "RAIL      ", "SHIP      ", "TRUCK     ", "MAIL      ", "FOB       "][mode as usize]);
    let (start, len) = (row.random.below(60) as usize, 10 + row.random.below(34) as usize);
    row.text(&WORDS[start..start + len]);
}

fn wide() -> Vec<ColumnPlan> {
    let built_in = PgType::built_in;
    [
        ("id", built_in(20, "int8")),
        ("key", built_in(2950, "uuid")),
        ("created", built_in(1184, "timestamptz")),
        ("seen", built_in(1114, "timestamp")),
        ("score", built_in(701, "float8")),
        ("active", built_in(16, "bool")),
        ("document", built_in(3802, "jsonb")),
        ("numbers", array_of(built_in(23, "int4"))),
        ("tags", array_of(built_in(25, "text"))),
        ("amount", built_in(1700, "numeric")),
        ("note", built_in(25, "text")),
    ]
    .map(|(name, ty)| plan(name, ty))
    .into()
}

fn wide_row(row: &mut Row<'_>, at: i64) {
    row.int8(at);
    let key = row.random.next();
    row.uuid(u128::from(key) << 64 | u128::from(key.rotate_left(17)));
    row.timestamp(757_382_400_000_000 + at * 1_000_003, "+00");
    row.timestamp(631_152_000_000_000 + at * 60_000_000, "");
    let score = row.random.below(1_000_000) as f64 / 64.0;
    row.float8(score);
    row.bool(at % 3 == 0);
    row.json(&format!(r#"{{"id": {at}, "tags": ["a{}", "b"], "nested": {{"x": {}, "text": "yyyyyyyyyyyyyyyy"}}}}"#, at % 10, at % 97));
    row.int4_array(&[at as i32, at as i32 + 1, at as i32 + 2]);
    row.text_array(&["alpha", ["beta", "gamma", "delta"][(at % 3) as usize]]);
    let amount = row.random.below(100_000_000);
    row.cents(amount);
    if at % 10 == 2 { row.null() } else { row.text("the quick brown fox jumps over the lazy dog") }
}

fn structs() -> Vec<ColumnPlan> {
    let built_in = PgType::built_in;
    let part = |name: &str, ty| Attribute { number: 0, name: name.to_owned(), ty };
    let pair = vec![part("x", built_in(23, "int4")), part("label", built_in(25, "text"))];
    [
        ("id", built_in(20, "int8")),
        ("pair", PgType { kind: TypeKind::Composite(pair), ..built_in(2, "pair") }),
        ("span", PgType { kind: TypeKind::Range(Box::new(built_in(23, "int4"))), ..built_in(3904, "int4range") }),
    ]
    .map(|(name, ty)| plan(name, ty))
    .into()
}

fn structs_row(row: &mut Row<'_>, at: i64) {
    row.int8(at);
    row.pair(at as i32, ["north", "east", "south", "west"][(at % 4) as usize]);
    row.span(at as i32, at as i32 + 10);
}

/// One row being written. Its order of calls is the order of the columns.
struct Row<'a> {
    wire: Wire,
    bytes: &'a mut Vec<u8>,
    columns: usize,
    random: &'a mut Random,
}

impl Row<'_> {
    fn field(&mut self, binary: &[u8], text: &str) {
        match self.wire {
            Wire::Binary => sized(binary, self.bytes),
            Wire::Text => {
                if self.columns > 0 {
                    self.bytes.push(b'\t');
                }
                self.bytes.extend_from_slice(text.replace('\\', "\\\\").as_bytes());
            }
        }
        self.columns += 1;
    }

    fn null(&mut self) {
        match self.wire {
            Wire::Binary => self.bytes.extend([0xFF; 4]),
            Wire::Text => self.bytes.extend_from_slice(b"\t\\N"),
        }
        self.columns += 1;
    }

    fn int8(&mut self, value: i64) {
        self.field(&value.to_be_bytes(), &value.to_string());
    }

    fn int4(&mut self, value: i64) {
        self.field(&(value as i32).to_be_bytes(), &value.to_string());
    }

    fn float8(&mut self, value: f64) {
        self.field(&value.to_be_bytes(), &value.to_string());
    }

    fn bool(&mut self, value: bool) {
        self.field(&[u8::from(value)], if value { "t" } else { "f" });
    }

    fn text(&mut self, value: &str) {
        self.field(value.as_bytes(), value);
    }

    fn json(&mut self, value: &str) {
        self.field(&[&[1], value.as_bytes()].concat(), value);
    }

    fn uuid(&mut self, value: u128) {
        self.field(&value.to_be_bytes(), &uuid::Uuid::from_u128(value).to_string());
    }

    /// A numeric with two places.
    fn cents(&mut self, value: i64) {
        let (mut digits, mut whole, fraction) = (Vec::new(), value / 100, value % 100 * 100);
        while whole > 0 {
            digits.insert(0, (whole % 10_000) as u16);
            whole /= 10_000;
        }
        let mut weight = digits.len() as i16 - 1;
        digits.push(fraction as u16);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        weight = if digits.is_empty() { 0 } else { weight };
        let mut binary = Vec::new();
        [digits.len() as u16, weight as u16, 0, 2].iter().chain(&digits).for_each(|word| binary.extend(word.to_be_bytes()));
        self.field(&binary, &format!("{}.{:02}", value / 100, value % 100));
    }

    fn date(&mut self, days: i64) {
        let date = chrono::NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date") + chrono::Duration::days(days);
        self.field(&(days as i32).to_be_bytes(), &date.to_string());
    }

    fn timestamp(&mut self, micros: i64, zone: &str) {
        let time = chrono::DateTime::from_timestamp_micros(micros + 946_684_800_000_000).expect("a time");
        self.field(&micros.to_be_bytes(), &format!("{}{zone}", time.format("%Y-%m-%d %H:%M:%S%.6f")));
    }

    fn int4_array(&mut self, values: &[i32]) {
        let binary: Vec<_> = values.iter().map(|value| value.to_be_bytes().to_vec()).collect();
        self.array(&binary, &values.iter().map(i32::to_string).collect::<Vec<_>>());
    }

    fn text_array(&mut self, values: &[&str]) {
        let binary: Vec<_> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        self.array(&binary, &values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>());
    }

    fn array(&mut self, binary: &[Vec<u8>], text: &[String]) {
        let mut bytes = Vec::new();
        for word in [1, 0, 23, binary.len() as i32, 1] {
            bytes.extend(word.to_be_bytes());
        }
        binary.iter().for_each(|element| sized(element, &mut bytes));
        self.field(&bytes, &format!("{{{}}}", text.join(",")));
    }

    fn pair(&mut self, x: i32, label: &str) {
        let mut bytes = vec![0, 0, 0, 2, 0, 0, 0, 23];
        sized(&x.to_be_bytes(), &mut bytes);
        bytes.extend([0, 0, 0, 25]);
        sized(label.as_bytes(), &mut bytes);
        self.field(&bytes, &format!("({x},{label})"));
    }

    /// A range with its lower bound and without its upper.
    fn span(&mut self, lower: i32, upper: i32) {
        let mut bytes = vec![2];
        [lower, upper].iter().for_each(|bound| sized(&bound.to_be_bytes(), &mut bytes));
        self.field(&bytes, &format!("[{lower},{upper})"));
    }
}

/// A value with its length in front.
fn sized(value: &[u8], out: &mut Vec<u8>) {
    out.extend((value.len() as i32).to_be_bytes());
    out.extend_from_slice(value);
}

/// xorshift64*, so that every run decodes the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: i64) -> i64 {
        (self.next() >> 33) as i64 % n
    }
}
