//! Names of files and folders: what a part's files are called, and how a column's value becomes the
//! name of a folder.
//!
//! Promises that the same part and number give the same name for ever (staging again replaces), and
//! that no value, whatever its bytes, can leave its folder, hide it from a reader or make it too long
//! for a file system. Does no I/O and does not know what partitions are.

use crate::table::PartName;
use std::fmt::Write;

/// What distinguishes a file that waits for its commit from one that readers may open.
const STAGED: &str = ".staged";

/// File systems allow 255 bytes per name; the rest is left for suffixes that a store adds.
const SEGMENT_BYTES_MAX: usize = 200;

/// Final name of the file number `number` of a part: `<generation>-00012-003.parquet`.
pub(crate) fn file_name(part: &PartName, number: u32) -> String {
    format!("{part}-{number:03}.parquet")
}

/// Name of the same file while it is staged. No reader's `*.parquet` matches it.
pub(crate) fn staged_name(file: &str) -> String {
    format!("{file}{STAGED}")
}

/// Appends `value` to `out`, percent-encoding what Hive encodes in folder names (control characters
/// and the characters that mean something in a path, a URL, a glob or `key=value`).
pub(crate) fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\0'..='\x1f' | '\x7f' | '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '}' | '[' | ']' | '^' => {
                write!(out, "%{:02X}", u32::from(c)).expect("a String takes everything")
            }
            _ => out.push(c),
        }
    }
}

/// Makes an assembled folder name safe as a whole: `.` and `..` are encoded, and so is a first `.` or
/// `_` that came from a value (readers of Hive layouts skip such folders as hidden). A name that is too
/// long is cut and told apart by a hash of all of it.
pub(crate) fn seal_segment(mut segment: String, begins_with_value: bool) -> String {
    if segment == "." || segment == ".." {
        segment = segment.replace('.', "%2E");
    } else if begins_with_value && segment.starts_with(['.', '_']) {
        let encoded = if segment.starts_with('.') { "%2E" } else { "%5F" };
        segment.replace_range(..1, encoded);
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        let hash = fnv1a(segment.as_bytes());
        let mut end = SEGMENT_BYTES_MAX - 17;
        while !segment.is_char_boundary(end) {
            end -= 1;
        }
        segment.truncate(end);
        write!(segment, "~{hash:016x}").expect("a String takes everything");
    }
    segment
}

/// FNV-1a, 64 bits: the same in every version of this program, unlike the standard library's hasher.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_part() {
        let part = PartName { generation: "g7".into(), sequence: 12 };
        assert_eq!(file_name(&part, 3), "g7-00012-003.parquet");
        assert_eq!(file_name(&part, 12345), "g7-00012-12345.parquet");
        assert_eq!(staged_name(&file_name(&part, 0)), "g7-00012-000.parquet.staged");
    }

    #[test]
    fn values_cannot_leave_their_folder() {
        let check = |value: &str, expected: &str| {
            let mut out = String::new();
            escape(value, &mut out);
            assert_eq!(seal_segment(out, true), expected, "{value:?}");
        };
        check("plain value", "plain value");
        check("a/b", "a%2Fb");
        check("..", "%2E%2E");
        check(".", "%2E");
        check("../../etc", "%2E.%2F..%2Fetc");
        check("_hidden", "%5Fhidden");
        check("50%", "50%25");
        check("\0\n\u{7f}", "%00%0A%7F");
        check("k=v:w", "k%3Dv%3Aw");
        check("grüße 日本", "grüße 日本");
    }

    #[test]
    fn literal_text_may_begin_with_an_underscore() {
        assert_eq!(seal_segment("_y=2024".into(), false), "_y=2024");
        assert_eq!(seal_segment("..".into(), false), "%2E%2E");
    }

    #[test]
    fn long_values_are_cut_at_a_character_and_stay_distinct() {
        let long = |last: char| seal_segment(format!("{}{last}", "é".repeat(500)), true);
        assert!(long('a').len() <= SEGMENT_BYTES_MAX);
        assert_ne!(long('a'), long('b'));
        assert_eq!(long('a'), long('a'));
        let fits = "x".repeat(SEGMENT_BYTES_MAX);
        assert_eq!(seal_segment(fits.clone(), true), fits);
    }
}
