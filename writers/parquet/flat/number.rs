//! Values of fixed width as Parquet stores and orders them.

use super::bits;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::statistics::{Statistics, ValueStatistics};

/// A value of fixed width.
pub(super) trait Number: Copy + PartialOrd + Send + 'static {
    /// Whether it is a whole number of up to 64 bits: such may be stored as deltas.
    const IS_WHOLE: bool = false;

    /// Bits that decide in which place of a dictionary the value goes; of a whole number, the number itself.
    fn hash_bits(self) -> u64;

    /// Whether both are one value, bit for bit.
    #[inline]
    fn is(self, other: Self) -> bool {
        self == other
    }

    /// Whether it comes before the other one in the column's order.
    #[inline]
    fn is_below(self, other: Self) -> bool {
        self < other
    }

    /// The smallest and the largest; of floats, without those that have no place in the order.
    fn bounds(values: &[Self]) -> Option<(Self, Self)> {
        let (first, rest) = values.split_first()?;
        Some(rest.iter().fold((*first, *first), |(low, high), value| {
            (if value.is_below(low) { *value } else { low }, if high.is_below(*value) { *value } else { high })
        }))
    }

    /// Appends the values in the plain encoding; those of 16 bytes may be stored in fewer.
    fn plain(values: &[Self], width: usize, out: &mut Vec<u8>);

    /// Appends the values as deltas.
    fn deltas(_values: &[Self], _out: &mut Vec<u8>) {}

    /// The chunk's statistics.
    fn statistics(bounds: Option<(Self, Self)>, nulls: u64, width: usize, signed: bool) -> Statistics;
}

/// The smaller and the larger bounds of both.
pub(super) fn both<N: Number>(one: Option<(N, N)>, other: Option<(N, N)>) -> Option<(N, N)> {
    let (Some((low, high)), Some((other_low, other_high))) = (one, other) else { return one.or(other) };
    Some((if other_low.is_below(low) { other_low } else { low }, if high.is_below(other_high) { other_high } else { high }))
}

/// Statistics of values in the form in which the crate keeps them.
macro_rules! statistics {
    ($bounds:expr, $nulls:expr, $signed:expr) => {{
        let (low, high) = $bounds.unzip();
        ValueStatistics::new(low, high, None, Some($nulls), false).with_backwards_compatible_min_max($signed).into()
    }};
}

macro_rules! whole {
    ($t:ty, $deltas:path) => {
        impl Number for $t {
            const IS_WHOLE: bool = true;

            #[inline]
            fn hash_bits(self) -> u64 {
                self as u64
            }

            fn plain(values: &[Self], _: usize, out: &mut Vec<u8>) {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }

            fn deltas(values: &[Self], out: &mut Vec<u8>) {
                $deltas(values, out);
            }

            fn statistics(bounds: Option<(Self, Self)>, nulls: u64, _: usize, signed: bool) -> Statistics {
                statistics!(bounds, nulls, signed)
            }
        }
    };
}

whole!(i32, bits::deltas_narrow);
whole!(i64, bits::deltas);

macro_rules! float {
    ($t:ty) => {
        impl Number for $t {
            #[inline]
            fn hash_bits(self) -> u64 {
                self.to_bits().into()
            }

            #[inline]
            fn is(self, other: Self) -> bool {
                self.to_bits() == other.to_bits()
            }

            /// NaN has no place in the order. A zero may stand for one of the other sign (`Statistics` in `parquet.thrift`).
            fn bounds(values: &[Self]) -> Option<(Self, Self)> {
                let mut numbers = values.iter().copied().filter(|value| !value.is_nan());
                let first = numbers.next()?;
                let (low, high) = numbers.fold((first, first), |(low, high), value| (low.min(value), high.max(value)));
                Some((if low == 0.0 { -0.0 } else { low }, if high == 0.0 { 0.0 } else { high }))
            }

            fn plain(values: &[Self], _: usize, out: &mut Vec<u8>) {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }

            fn statistics(bounds: Option<(Self, Self)>, nulls: u64, _: usize, signed: bool) -> Statistics {
                statistics!(bounds, nulls, signed)
            }
        }
    };
}

float!(f32);
float!(f64);

/// Sixteen bytes: a decimal (`i128`), stored in as many as its precision needs, or a string of bytes in order (`u128`).
macro_rules! sixteen {
    ($t:ty) => {
        impl Number for $t {
            #[inline]
            fn hash_bits(self) -> u64 {
                self as u64 ^ ((self >> 64) as u64).rotate_left(29)
            }

            fn plain(values: &[Self], width: usize, out: &mut Vec<u8>) {
                out.reserve(values.len() * width);
                values.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()[16 - width..]));
            }

            fn statistics(bounds: Option<(Self, Self)>, nulls: u64, width: usize, signed: bool) -> Statistics {
                let stored = |value: Self| FixedLenByteArray::from(ByteArray::from(value.to_be_bytes()[16 - width..].to_vec()));
                statistics!(bounds.map(|(low, high)| (stored(low), stored(high))), nulls, signed)
            }
        }
    };
}

sixteen!(i128);
sixteen!(u128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_leave_out_what_has_no_order() {
        assert_eq!(f64::bounds(&[f64::NAN, 2.0, f64::NAN, -1.0]), Some((-1.0, 2.0)));
        assert_eq!(f32::bounds(&[f32::NAN]), None);
        let zeros = f64::bounds(&[-0.0]).expect("zeros");
        assert_eq!((zeros.0.to_bits(), zeros.1.to_bits()), ((-0.0_f64).to_bits(), 0.0_f64.to_bits()));
        let zeros = f64::bounds(&[0.0, f64::NAN]).expect("zeros");
        assert_eq!((zeros.0.to_bits(), zeros.1.to_bits()), ((-0.0_f64).to_bits(), 0.0_f64.to_bits()));
        assert_eq!(i64::bounds(&[3, i64::MIN, i64::MAX]), Some((i64::MIN, i64::MAX)));
        assert_eq!(i64::bounds(&[]), None);
        assert_eq!(both(Some((1, 4)), Some((-2, 3))), Some((-2, 4)));
        assert_eq!(both(None, Some((-2, 3))), Some((-2, 3)));
    }
}
