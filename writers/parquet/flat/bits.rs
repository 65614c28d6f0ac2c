//! Numbers packed into bits, in the two forms that Parquet has (`Encodings.md` of the format).
//!
//! The hybrid of runs and packed groups (RLE, 3) carries definition levels and the indices of dictionaries; deltas
//! (DELTA_BINARY_PACKED, 5) carry whole numbers. Pure: numbers in, bytes out.

/// Values that are packed by one unrolled loop.
const GROUP: usize = 32;
/// Values of the smallest packed group of the hybrid.
const EIGHT: usize = 8;
/// A run shorter than this many bits is packed with its neighbours: a run of its own breaks them in two.
const RUN_BITS: usize = 48;

/// Values of a block of deltas, each with a smallest delta of its own.
const BLOCK: usize = 128;
/// Parts of a block, each with a width of its own.
const PARTS: usize = BLOCK / GROUP;

/// Bits that hold every number up to `largest`, at least one: some readers do not take a width of none.
pub(super) fn width_of(largest: u32) -> u32 {
    (u32::BITS - largest.leading_zeros()).max(1)
}

/// Appends `value` in groups of seven bits, the lowest first.
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number, small ones of either sign in few bytes.
fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)) as u64, out);
}

/// Packs 32 values of `W` bits. With `W` known the loop unrolls into shifts by constants.
#[inline(always)]
fn pack<const W: usize>(values: &[u32; GROUP], out: &mut [u8]) {
    let (mut bits, mut filled) = (0_u64, 0);
    let mut words = out.chunks_exact_mut(4);
    for value in values {
        bits |= u64::from(*value) << filled;
        filled += W;
        if filled >= 32 {
            if let Some(word) = words.next() {
                word.copy_from_slice(&(bits as u32).to_le_bytes());
            }
            bits >>= 32;
            filled -= 32;
        }
    }
}

/// Appends 32 values of `width` bits, at most 32: four bytes for each bit of the width.
fn pack_group(values: &[u32; GROUP], width: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 4 * width as usize, 0);
    let out = &mut out[start..];
    macro_rules! by_width {
        ($($w:literal)*) => { match width { $($w => pack::<$w>(values, out),)* _ => {} } };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
}

/// Appends `values` of `width` bits as runs and packed groups.
pub(super) fn hybrid(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let (mut at, mut literal) = (0, 0);
    while let Some(eight) = values.get(at..at + EIGHT) {
        let first = eight[0];
        if eight.iter().fold(0, |differ, value| differ | (value ^ first)) != 0 {
            at += EIGHT;
            continue;
        }
        let end = at + EIGHT + values[at + EIGHT..].iter().take_while(|value| **value == first).count();
        // Packed groups are of eight, so what is left to them must begin at a multiple of eight.
        let end = if end == values.len() { end } else { end - (end - at) % EIGHT };
        if (end - at) * width as usize >= RUN_BITS {
            literals(&values[literal..at], width, out);
            varint(((end - at) as u64) << 1, out);
            out.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
            literal = end;
        }
        at = end;
    }
    literals(&values[literal..], width, out);
}

fn literals(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(EIGHT);
    varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * width as usize;
    let (whole, rest) = values.as_chunks::<GROUP>();
    whole.iter().for_each(|group| pack_group(group, width, out));
    if !rest.is_empty() {
        let mut group = [0; GROUP];
        group[..rest.len()].copy_from_slice(rest);
        pack_group(&group, width, out);
    }
    out.truncate(end);
}

/// Appends the deltas of 64-bit numbers.
pub(super) fn deltas(values: &[i64], out: &mut Vec<u8>) {
    deltas_of(values.len(), values.first().copied().unwrap_or(0), values.windows(2), |pair| pair[1].wrapping_sub(pair[0]), out);
}

/// Appends the deltas of 32-bit numbers, which wrap at 32 bits.
pub(super) fn deltas_narrow(values: &[i32], out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or(0);
    deltas_of(values.len(), first.into(), values.windows(2), |pair| pair[1].wrapping_sub(pair[0]).into(), out);
}

fn deltas_of<'a, T: 'a>(count: usize, first: i64, mut pairs: std::slice::Windows<'a, T>, delta: impl Fn(&[T]) -> i64, out: &mut Vec<u8>) {
    varint(BLOCK as u64, out);
    varint(PARTS as u64, out);
    varint(count as u64, out);
    zigzag(first, out);
    let narrow = size_of::<T>() <= 4;
    let mut block = [0_i64; BLOCK];
    loop {
        let mut filled = 0;
        for (place, pair) in block.iter_mut().zip(&mut pairs) {
            *place = delta(pair);
            filled += 1;
        }
        let Some(least) = block[..filled].iter().min().copied() else { return };
        zigzag(least, out);
        // A number that is not there has the smallest delta, which takes no bits.
        block[filled..].fill(least);
        let mut above = [0_u64; BLOCK];
        for (above, delta) in above.iter_mut().zip(&block) {
            let difference = delta.wrapping_sub(least) as u64;
            *above = if narrow { difference & 0xFFFF_FFFF } else { difference };
        }
        let (parts, _) = above.as_chunks::<GROUP>();
        let widths: [u32; PARTS] = std::array::from_fn(|part| u64::BITS - parts[part].iter().fold(0, |all, one| all | one).leading_zeros());
        out.extend(widths.map(|width| width as u8));
        for (part, width) in parts.iter().zip(widths).take(filled.div_ceil(GROUP)) {
            if width <= 32 {
                pack_group(&part.map(|above| above as u32), width, out);
            } else {
                pack_wide(part, width, out);
            }
        }
    }
}

/// Appends 32 values of more than 32 bits.
fn pack_wide(values: &[u64; GROUP], width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0_u128, 0);
    for value in values {
        bits |= u128::from(*value) << filled;
        filled += width;
        while filled >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            filled -= 32;
        }
    }
}

/// Bits per number that deltas of `values` take, about.
pub(crate) fn delta_bits(values: &[i64]) -> usize {
    let mut out = Vec::new();
    deltas(values, &mut out);
    out.len() * 8 / values.len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the hybrid back, straight from the description of the format.
    fn read_hybrid(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let header = read_varint(&mut bytes);
            let run = (header >> 1) as usize;
            if header & 1 == 0 {
                let (value, rest) = bytes.split_at(width.div_ceil(8) as usize);
                let mut word = [0; 4];
                word[..value.len()].copy_from_slice(value);
                values.extend(std::iter::repeat_n(u32::from_le_bytes(word), run));
                bytes = rest;
            } else {
                let (packed, rest) = bytes.split_at(run * width as usize);
                values.extend((0..run * 8).map(|i| read_bits(packed, i * width as usize, width) as u32));
                bytes = rest;
            }
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        unreachable!()
    }

    fn read_bits(bytes: &[u8], at: usize, width: u32) -> u64 {
        (0..width as usize).fold(0, |value, bit| value | u64::from(bytes[(at + bit) / 8] >> ((at + bit) % 8) & 1) << bit)
    }

    fn read_deltas(mut bytes: &[u8], narrow: bool) -> Vec<i64> {
        let unzigzag = |v: u64| (v >> 1) as i64 ^ -((v & 1) as i64);
        let (block, parts, count) = (read_varint(&mut bytes), read_varint(&mut bytes), read_varint(&mut bytes) as usize);
        assert_eq!((block, parts), (128, 4));
        let mut values = vec![unzigzag(read_varint(&mut bytes))];
        while values.len() < count {
            let least = unzigzag(read_varint(&mut bytes));
            let (widths, rest) = bytes.split_at(4);
            bytes = rest;
            for width in widths.iter().take((count - values.len()).div_ceil(32)) {
                let (part, rest) = bytes.split_at(4 * usize::from(*width));
                bytes = rest;
                for i in 0..32 {
                    let delta = least.wrapping_add(read_bits(part, i * usize::from(*width), u32::from(*width)) as i64);
                    let next = values[values.len() - 1].wrapping_add(delta);
                    values.push(if narrow { i64::from(next as i32) } else { next });
                }
            }
            values.truncate(count);
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    fn noise(seed: u64, count: usize) -> Vec<u64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let step = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state
        };
        (0..count).map(|_| step(&mut state)).collect()
    }

    #[test]
    fn the_hybrid_reads_back_at_every_width_and_length() {
        for width in 1..=32 {
            let mask = u32::MAX >> (32 - width);
            for count in [1, 7, 8, 9, 31, 32, 33, 100, 1000] {
                let mut values: Vec<u32> = noise(u64::from(width), count).iter().map(|v| *v as u32 & mask).collect();
                for (from, to) in [(0, 0), (5, 70), (8, 64), (90, 1000), (0, 1000)] {
                    let to = to.min(count);
                    if from < to {
                        values[from..to].fill(mask);
                    }
                    let mut out = Vec::new();
                    hybrid(&values, width, &mut out);
                    assert_eq!(read_hybrid(&out, width, count), values, "{width} bits, {count} values, a run {from}..{to}");
                }
            }
        }
    }

    #[test]
    fn a_constant_is_one_run() {
        let mut out = Vec::new();
        hybrid(&[1; 20_000], 1, &mut out);
        assert_eq!(out, [0xC0, 0xB8, 0x02, 1]);
    }

    #[test]
    fn deltas_read_back_at_every_magnitude() {
        for shift in 0..64 {
            for count in [1, 2, 32, 33, 128, 129, 130, 500] {
                let wide: Vec<i64> = noise(shift, count).iter().map(|v| (*v as i64) >> shift).collect();
                let mut out = Vec::new();
                deltas(&wide, &mut out);
                assert_eq!(read_deltas(&out, false), wide, "{shift} {count}");
                let narrow: Vec<i32> = wide.iter().map(|v| *v as i32).collect();
                let mut out = Vec::new();
                deltas_narrow(&narrow, &mut out);
                assert_eq!(read_deltas(&out, true), narrow.iter().map(|v| i64::from(*v)).collect::<Vec<_>>(), "{shift} {count}");
            }
        }
        let mut out = Vec::new();
        deltas(&[i64::MIN, i64::MAX, i64::MIN, 0], &mut out);
        assert_eq!(read_deltas(&out, false), [i64::MIN, i64::MAX, i64::MIN, 0]);
        let mut out = Vec::new();
        deltas_narrow(&[i32::MIN, i32::MAX, i32::MIN, 0], &mut out);
        assert_eq!(read_deltas(&out, true), [i32::MIN, i32::MAX, i32::MIN, 0].map(i64::from));
        // No value at all: a page of NULLs.
        let mut out = Vec::new();
        deltas(&[], &mut out);
        assert_eq!(out, [0x80, 0x01, 4, 0, 0]);
    }
}
