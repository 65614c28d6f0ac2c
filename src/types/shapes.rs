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
    both(list(vec![Arc::new(element.field("element"))], column, Cut::By(Arc::new(binary)), Arc::new(vector_text)))
}
