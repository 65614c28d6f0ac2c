//! Text search documents and queries as they are on the wire, printed as PostgreSQL prints them.
//!
//! The forms are those of `tsvectorsend` (`utils/adt/tsvector.c`) and `tsquerysend` (`utils/adt/tsquery.c`). A query is a tree that can
//! be as deep as it has operators; it is walked with a list, not by recursion, in time and memory in proportion to its size.

use super::{Fault, Step, nothing_left, take, take_i32, take_slice};
use std::io::Write;

/// Priorities of operators, `tsearch_op_priority`. What is below the priority around it is put into parentheses.
const PRIORITY_NOT: u8 = 4;
const PRIORITY_PHRASE: u8 = 3;
const PRIORITY_AND: u8 = 2;
const PRIORITY_OR: u8 = 1;
const PRIORITY_OUTSIDE: u8 = 0;

/// Appends a tsvector as `tsvectorout` prints it: `'lexeme':1A,2 'other'`.
pub(crate) fn tsvector(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut rest = field;
    let count = take_i32(&mut rest, "a tsvector")?;
    if count < 0 {
        return Err(Fault::malformed(format!("a tsvector claims {count} lexemes")));
    }
    for i in 0..count {
        if i > 0 {
            out.push(b' ');
        }
        quote(take_string(&mut rest, "a tsvector")?, out);
        let positions = u16::from_be_bytes(take(&mut rest, "a tsvector")?);
        for i in 0..positions {
            let position = u16::from_be_bytes(take(&mut rest, "a tsvector")?);
            // D, the weight that all have to begin with, is not printed.
            let weight = ["", "C", "B", "A"][usize::from(position >> 14)];
            let _ = write!(out, "{}{}{weight}", if i == 0 { ':' } else { ',' }, position & 0x3FFF);
        }
    }
    nothing_left(rest, "a tsvector")
}

/// Appends a tsquery as `tsqueryout` prints it: `'word':*A & !( 'other' | 'third' )`.
pub(crate) fn tsquery(field: &[u8], out: &mut Vec<u8>) -> Step {
    match Tree::parse(field)? {
        Some(tree) => tree.print(out),
        None => Ok(()),
    }
}

/// A node of a query.
enum Item<'a> {
    Word { text: &'a [u8], weights: u8, is_prefix: bool },
    Not,
    Operator(Operator),
}

/// An operator between two operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    And,
    Or,
    Phrase(i16),
}

impl<'a> Item<'a> {
    fn take(rest: &mut &'a [u8]) -> Step<Self> {
        let [kind, first] = take(rest, "a tsquery")?;
        Ok(match (kind, first) {
            (1, weights @ 0..=0xF) => {
                let [prefix] = take(rest, "a tsquery")?;
                Self::Word { text: take_string(rest, "a tsquery")?, weights, is_prefix: prefix != 0 }
            }
            (2, 1) => Self::Not,
            (2, 2) => Self::Operator(Operator::And),
            (2, 3) => Self::Operator(Operator::Or),
            (2, 4) => Self::Operator(Operator::Phrase(i16::from_be_bytes(take(rest, "a tsquery")?))),
            _ => return Err(Fault::malformed(format!("a tsquery has an item of the unknown kind {kind}.{first}"))),
        })
    }
}

impl Operator {
    fn priority(self) -> u8 {
        match self {
            Self::And => PRIORITY_AND,
            Self::Or => PRIORITY_OR,
            Self::Phrase(_) => PRIORITY_PHRASE,
        }
    }

    fn print(self, out: &mut Vec<u8>) {
        // Writing to memory does not fail.
        let _ = match self {
            Self::And => out.write_all(b" & "),
            Self::Or => out.write_all(b" | "),
            Self::Phrase(1) => out.write_all(b" <-> "),
            Self::Phrase(distance) => write!(out, " <{distance}> "),
        };
    }
}

/// A query in the order of the wire: an operator, its right operand with all that belongs to it, its left operand.
struct Tree<'a> {
    field: &'a [u8],
    nodes: Vec<Node>,
}

/// Numbers of 32 bits, because a chain of operators has two bytes for each on the wire.
struct Node {
    /// Where in the field it starts.
    start: u32,
    /// The first node that no longer belongs to it: behind a right operand, the left one.
    end: u32,
}

/// What is still to be printed.
enum Task {
    Node {
        node: u32,
        /// The priority of the operator around it.
        around: u8,
        /// Whether that is a phrase, and this its right operand: a phrase in there needs parentheses, as it counts from the left.
        follows: bool,
    },
    /// An operator whose left operand has been printed.
    Middle {
        node: u32,
        closes: bool,
    },
    Close,
}

impl<'a> Tree<'a> {
    /// `None` when there is nothing in the query.
    fn parse(field: &'a [u8]) -> Step<Option<Self>> {
        let mut rest = field;
        let count = take_i32(&mut rest, "a tsquery")?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            let start = u32::try_from(field.len() - rest.len()).map_err(Fault::bug)?;
            Item::take(&mut rest)?;
            nodes.push(Node { start, end: 0 });
        }
        nothing_left(rest, "a tsquery")?;
        match count {
            0 => return Ok(None),
            1.. => {}
            _ => return Err(Fault::malformed(format!("a tsquery claims {count} items"))),
        }
        let mut tree = Self { field, nodes };
        tree.find_ends()?;
        Ok(Some(tree))
    }

    /// From the last to the first, because what belongs to a node stands behind it.
    fn find_ends(&mut self) -> Step {
        for at in (0..self.nodes.len() as u32).rev() {
            let end = match self.item(at)? {
                Item::Word { .. } => at + 1,
                Item::Not => self.node(at + 1)?.end,
                Item::Operator(_) => self.node(self.node(at + 1)?.end)?.end,
            };
            if let Some(node) = self.nodes.get_mut(at as usize) {
                node.end = end;
            }
        }
        match self.nodes.first() {
            Some(root) if root.end as usize == self.nodes.len() => Ok(()),
            _ => Err(Fault::malformed("a tsquery has more operands than operators take")),
        }
    }

    fn node(&self, at: u32) -> Step<&Node> {
        self.nodes.get(at as usize).ok_or_else(|| Fault::malformed("a tsquery has an operator without its operands"))
    }

    fn item(&self, at: u32) -> Step<Item<'a>> {
        let mut rest = self.field.get(self.node(at)?.start as usize..).unwrap_or_default();
        Item::take(&mut rest)
    }

    /// As `infix` of tsquery.c does it.
    fn print(&self, out: &mut Vec<u8>) -> Step {
        let mut tasks = vec![Task::Node { node: 0, around: PRIORITY_OUTSIDE, follows: false }];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Node { node, around, follows } => match self.item(node)? {
                    Item::Word { text, weights, is_prefix } => word(text, weights, is_prefix, out),
                    Item::Not => {
                        out.push(b'!');
                        tasks.push(Task::Node { node: node + 1, around: PRIORITY_NOT, follows: false });
                    }
                    Item::Operator(operator) => {
                        let around_it = operator.priority();
                        let closes = around_it < around || (follows && matches!(operator, Operator::Phrase(_)));
                        if closes {
                            out.extend_from_slice(b"( ");
                        }
                        tasks.push(Task::Middle { node, closes });
                        tasks.push(Task::Node { node: self.node(node + 1)?.end, around: around_it, follows: false });
                    }
                },
                Task::Middle { node, closes } => {
                    let Item::Operator(operator) = self.item(node)? else { continue };
                    operator.print(out);
                    if closes {
                        tasks.push(Task::Close);
                    }
                    let follows = matches!(operator, Operator::Phrase(_));
                    tasks.push(Task::Node { node: node + 1, around: operator.priority(), follows });
                }
                Task::Close => out.extend_from_slice(b" )"),
            }
        }
        Ok(())
    }
}

fn word(text: &[u8], weights: u8, is_prefix: bool, out: &mut Vec<u8>) {
    quote(text, out);
    if weights != 0 || is_prefix {
        out.push(b':');
    }
    if is_prefix {
        out.push(b'*');
    }
    out.extend(b"DCBA".iter().enumerate().rev().filter(|(bit, _)| weights >> bit & 1 != 0).map(|(_, letter)| letter));
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for byte in text {
        if matches!(byte, b'\'' | b'\\') {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'\'');
}

/// Takes the bytes in front of the next zero, and the zero.
fn take_string<'a>(rest: &mut &'a [u8], what: &str) -> Step<&'a [u8]> {
    let Some(len) = rest.iter().position(|byte| *byte == 0) else { return Err(Fault::malformed(format!("{what} has a word without end"))) };
    let text = take_slice(rest, len, what)?;
    take::<1>(rest, what)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{Printer, check, hex};

    #[test]
    fn documents_taken_from_a_server_print_as_it_prints_them() {
        // select encode(tsvectorsend(x), 'hex'), x on PostgreSQL 15.
        check(
            tsvector,
            &[
                ("00000000", ""),
                ("0000000161000000", "'a'"),
                ("0000000261000001000162000004c002800340040005", "'a':1 'b':2A,3B,4C,5"),
                ("00000003636174000001000366617400000200020004726174000000", "'cat':3 'fat':2,4 'rat'"),
                (
                    "000000046261636b5c736c6173680000006974277300000074776f2020776f726473000000e697a5e69cac000001ffff",
                    r"'back\\slash' 'it''s' 'two  words' '日本':16383A",
                ),
                ("0000000227270000005c5c0000014001", r"'''''' '\\\\':1C"),
                ("0000000178000003000100020003", "'x':1,2,3"),
            ],
        );
    }

    #[test]
    fn queries_taken_from_a_server_print_as_it_prints_them() {
        // select encode(tsquerysend(x), 'hex'), x on PostgreSQL 15.
        check(
            tsquery,
            &[
                ("00000000", ""),
                ("000000010100006100", "'a'"),
                ("00000003020201000062000100006100", "'a' & 'b'"),
                ("0000000502030202010000630001000062000100006100", "'a' | 'b' & 'c'"),
                ("0000000502020100006300020301000062000100006100", "( 'a' | 'b' ) & 'c'"),
                ("0000000502020202010000630001000062000100006100", "'a' & 'b' & 'c'"),
                ("0000000502020100006300020201000062000100006100", "'a' & 'b' & 'c'"),
                ("0000000202010100006100", "!'a'"),
                ("00000003020102010100006100", "!!'a'"),
                ("000000040201020201000062000100006100", "!( 'a' & 'b' )"),
                ("0000000402010204000101000062000100006100", "!( 'a' <-> 'b' )"),
                ("00000005020400010201010000620002010100006100", "!'a' <-> !'b'"),
                ("000000050204000101000063000204000101000062000100006100", "'a' <-> 'b' <-> 'c'"),
                ("000000050204000102040001010000630001000062000100006100", "'a' <-> ( 'b' <-> 'c' )"),
                ("00000005020400020203010000630001000062000100006100", "'a' <2> ( 'b' | 'c' )"),
                ("00000005020400000100006300020301000062000100006100", "( 'a' | 'b' ) <0> 'c'"),
                ("000000060204400002020201010000630001000062000100006100", "'a' <16384> ( 'b' & !'c' )"),
                ("000000030202010c0062000100016100", "'a':* & 'b':AB"),
                ("000000030203010f0162000101016100", "'a':*D | 'b':*ABCD"),
                ("000000070204000102040002020400030100006400010000630001000062000100006100", "'a' <-> ( 'b' <2> ( 'c' <3> 'd' ) )"),
                ("000000090203010000640002040001020102030201010000630001000062000100006100", "'a' <-> !( 'b' | !'c' ) | 'd'"),
                ("00000005020301000028200002020100006261636b5c736c617368000100006974277300", r"'it''s' & 'back\\slash' | '( '"),
                ("00000003020400010100002000010401e697a5e69cac00", "'日本':*B <-> ' '"),
            ],
        );
    }

    #[test]
    fn malformed_values_are_faults() {
        for (printer, binary) in [
            (tsvector as Printer, ""),
            (tsvector, "ffffffff"),
            (tsvector, "7fffffff"),
            (tsvector, "000000016100"),
            (tsvector, "0000000161"),
            (tsvector, "00000001610000020001"),
            (tsvector, "0000000161000000ff"),
            (tsquery, ""),
            (tsquery, "ffffffff"),
            (tsquery, "7fffffff"),
            (tsquery, "00000000010000"),
            (tsquery, "00000001010000"),
            (tsquery, "00000001010000ff"),
            (tsquery, "00000001011000"),
            (tsquery, "0000000101100000"),
            (tsquery, "000000010300006100"),
            (tsquery, "000000010205"),
            (tsquery, "000000010204"),
            (tsquery, "000000010201"),
            (tsquery, "0000000202020100006100"),
            (tsquery, "0000000202010201"),
            (tsquery, "0000000201000061000100006200"),
        ] {
            assert!(matches!(printer(&hex(binary), &mut Vec::new()).map_err(|f| *f), Err(Fault::Malformed(_))), "{binary}");
        }
    }

    #[test]
    fn deep_queries_take_neither_stack_nor_long() {
        let depth = 100_000;
        let word = [1, 0, 0, b'a', 0];
        let query = |items: usize, parts: &[&[u8]]| {
            let field = [&u32::try_from(items).expect("items").to_be_bytes()[..], &parts.concat()].concat();
            let mut out = Vec::new();
            tsquery(&field, &mut out).expect("print");
            String::from_utf8(out).expect("ascii")
        };
        let (not, and, phrase) = ([2, 1], [2, 2], [2, 4, 0, 1]);
        let nots = query(depth + 1, &[&not.repeat(depth), &word]);
        assert_eq!(nots, format!("{}'a'", "!".repeat(depth)));
        let left = query(2 * depth + 1, &[&[&and[..], &word].concat().repeat(depth), &word]);
        assert_eq!(left, format!("'a'{}", " & 'a'".repeat(depth)));
        let right = query(2 * depth + 1, &[&phrase.repeat(depth), &word.repeat(depth + 1)]);
        assert_eq!(right, format!("{}'a' <-> 'a'{}", "'a' <-> ( ".repeat(depth - 1), " )".repeat(depth - 1)));
    }
}
