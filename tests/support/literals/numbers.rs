//! Booleans, integers, floats, numerics, money, bits, and shapes made of floats.

use super::Dice;

/// bool
pub fn boolean(d: &mut Dice) -> String {
    (*d.pick(&["t", "f", "true", "off", "1"])).to_owned()
}

/// int2
pub fn int2(d: &mut Dice) -> String {
    d.integer(i16::MIN.into(), i16::MAX.into()).to_string()
}

/// int4
pub fn int4(d: &mut Dice) -> String {
    d.integer(i32::MIN.into(), i32::MAX.into()).to_string()
}

/// int8
pub fn int8(d: &mut Dice) -> String {
    d.integer(i64::MIN.into(), i64::MAX.into()).to_string()
}

/// oid, xid, cid
pub fn unsigned4(d: &mut Dice) -> String {
    d.integer(0, u32::MAX.into()).to_string()
}

/// xid8
pub fn unsigned8(d: &mut Dice) -> String {
    d.integer(0, u64::MAX.into()).to_string()
}

/// Between 0 and 100.
pub fn percentage(d: &mut Dice) -> String {
    d.integer(0, 100).to_string()
}

const FLOATS: [&str; 10] = ["0", "-0", "NaN", "Infinity", "-Infinity", "1e23", "1e15", "123456789012345680", "0.1", "1e-5"];

/// float4
pub fn float4(d: &mut Dice) -> String {
    if d.one_in(6) {
        return (*d.pick(&["1e-45", "1.17549435e-38", "1.17549421e-38", "3.4028235e38", "-3.4028235e38", "16777217"])).to_owned();
    }
    d.edge(&FLOATS, |d| {
        let bits = d.bits();
        if bits % 3 == 0 { (bits as i32 as f32 / 1000.0).to_string() } else { float_text(f64::from(f32::from_bits((bits >> 32) as u32))) }
    })
}

/// float8
pub fn float8(d: &mut Dice) -> String {
    if d.one_in(6) {
        return (*d.pick(&["5e-324", "2.2250738585072014e-308", "2.225073858507201e-308", "1.7976931348623157e308", "9007199254740993"]))
            .to_owned();
    }
    d.edge(&FLOATS, |d| {
        let bits = d.bits();
        if bits % 3 == 0 { (bits as i32 as f64 / 1000.0).to_string() } else { float_text(f64::from_bits(bits)) }
    })
}

/// The sign and the payload of a random NaN would not survive the server's text.
fn float_text(value: f64) -> String {
    if value.is_nan() { "NaN".to_owned() } else { format!("{value:e}") }
}

fn digits(d: &mut Dice, most: usize) -> String {
    let count = d.below(most + 1);
    let zeros = d.one_in(4);
    (0..count).map(|_| char::from(b'0' + if zeros && !d.one_in(9) { 0 } else { d.below(10) as u8 })).collect()
}

/// A number with so many digits before and after the point at most.
pub fn fixed(d: &mut Dice, before: usize, after: usize) -> String {
    let sign = *d.pick(&["", "-"]);
    let whole = if d.one_in(6) { "9".repeat(before) } else { digits(d, before) };
    let fraction = if d.one_in(6) { "9".repeat(after) } else { digits(d, after) };
    format!("{sign}0{whole}.{fraction}0")
}

/// numeric(12,2)
pub fn numeric_12_2(d: &mut Dice) -> String {
    fixed(d, 10, 2)
}

/// numeric(38,10)
pub fn numeric_38_10(d: &mut Dice) -> String {
    fixed(d, 28, 10)
}

/// numeric(38,0)
pub fn numeric_38_0(d: &mut Dice) -> String {
    fixed(d, 38, 0)
}

/// numeric(38,38)
pub fn numeric_38_38(d: &mut Dice) -> String {
    fixed(d, 0, 38)
}

/// numeric(18,4)
pub fn numeric_18_4(d: &mut Dice) -> String {
    fixed(d, 14, 4)
}

/// numeric(5,0)
pub fn numeric_5_0(d: &mut Dice) -> String {
    fixed(d, 5, 0)
}

/// numeric(10,3)
pub fn numeric_10_3(d: &mut Dice) -> String {
    fixed(d, 7, 3)
}

/// numeric(60,20)
pub fn numeric_60_20(d: &mut Dice) -> String {
    d.edge(&["NaN"], |d| fixed(d, 40, 20))
}

/// numeric without a precision
pub fn numeric(d: &mut Dice) -> String {
    let edges =
        ["NaN", "Infinity", "-Infinity", "0", "0.000", "1.500", "1e300", "-1e-300", "1e-16383", "9e131071", "10000", "0.0001", "1e4"];
    d.edge(&edges, |d| {
        let (before, after) = if d.one_in(20) { (900, 900) } else { (40, 40) };
        let number = fixed(d, before, after);
        if d.one_in(5) { format!("{number}e{}", d.between(-50, 50)) } else { number }
    })
}

/// money
pub fn money(d: &mut Dice) -> String {
    d.edge(&["-92233720368547758.08", "92233720368547758.07", "0.01", "-0.01"], |d| fixed(d, 16, 2))
}

/// Up to `most` zeros and ones.
pub fn bits(d: &mut Dice, least: usize, most: usize) -> String {
    d.join(least, most, "", |d| d.below(2).to_string())
}

/// bit(9)
pub fn bit_9(d: &mut Dice) -> String {
    bits(d, 9, 9)
}

/// varbit
pub fn varbit(d: &mut Dice) -> String {
    d.edge(&["", "0", "1", "00000000", "000000001"], |d| bits(d, 0, 70))
}

/// point
pub fn point(d: &mut Dice) -> String {
    format!("({},{})", float8(d), float8(d))
}

/// line
pub fn line(d: &mut Dice) -> String {
    format!("{{{},{},{}}}", *d.pick(&["1", "-0.5", "1e23", "NaN", "Infinity", "123.456"]), float8(d), float8(d))
}

/// lseg
pub fn lseg(d: &mut Dice) -> String {
    format!("[{},{}]", point(d), point(d))
}

/// box
pub fn rectangle(d: &mut Dice) -> String {
    format!("{},{}", point(d), point(d))
}

/// path
pub fn path(d: &mut Dice) -> String {
    let points = d.join(1, 5, ",", point);
    if d.one_in(2) { format!("[{points}]") } else { format!("({points})") }
}

/// polygon
pub fn polygon(d: &mut Dice) -> String {
    format!("({})", d.join(1, 6, ",", point))
}

/// circle
pub fn circle(d: &mut Dice) -> String {
    format!("<{},{}>", point(d), float8(d).trim_start_matches('-'))
}
