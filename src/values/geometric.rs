//! Geometric values as they are on the wire, printed as PostgreSQL prints them, or taken apart into their numbers.
//!
//! The binary forms are those of the send functions in `utils/adt/geo_ops.c`: doubles, before those of a path or polygon how many
//! points there are. The text is that of the output functions of PostgreSQL 12 and later; earlier ones print more digits, and
//! [`reprint`] brings their text to the same form.

use super::float::{parse_f64, print_f64};
use super::{Fault, Parts, Step, nothing_left, take, take_i32};

/// Appends a point: `(x,y)`.
pub(crate) fn point(field: &[u8], out: &mut Vec<u8>) -> Step {
    numbers::<2>(field, "(*,*)", out)
}

/// Appends a line, Ax + By + C = 0: `{A,B,C}`.
pub(crate) fn line(field: &[u8], out: &mut Vec<u8>) -> Step {
    numbers::<3>(field, "{*,*,*}", out)
}

/// Appends a line segment: `[(x1,y1),(x2,y2)]`.
pub(crate) fn lseg(field: &[u8], out: &mut Vec<u8>) -> Step {
    numbers::<4>(field, "[(*,*),(*,*)]", out)
}

/// Appends a box: `(x1,y1),(x2,y2)`.
pub(crate) fn rectangle(field: &[u8], out: &mut Vec<u8>) -> Step {
    numbers::<4>(field, "(*,*),(*,*)", out)
}

/// Appends a circle: `<(x,y),r>`.
pub(crate) fn circle(field: &[u8], out: &mut Vec<u8>) -> Step {
    numbers::<3>(field, "<(*,*),*>", out)
}

/// Appends a path, `((x1,y1),...)` when it is closed and `[(x1,y1),...]` when it is open.
pub(crate) fn path(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut rest = field;
    match take(&mut rest, "a path")? {
        [0] => points(rest, "a path", b'[', b']', out),
        [1] => points(rest, "a path", b'(', b')', out),
        [other] => Err(Fault::malformed(format!("a path is marked {other}, neither closed nor open"))),
    }
}

/// Appends a polygon: `((x1,y1),...)`.
pub(crate) fn polygon(field: &[u8], out: &mut Vec<u8>) -> Step {
    points(field, "a polygon", b'(', b')', out)
}

/// Appends the text of any geometric value with its numbers as PostgreSQL 12 and later print them.
pub(crate) fn reprint(field: &[u8], out: &mut Vec<u8>) -> Step {
    for piece in field.chunk_by(|a, b| !is_punctuation(a) && !is_punctuation(b)) {
        match piece {
            [byte] if is_punctuation(byte) => out.push(*byte),
            number => print_f64(parse_f64(number)?, out),
        }
    }
    Ok(())
}

/// Hands over the numbers of a binary point, line, lseg, box or circle, 8 bytes each.
pub(crate) fn floats_binary(field: &[u8], parts: &mut Parts<'_>) -> Step {
    let (numbers, rest) = field.as_chunks::<8>();
    nothing_left(rest, "a geometric value")?;
    numbers.iter().try_for_each(|number| parts(Some(number)))
}

/// Hands over the texts of the numbers in the text of a geometric value.
pub(crate) fn floats_text(field: &[u8], parts: &mut Parts<'_>) -> Step {
    field.split(is_punctuation).filter(|number| !number.is_empty()).try_for_each(|number| parts(Some(number)))
}

fn is_punctuation(byte: &u8) -> bool {
    matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b',')
}

/// `N` doubles, each in the place of a star.
fn numbers<const N: usize>(field: &[u8], form: &str, out: &mut Vec<u8>) -> Step {
    let (numbers, rest) = field.as_chunks::<8>();
    if numbers.len() != N || !rest.is_empty() {
        return Err(Fault::malformed(format!("{} bytes are expected, {} were sent", N * 8, field.len())));
    }
    let mut numbers = numbers.iter();
    for byte in form.bytes() {
        match byte {
            b'*' => numbers.by_ref().take(1).for_each(|number| print_f64(f64::from_be_bytes(*number), out)),
            byte => out.push(byte),
        }
    }
    Ok(())
}

/// How many points there are, then the points.
fn points(field: &[u8], what: &str, open: u8, close: u8, out: &mut Vec<u8>) -> Step {
    let mut rest = field;
    let count = take_i32(&mut rest, what)?;
    let (points, odd) = rest.as_chunks::<16>();
    if count < 1 || usize::try_from(count) != Ok(points.len()) || !odd.is_empty() {
        return Err(Fault::malformed(format!("{what} of {} bytes claims {count} points", field.len())));
    }
    for (i, pair) in points.iter().enumerate() {
        out.push(if i == 0 { open } else { b',' });
        point(pair, out)?;
    }
    out.push(close);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{Printer, check, damaged, hex, printed};

    #[test]
    fn wire_forms_taken_from_a_server_print_as_it_prints_them() {
        // select encode(point_send(x), 'hex'), x on PostgreSQL 15, and so on.
        check(
            point,
            &[
                ("00000000000000000000000000000000", "(0,0)"),
                ("3ff8000000000000c000000000000000", "(1.5,-2)"),
                ("80000000000000007ff8000000000000", "(-0,NaN)"),
                ("7ff0000000000000fff0000000000000", "(Infinity,-Infinity)"),
                ("44b52d02c7e14af63fb999999999999a", "(9.999999999999999e+22,0.1)"),
                ("430c6bf5263400003ee4f8b588e368f1", "(1e+15,1e-05)"),
            ],
        );
        check(
            line,
            &[
                ("3ff0000000000000bff00000000000000000000000000000", "{1,-1,0}"),
                ("3fb999999999999a7e37e43c8800759c8000000000000000", "{0.1,1e+300,-0}"),
            ],
        );
        check(
            lseg,
            &[
                ("000000000000000000000000000000003ff00000000000003ff0000000000000", "[(0,0),(1,1)]"),
                ("bfe00000000000003e7ad7f29abcaf487ff80000000000007ff0000000000000", "[(-0.5,1e-07),(NaN,Infinity)]"),
            ],
        );
        check(
            rectangle,
            &[
                ("3ff00000000000003ff000000000000000000000000000000000000000000000", "(1,1),(0,0)"),
                ("400800000000000054b249ad2594c37dbff80000000000004000000000000000", "(3,1e+100),(-1.5,2)"),
            ],
        );
        check(
            circle,
            &[
                ("000000000000000000000000000000003ff0000000000000", "<(0,0),1>"),
                ("3ff8000000000000c0040000000000000000000000000000", "<(1.5,-2.5),0>"),
                ("7ff800000000000080000000000000007ff0000000000000", "<(NaN,-0),Infinity>"),
            ],
        );
        check(
            path,
            &[
                ("010000000100000000000000000000000000000000", "((0,0))"),
                ("000000000100000000000000000000000000000000", "[(0,0)]"),
                (
                    "0100000003000000000000000000000000000000003ff00000000000003ff8000000000000c0000000000000004008000000000000",
                    "((0,0),(1,1.5),(-2,3))",
                ),
                (
                    "0000000003000000000000000000000000000000003ff00000000000003ff80000000000007ff8000000000000fff0000000000000",
                    "[(0,0),(1,1.5),(NaN,-Infinity)]",
                ),
            ],
        );
        check(
            polygon,
            &[
                ("0000000100000000000000000000000000000000", "((0,0))"),
                (
                    "00000003000000000000000000000000000000003ff00000000000003ff8000000000000c0000000000000004008000000000000",
                    "((0,0),(1,1.5),(-2,3))",
                ),
                (
                    "000000027ff0000000000000800000000000000044b52d02c7e14af63ddb7cdfd9d7bdbb",
                    "((Infinity,-0),(9.999999999999999e+22,1e-10))",
                ),
            ],
        );
    }

    #[test]
    fn malformed_values_are_faults() {
        for (printer, binary) in [
            (point as Printer, "00"),
            (point, ""),
            (line, "00000000000000000000000000000000"),
            (path, ""),
            (path, "020000000100000000000000000000000000000000"),
            (path, "0100000000"),
            (path, "01ffffffff"),
            (path, "017fffffff00000000000000000000000000000000"),
            (polygon, "00000000"),
            (polygon, "000000010000000000000000000000000000000000"),
        ] {
            assert!(matches!(printer(&hex(binary), &mut Vec::new()).map_err(|f| *f), Err(Fault::Malformed(_))), "{binary}");
        }
    }

    #[test]
    fn text_of_older_servers_becomes_that_of_newer_ones() {
        for (older, newer) in [
            ("(0.10000000000000001,-0)", "(0.1,-0)"),
            ("{1,-1,9.9999999999999992e+22}", "{1,-1,9.999999999999999e+22}"),
            ("[(0,1),(NaN,-Infinity)]", "[(0,1),(NaN,-Infinity)]"),
            ("(1,1),(0,1.0000000000000001e-05)", "(1,1),(0,1e-05)"),
            ("<(0.29999999999999999,0.30000000000000004),1>", "<(0.3,0.30000000000000004),1>"),
            ("((0,0),(1e+300,2))", "((0,0),(1e+300,2))"),
        ] {
            assert_eq!(printed(reprint, older.as_bytes()), newer);
            damaged(older.as_bytes(), |field| {
                let _ = reprint(field, &mut Vec::new());
                let _ = floats_text(field, &mut |_| Ok(()));
            });
        }
        assert!(reprint(b"(1,x)", &mut Vec::new()).is_err());
        assert!(reprint(b"(1, 2)", &mut Vec::new()).is_err());
    }

    #[test]
    fn values_come_apart_into_their_numbers() {
        let parts_of = |split: fn(&[u8], &mut Parts<'_>) -> Step, field: &[u8]| {
            let mut found = Vec::new();
            let result = split(field, &mut |part| {
                found.push(part.expect("a number").to_vec());
                Ok(())
            });
            result.map(|()| found)
        };
        let field = hex("3ff8000000000000c000000000000000");
        assert_eq!(parts_of(floats_binary, &field).expect("binary"), [hex("3ff8000000000000"), hex("c000000000000000")]);
        assert!(parts_of(floats_binary, &field[1..]).is_err());
        assert_eq!(parts_of(floats_text, b"<(1.5,-2),NaN>").expect("circle"), [&b"1.5"[..], b"-2", b"NaN"]);
        assert_eq!(parts_of(floats_text, b"{1,2,3}").expect("line"), [b"1", b"2", b"3"]);
        assert!(floats_text(b"(1,2)", &mut |_| Err(Fault::bug("stop"))).is_err());
    }
}
