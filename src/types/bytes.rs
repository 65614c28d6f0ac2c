//! Blocks: bytes, bits, UUIDs, and geometries of PostGIS.

use super::block::{Block, both, printed, server_text};
use crate::columns::fixed::uuid;
use crate::columns::variable::{binary, binary_from};
use crate::config::column_type::ColumnType;
use crate::values::plain::{bits, bytea_text, hex_bytes};
use crate::values::wkb::{ewkb_to_wkb, hex_ewkb_to_wkb};
use crate::values::{Step, exact_bytes};

pub(crate) static BLOCKS: &[Block] = &[
    Block {
        types: &[(17, "bytea")],
        exact: |_| ColumnType::Binary,
        read: |_, wanted, _| match wanted {
            ColumnType::Binary => both(binary(bytea_text)),
            _ => printed(wanted, bytea_print),
        },
        examples: &["\\x00ff80"],
        remark: "As `string` it is `\\x` and hexadecimal digits.",
    },
    Block {
        types: &[(2950, "uuid")],
        exact: |_| ColumnType::Uuid,
        read: |_, wanted, _| match wanted {
            ColumnType::Uuid => both(uuid()),
            _ => printed(wanted, uuid_print),
        },
        examples: &["0192f0c1-2345-7abc-8def-0123456789ab"],
        remark: "16 bytes.",
    },
    Block {
        types: &[(1560, "bit"), (1562, "varbit")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| printed(wanted, bits),
        examples: &["10101"],
        remark: "Digits 0 and 1; a length that is no multiple of eight has no other exact form.",
    },
    // PostGIS sends EWKB: WKB with flags for further coordinates and, if it has one, the identifier of its reference system.
    Block {
        types: &[(0, "geometry"), (0, "geography")],
        exact: |ty| if srid(ty.typmod) != 0 || ty.name == "geography" { ColumnType::Wkb } else { ColumnType::Binary },
        read: |_, wanted, _| match wanted {
            ColumnType::Wkb => both(binary_from(ewkb_to_wkb, hex_ewkb_to_wkb)),
            ColumnType::Binary => both(binary(hex_bytes)),
            _ => server_text(wanted),
        },
        examples: &["0101000020E6100000000000000000F03F0000000000000040"],
        remark: "`wkb` is ISO WKB, as `ST_AsBinary` gives it, where the column declares its reference system, so that nothing is lost by \
                 leaving it out of the values. A geometry column that does not declare one is `binary`: EWKB, as `ST_AsEWKB` gives it. \
                 Either can be asked for; `string` is EWKB in hexadecimal.",
    },
];

/// The reference system that a type modifier names (PostGIS `TYPMOD_GET_SRID`: 21 bits, signed); 0 for none.
fn srid(typmod: i32) -> i32 {
    if typmod < 0 { 0 } else { ((typmod & 0x0FFF_FF00) - (typmod & 0x1000_0000)) >> 8 }
}

const HEX: [u8; 16] = *b"0123456789abcdef";

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]));
}

/// As `byteaout` prints it with `bytea_output` hex.
fn bytea_print(field: &[u8], out: &mut Vec<u8>) -> Step {
    out.extend_from_slice(b"\\x");
    hex(field, out);
    Ok(())
}

/// As `uuid_out` prints it.
fn uuid_print(field: &[u8], out: &mut Vec<u8>) -> Step {
    let bytes: [u8; 16] = exact_bytes(field)?;
    for (at, group) in [(0, 4), (4, 6), (6, 8), (8, 10), (10, 16)] {
        if at > 0 {
            out.push(b'-');
        }
        hex(&bytes[at..group], out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::{accepts, base, check, decode, exactly, extension, planned};
    use super::super::pg_type::PgType;
    use super::super::special::SpecialValues;
    use super::super::{Select, Wire};
    use super::srid;

    // Binary forms and texts were taken from PostgreSQL 15; of PostGIS from its documentation and `liblwgeom.h`.

    #[test]
    fn bytes_in_both_formats() {
        let ty = || base(17, "bytea", -1);
        exactly(ty(), "binary");
        accepts(&ty(), &["binary"]);
        check(
            ty(),
            "binary",
            &[("00ff80", "\\x00ff80", "00ff80"), ("", "\\x", ""), ("5c78", "\\\\x", "5c78"), ("00ff27", "\\000\\377'", "00ff27")],
        );
        check(ty(), "string", &[("00ff80", "\\x00ff80", "\\x00ff80"), ("", "\\x", "\\x")]);
    }

    #[test]
    fn uuids() {
        let ty = || base(2950, "uuid", -1);
        let (text, zero) = ("0192f0c1-2345-7abc-8def-0123456789ab", "00000000-0000-0000-0000-000000000000");
        exactly(ty(), "uuid");
        accepts(&ty(), &["uuid"]);
        let bytes = "0192f0c123457abc8def0123456789ab";
        check(ty(), "uuid", &[(bytes, text, bytes), (&"00".repeat(16), zero, &"00".repeat(16))]);
        check(ty(), "string", &[(bytes, text, text), (&"00".repeat(16), zero, zero)]);
        for wanted in ["uuid", "string"] {
            assert!(decode(ty(), wanted, vec![Some(vec![0; 15])]).is_err());
        }
    }

    #[test]
    fn bits() {
        for (oid, name) in [(1560, "bit"), (1562, "varbit")] {
            exactly(base(oid, name, -1), "string");
            accepts(&base(oid, name, -1), &[]);
            let rows = [("00000005a8", "10101"), ("00000009aa80", "101010101"), ("00000000", ""), ("0000000180", "1")];
            check(base(oid, name, -1), "string", &rows.map(|(binary, text)| (binary, text, text)));
        }
    }

    /// PostGIS' `TYPMOD_SET_SRID`, and `TYPMOD_SET_TYPE` (bits 2 to 7).
    fn typmod(srid: i32, kind: i32) -> i32 {
        let flags = (kind << 2).cast_unsigned() & 0xE000_00FF;
        (flags | (srid.cast_unsigned() & 0x001F_FFFF) << 8).cast_signed()
    }

    #[test]
    fn a_type_modifier_names_the_reference_system() {
        // What `SELECT atttypmod` shows for geometry(Point,4326) and geometry(Point).
        assert_eq!((typmod(4326, 1), typmod(0, 1)), (1_107_460, 4));
        for (modifier, expected) in [(-1, 0), (0, 0), (4, 0), (1_107_460, 4326), (typmod(999_999, 15), 999_999), (typmod(-1, 0), -1)] {
            assert_eq!(srid(modifier), expected, "{modifier}");
        }
    }

    #[test]
    fn geometries() {
        let geometry = |typmod: i32| PgType { typmod, ..extension("geometry") };
        for (ty, exact) in [
            (geometry(-1), "binary"),
            (geometry(typmod(0, 1)), "binary"),
            (geometry(typmod(4326, 1)), "wkb"),
            (geometry(typmod(4326, 0)), "wkb"),
            (extension("geography"), "wkb"),
        ] {
            exactly(ty.clone(), exact);
            accepts(&ty, &["binary", "wkb"]);
            let ewkb = "0101000020e6100000000000000000f03f0000000000000040";
            check(ty.clone(), "wkb", &[(ewkb, &ewkb.to_uppercase(), "0101000000000000000000f03f0000000000000040")]);
            check(ty.clone(), "binary", &[(ewkb, &ewkb.to_uppercase(), ewkb)]);
            let plan = planned(&ty, "string", SpecialValues::Error).expect("plan");
            assert_eq!(plan.select(Wire::Binary), Select::Output);
        }
        // Z and M, in the other byte order.
        let ewkb = "00e0000001000010e6 3ff0000000000000 4000000000000000 3ff0000000000000 4000000000000000".replace(' ', "");
        let wkb = ewkb.replace("e0000001000010e6", "00000bb9");
        check(geometry(-1), "wkb", &[(&ewkb, &ewkb.to_uppercase(), &wkb)]);
    }
}
