//! Geometries of PostGIS, as the well-known binary that others read.
//!
//! PostGIS sends EWKB (`geometry_send`, `geography_send`): flags in the type say whether there are Z and M coordinates and a
//! reference system. ISO WKB has numbers of their own for types with Z and M, and no reference system, which is dropped here; the
//! coordinates stay as they are, in the byte order that they came in. The text form is the same bytes in hexadecimal. Which
//! geometries may be inside of which others is left to who reads them.

use super::plain::hex_bytes;
use super::{Fault, Step, nothing_left, take, take_slice};

/// Flags of EWKB's types (PostGIS source, `liblwgeom.h`).
const Z: u32 = 0x8000_0000;
const M: u32 = 0x4000_0000;
const SRID: u32 = 0x2000_0000;

/// Geometries inside of each other, more than anyone has.
const MAX_DEPTH: usize = 64;

/// Byte order, type and a count, which a geometry has at least unless it is a point.
const LEAST: usize = 9;

const WHAT: &str = "a geometry";

/// Appends a geometry as ISO WKB. What was appended before a fault was found stays there.
pub(crate) fn ewkb_to_wkb(field: &[u8], out: &mut Vec<u8>) -> Step {
    out.reserve(field.len());
    let mut rest = field;
    geometry(&mut rest, out, None, MAX_DEPTH)?;
    nothing_left(rest, WHAT)
}

/// As [`ewkb_to_wkb`], from the text form.
pub(crate) fn hex_ewkb_to_wkb(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut bytes = Vec::new();
    hex_bytes(field, &mut bytes)?;
    ewkb_to_wkb(&bytes, out)
}

/// One geometry with all that is in it; the coordinates of those must be as many as `outer`'s, by its flags.
fn geometry(rest: &mut &[u8], out: &mut Vec<u8>, outer: Option<u32>, depth: usize) -> Step {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Fault::malformed(format!("a geometry has more than {MAX_DEPTH} others inside of each other")));
    };
    let order = Order::take(rest)?;
    let flagged = order.word(take(rest, WHAT)?);
    let (kind, dimensions) = (flagged & !(Z | M | SRID), flagged & (Z | M));
    if outer.is_some_and(|outer| outer != dimensions) {
        return Err(Fault::malformed("a geometry has others with other dimensions inside of it"));
    }
    if flagged & SRID != 0 {
        let _: [u8; 4] = take(rest, WHAT)?;
    }
    let iso = kind.saturating_add(if dimensions & Z != 0 { 1000 } else { 0 } + if dimensions & M != 0 { 2000 } else { 0 });
    out.push(order as u8);
    out.extend_from_slice(&order.bytes(iso));

    // Doubles.
    let point = 8 * (2 + usize::from(dimensions & Z != 0) + usize::from(dimensions & M != 0));
    match kind {
        // Point. An empty one has coordinates that are not numbers.
        1 => copy(rest, out, 1, point),
        // Line string and circular string.
        2 | 8 => points(rest, out, order, point),
        // Polygon and triangle: rings.
        3 | 17 => {
            let rings = count(rest, out, order, 4)?;
            (0..rings).try_for_each(|_| points(rest, out, order, point))
        }
        // Multipoint, multilinestring, multipolygon, collection, compound curve, curve polygon, multicurve, multisurface,
        // polyhedral surface and TIN: geometries.
        4..=7 | 9..=12 | 15 | 16 => {
            let geometries = count(rest, out, order, LEAST)?;
            (0..geometries).try_for_each(|_| geometry(rest, out, Some(dimensions), depth))
        }
        _ => Err(Fault::malformed(format!("a geometry has the unknown type {flagged:#010x}"))),
    }
}

fn points(rest: &mut &[u8], out: &mut Vec<u8>, order: Order, point: usize) -> Step {
    let points = count(rest, out, order, point)?;
    copy(rest, out, points, point)
}

/// Copies a count of parts, none of which can be shorter than `least` bytes.
fn count(rest: &mut &[u8], out: &mut Vec<u8>, order: Order, least: usize) -> Step<usize> {
    let bytes = take(rest, WHAT)?;
    out.extend_from_slice(&bytes);
    let count = order.word(bytes);
    match usize::try_from(count) {
        Ok(count) if count <= rest.len() / least => Ok(count),
        _ => Err(Fault::malformed(format!("a geometry claims {count} parts in {} bytes", rest.len()))),
    }
}

fn copy(rest: &mut &[u8], out: &mut Vec<u8>, points: usize, point: usize) -> Step {
    // A count that was checked, so that it does not overflow.
    out.extend_from_slice(take_slice(rest, points.saturating_mul(point), WHAT)?);
    Ok(())
}

/// The order of the bytes in a geometry, by the number that stands for it.
#[derive(Clone, Copy)]
enum Order {
    Big = 0,
    Little = 1,
}

impl Order {
    fn take(rest: &mut &[u8]) -> Step<Self> {
        match take(rest, WHAT)? {
            [0] => Ok(Self::Big),
            [1] => Ok(Self::Little),
            [other] => Err(Fault::malformed(format!("a geometry has the unknown byte order {other}"))),
        }
    }

    fn word(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    fn bytes(self, word: u32) -> [u8; 4] {
        match self {
            Self::Big => word.to_be_bytes(),
            Self::Little => word.to_le_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{damaged, hex};

    const ONE: &str = "000000000000f03f";
    const TWO: &str = "0000000000000040";

    fn wkb(ewkb: &str) -> Step<String> {
        let (mut binary, mut text) = (Vec::new(), Vec::new());
        ewkb_to_wkb(&hex(ewkb), &mut binary)?;
        hex_ewkb_to_wkb(ewkb.to_uppercase().as_bytes(), &mut text)?;
        assert_eq!(binary, text);
        Ok(binary.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A little-endian geometry: the type with its flags, then what follows.
    fn little(kind: u32, body: &str) -> String {
        format!("01{:08x}{body}", kind.swap_bytes())
    }

    #[test]
    fn the_reference_system_goes_and_the_dimensions_move_into_the_type() {
        let (xy, xyz, xyzm) = (format!("{ONE}{TWO}"), format!("{ONE}{TWO}{ONE}"), format!("{ONE}{TWO}{ONE}{TWO}"));
        for (flags, srid, body, iso) in [
            (0, "", &xy, 1),
            (SRID, "e6100000", &xy, 1),
            (Z, "", &xyz, 1001),
            (M, "", &xyz, 2001),
            (Z | M, "", &xyzm, 3001),
            (Z | M | SRID, "e6100000", &xyzm, 3001),
        ] {
            assert_eq!(wkb(&little(1 | flags, &format!("{srid}{body}"))).expect("a point"), little(iso, body));
        }
        // SELECT 'SRID=4326;POINT(1 2)'::geometry, as PostGIS prints it; then the same in the other byte order.
        let found = wkb("0101000020e6100000000000000000f03f0000000000000040").expect("a point");
        assert_eq!(found, "0101000000000000000000f03f0000000000000040");
        let found = wkb("0020000001000010e63ff00000000000004000000000000000").expect("a point");
        assert_eq!(found, "00000000013ff00000000000004000000000000000");
        // POINT EMPTY
        let found = wkb("0101000000000000000000f87f000000000000f87f").expect("a point");
        assert_eq!(found, "0101000000000000000000f87f000000000000f87f");
    }

    /// One geometry of each type, without its flags and with two dimensions.
    fn all() -> Vec<(u32, String)> {
        let point = format!("{ONE}{TWO}");
        let string = format!("02000000{point}{point}");
        let ring = format!("01000000{string}");
        let two = |one: String| format!("02000000{one}{one}");
        let mut all = vec![(1, point.clone()), (2, string.clone()), (8, string.clone()), (3, ring.clone()), (17, ring.clone())];
        all.extend(
            [(4, 1, &point), (5, 2, &string), (6, 3, &ring), (9, 8, &string), (10, 2, &string)]
                .map(|(kind, inner, body)| (kind, two(little(inner, body)))),
        );
        all.extend(
            [(11, 8, &string), (12, 3, &ring), (15, 3, &ring), (16, 17, &ring)].map(|(kind, inner, body)| (kind, two(little(inner, body)))),
        );
        let parts: String = all.iter().map(|(kind, body)| little(*kind, body)).collect();
        let collection = (7, format!("{:08x}{parts}", 14_u32.swap_bytes()));
        all.push(collection);
        all.push((7, "00000000".to_owned()));
        all
    }

    #[test]
    fn geometries_of_all_types_stay_as_they_are_without_flags() {
        for (kind, body) in all() {
            assert_eq!(wkb(&little(kind, &body)).expect("a geometry"), little(kind, &body));
            assert_eq!(wkb(&little(kind | SRID, &format!("e6100000{body}"))).expect("a geometry"), little(kind, &body));
        }
    }

    #[test]
    fn each_geometry_has_a_header_of_its_own() {
        // MULTIPOINT Z (1 2 1, 2 2 2), the second in the other byte order and with a reference system.
        let (first, second) = (format!("{ONE}{TWO}{ONE}"), "4000000000000000".repeat(3));
        let ewkb = little(4 | Z | SRID, &format!("e610000002000000{}00a0000001000010e6{second}", little(1 | Z, &first)));
        let expected = little(1004, &format!("02000000{}00000003e9{second}", little(1001, &first)));
        assert_eq!(wkb(&ewkb).expect("a multipoint"), expected);
    }

    #[test]
    fn what_is_not_a_geometry_is_malformed() {
        let nested = |depth: usize| little(7, &format!("{}00000000", format!("01000000{}", little(7, "")).repeat(depth - 1)));
        assert!(wkb(&nested(MAX_DEPTH)).is_ok());
        let point = format!("{ONE}{TWO}");
        for ewkb in [
            String::new(),
            "01".to_owned(),
            format!("0201000000{point}"),
            little(0, &point),
            little(13, "00000000"),
            little(18, "00000000"),
            little(1001, &point),
            little(1 | 0x1000_0000, &point),
            little(1, ONE),
            little(1, &format!("{point}00")),
            little(2, "ffffffff"),
            little(2, &format!("02000000{point}")),
            little(3, "ffffffff"),
            little(7, "ffffffff"),
            little(7, &format!("02000000{}", little(1, &point))),
            little(4, &format!("01000000{}", little(1 | Z, &format!("{point}{ONE}")))),
            nested(MAX_DEPTH + 1),
            nested(100_000),
        ] {
            let found = wkb(&ewkb).map_err(|fault| *fault);
            assert!(matches!(found, Err(Fault::Malformed(_))), "{ewkb}: {found:?}");
        }
        for text in ["0", "0g", "x1", " 01", "01 ", "é"] {
            assert!(hex_bytes(text.as_bytes(), &mut Vec::new()).is_err(), "{text}");
        }
        let mut out = Vec::new();
        assert!(hex_bytes(b"00aFfF19", &mut out).is_ok() && out == [0, 0xAF, 0xFF, 0x19]);
    }

    #[test]
    fn damage_never_panics() {
        for (kind, body) in all() {
            let sample = little(kind | SRID, &format!("e6100000{body}"));
            damaged(&hex(&sample), |field| {
                let mut out = Vec::new();
                let _ = ewkb_to_wkb(field, &mut out);
                assert!(out.len() <= field.len() && out.capacity() <= field.len().max(8));
            });
            damaged(sample.as_bytes(), |field| drop(hex_ewkb_to_wkb(field, &mut Vec::new())));
        }
    }
}
