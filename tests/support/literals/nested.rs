//! Arrays, composites, ranges, multiranges and hstore around other values. The quoting is the server's documented one.

use super::{Dice, Make, numbers, strings, times};

/// A part of a nested value: NULL at times.
fn part(d: &mut Dice, make: Make) -> Option<String> {
    (!d.one_in(7)).then(|| make(d))
}

/// An array of one dimension, now and then with a lower bound of its own.
pub fn array(d: &mut Dice, make: Make) -> String {
    dimensions(d, 1, make, ",")
}

/// An array of so many dimensions, or an empty one.
pub fn dimensions(d: &mut Dice, depth: usize, make: Make, delimiter: &str) -> String {
    if d.one_in(8) {
        return "{}".to_owned();
    }
    let lengths: Vec<usize> = (0..depth).map(|_| 1 + d.below(if depth == 1 { 6 } else { 3 })).collect();
    let bounds: String =
        lengths.iter().map(|length| (d.integer(-100, 100), *length as i128)).map(|(low, n)| format!("[{low}:{}]", low + n - 1)).collect();
    let body = braces(d, &lengths, make, delimiter);
    if d.one_in(6) { format!("{bounds}={body}") } else { body }
}

fn braces(d: &mut Dice, lengths: &[usize], make: Make, delimiter: &str) -> String {
    let Some((length, inner)) = lengths.split_first() else { return element(d, make) };
    format!("{{{}}}", d.join(*length, *length, delimiter, |d| braces(d, inner, make, delimiter)))
}

fn element(d: &mut Dice, make: Make) -> String {
    let Some(text) = part(d, make) else { return "NULL".to_owned() };
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()) && !text.eq_ignore_ascii_case("null");
    if plain && d.one_in(2) { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// A composite of fields.
pub fn composite(d: &mut Dice, fields: &[Make]) -> String {
    if d.one_in(10) {
        return format!("({})", ",".repeat(fields.len() - 1));
    }
    let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""));
    let fields: Vec<String> = fields.iter().map(|make| part(d, *make).map_or_else(String::new, quoted)).collect();
    format!("({})", fields.join(","))
}

/// A range from bounds in order.
pub fn range(d: &mut Dice, bounds: fn(&mut Dice) -> [String; 2]) -> String {
    if d.one_in(12) {
        return "empty".to_owned();
    }
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let [lower, upper] = bounds(d).map(|bound| if d.one_in(6) { String::new() } else { quoted(&bound) });
    format!("{}{lower},{upper}{}", *d.pick(&["[", "("]), *d.pick(&["]", ")"]))
}

/// A multirange of ranges in any order.
pub fn multirange(d: &mut Dice, bounds: fn(&mut Dice) -> [String; 2]) -> String {
    format!("{{{}}}", d.join(0, 4, ",", |d| range(d, bounds)))
}

fn two<T: Ord>(d: &mut Dice, one: impl Fn(&mut Dice) -> T, text: impl Fn(T) -> String) -> [String; 2] {
    let (a, b) = (one(d), one(d));
    if a <= b { [text(a), text(b)] } else { [text(b), text(a)] }
}

/// Bounds of int4range. The largest number has no next one, which an inclusive upper bound needs.
pub fn int4s(d: &mut Dice) -> [String; 2] {
    two(d, |d| d.integer(i32::MIN.into(), i128::from(i32::MAX) - 1), |n| n.to_string())
}

/// Bounds of int8range.
pub fn int8s(d: &mut Dice) -> [String; 2] {
    two(d, |d| d.integer(i64::MIN.into(), i128::from(i64::MAX) - 1), |n| n.to_string())
}

/// Bounds of numrange.
pub fn numerics(d: &mut Dice) -> [String; 2] {
    let text = |n: i128| format!("{}{}.{:03}", if n < 0 { "-" } else { "" }, n.abs() / 1000, n.abs() % 1000);
    two(d, |d| d.integer(i64::MIN.into(), i64::MAX.into()), text)
}

/// Bounds of daterange.
pub fn dates(d: &mut Dice) -> [String; 2] {
    two(d, |d| d.integer(times::DAYS.0, times::DAYS.1 - 1), times::date_of)
}

/// Bounds of tsrange and tstzrange.
pub fn timestamps(d: &mut Dice) -> [String; 2] {
    two(d, times::microseconds, |us| times::timestamp_of(us, "+00"))
}

/// Bounds of a range of text in the order of bytes.
pub fn texts(d: &mut Dice) -> [String; 2] {
    two(d, strings::short, |text| text)
}

/// Bounds of a range of floats.
pub fn floats(d: &mut Dice) -> [String; 2] {
    two(d, |d| d.integer(i64::MIN.into(), i64::MAX.into()), |n| format!("{:e}", n as f64 / 3.0))
}

/// hstore
pub fn hstore(d: &mut Dice) -> String {
    let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    d.join(0, 5, ", ", |d| {
        let value = part(d, strings::text).map_or_else(|| "NULL".to_owned(), quoted);
        format!("{}=>{value}", quoted(strings::short(d)))
    })
}

/// The composite `inner_part (n int, "odd name" text, f float8, day date, amount numeric(12,2))`.
pub fn inner_part(d: &mut Dice) -> String {
    composite(d, &[numbers::int4, strings::text, numbers::float8, times::date, numbers::numeric_12_2])
}

/// The composite `outer_part (label text, one inner_part, many inner_part[], m mood, grid int[][], span int4range, raw bytea, at timestamptz)`.
pub fn outer_part(d: &mut Dice) -> String {
    composite(
        d,
        &[
            strings::text,
            inner_part,
            |d| array(d, inner_part),
            strings::mood,
            |d| dimensions(d, 2, numbers::int4, ","),
            |d| range(d, int4s),
            strings::bytea,
            times::timestamptz,
        ],
    )
}
