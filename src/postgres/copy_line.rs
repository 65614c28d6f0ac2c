//! A line of COPY (FORMAT text) becomes fields (manual, "COPY", section "Text Format").
//!
//! Pure. What the server writes: fields between tabs, `\N` for NULL, and a backslash before what would otherwise end a field or
//! a line.

use super::decode::{FieldAt, NULL};

/// The line that ends a stream in protocols before 3.
pub(super) const END: &[u8] = b"\\.";

/// Resolves the escapes of `line` (without its end) into `out`, and finds as many fields in it as `fields` has places.
pub(super) fn split(line: &[u8], out: &mut Vec<u8>, fields: &mut [FieldAt]) -> Result<(), String> {
    out.clear();
    let expected = fields.len();
    let (mut rest, mut found, mut more) = (line, 0, true);
    while more {
        let Some(field) = fields.get_mut(found) else {
            let fields = 1 + found + rest.iter().filter(|byte| **byte == b'\t').count();
            return Err(format!("a line has {fields} fields, {expected} were asked for"));
        };
        found += 1;
        let start = out.len();
        let raw;
        (raw, rest, more) = match rest.iter().position(|byte| *byte == b'\t') {
            Some(end) => (&rest[..end], &rest[end + 1..], true),
            None => (rest, &rest[..0], false),
        };
        let len = if raw == b"\\N" {
            NULL
        } else {
            unescape(raw, out)?;
            i32::try_from(out.len() - start).map_err(|_| "a field is longer than any value".to_owned())?
        };
        *field = FieldAt { start, len };
    }
    if found != expected {
        return Err(format!("a line has {found} fields, {expected} were asked for"));
    }
    Ok(())
}

/// Appends a field. A tab inside a field is escaped as `\t`, so that cutting at tabs came first.
fn unescape(mut raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    while let Some(at) = raw.iter().position(|byte| *byte == b'\\') {
        let (plain, escape) = raw.split_at(at);
        out.extend_from_slice(plain);
        let [_, escaped, after @ ..] = escape else { return Err("a field ends in the middle of an escape".to_owned()) };
        out.push(match escaped {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
        raw = after;
    }
    out.extend_from_slice(raw);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[Option<&str>]) {
        let (mut out, mut fields) = (Vec::new(), vec![FieldAt { start: 0, len: NULL }; expected.len()]);
        split(line.as_bytes(), &mut out, &mut fields).expect(line);
        let found: Vec<_> = fields
            .iter()
            .map(|at| usize::try_from(at.len).ok().map(|len| std::str::from_utf8(&out[at.start..at.start + len]).expect("text")))
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn lines_as_the_server_writes_them() {
        check("1\tabc\t\\N", &[Some("1"), Some("abc"), None]);
        check("", &[Some("")]);
        check("\t", &[Some(""), Some("")]);
        check(r"\\N", &[Some(r"\N")]);
        check(r"a\tb\nc\rd\\e\bf\fg\vh", &[Some("a\tb\nc\rd\\e\u{8}f\u{c}g\u{b}h")]);
        check(r"\\.", &[Some(r"\.")]);
        check(r"{a,\N}", &[Some("{a,N}")]);
    }

    #[test]
    fn lines_that_it_does_not_write() {
        let fault = |line: &str, columns: usize| {
            split(line.as_bytes(), &mut Vec::new(), &mut vec![FieldAt { start: 0, len: NULL }; columns]).expect_err(line)
        };
        assert_eq!(fault("a\tb\tc", 2), "a line has 3 fields, 2 were asked for");
        assert_eq!(fault("a", 2), "a line has 1 fields, 2 were asked for");
        assert_eq!(fault("a\\", 1), "a field ends in the middle of an escape");
    }
}
