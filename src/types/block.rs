//! What is known of one type: a block of the table of types.

use super::pg_type::PgType;
use super::special::SpecialValues;
use crate::columns::Maker;
use crate::columns::fixed::{OnSpecial, primitive};
use crate::columns::variable::{self, Write, text_from, verbatim};
use crate::config::column_type::ColumnType;
use crate::values::plain::parse_int;
use crate::values::{Fault, Step};
use arrow::array::types::{ArrowPrimitiveType, Decimal128Type};
use std::fmt::Display;
use std::io::Write as _;
use std::str::FromStr;

/// What is known of one source type.
pub(crate) struct Block {
    /// OIDs (`pg_type.dat`) and names of the types that this block is about. An extension's type has another OID in every
    /// database, here 0, and is known by its name. Empty for kinds of types.
    pub(crate) types: &'static [(u32, &'static str)],
    /// The destination type that alters no value.
    pub(crate) exact: fn(&PgType) -> ColumnType,
    /// The way into a destination type; `None` where there is none without loss.
    pub(crate) read: fn(&PgType, &ColumnType, SpecialValues) -> Option<Route>,
    /// Values as the server prints them, for the documentation.
    pub(crate) examples: &'static [&'static str],
    /// What a user should know, a sentence or two; may be empty.
    pub(crate) remark: &'static str,
}

/// How a source type gets into a destination type.
pub(crate) struct Route {
    /// Whether the binary form can be read. If not, the value has to come as text. (Text can always be read.)
    pub(crate) binary: bool,
    /// Makes the column that reads both forms.
    pub(crate) column: Maker,
}

/// Read in both forms.
pub(crate) fn both(column: Maker) -> Option<Route> {
    Some(Route { binary: true, column })
}

/// Read as text only.
pub(crate) fn only_text(column: Maker) -> Option<Route> {
    Some(Route { binary: false, column })
}

/// Text, if it is text that is wanted: `print` appends what the output function prints to a binary value.
pub(crate) fn printed(wanted: &ColumnType, print: Write) -> Option<Route> {
    wanted.is_text().then(|| both(text_from(print, verbatim)))?
}

/// Text, if it is text that is wanted: the same bytes in both forms.
pub(crate) fn same_text(wanted: &ColumnType) -> Option<Route> {
    wanted.is_text().then(|| both(variable::text()))?
}

/// Text, if it is text that is wanted, as the server prints it.
pub(crate) fn server_text(wanted: &ColumnType) -> Option<Route> {
    wanted.is_text().then(|| only_text(variable::text()))?
}

/// A column of `T` that has a place for every value.
pub(crate) fn fixed<T: ArrowPrimitiveType>(
    wanted: &ColumnType,
    binary: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
    text: impl Fn(&[u8]) -> Step<T::Native> + Copy + Send + Sync + 'static,
) -> Option<Route> {
    both(primitive::<T>(wanted.arrow(), binary, text, OnSpecial::Refuse))
}

/// A column of whole numbers converted to `T`, with text in which they are decimal digits.
pub(crate) fn whole<N, T>(
    wanted: &ColumnType,
    read: impl Fn(&[u8]) -> Step<N> + Copy + Send + Sync + 'static,
    into: impl Fn(N) -> T::Native + Copy + Send + Sync + 'static,
) -> Option<Route>
where
    N: FromStr + Copy + 'static,
    T: ArrowPrimitiveType,
{
    fixed::<T>(wanted, move |field| Ok(into(read(field)?)), move |field| Ok(into(parse_int(field, "a whole number")?)))
}

/// Whole numbers of up to `digits` digits as decimals with room for all of them, times 10^`places` less than they say.
pub(crate) fn whole_decimal<N>(
    wanted: &ColumnType,
    digits: u8,
    places: u8,
    binary: impl Fn(&[u8]) -> Step<N> + Copy + Send + Sync + 'static,
    text: impl Fn(&[u8]) -> Step<N> + Copy + Send + Sync + 'static,
) -> Option<Route>
where
    N: Into<i128> + 'static,
{
    let ColumnType::Decimal { precision, scale } = *wanted else { return None };
    let power = 10_i128.checked_pow(u32::from(scale.checked_sub(places)?))?;
    // The power has at most 38 − digits zeros here: the product stays below 10^38.
    let fits = precision.saturating_sub(scale) >= digits.saturating_sub(places);
    fits.then(|| {
        let times = move |n: N| n.into() * power;
        fixed::<Decimal128Type>(wanted, move |field| Ok(times(binary(field)?)), move |field| Ok(times(text(field)?)))
    })?
}

/// Appends `value` as it is displayed.
pub(crate) fn put(value: impl Display, out: &mut Vec<u8>) -> Step {
    write!(out, "{value}").map_err(Fault::bug)
}
