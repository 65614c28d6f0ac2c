//! Where a change is in the log, and the text that sorts changes as they happened.

use crate::postgres::lsn::{Lsn, PgTime};

/// The transaction of a change, and the place of the change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the transaction's commit record begins.
    pub commit: Lsn,
    /// When it was committed.
    pub time: PgTime,
    /// Number of the change within the transaction.
    pub sequence: u32,
}

/// `000000000A1B2C3D-0000000F`: sorts as the numbers do.
pub(super) fn order(place: Place) -> [u8; 25] {
    let mut text = [b'-'; 25];
    hexadecimal(place.commit.0, &mut text[..16]);
    hexadecimal(u64::from(place.sequence), &mut text[17..]);
    text
}

/// The last digits of a number, as many as there is room for. The formatter of the standard library takes ten times as long.
fn hexadecimal(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEF"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_change_is_two_numbers_of_fixed_width() {
        for (commit, sequence) in [(0, 0), (0x0196_4CC8, 1000), (1 << 63, 1 << 31), (u64::MAX, u32::MAX)] {
            let text = order(Place { commit: Lsn(commit), time: PgTime(0), sequence });
            assert_eq!(String::from_utf8_lossy(&text), format!("{commit:016X}-{sequence:08X}"));
        }
    }
}
