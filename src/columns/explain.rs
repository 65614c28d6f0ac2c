//! What is wrong with a value, as an error that says where it is and what to do.

use super::show::displayable;
use crate::error::Error;
use crate::values::{Fault, shorten};
use arrow::array::ArrayRef;
use arrow::util::display::array_value_to_string;

/// The error of a value at `place`, in the source column `name`.
#[cold]
pub(crate) fn explain(place: &str, name: &str, fault: Fault) -> Error {
    let as_text = format!("set \"column_types\": {{\"{name}\": \"string\"}} for the stream in streams.json");
    match fault {
        Fault::Malformed(what) => Error::source_db(format!("{place}: the value is malformed: {what}"))
            .hint(format!("if its type has changed meanwhile, load the table anew (sync --reload); if it stays so, {as_text}: the server's text is then carried unread")),
        Fault::Unfit { value, why } => Error::schema(format!("{place}: {value} is {why}"))
            .hint(format!("{as_text}: every value is then carried as the server prints it")),
        Fault::Special { value, why, .. } => Error::schema(format!("{place}: {value} is {why}")).hint(format!(
            "say what becomes of such values: set \"special_values\": {{\"{name}\": \"null\"}} (or \"clamp\", or \"string\" to carry the \
             column as text) for the stream in streams.json"
        )),
        Fault::Encoding => Error::source_db(format!("{place}: the text is not UTF-8")).hint(
            "mend the value, or set the type of a text column to `binary` in streams.json: the bytes are then carried as they are; \
             databases with the encoding SQL_ASCII do not check text",
        ),
        Fault::Bug(what) => Error::bug(format!("{place}: {what}")),
    }
}

/// The key of a row for people: ` (id = 7)`. A part that cannot be read is left out; nothing without a key.
pub(crate) fn key_text<'a>(parts: impl Iterator<Item = Option<(&'a str, ArrayRef, usize)>>) -> String {
    let show = |(name, array, row): (&str, ArrayRef, usize)| {
        let value = array_value_to_string(&displayable(&array).ok()?, row).ok()?;
        Some(format!("{name} = {}", shorten(&value)))
    };
    let parts: Vec<String> = parts.flatten().filter_map(show).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}
