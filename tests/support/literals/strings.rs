//! Text of every trouble, and the types that are written as text.

use super::Dice;

/// What has a meaning somewhere between a client and a file: COPY, arrays, composites, JSON, UTF-8.
const PIECES: [&str; 47] = [
    "a",
    "Z",
    "word",
    "0",
    " ",
    "  ",
    "\\",
    "\\\\",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\u{8}",
    "\u{b}",
    "\u{c}",
    "\u{1}",
    "\u{1b}",
    "\u{7f}",
    "\\N",
    "\\.",
    "\\n",
    "\\x41",
    "\"",
    "\"\"",
    "'",
    "{",
    "}",
    "(",
    ")",
    ",",
    ";",
    "[",
    "]",
    "=>",
    "NULL",
    "null",
    "%",
    "é",
    "e\u{301}",
    "ß",
    "日本",
    "🦀",
    "👩\u{200d}👧",
    "\u{feff}",
    "\u{2028}",
    "\u{fffd}",
    "\u{10ffff}",
];

fn pieces(d: &mut Dice, least: usize, most: usize) -> String {
    d.join(least, most, "", |d| (*d.pick(&PIECES)).to_owned())
}

/// text
pub fn text(d: &mut Dice) -> String {
    if d.one_in(100) {
        return pieces(d, 500, 2000);
    }
    d.edge(&["", "NULL", "\\N", "\\.", "\n", " ", "\"", "\\", "plain"], |d| pieces(d, 0, 12))
}

/// A text that is not empty.
pub fn word(d: &mut Dice) -> String {
    pieces(d, 1, 4)
}

/// At most five characters.
pub fn short(d: &mut Dice) -> String {
    text(d).chars().take(5).collect()
}

/// name
pub fn name(d: &mut Dice) -> String {
    text(d).chars().take(15).collect()
}

/// "char"
pub fn char1(d: &mut Dice) -> String {
    d.edge(&["", " ", "\\", "\t", "\n", "\"", "\u{7f}", "\u{1}"], |d| char::from(b' ' + d.below(95) as u8).to_string())
}

/// bytea
pub fn bytea(d: &mut Dice) -> String {
    d.edge(&["\\x", "\\x00", "\\xff", "\\x5c", "\\x0a0d09"], |d| format!("\\x{}", d.join(0, 40, "", |d| format!("{:02x}", d.below(256)))))
}

/// uuid
pub fn uuid(d: &mut Dice) -> String {
    d.edge(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"], |d| {
        format!("{:016x}{:016x}", d.bits(), d.bits())
    })
}

/// The labels of the enum `mood`.
pub const MOODS: [&str; 8] = ["happy", "very sad", "q\"uote", "back\\slash", "com,ma", "NULL", "{}", "日本 🦀"];

/// mood
pub fn mood(d: &mut Dice) -> String {
    (*d.pick(&MOODS)).to_owned()
}

fn json_string(d: &mut Dice) -> String {
    let extra = *d.pick(&["", "\\u00e9", "\\ud83e\\udd80", "\\n", "\\/", "\\\\", "\\u0001"]);
    let text = serde_json::to_string(&short(d)).expect("a string is JSON");
    format!("{}{extra}\"", &text[..text.len() - 1])
}

fn json_value(d: &mut Dice, depth: usize) -> String {
    let numbers = ["0", "-0", "-0.0", "1e400", "1E+2", "1.50", "123456789012345678901234567890", "0.1e-7", "-1e-10", "9007199254740993"];
    let separator = *d.pick(&[",", " , ", ",\n\t"]);
    match d.below(if depth == 0 { 4 } else { 6 }) {
        0 => (*d.pick(&["true", "false", "null"])).to_owned(),
        1 => (*d.pick(&numbers)).to_owned(),
        2 => d.bits().to_string(),
        3 => json_string(d),
        4 => format!("[{}]", d.join(0, 4, separator, |d| json_value(d, depth - 1))),
        _ => format!("{{{}}}", d.join(0, 4, separator, |d| format!("{}: {}", json_string(d), json_value(d, depth - 1)))),
    }
}

/// json
pub fn json(d: &mut Dice) -> String {
    d.edge(&[" {\"a\" :1, \"a\":2 } ", "\"\\u0000\"", "[]", "\t{}\n", "null"], |d| json_value(d, 3))
}

/// jsonb
pub fn jsonb(d: &mut Dice) -> String {
    d.edge(&["{\"a\": 1, \"a\": 2}", "[]", "{}", "null", "1e1000"], |d| json_value(d, 3))
}

/// jsonpath
pub fn jsonpath(d: &mut Dice) -> String {
    let paths = [
        "$",
        "strict $.a[*].b",
        "lax $[0 to last]",
        "$.\"a b\" ? (@ > 1.50 && @.c == \"x\\\"y\")",
        "$.a.type()",
        "$x + -1e400",
        "exists($.a)",
    ];
    d.edge(&paths, |d| format!("$.\"k{}\"[{}] ? (@ like_regex \"^a.*\" flag \"i\")", d.below(100), d.below(1000)))
}

/// xml
pub fn xml(d: &mut Dice) -> String {
    let edges = [
        "",
        "plain",
        "<a/>",
        "<?xml version=\"1.0\" standalone=\"yes\"?><a/>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>é</a>",
        "<?xml version=\"1.1\"?><a/>",
        "<a><![CDATA[<\"&]]></a>",
    ];
    d.edge(&edges, |d| format!("<a b=\"{}\">日本\n\t🦀 &lt;&amp;&#233;</a><!-- {} -->", d.below(1000), d.below(1000)))
}

/// A quoted lexeme.
fn lexeme(d: &mut Dice) -> String {
    format!("'{}'", word(d).replace('\\', "\\\\").replace('\'', "''"))
}

/// tsvector
pub fn tsvector(d: &mut Dice) -> String {
    let position = |d: &mut Dice| format!("{}{}", d.integer(1, 16_383), *d.pick(&["", "", "A", "B", "C", "D"]));
    let entry = |d: &mut Dice| if d.one_in(3) { lexeme(d) } else { format!("{}:{}", lexeme(d), d.join(1, 4, ",", position)) };
    d.join(0, 6, " ", entry)
}

/// tsquery
pub fn tsquery(d: &mut Dice) -> String {
    if d.one_in(12) { String::new() } else { tsquery_of(d, 4) }
}

fn tsquery_of(d: &mut Dice, depth: usize) -> String {
    match d.below(if depth == 0 { 2 } else { 7 }) {
        0 => lexeme(d),
        1 => format!("{}:{}", lexeme(d), *d.pick(&["*", "A", "BC", "*ABCD", "D*"])),
        2 => format!("!{}", tsquery_of(d, depth - 1)),
        3 => format!("!({})", tsquery_of(d, depth - 1)),
        n => {
            let distance = format!("<{}>", d.integer(0, 16_384));
            let operator = [" & ", " | ", if d.one_in(2) { "<->" } else { &distance }][n - 4].to_owned();
            let (left, right) = (tsquery_of(d, depth - 1), tsquery_of(d, depth - 1));
            if d.one_in(3) { format!("{left}{operator}{right}") } else { format!("({left}){operator}({right})") }
        }
    }
}

/// ltree
pub fn ltree(d: &mut Dice) -> String {
    d.join(0, 6, ".", |d| (*d.pick(&["Top", "a_1", "Z", "0", "Sciences", "_"])).to_owned())
}
