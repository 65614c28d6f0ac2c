//! Blocks: geometric types and vectors.

use super::block::{Block, Route, both, fixed};
use super::nested::same_parts;
use crate::columns::list::{Cut, list};
use crate::columns::record::record;
use crate::columns::variable::{Write, text_from};
use crate::config::column_type::ColumnType;
use crate::values::exact_bytes;
use crate::values::float::{parse_f32, parse_f64};
use crate::values::geometric::{self, floats_binary, floats_text, reprint};
use crate::values::literal::vector_text;
use crate::values::parts::{half_vector_binary, vector_binary};
use arrow::array::types::{Float32Type, Float64Type};
use std::sync::Arc;

pub(crate) static BLOCKS: &[Block] = &[
    Block {
        types: &[(600, "point")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::point, &["x", "y"]),
        examples: &["(1.5,-2)"],
        remark: "`struct<x:number,y:number>` can be asked for.",
    },
    Block {
        types: &[(628, "line")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::line, &["a", "b", "c"]),
        examples: &["{1,-1,0}"],
        remark: "`struct<a:number,b:number,c:number>` can be asked for.",
    },
    Block {
        types: &[(601, "lseg")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::lseg, &["x1", "y1", "x2", "y2"]),
        examples: &["[(1,2),(3,4)]"],
        remark: "`struct<x1:number,y1:number,x2:number,y2:number>` can be asked for.",
    },
    Block {
        types: &[(603, "box")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::rectangle, &["x1", "y1", "x2", "y2"]),
        examples: &["(3,4),(1,2)"],
        remark: "The upper right corner first. `struct<x1:number,y1:number,x2:number,y2:number>` can be asked for.",
    },
    Block {
        types: &[(602, "path")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::path, &[]),
        examples: &["[(0,0),(1,1)]"],
        remark: "",
    },
    Block {
        types: &[(604, "polygon")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::polygon, &[]),
        examples: &["((0,0),(1,1),(1,0))"],
        remark: "",
    },
    Block {
        types: &[(718, "circle")],
        exact: |_| ColumnType::String,
        read: |_, wanted, _| shape(wanted, geometric::circle, &["x", "y", "radius"]),
        examples: &["<(0,0),2>"],
        remark: "`struct<x:number,y:number,radius:number>` can be asked for.",
    },
    // pgvector.
    Block {
        types: &[(0, "vector")],
        exact: |_| ColumnType::List(Box::new(ColumnType::Float32)),
        read: |_, wanted, _| vector(wanted, vector_binary),
        examples: &["[1,2.5,-3]"],
        remark: "pgvector.",
    },
    Block {
        types: &[(0, "halfvec")],
        exact: |_| ColumnType::List(Box::new(ColumnType::Float32)),
        read: |_, wanted, _| vector(wanted, half_vector_binary),
        examples: &["[1,2.5,-3]"],
        remark: "pgvector; every half has an exact float.",
    },
];

/// Text, or a struct of doubles with these names.
fn shape(wanted: &ColumnType, print: Write, names: &[&str]) -> Option<Route> {
    if wanted.is_text() {
        return both(text_from(print, reprint));
    }
    let parts: Vec<_> = names.iter().map(|name| (*name, ColumnType::Float64)).collect();
    let fields = same_parts(wanted, &parts)?;
    let double = || fixed::<Float64Type>(&ColumnType::Float64, |b| exact_bytes(b).map(f64::from_be_bytes), parse_f64);
    let columns = names.iter().map(|_| double().map(|route| route.column)).collect::<Option<_>>()?;
    both(record(fields, columns, Arc::new(floats_binary), Arc::new(floats_text), false))
}

type SplitVector = fn(&[u8], &mut crate::values::Parts<'_>) -> crate::values::Step<crate::values::parts::Dimensions>;

fn vector(wanted: &ColumnType, binary: SplitVector) -> Option<Route> {
    let ColumnType::List(element) = wanted else { return super::block::server_text(wanted) };
    let float = |b: &[u8]| exact_bytes(b).map(f32::from_be_bytes);
    let column = match **element {
        ColumnType::Float32 => fixed::<Float32Type>(element, float, parse_f32),
        ColumnType::Float64 => fixed::<Float64Type>(element, move |b| float(b).map(f64::from), |b| parse_f32(b).map(f64::from)),
        _ => None,
    }?
    .column;
    both(list(vec![Arc::new(element.field("element"))], column, element.to_string(), Cut::By(Arc::new(binary)), Arc::new(vector_text)))
}

#[cfg(test)]
mod tests {
    use super::super::payload::{accepts, base, check, check_text, exactly, extension, refuses};

    // Binary forms and texts were taken from PostgreSQL 15; of pgvector by hand from `vector_send` and `halfvec_send`.

    #[test]
    fn shapes_are_text_or_structs() {
        for (oid, name, binary, text, wanted, parts) in [
            (600, "point", "3ff8000000000000c000000000000000", "(1.5,-2)", "struct<x:number,y:number>", "{x: 1.5, y: -2.0}"),
            (600, "point", "7e37e43c8800759c7ff8000000000000", "(1e+300,NaN)", "struct<x:number,y:number>", "{x: 1e300, y: NaN}"),
            (
                628,
                "line",
                "3ff0000000000000bff00000000000000000000000000000",
                "{1,-1,0}",
                "struct<a:number,b:number,c:number>",
                "{a: 1.0, b: -1.0, c: 0.0}",
            ),
            (
                601,
                "lseg",
                "3ff0000000000000400000000000000040080000000000004010000000000000",
                "[(1,2),(3,4)]",
                "struct<x1:number,y1:number,x2:number,y2:number>",
                "{x1: 1.0, y1: 2.0, x2: 3.0, y2: 4.0}",
            ),
            (
                603,
                "box",
                "400800000000000040100000000000003ff00000000000004000000000000000",
                "(3,4),(1,2)",
                "struct<x1:number,y1:number,x2:number,y2:number>",
                "{x1: 3.0, y1: 4.0, x2: 1.0, y2: 2.0}",
            ),
            (
                718,
                "circle",
                "000000000000000000000000000000004000000000000000",
                "<(0,0),2>",
                "struct<x:number,y:number,radius:number>",
                "{x: 0.0, y: 0.0, radius: 2.0}",
            ),
        ] {
            let ty = || base(oid, name, -1);
            exactly(ty(), "string");
            accepts(&ty(), &[]);
            check(ty(), "string", &[(binary, text, text)]);
            check(ty(), wanted, &[(binary, text, parts)]);
            refuses(&ty(), &["struct<y:number,x:number>", "struct<x:number_small,y:number_small>", "list<number>"]);
        }
        // Servers before 12 print more digits than it takes.
        check(base(600, "point", -1), "string", &[("3fb999999999999abff0000000000000", "(0.10000000000000001,-1)", "(0.1,-1)")]);
    }

    #[test]
    fn shapes_of_many_points_are_text() {
        let points = "0000000002000000000000000000000000000000003ff00000000000003ff0000000000000";
        let polygon = "00000003000000000000000000000000000000003ff00000000000003ff00000000000003ff00000000000000000000000000000";
        for (oid, name, binary, text) in [
            (602, "path", points, "[(0,0),(1,1)]"),
            (602, "path", &points.replacen("00", "01", 1), "((0,0),(1,1))"),
            (604, "polygon", polygon, "((0,0),(1,1),(1,0))"),
        ] {
            exactly(base(oid, name, -1), "string");
            accepts(&base(oid, name, -1), &[]);
            check(base(oid, name, -1), "string", &[(binary, text, text)]);
            refuses(&base(oid, name, -1), &["list<struct<x:number,y:number>>", "struct<x:number>"]);
        }
    }

    #[test]
    fn vectors_are_lists() {
        for (name, binary) in [("vector", "000300003f80000040200000c0400000"), ("halfvec", "000300003c004100c200")] {
            let ty = || extension(name);
            exactly(ty(), "list<number_small>");
            accepts(&ty(), &[]);
            for wanted in ["list<number_small>", "list<number>"] {
                check(ty(), wanted, &[(binary, "[1,2.5,-3]", "[1.0, 2.5, -3.0]")]);
            }
            check_text(ty(), "string", &[("[1,2.5,-3]", "[1,2.5,-3]")]);
            refuses(&ty(), &["list<integer>", "list<list<number_small>>"]);
        }
    }
}
