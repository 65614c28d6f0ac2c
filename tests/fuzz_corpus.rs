//! The fuzz targets' promises, held against their corpus, against valid values of every type, and against a fixed set of damages to
//! them: the same on every run. `./build.sh fuzz` looks further. `UPDATE_FUZZ_CORPUS=1` writes the seeds of the corpus anew.

#[path = "fuzz/src/lib.rs"]
mod fuzz;
#[path = "support/peak.rs"]
mod peak;

use fuzz::catalogue::{CASES, Case, seeds_of};
use fuzz::checks::{self, COLUMNS, Outcome};
use fuzz::streams::{HEADER, stream};
use fuzz::{files, lake, messages, server};
use lakeward::error::Kind;
use lakeward::types::Wire;
use peak::peak_of;
use std::fs;
use std::path::PathBuf;

type Check = fn(&[u8]) -> Outcome;

const TARGETS: [(&str, Check); 8] = [
    ("value", checks::value),
    ("copy_binary", checks::copy_binary),
    ("copy_text", checks::copy_text),
    ("column_type", checks::column_type),
    ("pgoutput", messages::pgoutput),
    ("files", files::files),
    ("server", server::server),
    ("lake", lake::lake),
];

/// Runs one input under a target's promises; says whether it was accepted.
fn hold(check: Check, input: &[u8]) -> bool {
    let (outcome, peak) = peak_of(|| check(input));
    assert!(peak <= outcome.bound, "{peak} bytes for an input of {}, {} at most: {}", input.len(), outcome.bound, hex(input));
    outcome.decoded
}

/// Runs inputs; after a panic, says which one it was.
struct Runner {
    check: Check,
    runs: usize,
    decoded: usize,
}

impl Runner {
    fn new(check: Check) -> Self {
        // What is made once is not part of any input.
        let _ = (CASES.len(), COLUMNS.len());
        Self { check, runs: 0, decoded: 0 }
    }

    fn run(&mut self, input: &[u8]) {
        let result = std::panic::catch_unwind(|| hold(self.check, input));
        let decoded = result.unwrap_or_else(|_| panic!("{} with the input {}", case_name(input), hex(input)));
        self.runs += 1;
        self.decoded += usize::from(decoded);
    }
}

fn case_name(input: &[u8]) -> String {
    let Some(place) = input.first_chunk::<3>() else { return String::new() };
    let case = fuzz::catalogue::case_at(*place);
    format!("(as a value: {} to {})", case.key, case.wanted)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The fields of a case's valid values in the forms that its column reads, with the form of the stream.
fn fields(case: &Case) -> Vec<(Wire, Vec<u8>)> {
    let mut all = Vec::new();
    for (binary, text) in seeds_of(case) {
        // A column that comes as text whatever the rest comes as.
        let field = if case.plans[0].binary { binary } else { Some(text.as_bytes().to_vec()) };
        all.extend(field.map(|field| (Wire::Binary, field)));
        all.push((Wire::Text, text.as_bytes().to_vec()));
    }
    all
}

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

#[test]
fn every_type_has_cases_of_its_own_and_a_valid_value_in_each_form() {
    assert!(CASES.windows(2).all(|pair| pair[0].place < pair[1].place), "two cases have one place");
    let mut seen: Vec<&str> = CASES.iter().map(|case| case.key.as_str()).collect();
    seen.sort_unstable();
    seen.dedup();
    for key in seen {
        let exact: Vec<&Case> = CASES.iter().filter(|case| case.key == key).collect();
        for wire in [Wire::Binary, Wire::Text] {
            let read = |case: &&Case| {
                // With NULL for special values, so that each is read.
                let accepted =
                    |(form, field): &(Wire, Vec<u8>)| *form == wire && hold(checks::value, &checks::value_input(case, 1, wire, field));
                fields(case).iter().any(accepted)
            };
            assert!(exact.iter().any(|case| !case.wanted.is_text() && read(case)) || exact.iter().all(read), "{key}, {wire:?}");
        }
    }
}

#[test]
fn the_corpus_keeps_the_promises() {
    if std::env::var_os("UPDATE_FUZZ_CORPUS").is_some() {
        write_seeds();
    }
    for (target, check) in TARGETS {
        let mut runner = Runner::new(check);
        for entry in fs::read_dir(corpus(target)).expect("the corpus") {
            runner.run(&fs::read(entry.expect("an entry").path()).expect("a file"));
        }
        assert!(runner.decoded > 5, "{target}: {} of {} are accepted", runner.decoded, runner.runs);
    }
}

#[test]
fn damaged_values_are_refused_or_valid_in_bounded_memory() {
    let mut runner = Runner::new(checks::value);
    for (at, case) in CASES.iter().enumerate() {
        let mut random = Random(0xDA_4A6E ^ at as u64);
        for (wire, field) in fields(case) {
            for policy in 0..4 {
                runner.run(&checks::value_input(case, policy, wire, &field));
            }
            let mut damaged = Vec::new();
            damage(&field, &mut random, &mut |field| damaged.push(field.to_vec()));
            for field in damaged {
                runner.run(&checks::value_input(case, random.below(4), wire, &field));
            }
        }
        for len in 0..40 {
            let noise: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            runner.run(&checks::value_input(case, random.below(4), Wire::Binary, &noise));
            let text: Vec<u8> = (0..len).map(|_| b"0123456789-+.:eNaN{}[]()<>\",\\ =tfxTZP"[random.below(37)]).collect();
            runner.run(&checks::value_input(case, random.below(4), Wire::Text, &text));
        }
    }
    assert!(runner.runs > 200_000 && runner.decoded > 20_000, "{} of {} are accepted", runner.decoded, runner.runs);
}

#[test]
fn damaged_streams_are_the_same_wherever_they_are_cut() {
    for (check, wire) in [(checks::copy_binary as Check, Wire::Binary), (checks::copy_text, Wire::Text)] {
        let mut runner = Runner::new(check);
        let mut random = Random(0x5712_EA45);
        let rows = stream(wire, &sample_rows(wire));
        // The target puts the header in front.
        let rows = rows.strip_prefix(HEADER).unwrap_or(&rows);
        for _ in 0..8 {
            damage(rows, &mut random, &mut |damaged| {
                let cuts = damaged.len() as u8;
                runner.run(&[&[cuts], damaged].concat());
                runner.run(&[&[cuts.wrapping_mul(37)], damaged].concat());
            });
        }
        assert!(runner.runs > 5000 && runner.decoded > 100, "{} of {} are accepted", runner.decoded, runner.runs);
    }
}

#[test]
fn damaged_names_of_types_print_as_what_they_are_or_are_refused() {
    let mut runner = Runner::new(checks::column_type);
    let mut random = Random(0x4E_A3E5);
    for case in CASES.iter() {
        damage(case.wanted.to_string().as_bytes(), &mut random, &mut |name| runner.run(name));
    }
    let deep = |open: &str, n: usize| format!("{}string{}", open.repeat(n), ">".repeat(n));
    for name in [deep("list<", 64), deep("list<", 50_000), deep("struct<a:", 64), deep("struct<\"", 50_000), "\"".repeat(50_000)] {
        runner.run(name.as_bytes());
    }
}

#[test]
fn malformed_values_of_every_type_are_refused_with_table_column_and_row() {
    for case in CASES.iter() {
        for (wire, field) in fields(case) {
            let mut refused = 0;
            let not_utf8 = [&field[..], &[0xFF]].concat();
            let cut = (0..field.len()).map(|len| &field[..len]);
            let absurd = [0x7F; 64];
            for malformed in cut.chain([&not_utf8[..], &absurd]) {
                let rows = [None, None, None, None, Some(malformed)].map(|field| vec![field]);
                let bytes = stream(wire, &rows);
                // Two batches, so that the row is counted over both.
                let Err(error) = checks::decode(&case.plans[0..1], wire, bytes.chunks(HEADER.len() + 12), 2) else { continue };
                let message = error.to_string();
                assert!(matches!(error.kind(), Kind::Source | Kind::Schema), "{} to {}: {message}", case.key, case.wanted);
                assert!(message.starts_with("column `c` of public.t, row 5 of its chunk: "), "{} to {}: {message}", case.key, case.wanted);
                assert!(error.advice().is_some(), "{message}");
                refused += 1;
            }
            // Any bytes are good bytes, and have a text.
            let anything = case.wanted.to_string() == "binary" || case.key == "bytea" && wire == Wire::Binary;
            assert!(anything || refused > 0, "{} to {}, {wire:?}: everything is accepted", case.key, case.wanted);
        }
    }
}

/// What servers have sent (`tests/pgoutput`), as inputs with their names.
fn recordings() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pgoutput");
    let mut found = Vec::new();
    for major in 12..=18 {
        for entry in fs::read_dir(folder.join(major.to_string())).expect("recordings").map(|entry| entry.expect("an entry").path()) {
            let name = format!("{major}-{}", entry.file_name().and_then(|name| name.to_str()).expect("a name"));
            let recording = fs::read(entry).expect("a file");
            found.push((name.clone(), messages::pgoutput_input(name.contains("parallel"), &recording)));
        }
    }
    found.sort();
    found
}

#[test]
fn damaged_messages_of_logical_replication_leave_the_parser_whole() {
    let mut runner = Runner::new(messages::pgoutput);
    let mut random = Random(0x1063);
    for (name, input) in recordings() {
        let before = runner.decoded;
        runner.run(&input);
        assert!(runner.decoded > before, "{name}");
        for _ in 0..20 {
            let mut damaged = input.clone();
            for _ in 0..=random.below(40) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            runner.run(&damaged);
        }
        let noise: Vec<u8> = (0..2000).map(|_| random.below(256) as u8).collect();
        runner.run(&noise);
    }
    assert!(runner.runs > 250, "{}", runner.runs);
}

#[test]
fn damaged_files_of_a_destination_and_answers_of_a_server_are_refused() {
    for (target, check, parts) in [("lake", lake::lake as Check, 400), ("server", server::server, usize::MAX)] {
        let mut runner = Runner::new(check);
        let mut random = Random(0x1A_6E57);
        for entry in fs::read_dir(corpus(target)).expect("the corpus") {
            let input = fs::read(entry.expect("an entry").path()).expect("a file");
            let mut every = 0..;
            // Of a large file, some of the damages.
            let nth = 1 + input.len() * 5 / parts;
            damage(&input[1..], &mut random, &mut |bytes| {
                if every.next().is_some_and(|at: usize| at.is_multiple_of(nth)) {
                    runner.run(&[&input[..1], bytes].concat());
                }
            });
        }
        assert!(runner.runs > 1000 && runner.decoded > 50, "{target}: {} of {} are accepted", runner.decoded, runner.runs);
    }
}

fn write_seeds() {
    for (name, input) in recordings().into_iter().filter(|(name, _)| name.starts_with("15-") || name.starts_with("18-")) {
        fs::create_dir_all(corpus("pgoutput")).expect("a folder");
        fs::write(corpus("pgoutput").join(name), input).expect("a file");
    }
    let write = |target: &str, name: &str, input: &[u8]| {
        fs::create_dir_all(corpus(target)).expect("a folder");
        fs::write(corpus(target).join(name), input).expect("a file");
    };
    let mut written: Vec<(String, usize)> = Vec::new();
    for case in CASES.iter() {
        // The others are the fuzzer's to find.
        if case.wanted != lakeward::types::exact_type(&case.ty) {
            continue;
        }
        for (wire, field) in fields(case) {
            let form = if wire == Wire::Text { "text" } else { "binary" };
            let kind = case.wanted.to_string().chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
            let key: String = case.key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let name = format!("{key}-{kind}-{form}");
            let count = written.iter().filter(|(taken, _)| *taken == name).count();
            written.push((name.clone(), count));
            // One of each kind is enough.
            if count == 0 {
                write("value", &name, &checks::value_input(case, 1, wire, &field));
            }
        }
    }
    for (target, wire) in [("copy_binary", Wire::Binary), ("copy_text", Wire::Text)] {
        for count in 0..=sample_rows(wire).len() {
            let rows = stream(wire, &sample_rows(wire)[..count]);
            let rows = rows.strip_prefix(HEADER).unwrap_or(&rows);
            write(target, &format!("{count}-rows"), &[&[count as u8 * 2], rows].concat());
        }
        let rows = stream(wire, &sample_rows(wire));
        write(target, "with-its-header", &[&[1], &rows[..]].concat());
    }
    for (at, case) in CASES.iter().enumerate().filter(|(at, _)| at % 40 == 0) {
        write("column_type", &format!("type-{at}"), case.wanted.to_string().as_bytes());
    }
    // Messages of the protocol, each with its type and length.
    let message = |tag: u8, body: &[u8]| [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat();
    let report = message(b'E', b"SERROR\0VFATAL\0C57P01\0Mterminating connection\0Dby an administrator\0Htry again\0\0");
    let data = message(b'D', b"\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\0");
    let insert = [&b"w\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\x01\0\0\0\0\0\0\0\x02I"[..], &[0; 8]].concat();
    let keepalive = b"k\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x09\x01";
    let rest = [message(b'S', b"server_version\x0015.18\0"), message(b'C', b"SELECT 3\0"), message(b'Z', b"I")].concat();
    for (name, messages) in [
        ("error", report.clone()),
        ("row", data.clone()),
        ("replication", [message(b'd', &insert), message(b'd', keepalive)].concat()),
        ("many", [data, report, rest].concat()),
    ] {
        write("server", name, &[&[12], &messages[..]].concat());
    }
    let peeked = |header: bool, message: &[u8]| {
        let mut row = if header { b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec() } else { Vec::new() };
        row.extend(b"\0\x03\0\0\0\x08\0\0\0\0\0\x20\0\0");
        row.extend((message.len() as u32).to_be_bytes());
        row.extend(message);
        row.extend(b"\0\0\0\x08\0\0\0\0\0\x01\0\0");
        [&(row.len() as u16).to_be_bytes()[..], &row].concat()
    };
    let begin = [&b"B\0\0\0\0\0\x20\0\0"[..], &[0; 12]].concat();
    let commit = [&b"C\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x20\0\x30"[..], &[0; 8]].concat();
    let rows = [peeked(true, &begin), peeked(false, b"I\0\0\x40\0N\0\x01t\0\0\0\x011"), peeked(false, &commit), b"\0\x02\xff\xff".to_vec()];
    write("server", "polled", &[&[2], &rows.concat()[..]].concat());
    write("column_type", "quoted", b"struct< \"a \"\"b\"\"\" : list<decimal(12, 2)>, \xC3\xA4_1:map<string,string> >");
}

/// Rows for the columns of the streams: all values, every second NULL, only NULL, and values again.
fn sample_rows(wire: Wire) -> Vec<Vec<Option<&'static [u8]>>> {
    let binary: [&[u8]; 11] = [
        &[0, 0, 0, 0, 0, 0, 0, 7],
        "naïve".as_bytes(),
        &[1],
        &[0, 2, 0, 0, 0x40, 0, 0, 2, 0, 12, 0x0B, 0xB8],
        &[7; 16],
        &[0, 0xFF],
        b"\x01{\"a\": 1}",
        &[0, 2, 0xA1, 0, 0, 0, 0, 0],
        &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0, 0, 0, 1, 0, 0, 0, 1, b'k', 0xFF, 0xFF, 0xFF, 0xFF],
        b"pg_class",
    ];
    let text: [&[u8]; 11] = [
        b"7",
        "na\tï\\ve".as_bytes(),
        b"t",
        b"-12.30",
        b"07070707-0707-0707-0707-070707070707",
        b"\\x00ff",
        b"{\"a\": 1}",
        b"2024-02-29 12:34:56.789012+00",
        b"{9,NULL}",
        b"\"k\"=>NULL",
        b"pg_class",
    ];
    let values = if wire == Wire::Text { text } else { binary };
    let some: Vec<_> = values.iter().map(|value| Some(*value)).collect();
    let half = some.iter().enumerate().map(|(at, value)| if at % 2 == 0 { *value } else { None }).collect();
    vec![some.clone(), half, vec![None; values.len()], some]
}

/// Gives `run` everything that `sample` becomes when it is cut at any length, when bytes change, and when words of four bytes, which is
/// what lengths and counts are, become absurd.
fn damage(sample: &[u8], random: &mut Random, run: &mut dyn FnMut(&[u8])) {
    (0..sample.len()).for_each(|len| run(&sample[..len]));
    run(&[sample, &[0]].concat());
    let mut bytes = sample.to_vec();
    for at in 0..sample.len() {
        for other in [sample[at] ^ 1 << random.below(8), random.below(256) as u8, b"\"\\,{}09-\0\xFF"[random.below(10)]] {
            bytes[at] = other;
            run(&bytes);
        }
        bytes[at] = sample[at];
        let Some(word) = bytes.get_mut(at..at + 4) else { continue };
        let absurd =
            [0_u32, 1, 2, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFE, 0x3FFF_FFFF, 0x0001_0000, 0x00FF_FFFF][random.below(10)];
        word.copy_from_slice(&absurd.to_be_bytes());
        run(&bytes);
        bytes.copy_from_slice(sample);
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}
