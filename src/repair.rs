//! What a destination's token proves of a state: the answer of `state repair` for one stream.
//!
//! Promises: pure. An entry comes out of this only where no change can be missing: the token names the load, the table and the position, and the
//! slot still has everything after it. Does not know how tokens are read, nor what is written.

use crate::postgres::lsn::Lsn;
use crate::state::captured::Captured;
use crate::state::cursor::Cursor;
use crate::sync::settle::Stamp;
use writers::Token;

/// What becomes of a stream's entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The state says what the destination says.
    Agrees,
    /// It becomes this one.
    Becomes(Box<Captured>),
    /// There is to be none: why. A sync that goes on from the state then loads the stream anew.
    LeftOut(String),
}

/// What the source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Up to where the slot has been told that it may forget; `None` without a slot.
    pub forgotten: Option<Lsn>,
    /// The table's OID; `None` if there is no such table.
    pub table: Option<String>,
}

/// Whether the state and the token agree without a question to the source: `None` if they do not. `loads`: the stream has a first load.
pub fn agreement(captured: Option<&Captured>, token: Option<&Token>, loads: bool) -> Option<Verdict> {
    let captured = captured?;
    let stamp = token.and_then(Stamp::read);
    match &stamp {
        Some(Stamp { mark, .. }) if mark.load == captured.load && mark.changes => {
            let position: Lsn = mark.lsn.parse().ok()?;
            if position > captured.lsn {
                let seen = captured.seen.clone().filter(|seen| !seen.is_passed(position));
                let mut ahead = Captured { lsn: position, written: Some(position), seen, ..captured.clone() };
                ahead.leave(mark.left);
                return Some(Verdict::Becomes(Box::new(ahead)));
            }
            (Some(position) == captured.written).then_some(Verdict::Agrees)
        }
        Some(Stamp { mark, .. }) if mark.load == captured.load && captured.written.is_none() => Some(Verdict::Agrees),
        _ => (captured.written.is_none() && !loads).then_some(Verdict::Agrees),
    }
}

/// The entry that the token alone proves.
pub fn rebuilt(token: Option<&Token>, source: &Source) -> Verdict {
    let left_out = |why: String| Verdict::LeftOut(why);
    let Some(token) = token else { return left_out("the destination has no commit of this table".to_owned()) };
    let Some(Stamp { mark, table, filter, seen }) = Stamp::read(token) else {
        return left_out(format!("the destination's last commit is {}, which is none of ours", token.0));
    };
    let load = &mark.load;
    let (lsn, written) = match (mark.changes, mark.lsn.parse::<Lsn>()) {
        (true, Ok(position)) => (position, Some(position)),
        (false, Ok(_)) => (Lsn::default(), None),
        (_, Err(_)) => return left_out(format!("the destination's token has the position {:?}, which is none", mark.lsn)),
    };
    if written.is_none() && seen.is_none() {
        return left_out(format!("the destination's last commit is load {load}, which does not say from where it is to be followed"));
    }
    if mark.left > 0 {
        return left_out(format!("{} parts of the table were not copied yet, and only the lost state knew which", mark.left));
    }
    if table.is_empty() {
        return left_out("the destination's token does not say which table it was".to_owned());
    }
    if source.table.as_ref() != Some(&table) {
        return left_out("the table was dropped, or dropped and made again, since the destination's last commit".to_owned());
    }
    let Some(forgotten) = source.forgotten else { return left_out("there is no slot to follow it with".to_owned()) };
    let captured = Captured { lsn, written, filter, ..Captured::new(mark.load, table, seen) };
    let lost = match (&captured.seen, written) {
        (Some(seen), None) => seen.is_passed(forgotten),
        _ => lsn < forgotten,
    };
    if lost {
        let until = written.map_or_else(|| "a first load".to_owned(), |lsn| format!("changes up to {lsn}"));
        return left_out(format!(
            "the destination's last commit has {until}, and the slot has forgotten everything before {forgotten}: whether there were others between is not known"
        ));
    }
    Verdict::Becomes(Box::new(captured))
}

/// The same for a stream that is read by a cursor, of whose value the token says nothing: why its entry cannot stay. `settling` is a load that the
/// state has begun.
pub fn incremental(cursor: &Cursor, settling: Option<&str>, token: Option<&Token>) -> Option<String> {
    let found = token.map(|token| Stamp::read(token).map_or_else(|| token.0.clone(), |stamp| stamp.mark.load));
    let agrees = cursor.load.is_empty() || found.as_deref() == Some(&cursor.load) || (settling.is_some() && found.as_deref() == settling);
    (!agrees).then(|| {
        let found = found.map_or_else(|| "no commit of this table".to_owned(), |load| format!("load {load} as its last commit"));
        format!(
            "the state says that load {} was the last, and the destination has {found}; how far that was read, it does not say",
            cursor.load
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::captured::Seen;
    use crate::state::progress::Moment;
    use crate::sync::settle::Mark;

    fn seen(lsn: &str) -> Seen {
        let moment = Moment { system: "1".into(), timeline: 1, database: 5, xmin: 9, xmax: 9, lsn: lsn.into(), durable: true };
        Seen { moment, open: Vec::new() }
    }

    fn token(load: &str, lsn: &str, changes: bool, table: &str, seen: Option<Seen>) -> Token {
        Stamp { mark: Mark { load: load.into(), lsn: lsn.into(), changes, left: 0 }, table: table.into(), filter: String::new(), seen }
            .token()
    }

    fn captured(lsn: u64, written: Option<u64>) -> Captured {
        Captured { lsn: Lsn(lsn), written: written.map(Lsn), ..Captured::new("l".into(), "7".into(), None) }
    }

    fn source(forgotten: u64) -> Source {
        Source { forgotten: Some(Lsn(forgotten)), table: Some("7".into()) }
    }

    #[test]
    fn a_token_that_is_ahead_advances_the_state_and_one_that_contradicts_it_is_no_agreement() {
        let at = |lsn: &str| token("l", lsn, true, "7", None);
        assert_eq!(agreement(Some(&captured(0x20, Some(0x10))), Some(&at("0/10")), true), Some(Verdict::Agrees));
        let ahead = agreement(Some(&Captured { seen: Some(seen("0/28")), ..captured(0x20, Some(0x10)) }), Some(&at("0/30")), true);
        assert_eq!(ahead, Some(Verdict::Becomes(Box::new(captured(0x30, Some(0x30))))));
        // The snapshot of the first load is not passed yet.
        let kept = Captured { seen: Some(seen("0/40")), ..captured(0x20, None) };
        let ahead = agreement(Some(&kept), Some(&at("0/30")), true);
        assert_eq!(ahead, Some(Verdict::Becomes(Box::new(Captured { seen: Some(seen("0/40")), ..captured(0x30, Some(0x30)) }))));
        assert_eq!(agreement(Some(&captured(0x20, None)), Some(&token("l", "0/5", false, "7", None)), true), Some(Verdict::Agrees));
        assert_eq!(agreement(Some(&captured(0x20, None)), None, false), Some(Verdict::Agrees), "strict_cdc before its first change");
        for (state, token) in [
            (captured(0x20, Some(0x18)), Some(at("0/10"))),
            (captured(0x20, Some(0x10)), Some(token("other", "0/30", true, "7", None))),
            (captured(0x20, Some(0x10)), Some(Token("x".into()))),
            (captured(0x20, Some(0x10)), None),
            (captured(0x20, None), None),
        ] {
            assert_eq!(agreement(Some(&state), token.as_ref(), true), None, "{state:?} {token:?}");
        }
        assert_eq!(agreement(None, Some(&at("0/10")), true), None);
    }

    #[test]
    fn an_entry_is_rebuilt_only_where_nothing_can_be_missing() {
        let changes = token("l", "0/30", true, "7", None);
        assert_eq!(rebuilt(Some(&changes), &source(0x30)), Verdict::Becomes(Box::new(captured(0x30, Some(0x30)))));
        let load = token("l", "0/30", false, "7", Some(seen("0/30")));
        let first = Captured { seen: Some(seen("0/30")), ..captured(0, None) };
        assert_eq!(rebuilt(Some(&load), &source(0x30)), Verdict::Becomes(Box::new(first)));
        let overlapping = token("l", "0/30", true, "7", Some(seen("0/40")));
        let kept = Captured { seen: Some(seen("0/40")), ..captured(0x30, Some(0x30)) };
        assert_eq!(rebuilt(Some(&overlapping), &source(0x30)), Verdict::Becomes(Box::new(kept)));
        let left_out = |token: Option<Token>, source: Source, why: &str| match rebuilt(token.as_ref(), &source) {
            Verdict::LeftOut(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}, expected: {why}"),
        };
        left_out(None, source(1), "no commit");
        let copying = Mark { load: "l".into(), lsn: "0/30".into(), changes: true, left: 3 };
        left_out(Some(Stamp { mark: copying, table: "7".into(), filter: String::new(), seen: None }.token()), source(0x30), "3 parts");
        left_out(Some(Token("x".into())), source(1), "none of ours");
        left_out(Some(changes.clone()), source(0x31), "forgotten everything before 0/31");
        left_out(Some(load), source(0x31), "a first load");
        left_out(Some(overlapping), source(0x31), "forgotten everything before 0/31");
        left_out(Some(changes.clone()), Source { forgotten: None, ..source(1) }, "no slot");
        left_out(Some(changes.clone()), Source { table: Some("8".into()), ..source(1) }, "made again");
        left_out(Some(changes), Source { table: None, ..source(1) }, "dropped");
        left_out(Some(token("l", "0/30", true, "", None)), source(1), "which table");
        left_out(Some(token("l", "0/30", false, "7", None)), source(1), "from where");
        left_out(Some(token("l", "?", true, "7", None)), source(1), "which is none");
    }
}
