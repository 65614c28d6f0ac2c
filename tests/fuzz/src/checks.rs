//! The promises, as functions from any bytes: nothing panics, what is refused is refused with its place, what is accepted is a valid array
//! of bounded size, and where a stream is cut makes no difference.
//!
//! Each function is a fuzz target. They panic when a promise is broken.

use super::catalogue::{CASES, Case, case_at, plan};
use super::streams::{HEADER, stream};
use arrow::array::{Array, RecordBatch};
use lakeward::config::column_type::ColumnType;
use lakeward::error::{Error, Kind};
use lakeward::postgres::decode::Decoder;
use lakeward::types::special::SpecialValues;
use lakeward::types::{ColumnPlan, Wire};
use std::sync::LazyLock;

/// What becoming a batch costs, whatever is in it: decoders, schemas, messages, the first room of vectors and bitmaps.
pub(super) const ONE_DECODE_BYTES: usize = 256 << 10;

/// What came of an input.
pub struct Outcome {
    /// Whether it was accepted.
    pub decoded: bool,
    /// What reading it may have allocated at most at any time, in bytes.
    pub bound: usize,
}

impl Outcome {
    pub(super) const NOTHING: Self = Self { decoded: false, bound: ONE_DECODE_BYTES };
}

/// The input of [`value`] that gives `field` to a case.
pub fn value_input(case: &Case, policy: usize, wire: Wire, field: &[u8]) -> Vec<u8> {
    let place = case.place.to_be_bytes();
    let form = if wire == Wire::Text { 4 } else { 0 };
    [&place[1..], &[policy as u8 | form], field].concat()
}

/// One value: three bytes choose the case, the next policy and form, the rest is the field. It is sent as the second and third row of
/// three; the first is NULL.
pub fn value(input: &[u8]) -> Outcome {
    let Some(([p0, p1, p2, choice], field)) = input.split_first_chunk::<4>() else { return Outcome::NOTHING };
    let case = case_at([*p0, *p1, *p2]);
    let (policy, wire) = (usize::from(choice & 3), if choice & 4 == 0 { Wire::Binary } else { Wire::Text });
    let plan = std::slice::from_ref(&case.plans[policy]);
    let bytes = stream(wire, &[vec![None], vec![Some(field)], vec![Some(field)]]);
    let bound = ONE_DECODE_BYTES + 2 * field.len() * case.growth;
    let decoded = match decode(plan, wire, [bytes.as_slice()].into_iter(), usize::MAX) {
        Ok(batches) => {
            check_batches(&batches, bound);
            let column = batches[0].column(0);
            assert_eq!(column.len(), 3);
            assert!(column.is_null(0));
            assert_eq!(column.slice(1, 1).as_ref(), column.slice(2, 1).as_ref(), "the same field twice");
            let may_be_null = SpecialValues::ALL[policy] == SpecialValues::Null;
            assert!(may_be_null || column.is_valid(1), "a value became NULL");
            true
        }
        Err(error) => {
            check_refusal(&error, "column `c` of public.t, row 2 of its chunk");
            false
        }
    };
    Outcome { decoded, bound }
}

/// A binary stream into several columns. The first byte says how it is cut, and whether the header is put in front.
pub fn copy_binary(input: &[u8]) -> Outcome {
    copy(Wire::Binary, input)
}

/// The same for a text stream.
pub fn copy_text(input: &[u8]) -> Outcome {
    copy(Wire::Text, input)
}

/// The columns of the streams: one of each kind of column, the two keys first.
pub static COLUMNS: LazyLock<Vec<ColumnPlan>> = LazyLock::new(|| {
    let columns = [
        ("int8", "integer"),
        ("text", "string"),
        ("bool", "boolean"),
        ("numeric(12,2)", "decimal(12,2)"),
        ("uuid", "uuid"),
        ("bytea", "binary"),
        ("jsonb", "json"),
        ("timestamptz", "timestamptz"),
        ("int4[]", "list<integer_small>"),
        ("hstore", "map<string,string>"),
        ("regclass", "string"),
    ];
    let plan = |(at, (key, wanted)): (usize, (&str, &str))| {
        let case = CASES.iter().find(|case| case.key == key && case.wanted.to_string() == wanted).expect(key);
        let mut plan = plan(&format!("c{at}"), &case.ty, &case.wanted, SpecialValues::Error).expect(key);
        plan.key = at < 2;
        plan
    };
    columns.into_iter().enumerate().map(plan).collect()
});

fn copy(wire: Wire, input: &[u8]) -> Outcome {
    let Some((cuts, input)) = input.split_first() else { return Outcome::NOTHING };
    let bytes = if wire == Wire::Binary && cuts & 1 == 0 { [HEADER, input].concat() } else { input.to_vec() };
    // A row of NULLs costs two bytes for each column in text, four in binary; 64 as for values, in each of four decodings.
    let bound = 4 * (ONE_DECODE_BYTES + bytes.len() * 128);
    let whole = decode(&COLUMNS, wire, [bytes.as_slice()].into_iter(), usize::MAX);
    let cut = decode(&COLUMNS, wire, pieces(&bytes, *cuts), usize::MAX);
    let in_batches = decode(&COLUMNS, wire, pieces(&bytes, *cuts), 1 + usize::from(cuts >> 6));
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => {
            check_batches(&whole, bound);
            assert_eq!(whole, cut, "where messages end made a difference");
            let in_batches = in_batches.unwrap_or_else(|error| panic!("where batches end made a difference: {error}"));
            let rows = whole[0].num_rows();
            assert!(rows <= bytes.len());
            let mut at = 0;
            for batch in &in_batches {
                assert_eq!(whole[0].slice(at, batch.num_rows()), *batch, "where batches end made a difference");
                at += batch.num_rows();
            }
            assert_eq!(at, rows);
            Outcome { decoded: true, bound }
        }
        (Err(whole), Err(cut)) => {
            check_refusal(&whole, "public.t");
            // How many bytes follow the trailer depends on how many have come.
            let same = whole.to_string() == cut.to_string() || whole.to_string().ends_with("follow the trailer");
            assert!(same, "where messages end made a difference: {whole} and {cut}");
            // Which fault is found first may differ: text is checked when a batch is taken.
            assert!(in_batches.is_err(), "where batches end made a difference: {whole}");
            Outcome { decoded: false, bound }
        }
        (whole, cut) => panic!("where messages end made a difference: {:?} and {:?}", whole.err(), cut.err()),
    }
}

/// The name of a type: what can be read prints as what reads back the same.
pub fn column_type(input: &[u8]) -> Outcome {
    let bound = ONE_DECODE_BYTES + input.len() * 512;
    let decoded = match std::str::from_utf8(input).map(str::parse::<ColumnType>) {
        Ok(Ok(ty)) => {
            let name = ty.to_string();
            assert_eq!(name.parse::<ColumnType>().as_ref().ok(), Some(&ty), "{name}");
            assert_eq!(ty.field("c").data_type(), &ty.arrow());
            true
        }
        Ok(Err(error)) => {
            assert_eq!(error.kind(), Kind::Config, "{error}");
            assert!(error.advice().is_some(), "{error}");
            false
        }
        Err(_) => false,
    };
    Outcome { decoded, bound }
}

/// Decodes a stream that comes in these messages; takes a batch whenever it has `batch_rows` rows.
pub fn decode<'a>(
    plans: &[ColumnPlan],
    wire: Wire,
    messages: impl Iterator<Item = &'a [u8]>,
    batch_rows: usize,
) -> Result<Vec<RecordBatch>, Error> {
    let mut decoder = Decoder::new(plans, "public.t", wire);
    let mut batches = Vec::new();
    for message in messages {
        if let Err(error) = decoder.push(message) {
            assert_eq!(decoder.push(&[]).err().map(|again| again.kind()), Some(Kind::Bug), "used after it failed");
            return Err(error);
        }
        if decoder.rows() >= batch_rows {
            batches.push(decoder.finish_batch()?);
        }
    }
    batches.push(decoder.finish_batch()?);
    decoder.finish()?;
    Ok(batches)
}

fn check_batches(batches: &[RecordBatch], bound: usize) {
    for column in batches.iter().flat_map(RecordBatch::columns) {
        column.to_data().validate_full().expect("a valid array");
    }
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    assert!(bytes <= bound, "{bytes} bytes, {bound} at most");
}

/// A refusal is the source's or the type's, never a bug of ours, and says where.
fn check_refusal(error: &Error, place: &str) {
    assert!(matches!(error.kind(), Kind::Source | Kind::Schema), "{error}");
    assert!(error.to_string().contains(place), "{error}");
}

/// Cuts of 1 to 64 bytes, by a generator that starts from `seed`.
fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let (mut state, mut rest) = (u32::from(seed) << 8 | 1, bytes);
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (piece, after) = rest.split_at(rest.len().min(1 + (state as usize >> 3) % 64));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
