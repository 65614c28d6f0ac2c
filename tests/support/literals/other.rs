//! Networks, places in the database, snapshots, names of its objects.

use super::Dice;

/// inet
pub fn inet(d: &mut Dice) -> String {
    address(d, false)
}

/// cidr
pub fn cidr(d: &mut Dice) -> String {
    address(d, true)
}

/// An address with a length or without; `network` clears the bits beyond it.
fn address(d: &mut Dice, network: bool) -> String {
    let bytes = if d.one_in(2) { 4 } else { 16 };
    let mut address: Vec<u8> = (0..bytes).map(|_| d.bits() as u8).collect();
    match d.below(6) {
        0 => address.fill(0),
        1 => address.fill(255),
        // Addresses that v6 writes in a form of its own: with a v4 tail, with runs of zeros in one place or two.
        2 if bytes == 16 => address[..10].fill(0),
        3 if bytes == 16 => {
            address[..10].fill(0);
            address[10..12].fill(*d.pick(&[0, 255]));
        }
        4 | 5 if bytes == 16 => {
            for _ in 0..2 {
                let (at, length) = (d.below(8) * 2, d.below(8) * 2);
                address[at..(at + length).min(16)].fill(0);
            }
        }
        _ => {}
    }
    let length = d.below(bytes * 8 + 1);
    if network {
        for (i, byte) in address.iter_mut().enumerate() {
            let kept = length.saturating_sub(i * 8).min(8);
            *byte &= (0xff00_u16 >> kept) as u8;
        }
    }
    let text = if bytes == 4 {
        address.iter().map(u8::to_string).collect::<Vec<_>>().join(".")
    } else {
        address.chunks(2).map(|pair| format!("{:x}", u16::from_be_bytes([pair[0], pair[1]]))).collect::<Vec<_>>().join(":")
    };
    if network || d.one_in(2) { format!("{text}/{length}") } else { text }
}

fn hex(d: &mut Dice, count: usize) -> String {
    d.join(count, count, ":", |d| format!("{:02x}", d.below(256)))
}

/// macaddr
pub fn macaddr(d: &mut Dice) -> String {
    d.edge(&["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"], |d| hex(d, 6))
}

/// macaddr8
pub fn macaddr8(d: &mut Dice) -> String {
    d.edge(&["00:00:00:00:00:00:00:00", "08:00:2b:01:02:03"], |d| hex(d, 8))
}

/// pg_lsn
pub fn lsn(d: &mut Dice) -> String {
    d.edge(&["0/0", "FFFFFFFF/FFFFFFFF", "0/1", "16/B374D848"], |d| format!("{:X}/{:X}", d.bits() >> d.below(32) >> 32, d.bits() >> 32))
}

/// tid
pub fn tid(d: &mut Dice) -> String {
    format!("({},{})", d.integer(0, u32::MAX.into()), d.integer(0, u16::MAX.into()))
}

/// pg_snapshot, txid_snapshot
pub fn snapshot(d: &mut Dice) -> String {
    // A transaction's lower half is never zero, also after what is added here.
    let xmin = (d.integer(0, 1 << 61) & !(1 << 31)) | 3;
    let mut running: Vec<i128> = (0..d.below(5)).map(|_| xmin + d.integer(0, 1_000_000)).collect();
    running.sort_unstable();
    running.dedup();
    let xmax = running.last().map_or(xmin, |last| last + 1) + d.integer(0, 5);
    format!("{xmin}:{xmax}:{}", running.iter().map(i128::to_string).collect::<Vec<_>>().join(","))
}

/// regclass
pub fn regclass(d: &mut Dice) -> String {
    d.edge(&["-", "pg_class", "information_schema.tables", "\"odd schema\".\"odd \"\"table\""], |d| {
        d.integer(900_000, u32::MAX.into()).to_string()
    })
}

/// regtype
pub fn regtype(d: &mut Dice) -> String {
    let names =
        ["-", "integer", "integer[]", "timestamp with time zone", "\"char\"", "character varying", "mood", "bit", "interval", "numeric"];
    d.edge(&names, |d| d.integer(900_000, u32::MAX.into()).to_string())
}

/// regproc
pub fn regproc(d: &mut Dice) -> String {
    (*d.pick(&["-", "now", "pg_catalog.array_in", "4000000000"])).to_owned()
}

/// regprocedure
pub fn regprocedure(d: &mut Dice) -> String {
    (*d.pick(&["-", "now()", "sum(bigint)", "length(bytea)", "4000000000"])).to_owned()
}

/// regoper
pub fn regoper(d: &mut Dice) -> String {
    (*d.pick(&["0", "pg_catalog.||/", "4000000000"])).to_owned()
}

/// regoperator
pub fn regoperator(d: &mut Dice) -> String {
    (*d.pick(&["0", "*(integer,integer)", "!!(NONE,tsquery)", "4000000000"])).to_owned()
}

/// regnamespace
pub fn regnamespace(d: &mut Dice) -> String {
    (*d.pick(&["-", "pg_catalog", "\"odd schema\"", "4000000000"])).to_owned()
}

/// regrole
pub fn regrole(d: &mut Dice) -> String {
    (*d.pick(&["-", "postgres", "pg_monitor", "4000000000"])).to_owned()
}

/// regconfig
pub fn regconfig(d: &mut Dice) -> String {
    (*d.pick(&["-", "english", "simple", "4000000000"])).to_owned()
}

/// regdictionary
pub fn regdictionary(d: &mut Dice) -> String {
    (*d.pick(&["-", "simple", "english_stem", "4000000000"])).to_owned()
}

/// aclitem, which has no binary form
pub fn aclitem(d: &mut Dice) -> String {
    (*d.pick(&["postgres=arwdDxt/postgres", "=r/postgres", "pg_monitor=r*w/postgres"])).to_owned()
}
