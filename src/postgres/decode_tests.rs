//! Streams in both formats, cut anywhere, right and wrong.

use super::*;
use crate::error::Kind;
use crate::types::payload::{Field, Random, array, array_of, base, column, messages, numeric, numeric_type};
use crate::types::plan_column;
use crate::types::special::SpecialValues;
use arrow::array::AsArray as _;
use arrow::compute::concat_batches;

/// A table with a column of each kind of builder.
fn plans() -> Vec<ColumnPlan> {
    let types = [
        (base(20, "int8", -1), "integer"),
        (base(16, "bool", -1), "boolean"),
        (numeric_type(12, 2), "decimal(12,2)"),
        (base(1700, "numeric", -1), "string"),
        (base(25, "text", -1), "string"),
        (base(17, "bytea", -1), "binary"),
        (base(2950, "uuid", -1), "uuid"),
        (base(3802, "jsonb", -1), "json"),
        (base(1184, "timestamptz", -1), "timestamptz"),
        (base(1082, "date", -1), "date"),
        (array_of(base(25, "text", -1)), "list<string>"),
    ];
    types
        .into_iter()
        .enumerate()
        .map(|(i, (ty, wanted))| {
            let name = format!("c{i}");
            plan_column(&column(&name, ty), &name, &wanted.parse().expect("type"), SpecialValues::Error).expect("plan")
        })
        .collect()
}

fn rows(count: usize) -> Vec<Vec<Field>> {
    let mut random = Random(7);
    (0..count)
        .map(|i| {
            let fields = [
                (i as i64).to_be_bytes().to_vec(),
                vec![(i % 2) as u8],
                numeric(&format!("{i}.25")),
                numeric(&format!("-{i}.0001230")),
                "ä".repeat(i % 5).into_bytes(),
                vec![i as u8; i % 3],
                vec![i as u8; 16],
                format!("\x01[{i}]").into_bytes(),
                (-(i as i64)).to_be_bytes().to_vec(),
                (i as i32).to_be_bytes().to_vec(),
                array(&[Some(b"x".to_vec()), None][..i % 3], 1),
            ];
            fields.into_iter().map(|field| (random.below(4) > 0).then_some(field)).collect()
        })
        .collect()
}

fn decode_all(chunks: &[&[u8]], cut_every: usize) -> Result<RecordBatch> {
    let mut decoder = Decoder::new(&plans(), "public.orders", Wire::Binary);
    let mut batches = Vec::new();
    for chunk in chunks {
        decoder.push(chunk)?;
        if decoder.rows() >= cut_every {
            batches.push(decoder.finish_batch()?);
        }
    }
    batches.push(decoder.finish_batch()?);
    let schema = decoder.schema();
    decoder.finish()?;
    Ok(concat_batches(&schema, &batches).expect("one schema"))
}

#[test]
fn rows_are_the_same_wherever_batches_and_messages_are_cut() {
    let messages = messages(&rows(40));
    let whole = decode_all(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>(), usize::MAX).expect("decode");
    assert_eq!(whole.num_rows(), 40);
    for cut_every in [1, 2, 3, 7, 39, 40] {
        assert_eq!(decode_all(&messages.iter().map(Vec::as_slice).collect::<Vec<_>>(), cut_every).expect("decode"), whole);
    }
    let stream = messages.concat();
    for size in [1, 2, 3, 5, 64, 1000, stream.len()] {
        let chunks: Vec<_> = stream.chunks(size).collect();
        assert_eq!(decode_all(&chunks, 2).expect("decode"), whole, "messages of {size} bytes");
    }
}

#[test]
fn a_message_may_end_at_any_byte() {
    let stream = messages(&rows(6)).concat();
    let whole = decode_all(&[&stream], usize::MAX).expect("decode");
    for at in 0..=stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(decode_all(&[head, tail], 1).expect("decode"), whole, "cut at {at}");
    }
}

#[test]
fn a_stream_that_breaks_off_is_an_error() {
    let stream = messages(&rows(3)).concat();
    for at in 0..stream.len() {
        let error = decode_all(&[&stream[..at]], usize::MAX).expect_err("not complete");
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains("public.orders"));
    }
}

#[test]
fn a_stream_that_is_not_what_was_asked_for_is_an_error() {
    let good = messages(&rows(2));
    let with = |at: usize, bytes: &[u8]| {
        let mut stream = good.concat();
        stream[at..at + bytes.len()].copy_from_slice(bytes);
        stream
    };
    let first_length = HEADER_BYTES + 2;
    for (stream, message) in [
        (with(0, b"X"), "signature"),
        (with(11, &[0, 1, 0, 0]), "flags 0x10000"),
        (with(15, &[0xFF; 4]), "extension"),
        (with(HEADER_BYTES, &[0, 12]), "row 1 has 12 fields, 11 were asked for"),
        (with(HEADER_BYTES, &[0x80, 0]), "-32768 fields"),
        (with(first_length, &[0x40, 0, 0, 0]), "length 1073741824"),
        (with(first_length, &[0xFF, 0xFF, 0xFF, 0xFE]), "length -2"),
        ([good.concat(), vec![0]].concat(), "1 bytes follow"),
    ] {
        let error = decode_all(&[&stream], usize::MAX).expect_err(message);
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains(message), "{error}");
    }
    // A header extension and harmless flags are skipped.
    let mut extended = good.concat();
    extended[14] = 1;
    extended[18] = 3;
    extended.splice(HEADER_BYTES..HEADER_BYTES, [1, 2, 3]);
    let chunks: Vec<_> = extended.chunks(4).collect();
    assert_eq!(decode_all(&chunks, 1).expect("decode").num_rows(), 2);
}

#[test]
fn a_value_that_cannot_be_carried_is_named_with_its_place_and_key() {
    let price = plan_column(&column("Price", numeric_type(12, 2)), "price", &"decimal(12,2)".parse().expect("type"), SpecialValues::Error);
    let id = plan_column(&column("id", base(20, "int8", -1)), "id", &"integer".parse().expect("type"), SpecialValues::Error);
    let mut id = id.expect("plan");
    id.key = true;
    let plans = [price.expect("plan"), id];
    let row = |price: Option<&str>, id: i64| vec![price.map(numeric), Some(id.to_be_bytes().to_vec())];
    let messages = messages(&[row(Some("1.00"), 5), row(None, 6), row(Some("NaN"), 7)]);
    let lines = [b"1.00\t5\n".to_vec(), b"\\N\t6\n".to_vec(), b"NaN\t7\n".to_vec()];
    for (wire, messages) in [(Wire::Binary, &messages[..]), (Wire::Text, &lines[..])] {
        let mut decoder = Decoder::new(&plans, "public.orders", wire);
        decoder.push(&messages[0]).expect("row 1");
        decoder.finish_batch().expect("batch");
        decoder.push(&messages[1]).expect("row 2");
        let error = decoder.push(&messages[2]).expect_err("NaN");
        let expected = "column `Price` of public.orders, row 3 of its chunk (id = 7): NaN is not a number that a decimal can hold";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind(), Kind::Schema);
        assert!(error.advice().is_some_and(|hint| hint.contains("\"special_values\": {\"Price\": \"null\"}")));
        // Nothing is made of a batch that holds half a row.
        assert_eq!(decoder.finish_batch().expect_err("failed").kind(), Kind::Bug);
        assert_eq!(decoder.push(&messages[1]).expect_err("failed").kind(), Kind::Bug);
        assert!(decoder.finish().is_err());
    }
}

#[test]
fn text_that_is_not_utf8_is_named_with_its_key() {
    let text = plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type"), SpecialValues::Error);
    let plan = text.expect("plan");
    let mut key = plan.clone();
    (key.key, key.source) = (true, "k".into());
    let mut decoder = Decoder::new(&[plan, key], "public.t", Wire::Text);
    decoder.push(b"a\tx\nb\xff\ty\n").expect("rows");
    let error = decoder.finish_batch().expect_err("not UTF-8");
    assert!(error.to_string().contains("row 2 of its chunk (k = y)"), "{error}");
}

#[test]
fn an_instant_can_be_a_key() {
    let plan = |name: &str, ty, wanted: &str| plan_column(&column(name, ty), name, &wanted.parse().expect("type"), SpecialValues::Error);
    let mut key = plan("at", base(1184, "timestamptz", -1), "timestamptz").expect("plan");
    key.key = true;
    let price = plan("price", numeric_type(12, 2), "decimal(12,2)").expect("plan");
    let mut decoder = Decoder::new(&[key, price], "public.t", Wire::Text);
    let error = decoder.push(b"2024-02-29 10:34:56+00\tNaN\n").expect_err("NaN");
    assert!(error.to_string().contains("(at = 2024-02-29T10:34:56Z)"), "{error}");
}

#[test]
fn a_text_stream_may_be_cut_anywhere_but_at_its_end() {
    let text = plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type"), SpecialValues::Error);
    let plan = text.expect("plan");
    let stream = b"a\\tb\n\\N\n\\\\N\n\n";
    for cut in 0..=stream.len() {
        let mut decoder = Decoder::new(std::slice::from_ref(&plan), "public.t", Wire::Text);
        decoder.push(&stream[..cut]).expect("first part");
        decoder.push(&stream[cut..]).expect("second part");
        let batch = decoder.finish_batch().expect("batch");
        let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(texts, [Some("a\tb"), None, Some("\\N"), Some("")], "{cut}");
        decoder.finish().expect("end");
    }
    let mut decoder = Decoder::new(&[plan], "public.t", Wire::Text);
    decoder.push(b"a\nhalf").expect("lines");
    decoder.finish_batch().expect("batch");
    assert!(decoder.finish().expect_err("half a line").to_string().contains("ended early"));
}

#[test]
fn text_that_is_not_utf8_is_found_in_its_row() {
    let plan =
        || plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type"), SpecialValues::Error).expect("plan");
    // The last two are UTF-8 together, and are not apart.
    for (values, row) in [(vec![&b"a"[..], b"", b"\xFFz"], 3), (vec![b"a", b"b\xC3", b"\xA4c"], 2)] {
        let mut decoder = Decoder::new(&[plan()], "public.t", Wire::Binary);
        let rows: Vec<_> = values.iter().map(|value| vec![Some(value.to_vec())]).collect();
        messages(&rows).iter().for_each(|message| decoder.push(message).expect("push"));
        let error = decoder.finish_batch().expect_err("not UTF-8");
        assert!(error.to_string().contains(&format!("row {row} of its chunk: the text is not UTF-8")), "{error}");
    }
}

#[test]
fn bytes_count_what_the_batch_holds() {
    let text = plan_column(&column("t", base(25, "text", -1)), "t", &"string".parse().expect("type"), SpecialValues::Error).expect("plan");
    let int = plan_column(&column("i", base(20, "int8", -1)), "i", &"integer".parse().expect("type"), SpecialValues::Error).expect("plan");
    let mut decoder = Decoder::new(&[text, int], "public.t", Wire::Binary);
    let row = |text: Field| vec![text, Some(vec![0; 8])];
    let messages = messages(&[row(Some(vec![b'x'; 1000])), row(None)]);
    decoder.push(&messages[0]).expect("push");
    assert_eq!((decoder.rows(), decoder.bytes()), (1, 1000 + 4 + 8));
    decoder.push(&messages[1][..5]).expect("push");
    assert_eq!((decoder.rows(), decoder.bytes()), (1, 1012 + 5));
    decoder.push(&messages[1][5..]).expect("push");
    assert_eq!((decoder.rows(), decoder.bytes()), (2, 1012 + 12));
    decoder.finish_batch().expect("batch");
    assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
}

#[test]
fn rows_that_were_not_taken_are_not_forgotten() {
    let mut decoder = Decoder::new(&plans(), "public.t", Wire::Binary);
    messages(&rows(1)).iter().for_each(|message| decoder.push(message).expect("push"));
    assert_eq!(decoder.finish().expect_err("a row is left").kind(), Kind::Bug);
}

#[test]
fn a_query_without_columns_still_counts_rows() {
    let mut decoder = Decoder::new(&[], "public.t", Wire::Binary);
    messages(&[vec![], vec![]]).iter().for_each(|message| decoder.push(message).expect("push"));
    assert_eq!(decoder.finish_batch().expect("batch").num_rows(), 2);
    decoder.finish().expect("complete");
}

#[test]
fn mutated_streams_never_panic_and_never_give_more_rows_than_bytes() {
    let stream = messages(&rows(4)).concat();
    let mut random = Random(0xC0FFEE);
    let (mut decoded, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = stream.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = [0, 0x7F, 0x80, 0xFF][random.below(4)]),
            }
        }
        let at = random.below(bytes.len());
        match decode_all(&[&bytes[..at], &bytes[at..]], 3) {
            Ok(batch) => {
                assert!(batch.num_rows() <= bytes.len() / 2);
                decoded += 1;
            }
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Source | Kind::Schema), "{error}");
                refused += 1;
            }
        }
    }
    assert!(decoded > 1000 && refused > 1000, "{decoded} decoded, {refused} refused");
}
