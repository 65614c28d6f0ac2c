//! Bounds of texts and strings of bytes, cut to a length that fits a footer.

/// Bounds longer than this are cut. Readers use them to leave out pages, and 64 bytes tell nearly all pages apart.
const LENGTH_MAX: usize = 64;

/// A bound, and whether it is a value of the column rather than something beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) bytes: Vec<u8>,
    pub(super) exact: bool,
}

impl Bound {
    /// The longest start of `value` within the limit: nothing above `value`.
    pub(super) fn below(value: &[u8], utf8: bool) -> Self {
        let start = start(value, utf8);
        Self { bytes: start.to_vec(), exact: start.len() == value.len() }
    }

    /// The start of `value` with its last character, or byte, raised: nothing below `value`. All of `value` if none can be raised.
    pub(super) fn above(value: &[u8], utf8: bool) -> Self {
        let start = start(value, utf8);
        if start.len() == value.len() {
            return Self { bytes: value.to_vec(), exact: true };
        }
        match std::str::from_utf8(start).ok().filter(|_| utf8) {
            Some(text) => raised_text(text),
            None => raised(start),
        }
        .map_or_else(|| Self { bytes: value.to_vec(), exact: true }, |bytes| Self { bytes, exact: false })
    }

    /// The lower one of both.
    pub(super) fn lower(self, other: &Self) -> Self {
        if (&other.bytes, !other.exact) < (&self.bytes, !self.exact) { other.clone() } else { self }
    }

    /// The higher one of both.
    pub(super) fn higher(self, other: &Self) -> Self {
        if (&other.bytes, other.exact) > (&self.bytes, self.exact) { other.clone() } else { self }
    }
}

fn start(value: &[u8], utf8: bool) -> &[u8] {
    if value.len() <= LENGTH_MAX {
        return value;
    }
    let continues = |at: &usize| value.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    // A character has at most four bytes.
    let end = if utf8 { (LENGTH_MAX - 3..=LENGTH_MAX).rev().find(|at| !continues(at)).unwrap_or(LENGTH_MAX) } else { LENGTH_MAX };
    &value[..end]
}

/// The last character that has a successor of the same length is replaced by that.
fn raised_text(text: &str) -> Option<Vec<u8>> {
    text.char_indices().rev().find_map(|(at, last)| {
        let next = char::from_u32(u32::from(last) + 1).filter(|next| next.len_utf8() == last.len_utf8())?;
        let mut bytes = text.as_bytes()[..at].to_vec();
        bytes.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
        Some(bytes)
    })
}

fn raised(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut bytes = bytes[..=last].to_vec();
    bytes[last] += 1;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters_and_stay_bounds() {
        let cut = |text: String| (Bound::below(text.as_bytes(), true), Bound::above(text.as_bytes(), true));
        let (low, high) = cut("x".repeat(64));
        assert_eq!((low.exact, &low), (true, &high));
        let (low, high) = cut("x".repeat(65));
        assert_eq!((low.exact, low.bytes), (false, "x".repeat(64).into_bytes()));
        assert_eq!((high.exact, high.bytes), (false, format!("{}y", "x".repeat(63)).into_bytes()));
        // 63 bytes, then a character of two, three, four bytes.
        for last in ["ü", "語", "🦀"] {
            let text = format!("{}{last}{last}", "x".repeat(63));
            let (low, high) = cut(text.clone());
            assert_eq!(low.bytes, "x".repeat(63).into_bytes(), "{last}");
            assert!(low.bytes.as_slice() <= text.as_bytes() && text.as_bytes() <= high.bytes.as_slice());
            assert!(String::from_utf8(high.bytes).is_ok());
        }
        // Characters without a successor of their length: the one before them is raised, or nothing is.
        let (_, high) = cut(format!("a{}", "\u{7f}".repeat(80)));
        assert_eq!((high.exact, high.bytes), (false, b"b".to_vec()));
        let text = "\u{10FFFF}".repeat(20);
        let (_, high) = cut(text.clone());
        assert_eq!((high.exact, high.bytes), (true, text.into_bytes()));
        let high = Bound::above(&[0xFF; 70], false);
        assert_eq!((high.exact, high.bytes.len()), (true, 70));
        let high = Bound::above(&[&[1, 2], &[0xFF; 70][..]].concat(), false);
        assert_eq!((high.exact, high.bytes), (false, vec![1, 3]));
    }

    #[test]
    fn of_equal_bounds_the_exact_one_is_told() {
        let (exact, cut) = (Bound { bytes: b"a".to_vec(), exact: true }, Bound { bytes: b"a".to_vec(), exact: false });
        assert!(cut.clone().lower(&exact).exact && exact.clone().lower(&cut).exact);
        assert!(cut.clone().higher(&exact).exact && exact.higher(&cut).exact);
    }
}
