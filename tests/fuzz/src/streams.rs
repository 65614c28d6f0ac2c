//! COPY streams put together from fields, as the server does it.

use lakeward::types::Wire;

/// The header of a binary stream, without an extension.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A whole stream of these rows.
pub fn stream(wire: Wire, rows: &[Vec<Option<&[u8]>>]) -> Vec<u8> {
    let mut out = if wire == Wire::Binary { HEADER.to_vec() } else { Vec::new() };
    for row in rows {
        match wire {
            Wire::Binary => binary_row(row, &mut out),
            Wire::Text => text_row(row, &mut out),
        }
    }
    if wire == Wire::Binary {
        out.extend((-1_i16).to_be_bytes());
    }
    out
}

fn binary_row(row: &[Option<&[u8]>], out: &mut Vec<u8>) {
    out.extend((row.len() as i16).to_be_bytes());
    for field in row {
        match field {
            Some(field) => {
                out.extend((field.len() as i32).to_be_bytes());
                out.extend_from_slice(field);
            }
            None => out.extend((-1_i32).to_be_bytes()),
        }
    }
}

fn text_row(row: &[Option<&[u8]>], out: &mut Vec<u8>) {
    for (at, field) in row.iter().enumerate() {
        if at > 0 {
            out.push(b'\t');
        }
        match field {
            Some(field) => field.iter().for_each(|byte| match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\n' => out.extend_from_slice(b"\\n"),
                byte => out.push(*byte),
            }),
            None => out.extend_from_slice(b"\\N"),
        }
    }
    out.push(b'\n');
}
