//! Random work for a database: three tables, what applications do to them, and what people do to their shape.
//!
//! A dice decides, so that a seed repeats it. What a statement does depends on the rows that are there; that it may do nothing, or fail, is part of
//! it.

use super::dice::Dice;

/// The tables: `a` with large values outside of the row, `b` with its whole old row in the log, `p` in partitions.
pub const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text, n numeric, at timestamptz DEFAULT now(), big text); ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
     CREATE TABLE b (k1 int, k2 text, x jsonb, PRIMARY KEY (k1, k2)); ALTER TABLE b REPLICA IDENTITY FULL;
     INSERT INTO a SELECT i, 'v' || i, i, now(), repeat('x', i % 4 * 1000) FROM generate_series(1, 2000) i;
     INSERT INTO b SELECT i, 'k' || i % 5, jsonb_build_object('i', i) FROM generate_series(1, 500) i;
     CREATE TABLE p (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); CREATE TABLE p_0 PARTITION OF p FOR VALUES FROM (0) TO (10);
     CREATE TYPE mood AS ENUM ('so', 'm0'); ALTER TABLE a ADD narrow int, ADD called text, ADD short text, ADD m mood";

/// What one transaction does to `a` and `b`, between BEGIN and its end.
pub fn work(dice: &mut Dice) -> String {
    let mut sql = String::new();
    for _ in 0..=dice.below(6) {
        let (id, other) = (dice.below(2500), dice.below(2500));
        sql += &match dice.below(10) {
            0 | 1 => {
                format!("INSERT INTO a (id, v, n) VALUES ({id}, 'n{other}', {other}.5) ON CONFLICT (id) DO UPDATE SET v = a.v || '+';")
            }
            2 => format!("UPDATE a SET n = {other}, v = left(v, 50) || 'u' WHERE id % 50 = {};", id % 50),
            3 => format!("DELETE FROM a WHERE id = {id};"),
            4 => {
                let (from, to) = (id + 5000 * dice.below(2), other + 5000 * dice.below(2));
                let big = if dice.one_in(3) { ", big = 'moved'" } else { "" };
                format!("UPDATE a SET id = {to}{big} WHERE id = {from} AND NOT EXISTS (SELECT FROM a WHERE id = {to});")
            }
            5 => format!("UPDATE b SET x = x || '{{\"u\": {other}}}' WHERE k1 = {};", id % 500),
            6 => format!("UPDATE a SET n = n + 1, v = left(v, 20) || 'l' WHERE id % 3 = {};", id % 3),
            8 => {
                let (from, to) = (id % 500 + 3000 * dice.below(2), other % 500 + 3000 * dice.below(2));
                format!("UPDATE b SET k1 = {to} WHERE k1 = {from} AND NOT EXISTS (SELECT FROM b WHERE k1 = {to});")
            }
            7 => format!("INSERT INTO b VALUES ({}, 'k{}', '{{}}') ON CONFLICT DO NOTHING;", id % 500, other % 5),
            _ => format!(
                "SAVEPOINT s; DELETE FROM b WHERE k1 % 10 = {}; {};",
                id % 10,
                if dice.one_in(2) { "ROLLBACK TO s" } else { "RELEASE s" }
            ),
        };
    }
    sql
}

/// [`work`] that is committed, or now and then not.
pub fn transaction(dice: &mut Dice) -> String {
    format!("BEGIN; {} {}", work(dice), if dice.one_in(5) { "ROLLBACK" } else { "COMMIT" })
}

/// What has been done to the shape of the tables so far.
pub struct Shapes {
    /// For names.
    prefix: &'static str,
    number: usize,
    prepared: Option<String>,
    called: String,
    /// Partitions that may be detached, and those that nobody has seen yet.
    partitions: Vec<usize>,
    fresh: Vec<usize>,
}

impl Shapes {
    /// Nothing yet. `prefix` tells prepared transactions, whose names all databases of a server share.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, number: 0, prepared: None, called: "called".to_owned(), partitions: Vec::new(), fresh: Vec::new() }
    }

    /// A run has seen all partitions. Of those that come and go unseen, a publication through the root leaves no trace.
    pub fn seen(&mut self) {
        self.partitions.append(&mut self.fresh);
    }

    /// The end of a transaction that is prepared.
    pub fn decide(&mut self, dice: &mut Dice) -> Option<String> {
        let name = self.prepared.take()?;
        Some(format!("{} PREPARED '{name}'", if dice.one_in(3) { "ROLLBACK" } else { "COMMIT" }))
    }

    /// The next statements: columns come with and without defaults, get other names, wider types and shorter ones; a label gets another name; partitions come, with rows or without, and go;
    /// transactions are prepared and decided later; a table is emptied.
    pub fn next(&mut self, dice: &mut Dice) -> Vec<String> {
        let mut all = Vec::new();
        self.number += 1;
        let number = self.number;
        let kind = dice.below(15);
        // What is prepared holds its locks.
        if matches!(kind, 1 | 4..) || dice.one_in(2) {
            all.extend(self.decide(dice));
        }
        all.push(match kind {
            0 => format!("ALTER TABLE a ADD c{number} int; UPDATE a SET c{number} = {number} WHERE id % 3 = 0"),
            1 => format!("ALTER TABLE b ADD d{number} text DEFAULT 'd{number}'; UPDATE b SET d{number} = NULL WHERE k1 % 3 = 0"),
            2 => {
                let (new, called) = (format!("called_{number}"), &self.called);
                let sql = format!(
                    "UPDATE a SET {called} = 'before' WHERE id % 7 = 1; ALTER TABLE a RENAME {called} TO {new}; UPDATE a SET {new} = {new} || ' after' WHERE id % 7 = 1 AND id % 2 = 0"
                );
                self.called = new;
                sql
            }
            3 => {
                let wide = if number > 20 { "bigint" } else { "int" };
                format!("ALTER TABLE a ALTER narrow TYPE {wide}; UPDATE a SET narrow = id WHERE id % 5 = 0")
            }
            4 => {
                self.fresh.push(number);
                format!(
                    "CREATE TABLE p_{number} PARTITION OF p FOR VALUES FROM ({number}0) TO ({number}9); INSERT INTO p SELECT i, {number}0 + i % 9, 'in {number}' FROM generate_series(1, 50) i"
                )
            }
            5 => format!(
                "CREATE TABLE q_{number} (LIKE p INCLUDING ALL); INSERT INTO q_{number} SELECT i, {number}1, 'attached' FROM generate_series(1, 9) i; ALTER TABLE p ATTACH PARTITION q_{number} FOR VALUES FROM ({number}0) TO ({number}9); UPDATE p SET v = v || '+' WHERE id % 4 = 0"
            ),
            6 => {
                let name = format!("{}{number}", self.prefix);
                let sql = format!(
                    "BEGIN; UPDATE p SET v = v || 'g' WHERE id % 3 = 0; INSERT INTO b VALUES ({number} + 100000, 'g', '{{}}'); PREPARE TRANSACTION '{name}'"
                );
                self.prepared = Some(name);
                sql
            }
            7 if !self.partitions.is_empty() => {
                format!("ALTER TABLE p DETACH PARTITION p_{}; UPDATE p SET v = v || '-' WHERE id % 5 = 0", self.partitions.swap_remove(0))
            }
            9 => {
                let length = 1 + dice.below(20);
                format!(
                    "ALTER TABLE a ALTER short TYPE varchar({length}) USING left(short, {length}); UPDATE a SET short = left('s' || id || repeat('-', 20), {length}) WHERE id % 6 = 0"
                )
            }
            10 => format!(
                "UPDATE a SET m = (enum_range(NULL::mood))[2] WHERE id % 8 = 0;
                 DO $$ BEGIN EXECUTE format('ALTER TYPE mood RENAME VALUE %L TO %L', (enum_range(NULL::mood))[2], 'm{number}'); END $$;
                 UPDATE a SET m = (enum_range(NULL::mood))[2] WHERE id % 9 = 0"
            ),
            // Rows that are written anew, and those that go without a word in the log where the table is published through its root.
            11 => format!("ALTER TABLE a ALTER n TYPE numeric USING coalesce(n, 0) + {number}; UPDATE a SET n = {number} WHERE id % 9 = 2"),
            12 => format!("TRUNCATE p_0; INSERT INTO p SELECT i, i % 9, 'anew {number}' FROM generate_series(1, 40) i"),
            13 => "TRUNCATE p; INSERT INTO p SELECT i, i % 9, 'all anew' FROM generate_series(1, 60) i".to_owned(),
            14 => format!("VACUUM FULL {}", dice.pick(&["a", "b", "p"])),
            _ => "TRUNCATE b".to_owned(),
        });
        all
    }
}
