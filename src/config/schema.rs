//! Reading one node of a JSON schema, as far as our own structs produce it. Pure questions about a schema and a value.

use serde_json::Value;

/// The JSON types that a schema names; none means any.
pub(super) fn types_of(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a value has a JSON type.
pub(super) fn fits(wanted: &str, value: &Value) -> bool {
    match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

/// Text that says a number or a boolean becomes one where no text is wanted; `5432.0` becomes `5432`.
pub(super) fn coerce(types: &[&str], value: &mut Value) {
    let wants = |name: &str| types.contains(&name);
    let better = match value {
        Value::String(text) if !types.is_empty() && !wants("string") => {
            let text = text.trim();
            let integer = || text.parse::<i64>().ok().map(Value::from).or_else(|| text.parse::<u64>().ok().map(Value::from));
            let number = || text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from);
            match () {
                () if wants("boolean") && (text == "true" || text == "false") => Some(Value::from(text == "true")),
                () if wants("integer") => integer(),
                () if wants("number") => integer().or_else(number),
                () => None,
            }
        }
        Value::Number(number) if wants("integer") && number.is_f64() => {
            number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| Value::from(n as i64))
        }
        _ => None,
    };
    if let Some(better) = better {
        *value = better;
    }
}

/// Whether a number lies in the schema's range, and a text among its words.
pub(super) fn within(schema: &Value, value: &Value) -> bool {
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    let Some(number) = value.as_f64() else { return true };
    schema["minimum"].as_f64().is_none_or(|least| number >= least) && schema["maximum"].as_f64().is_none_or(|most| number <= most)
}

/// The words of an enum whose variants carry nothing; empty if it is not such an enum.
pub(super) fn words_of<'a>(branches: &[&'a Value]) -> Vec<&'a str> {
    let mut words = Vec::new();
    for branch in branches {
        match (branch["const"].as_str(), branch["enum"].as_array()) {
            (Some(word), _) => words.push(word),
            (None, Some(several)) => words.extend(several.iter().filter_map(Value::as_str)),
            (None, None) => return Vec::new(),
        }
    }
    words
}

/// The property whose constant tells the branches apart, and its accepted values.
pub(super) fn tag_of<'a>(branches: &[&'a Value]) -> Option<(String, Vec<&'a str>)> {
    let first = branches.first()?["properties"].as_object()?;
    let (tag, _) = first.iter().find(|(_, property)| property.get("const").is_some())?;
    let accepted = branches.iter().filter_map(|branch| branch["properties"][tag]["const"].as_str()).collect();
    Some((tag.clone(), accepted))
}

/// What a schema takes, in words.
pub(super) fn accepted(schema: &Value) -> String {
    if let Some(words) = schema["x-accepted"].as_str() {
        return words.to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    }
    let range = |name: &str| match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(least), Some(most)) => format!("{name} from {least} to {most}"),
        (Some(least), None) => format!("{name}, {least} or more"),
        (None, Some(most)) => format!("{name} up to {most}"),
        (None, None) => name.to_owned(),
    };
    let words: Vec<String> = types_of(schema)
        .into_iter()
        .filter(|name| *name != "null")
        .map(|name| match name {
            "boolean" => "true or false".to_owned(),
            "integer" => range("a whole number"),
            "number" => range("a number"),
            "string" => "text".to_owned(),
            "array" if types_of(&schema["items"]) == ["string"] => "a list of text".to_owned(),
            "array" => "a list".to_owned(),
            _ => "an object".to_owned(),
        })
        .collect();
    if words.is_empty() { "a value".to_owned() } else { words.join(" or ") }
}
