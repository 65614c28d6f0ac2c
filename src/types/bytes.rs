//! Blocks: bytes, bits, UUIDs, and geometries of PostGIS.

use super::block::{Block, both, printed, server_text};
use crate::columns::fixed::uuid;
use crate::columns::variable::{binary, binary_from};
use crate::config::column_type::ColumnType;
use crate::values::plain::{bits, bytea_text};
use crate::values::wkb::{ewkb_to_wkb, hex_bytes, hex_ewkb_to_wkb};
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
