//! Network addresses as they are on the wire, printed as PostgreSQL prints them.
//!
//! The forms are those of `network_send` (`utils/adt/network.c`), `macaddr_send` and `macaddr8_send`.

use super::{Fault, Step, exact_bytes, take};
use std::io::Write;

/// `PGSQL_AF_INET` and `PGSQL_AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 3;

/// Appends an inet or a cidr as `network_out` prints it: the width of the network stands behind a cidr always, behind an inet when
/// it is not that of one address.
pub(crate) fn inet(field: &[u8], out: &mut Vec<u8>) -> Step {
    let mut address = field;
    let [family, bits, is_cidr, len] = take(&mut address, "an inet")?;
    let width = match family {
        V4 => 32,
        V6 => 128,
        other => return Err(Fault::malformed(format!("an inet has the unknown address family {other}"))),
    };
    if bits > width || is_cidr > 1 || usize::from(len) != address.len() {
        let found = address.len();
        return Err(Fault::malformed(format!("an inet of {found} bytes claims {len}, {bits} bits and the kind {is_cidr}")));
    }
    if family == V4 {
        dotted(exact_bytes(address)?, out);
    } else {
        v6(u128::from_be_bytes(exact_bytes(address)?), out);
    }
    if is_cidr == 1 || bits != width {
        let _ = write!(out, "/{bits}");
    }
    Ok(())
}

/// Appends a macaddr: `08:00:2b:01:02:03`.
pub(crate) fn macaddr(field: &[u8], out: &mut Vec<u8>) -> Step {
    colons(exact_bytes::<6>(field)?, out);
    Ok(())
}

/// Appends a macaddr8: `08:00:2b:01:02:03:04:05`.
pub(crate) fn macaddr8(field: &[u8], out: &mut Vec<u8>) -> Step {
    colons(exact_bytes::<8>(field)?, out);
    Ok(())
}

fn colons<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    for (i, byte) in bytes.into_iter().enumerate() {
        let _ = write!(out, "{}{byte:02x}", if i == 0 { "" } else { ":" });
    }
}

fn dotted([a, b, c, d]: [u8; 4], out: &mut Vec<u8>) {
    let _ = write!(out, "{a}.{b}.{c}.{d}");
}

/// Eight groups as `inet_net_ntop_ipv6` (`port/inet_net_ntop.c`) prints them: the first of the longest runs of zeros is left out, and
/// an address that has one of IPv4 inside shows it. This is not what Rust's own printing does: `::1:2` is `::0.1.0.2` here.
fn v6(address: u128, out: &mut Vec<u8>) {
    let group = |i: usize| (address >> (112 - 16 * i)) as u16;
    let (base, len) = longest_zeros(group);
    let is_v4 = base == 0 && (len == 6 || (len == 7 && group(7) != 1) || (len == 5 && group(5) == 0xFFFF));
    for i in 0..8 {
        if (base..base + len).contains(&i) {
            if i == base {
                out.push(b':');
            }
            continue;
        }
        if i != 0 {
            out.push(b':');
        }
        if i == 6 && is_v4 {
            return dotted((address as u32).to_be_bytes(), out);
        }
        let _ = write!(out, "{:x}", group(i));
    }
    if len > 0 && base + len == 8 {
        out.push(b':');
    }
}

/// Where the first of the longest runs of zero groups starts, and how long it is. One group alone is no run.
fn longest_zeros(group: impl Fn(usize) -> u16) -> (usize, usize) {
    let (mut best, mut run) = ((0, 0), (0, 0));
    for i in 0..8 {
        run = if group(i) == 0 { (run.0, run.1 + 1) } else { (i + 1, 0) };
        if run.1 > best.1 && run.1 > 1 {
            best = run;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::samples::{Printer, check, hex};

    #[test]
    fn wire_forms_taken_from_a_server_print_as_it_prints_them() {
        // select encode(inet_send(x), 'hex'), x on PostgreSQL 15, and so on.
        check(
            inet,
            &[
                ("0220000400000000", "0.0.0.0"),
                ("022000047f000001", "127.0.0.1"),
                ("020800040a010203", "10.1.2.3/8"),
                ("02000004ffffffff", "255.255.255.255/0"),
                ("0380001000000000000000000000000000000000", "::"),
                ("0380001000000000000000000000000000000001", "::1"),
                ("0380001000000000000000000000000000000002", "::2"),
                ("0300001000000000000000000000000000000000", "::/0"),
                ("0380001000000000000000000000000000010002", "::0.1.0.2"),
                ("0380001000000000000000000000000001020304", "::1.2.3.4"),
                ("0380001000000000000000000000ffff01020304", "::ffff:1.2.3.4"),
                ("0380001000000000000000000000ffff00000000", "::ffff:0.0.0.0"),
                ("0360001000000000000000000000ffff01020304", "::ffff:1.2.3.4/96"),
                ("0380001000000000000000000000fffe01020304", "::fffe:102:304"),
                ("0380001000000000000000000000000100000000", "::1:0:0"),
                ("0380001000010000000000000000000000000000", "1::"),
                ("0380001000010000000000000000000000000001", "1::1"),
                ("0380001000010000000000020000000000000003", "1:0:0:2::3"),
                ("0380001000010000000000020000000000030004", "1::2:0:0:3:4"),
                ("0380001000010000000200030004000500060007", "1:0:2:3:4:5:6:7"),
                ("0380001000000001000200030004000500060007", "0:1:2:3:4:5:6:7"),
                ("0380001000010002000300040005000600070000", "1:2:3:4:5:6:7:0"),
                ("0380001000010002000300040005000600000000", "1:2:3:4:5:6::"),
                ("0340001020010db8000000000000000000000001", "2001:db8::1/64"),
                ("03800010fe8000000000000001fffe234567890a", "fe80::1ff:fe23:4567:890a"),
                ("037f0010ffffffffffffffffffffffffffffffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127"),
            ],
        );
        // select encode(cidr_send(x), 'hex'), x
        check(
            inet,
            &[
                ("020801040a000000", "10.0.0.0/8"),
                ("02200104c0a80101", "192.168.1.1/32"),
                ("0200010400000000", "0.0.0.0/0"),
                ("0300011000000000000000000000000000000000", "::/0"),
                ("0380011000000000000000000000000000000001", "::1/128"),
                ("0320011020010db8000000000000000000000000", "2001:db8::/32"),
                ("0378011000000000000000000000ffff01020300", "::ffff:1.2.3.0/120"),
            ],
        );
        check(
            macaddr,
            &[("08002b010203", "08:00:2b:01:02:03"), ("ffffffffffff", "ff:ff:ff:ff:ff:ff"), ("000000000000", "00:00:00:00:00:00")],
        );
        check(macaddr8, &[("08002b0102030405", "08:00:2b:01:02:03:04:05"), ("ffffffffffffff0a", "ff:ff:ff:ff:ff:ff:ff:0a")]);
    }

    #[test]
    fn malformed_addresses_are_faults() {
        for (printer, binary) in [
            (inet as Printer, ""),
            (inet, "022000"),
            (inet, "0120000400000000"),
            (inet, "0221000400000000"),
            (inet, "0220020400000000"),
            (inet, "0220000300000000"),
            (inet, "02200004000000"),
            (inet, "02200003000000"),
            (inet, "0320000400000000"),
            (inet, "0381001000000000000000000000000000000000"),
            (macaddr, "0000000000"),
            (macaddr, "0000000000000000"),
            (macaddr8, "000000000000"),
        ] {
            assert!(matches!(printer(&hex(binary), &mut Vec::new()).map_err(|f| *f), Err(Fault::Malformed(_))), "{binary}");
        }
    }
}
