//! The parts of a value that holds others, from its binary form.
//!
//! Each function hands over the parts in their order, each in the binary form of its own type, and allocates nothing. Counts are
//! checked against the bytes that are there before anything is read. What a part means is its reader's business; only the frame
//! around it is checked here. [`super::literal`] does the same for the text form.

use super::{Fault, Parts, Step, nothing_left, take, take_i32, take_slice};

/// The most dimensions of an array (`MAXDIM` in PostgreSQL's `c.h`).
const MAX_DIMENSIONS: usize = 6;

/// How many elements an array has in each of its dimensions. Where their numbering starts is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dimensions {
    count: usize,
    lengths: [usize; MAX_DIMENSIONS],
}

impl Dimensions {
    /// Of an array without elements, which has none.
    pub(crate) const EMPTY: Self = Self { count: 0, lengths: [0; MAX_DIMENSIONS] };

    /// One dimension of `len` elements; none when there are no elements.
    pub(crate) fn one(len: usize) -> Self {
        let mut dimensions = Self::EMPTY;
        if len > 0 {
            // One of six: there is room.
            let _ = dimensions.push(len);
        }
        dimensions
    }

    /// The lengths, the outermost first; an empty slice for an empty array.
    pub(crate) fn lengths(&self) -> &[usize] {
        self.lengths.get(..self.count).unwrap_or(&[])
    }

    /// Adds a dimension inside of the others; `None` when there are six already.
    pub(super) fn push(&mut self, len: usize) -> Option<()> {
        *self.lengths.get_mut(self.count)? = len;
        self.count += 1;
        Some(())
    }
}

/// The elements of an array, in row-major order (`array_send`).
///
/// The element's type is not compared with the catalog's: for an array of a domain it is the domain's, while the catalog's is the
/// base type.
pub(crate) fn array_binary(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    const WHAT: &str = "an array";
    let mut rest = field;
    let [dimensions, flags, _element_type] = [take_i32(&mut rest, WHAT)?, take_i32(&mut rest, WHAT)?, take_i32(&mut rest, WHAT)?];
    if !matches!(flags, 0 | 1) {
        return Err(Fault::malformed(format!("an array has the flags {flags:#x}")));
    }
    if dimensions < 0 {
        return Err(Fault::malformed(format!("an array has {dimensions} dimensions")));
    }
    let mut found = Dimensions::EMPTY;
    let mut elements = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        let (len, _lower_bound) = (take_i32(&mut rest, WHAT)?, take_i32(&mut rest, WHAT)?);
        let len = usize::try_from(len).map_err(|_| Fault::malformed(format!("an array has the length {len}")))?;
        elements = elements.saturating_mul(len);
        found.push(len).ok_or_else(|| Fault::malformed(format!("an array has {dimensions} dimensions")))?;
    }
    array_elements(elements, rest, parts)?;
    // An empty `int2vector` is sent with one dimension of no elements.
    Ok(if elements == 0 { Dimensions::EMPTY } else { found })
}

/// The number of elements of an array that has some in one dimension, as almost all have, and the bytes that they are in. `None` for
/// any other, good or malformed: [`array_binary`] says what it is.
#[inline]
pub(crate) fn one_dimension(field: &[u8]) -> Option<(usize, &[u8])> {
    let (&[d0, d1, d2, d3, f0, f1, f2, f3, _, _, _, _, l0, l1, l2, l3, _, _, _, _], rest) = field.split_first_chunk::<20>()?;
    let (dimensions, flags) = (u32::from_be_bytes([d0, d1, d2, d3]), u32::from_be_bytes([f0, f1, f2, f3]));
    let len = i32::from_be_bytes([l0, l1, l2, l3]);
    (dimensions == 1 && flags <= 1 && len > 0).then_some((len.unsigned_abs() as usize, rest))
}

/// The elements of an array, which has `count` of them, from the bytes behind its dimensions.
#[inline]
pub(crate) fn array_elements(count: usize, mut rest: &[u8], parts: &mut (impl FnMut(Option<&[u8]>) -> Step + ?Sized)) -> Step {
    const WHAT: &str = "an array";
    room_for(count, 4, rest, WHAT)?;
    for _ in 0..count {
        parts(sized(&mut rest, WHAT)?)?;
    }
    nothing_left(rest, WHAT)
}

/// The ranges of a multirange (`multirange_send`).
pub(crate) fn multirange_binary(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    const WHAT: &str = "a multirange";
    let mut rest = field;
    let ranges = count(&mut rest, 4, WHAT)?;
    for _ in 0..ranges {
        parts(Some(never_null(&mut rest, WHAT)?))?;
    }
    nothing_left(rest, WHAT)?;
    Ok(Dimensions::one(ranges))
}

/// The elements of a pgvector `vector`, each a big-endian `float4` (`vector_send`).
pub(crate) fn vector_binary(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    let elements: &[[u8; 4]] = vector_elements(field, "a vector")?;
    elements.iter().try_for_each(|element| parts(Some(element)))?;
    Ok(Dimensions::one(elements.len()))
}

/// The elements of a pgvector `halfvec` (`halfvec_send`), each made a big-endian `float4`, which holds every half exactly.
pub(crate) fn half_vector_binary(field: &[u8], parts: &mut Parts<'_>) -> Step<Dimensions> {
    let elements: &[[u8; 2]] = vector_elements(field, "a half vector")?;
    elements.iter().try_for_each(|element| parts(Some(&single(u16::from_be_bytes(*element)).to_be_bytes())))?;
    Ok(Dimensions::one(elements.len()))
}

/// The columns of a composite (`record_send`). How many there are is the caller's to compare with the catalog.
pub(crate) fn composite_binary(field: &[u8], parts: &mut Parts<'_>) -> Step {
    const WHAT: &str = "a composite";
    let mut rest = field;
    for _ in 0..count(&mut rest, 8, WHAT)? {
        let _type = take_i32(&mut rest, WHAT)?;
        parts(sized(&mut rest, WHAT)?)?;
    }
    nothing_left(rest, WHAT)
}

/// A range (`range_send`) as five parts: lower and upper bound, each NULL when it is infinite or the range empty, then as one byte
/// each (0 or 1, as `boolsend` sends them) whether the lower bound is in it, whether the upper is, and whether it is empty.
pub(crate) fn range_binary(field: &[u8], parts: &mut Parts<'_>) -> Step {
    const WHAT: &str = "a range";
    // `rangetypes.h`
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;

    let mut rest = field;
    let [flags] = take(&mut rest, WHAT)?;
    if flags > 0x1F {
        return Err(Fault::malformed(format!("a range has the flags {flags:#04x}")));
    }
    let (has_lower, has_upper) = (flags & (EMPTY | LOWER_INFINITE) == 0, flags & (EMPTY | UPPER_INFINITE) == 0);
    for has in [has_lower, has_upper] {
        parts(if has { Some(never_null(&mut rest, WHAT)?) } else { None })?;
    }
    nothing_left(rest, WHAT)?;
    parts(Some(&[u8::from(has_lower && flags & LOWER_INCLUSIVE != 0)]))?;
    parts(Some(&[u8::from(has_upper && flags & UPPER_INCLUSIVE != 0)]))?;
    parts(Some(&[flags & EMPTY]))
}

/// The keys and values of an `hstore` in turn: key, value, key, value (`hstore_send`). Returns the number of pairs.
pub(crate) fn hstore_binary(field: &[u8], parts: &mut Parts<'_>) -> Step<usize> {
    const WHAT: &str = "an hstore";
    let mut rest = field;
    let pairs = count(&mut rest, 8, WHAT)?;
    for _ in 0..pairs {
        parts(Some(never_null(&mut rest, WHAT)?))?;
        parts(sized(&mut rest, WHAT)?)?;
    }
    nothing_left(rest, WHAT)?;
    Ok(pairs)
}

/// The number of parts that follow, none of which can be shorter than `least` bytes.
fn count(rest: &mut &[u8], least: usize, what: &str) -> Step<usize> {
    let count = take_i32(rest, what)?;
    let count = usize::try_from(count).map_err(|_| Fault::malformed(format!("{what} claims {count} parts")))?;
    room_for(count, least, rest, what)?;
    Ok(count)
}

#[inline]
fn room_for(count: usize, least: usize, rest: &[u8], what: &str) -> Step {
    if count > rest.len() / least { Err(no_room_for(count, rest, what)) } else { Ok(()) }
}

#[cold]
fn no_room_for(count: usize, rest: &[u8], what: &str) -> Box<Fault> {
    Fault::malformed(format!("{what} claims {count} parts in {} bytes", rest.len()))
}

/// A part with its length in front; `None` for the length −1, which is NULL.
#[inline]
fn sized<'a>(rest: &mut &'a [u8], what: &str) -> Step<Option<&'a [u8]>> {
    match take_i32(rest, what)? {
        -1 => Ok(None),
        len => match usize::try_from(len) {
            Ok(len) => take_slice(rest, len, what).map(Some),
            Err(_) => Err(Fault::malformed(format!("{what} has a part of the length {len}"))),
        },
    }
}

/// A part with its length in front, where NULL has no meaning.
fn never_null<'a>(rest: &mut &'a [u8], what: &str) -> Step<&'a [u8]> {
    sized(rest, what)?.ok_or_else(|| Fault::malformed(format!("{what} has a NULL where none can be")))
}

/// The elements behind a vector's header: their number and a word that is zero, 16 bits each.
fn vector_elements<'a, const N: usize>(field: &'a [u8], what: &str) -> Step<&'a [[u8; N]]> {
    let mut rest = field;
    let [d0, d1, u0, u1] = take(&mut rest, what)?;
    let (count, unused) = (i16::from_be_bytes([d0, d1]), u16::from_be_bytes([u0, u1]));
    let (elements, more) = rest.as_chunks::<N>();
    if usize::try_from(count) != Ok(elements.len()) || unused != 0 || !more.is_empty() {
        return Err(Fault::malformed(format!(
            "{what} of {} bytes claims {count} elements and has {unused} in a field to come",
            field.len()
        )));
    }
    Ok(elements)
}

/// An IEEE half as a single: the sign stays, exponents move by 112, fractions by 13 bits.
fn single(half: u16) -> f32 {
    let half = u32::from(half);
    let (sign, exponent, fraction) = ((half & 0x8000) << 16, half >> 10 & 0x1F, half & 0x3FF);
    f32::from_bits(match exponent {
        // Zero or subnormal, fraction · 2⁻²⁴: 11 bits and a power of two, so that nothing rounds.
        0 => sign | (fraction as f32 / 16_777_216.0).to_bits(),
        0x1F => sign | 0x7F80_0000 | fraction << 13,
        _ => sign | (exponent + 112) << 23 | fraction << 13,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{damaged, hex, shown};

    #[test]
    fn arrays_give_their_elements_and_dimensions() {
        // select encode(array_send(x), 'hex') on PostgreSQL 15; the last is int2vectorsend('').
        for (field, elements, lengths) in [
            ("000000000000000000000019", "", &[][..]),
            ("0000000100000001000000190000000300000000000000014100000000ffffffff", "A||NULL", &[3]),
            ("000000020000000000000019000000020000000200000002ffffffff0000000161000000016200000001630000000164", "a|b|c|d", &[2, 2]),
            (
                "0000000600000000000000190000000100000000000000010000000100000001000000010000000100000001000000010000000100000001\
                 000000050000000178",
                "x",
                &[1; 6],
            ),
            ("0000000100000000000000150000000000000000", "", &[]),
        ] {
            let (found, dimensions) = shown(|parts| array_binary(&hex(field), parts)).expect("an array");
            assert_eq!((found.as_str(), dimensions.lengths()), (elements, lengths), "{field}");
        }
    }

    #[test]
    fn ranges_give_two_bounds_and_three_flags() {
        // select encode(range_send(x), 'hex') on PostgreSQL 15.
        for (field, expected) in [
            ("01", "NULL|NULL|00|00|01"),
            ("0200000004000000010000000400000005", "00000001|00000005|01|00|00"),
            ("080000000400000005", "NULL|00000005|00|00|00"),
            ("120000000400000001", "00000001|NULL|01|00|00"),
            ("18", "NULL|NULL|00|00|00"),
            ("0600000001610000000162", "a|b|01|01|00"),
            ("060000000000000003782279", "|x\"y|01|01|00"),
        ] {
            assert_eq!(shown(|parts| range_binary(&hex(field), parts)).expect("a range").0, expected, "{field}");
        }
    }

    #[test]
    fn halves_are_what_ieee_says() {
        for (half, expected) in [
            (0x0000, 0.0_f32),
            (0x8000, -0.0),
            (0x0001, 5.960_464_5e-8),
            (0x83FF, -6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x7C00, f32::INFINITY),
            (0xFC00, f32::NEG_INFINITY),
        ] {
            assert_eq!(single(half).to_bits(), expected.to_bits(), "{half:#06x}");
        }
        assert!(single(0x7E00).is_nan() && single(0xFC01).is_nan());
    }

    #[test]
    fn vectors_have_singles_as_elements() {
        let (found, dimensions) = shown(|parts| vector_binary(&hex("000200003f80000041424344"), parts)).expect("a vector");
        assert_eq!((found.as_str(), dimensions.lengths()), ("3f800000|ABCD", &[2][..]));
        let (found, dimensions) = shown(|parts| half_vector_binary(&hex("000300003c0000018000"), parts)).expect("a half vector");
        assert_eq!((found.as_str(), dimensions.lengths()), ("3f800000|33800000|80000000", &[3][..]));
        for field in ["", "0001", "00010000", "000100003f8000", "000100013f800000", "ffff0000", "000100003f80000000"] {
            assert!(shown(|parts| vector_binary(&hex(field), parts)).is_err(), "{field}");
            assert!(shown(|parts| half_vector_binary(&hex(field), parts)).is_err(), "{field}");
        }
    }

    #[test]
    fn frames_that_cannot_be_are_malformed() {
        let malformed = |read: fn(&[u8], &mut Parts<'_>) -> Step, field: &str| {
            let found = shown(|parts| read(&hex(field), parts)).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{field}: {found:?}");
        };
        let array = |field: &[u8], parts: &mut Parts<'_>| array_binary(field, parts).map(|_| ());
        for field in [
            "ffffffff0000000000000019",
            "000000000000000200000019",
            "00000000000000000000001900",
            "0000000100000000000000197fffffff00000001",
            "000000010000000000000019ffffffff00000001",
            // 65536 · 65536 · 65536 · 65536 elements
            "0000000400000000000000190001000000000001000100000000000100010000000000010001000000000001",
            "7fffffff0000000000000019000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
            "00000001000000000000001900000001000000010000000261",
            "000000010000000000000019000000010000000180000000",
        ] {
            malformed(array, field);
        }
        for field in ["", "20", "00", "02ffffffffffffffff", "0200000004000000010000000400000005ff", "0100000000"] {
            malformed(range_binary, field);
        }
        for field in ["", "ffffffff", "7fffffff", "00000001000000190000000561", "0000000000"] {
            malformed(composite_binary, field);
            malformed(|field, parts| hstore_binary(field, parts).map(|_| ()), field);
            malformed(|field, parts| multirange_binary(field, parts).map(|_| ()), field);
        }
        malformed(|field, parts| hstore_binary(field, parts).map(|_| ()), "00000001ffffffffffffffff");
        malformed(|field, parts| multirange_binary(field, parts).map(|_| ()), "00000001ffffffff");
    }

    #[test]
    fn damage_never_panics() {
        for sample in [
            "0000000200000001000000190000000200000001000000020000000100000003612062ffffffff00000001630000000122",
            "0000000400000017000000040000000100000019000000096220227122205c206300000019ffffffff0000001900000000",
            "0600000001610000000162",
            "00000002000000110200000004000000010000000400000003000000110200000004000000050000000400000009",
            "00000003000000016100000001310000000162ffffffff000000044e554c4c000000044e554c4c",
            "000300003c0000018000",
            "000200003f80000041424344",
        ] {
            damaged(&hex(sample), |field| {
                let _ = shown(|parts| array_binary(field, parts));
                let _ = shown(|parts| composite_binary(field, parts));
                let _ = shown(|parts| range_binary(field, parts));
                let _ = shown(|parts| multirange_binary(field, parts));
                let _ = shown(|parts| hstore_binary(field, parts));
                let _ = shown(|parts| vector_binary(field, parts));
                let _ = shown(|parts| half_vector_binary(field, parts));
            });
        }
    }
}
