//! Killed at random moments while everything changes: the end state is exact each time.
//!
//! Ten tables and a view are synced while writers change them. Each of their transactions counts up a ledger, which is synced as well, as the
//! last thing before it commits, and triggers keep every row that ever came or went. So the source at the instant that the destination's ledger
//! names can be rebuilt, and the destination is compared with that, row by row.
//!
//! `LAKEWARD_KILLS` says how many kills there are; `LAKEWARD_SEED` repeats the dice (though not what the machine does meanwhile).

use crate::support::dice::Dice;
use crate::support::lakeward::{Job, Outcome, Running, exit, published};
use crate::support::postgres::{Database, Server, installed};
use crate::support::readback::{assert_all_same_as, duckdb};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Kills in an ordinary run of the tests.
const KILLS: usize = 10;

/// Tables that writers change.
const TABLES: [&str; 9] = ["plain", "keyed", "parted", "toasted", "wide", "heap", "compo", "hot", "sparse"];

/// Tables of different shapes, and their rows at the beginning.
const SHAPES: &str = "
    CREATE TABLE ledger (n bigint NOT NULL); INSERT INTO ledger VALUES (0);
    CREATE TABLE plain (id bigint PRIMARY KEY, a int NOT NULL, b text, at timestamptz DEFAULT '2024-01-01');
    INSERT INTO plain SELECT i, i % 100, md5(i::text) FROM generate_series(1, 8000) i;
    CREATE VIEW seen AS SELECT id, a + 1 AS a, upper(b) AS b FROM plain WHERE a < 50;
    CREATE TABLE keyed (id uuid PRIMARY KEY, a numeric(20,4), b text);
    INSERT INTO keyed SELECT md5(i::text)::uuid, i / 7.0, 'row ' || i FROM generate_series(1, 3000) i;
    CREATE TABLE parted (id int, a int, b text, PRIMARY KEY (id, a)) PARTITION BY LIST (a);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY HASH (id);
    CREATE TABLE parted_2_0 PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO parted SELECT i, i % 3, md5(i::text) FROM generate_series(1, 4000) i;
    CREATE TABLE toasted (id int PRIMARY KEY, a int, b text, c bytea); ALTER TABLE toasted ALTER b SET STORAGE EXTERNAL;
    INSERT INTO toasted SELECT i, i, repeat(md5(i::text), 1000 + i % 2000), decode(repeat(md5(i::text), i % 2000), 'hex') FROM generate_series(1, 250) i;
    SELECT 'CREATE TABLE wide (id int PRIMARY KEY, a int, b text, '
        || string_agg(format('c%s %s', k, (ARRAY['int', 'text', 'numeric(9,2)', 'float8', 'date'])[1 + k % 5]), ', ') || ')' FROM generate_series(1, 20) k \\gexec
    INSERT INTO wide SELECT i, i, md5(i::text), 'c' || i, i * 1.25, i / 3.0, '2024-01-01'::date + i % 1000, i FROM generate_series(1, 600) i;
    CREATE TABLE heap (a int, b text); INSERT INTO heap SELECT i % 1000, 'twin ' || i % 500 FROM generate_series(1, 3000) i;
    CREATE TABLE compo (id int, a int, b text, tags text[], doc jsonb, PRIMARY KEY (a, id));
    INSERT INTO compo SELECT i, i % 7, md5(i::text), ARRAY['x' || i, NULL], jsonb_build_object('i', i) FROM generate_series(1, 2000) i;
    CREATE TABLE hot (id int PRIMARY KEY, a int, b text) WITH (fillfactor = 50); INSERT INTO hot SELECT i, 0, 'hot' FROM generate_series(1, 500) i;
    CREATE TABLE sparse (id int PRIMARY KEY, a int, b text);
";

/// Every row that comes or goes is kept, with the transaction that did it; `rebuild` makes the tables of an instant out of that.
/// (It fails by a division when a row went more often than it came, because then the history is wrong.)
const HISTORY: &str = "
    CREATE SCHEMA initial; CREATE SCHEMA history; CREATE SCHEMA expected; CREATE SEQUENCE history.ids START 1000000;
    CREATE TABLE history.changes (xid bigint NOT NULL, relation text NOT NULL, n int NOT NULL, image text NOT NULL);
    CREATE TABLE history.commits (n bigint PRIMARY KEY, xid bigint NOT NULL);
    CREATE FUNCTION history.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            EXECUTE format('INSERT INTO history.changes SELECT txid_current(), %L, -1, t::text FROM %I t', TG_ARGV[0], TG_ARGV[0]);
            RETURN NULL;
        END IF;
        IF TG_OP <> 'INSERT' THEN INSERT INTO history.changes VALUES (txid_current(), TG_ARGV[0], -1, OLD::text); END IF;
        IF TG_OP <> 'DELETE' THEN INSERT INTO history.changes VALUES (txid_current(), TG_ARGV[0], 1, NEW::text); END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION history.watch(relation text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('CREATE TABLE initial.%I AS TABLE %I', relation, relation);
        EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION history.note(%L)', relation, relation);
        EXECUTE format('CREATE TRIGGER note_all BEFORE TRUNCATE ON %I EXECUTE FUNCTION history.note(%L)', relation, relation);
    END $$;
    CREATE FUNCTION history.rebuild(relation text, until bigint) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE rows bigint; BEGIN
        EXECUTE format('DROP TABLE IF EXISTS expected.%I CASCADE; CREATE TABLE expected.%I (LIKE public.%I)', relation, relation, relation);
        EXECUTE format('INSERT INTO expected.%I SELECT (t).* FROM (
            SELECT image::public.%I AS t FROM (
                SELECT image, CASE WHEN sum(n) < 0 THEN 1 / (sum(n) - sum(n)) ELSE sum(n) END AS n FROM (
                    SELECT t::text AS image, 1 AS n FROM initial.%I t
                    UNION ALL SELECT image, n FROM history.changes WHERE relation = %L AND xid IN (SELECT xid FROM history.commits WHERE n <= %s)
                ) every GROUP BY image HAVING sum(n) <> 0
            ) net, generate_series(1, net.n) OFFSET 0) rebuilt', relation, relation, relation, relation, until);
        GET DIAGNOSTICS rows = ROW_COUNT;
        RETURN rows;
    END $$;
";

/// What the writers do: some transactions with changes of a few tables (others in the next two seconds), savepoints, pauses, and roll-backs.
const WRITERS: &str = "
    CREATE FUNCTION history.change(relation text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE which int := 1 + random() * 3000; op int := random() * 20; fresh int; BEGIN
        IF relation = 'heap' THEN
            IF op < 8 THEN INSERT INTO heap VALUES (which % 1000, 'twin ' || which % 500);
            ELSIF op < 14 THEN UPDATE heap SET b = 'changed ' || which % 50 WHERE a = which % 1000;
            ELSIF op < 20 THEN DELETE FROM heap WHERE ctid = (SELECT ctid FROM heap WHERE a = which % 1000 LIMIT 1);
            ELSE BEGIN SET LOCAL lock_timeout = '30ms'; TRUNCATE heap; EXCEPTION WHEN lock_not_available THEN NULL; END;
            END IF;
        ELSIF op < 8 THEN
            fresh := nextval('history.ids');
            CASE relation
                WHEN 'keyed' THEN INSERT INTO keyed VALUES (md5(fresh::text)::uuid, which / 3.0, 'new');
                WHEN 'parted' THEN INSERT INTO parted VALUES (fresh, which % 3, 'new');
                WHEN 'toasted' THEN INSERT INTO toasted VALUES (fresh, which, repeat(md5(fresh::text), which % 1000), NULL);
                ELSE EXECUTE format('INSERT INTO %I (id, a, b) VALUES ($1, $2, $3)', relation) USING fresh, which % 100, 'new ' || which;
            END CASE;
        ELSIF relation = 'keyed' THEN
            IF op < 16 THEN UPDATE keyed SET a = a + 0.0001, b = b || '.' WHERE id = md5(which::text)::uuid;
            ELSE DELETE FROM keyed WHERE id = md5(which::text)::uuid; END IF;
        ELSIF relation = 'sparse' AND op > 17 THEN DELETE FROM sparse;
        ELSIF op < 18 THEN EXECUTE format('UPDATE %I SET a = (a + 1) %% 3, b = md5(random()::text) WHERE id BETWEEN $1 AND $1 + 2', relation) USING which;
        ELSE EXECUTE format('DELETE FROM %I WHERE id = $1', relation) USING which;
        END IF;
    END $$;
    CREATE PROCEDURE history.work(relations text[], longest float8) LANGUAGE plpgsql AS $$
    DECLARE number bigint; began timestamptz := clock_timestamp(); BEGIN
        WHILE clock_timestamp() < began + interval '2 s' LOOP
            FOR i IN 0 .. (random() * 4)::int LOOP
                number := floor(extract(epoch FROM clock_timestamp()) / 2)::bigint * 5 + i % 3;
                PERFORM history.change(relations[1 + number % array_length(relations, 1)]);
                IF random() < 0.2 THEN
                    BEGIN
                        PERFORM history.change(relations[1 + number % array_length(relations, 1)]);
                        IF random() < 0.5 THEN RAISE EXCEPTION 'undone'; END IF;
                    EXCEPTION WHEN raise_exception THEN NULL;
                    END;
                END IF;
            END LOOP;
            PERFORM pg_sleep(CASE WHEN random() < 0.05 THEN random() * longest ELSE 0.005 END);
            IF random() < 0.15 THEN
                ROLLBACK;
            ELSE
                -- The row is locked until the commit, so numbers have the order of the commits.
                UPDATE ledger SET n = n + 1 RETURNING n INTO number;
                INSERT INTO history.commits VALUES (number, txid_current());
                COMMIT;
            END IF;
        END LOOP;
    END $$;
";

/// Runs `body` with writers at work: two that change rows (one of them does not wait for its commits to be on disk), and one that vacuums.
fn with_writers(database: &Database, seed: u64, body: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let names = TABLES.map(|name| format!("'{name}'")).join(", ");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (settings, longest) in [("", 0.3), ("SET synchronous_commit = off;", 3.0)] {
            let (names, stop) = (&names, &stop);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    if let Err(problem) = database.run(&format!("{settings} CALL history.work(ARRAY[{names}], {longest})")) {
                        // The two may come into each other's way, and the server crashes now and then.
                        let expected = ["deadlock detected", "concurrent update", "connection", "the database system is"];
                        assert!(expected.iter().any(|words| problem.contains(words)), "a writer failed: {problem}");
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut dice = Dice::new(!seed);
            while !stop.load(Relaxed) {
                let how = *dice.pick(&["VACUUM", "VACUUM", "VACUUM (FREEZE)", "VACUUM (FULL)", "CHECKPOINT; ANALYZE"]);
                let _ = database.run(&format!("SET lock_timeout = '50ms'; {how} {}", dice.pick(&TABLES)));
                std::thread::sleep(Duration::from_millis(400));
            }
        });
        let _stop = Stop(&stop);
        body();
    });
}

/// Panics unless the destination is the source at the instant that its ledger names, and gives that.
fn assert_exact(job: &Job, database: &Database) -> u64 {
    let seen = duckdb(&job.files("public.ledger"), "SELECT n FROM $files");
    let instant = seen[0][0].as_u64().unwrap_or_else(|| panic!("the ledger holds {seen}"));
    let rebuild: String = TABLES.iter().map(|name| format!("SELECT history.rebuild('{name}', {instant});\n")).collect();
    database.sql(&rebuild);
    database.sql("CREATE TABLE expected.seen AS SELECT id, a + 1 AS a, upper(b) AS b FROM expected.plain WHERE a < 50");
    let pairs: Vec<_> = TABLES.iter().chain(&["seen"]).map(|name| (format!("public.{name}"), format!("expected.{name}"))).collect();
    assert_all_same_as(job, database, &pairs);
    database.sql("DROP TABLE expected.seen");
    job.assert_no_leftovers();
    instant
}

/// A moment to strike.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the start.
    After(Duration),
    /// When the visible files have changed so often: tables are being committed.
    Commits(usize, Duration),
}

impl Moment {
    fn any(dice: &mut Dice, whole: Duration) -> Self {
        let mut part = |from: usize, to: usize| whole.mul_f64((from + dice.below(to - from)) as f64 / 1000.0);
        let (early, late, later) = (part(0, 900), part(900, 1050), part(0, 20));
        match dice.below(5) {
            0 | 1 => Self::After(early),
            2 => Self::After(late),
            _ => Self::Commits(1 + dice.below(TABLES.len() + 2), later),
        }
    }

    /// Waits for it; false if the run is over before.
    fn comes(self, job: &Job, run: &mut Running) -> bool {
        let visible = || published(&job.lake());
        let wait = |length: Duration, run: &mut Running| {
            let end = Instant::now() + length;
            while Instant::now() < end && !run.is_over() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        match self {
            Self::After(time) => wait(time, run),
            Self::Commits(times, later) => {
                let mut last = visible();
                for _ in 0..times {
                    while !run.is_over() && visible() == last {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    last = visible();
                }
                wait(later, run);
            }
        }
        !run.is_over()
    }
}

#[test]
fn killed_at_random_moments_while_everything_changes() {
    let kills = std::env::var("LAKEWARD_KILLS").map_or(KILLS, |number| number.parse().expect("LAKEWARD_KILLS is a number"));
    let seed = Dice::seed();
    eprintln!("LAKEWARD_SEED={seed} LAKEWARD_KILLS={kills}");
    let mut dice = Dice::new(seed);
    let server = Server::start(&installed().expect("no PostgreSQL server found: ./build.sh test installs one"));
    let database = server.database("kills");
    database.sql(SHAPES);
    database.sql(&format!("{HISTORY} {WRITERS}"));
    for name in TABLES {
        database.sql(&format!("SELECT history.watch('{name}')"));
    }
    let job = Job::new(&database);
    job.edit("source.json", |source| {
        source["max_threads"] = 4.into();
        source["schemas"] = serde_json::json!(["public"]);
        source["include_views"] = true.into();
        source["collapse_partitions"] = true.into();
    });
    job.discover();
    with_writers(&database, seed, || {
        let began = Instant::now();
        job.sync().succeeded();
        let whole = began.elapsed();
        let mut last = assert_exact(&job, &database);
        let (mut killed, mut rounds) = (0, 0);
        while killed < kills {
            rounds += 1;
            assert!(rounds < 10 * kills, "only {killed} of {rounds} rounds were struck: the runs are over too soon");
            killed += round(&mut dice, &server, &job, whole);
            let instant = assert_exact(&job, &database);
            assert!(instant > last, "the ledger went from {last} to {instant}");
            last = instant;
        }
        eprintln!("{killed} kills in {rounds} rounds, {last} transactions, a run takes {} ms", whole.as_millis());
    });
}

/// One to three blows, then a run to the end. Gives how many blows struck.
fn round(dice: &mut Dice, server: &Server, job: &Job, whole: Duration) -> usize {
    let mut struck = 0;
    let mut arguments: &[&str] = &Job::SYNC;
    for _ in 0..=dice.below(3) {
        let moment = Moment::any(dice, whole);
        let blow = *dice.pick(&[Blow::Kill, Blow::Kill, Blow::Kill, Blow::Terminate, Blow::Crash, Blow::CrashAndKill]);
        let mut run = job.start(arguments);
        if !moment.comes(job, &mut run) {
            run.finish().succeeded();
            continue;
        }
        struck += 1;
        eprintln!("{blow:?} {moment:?} {}", arguments.len());
        let (outcome, expected) = blow.strike(run, server);
        assert!(expected.contains(&outcome.code), "after {blow:?} {moment:?}: {:?}\n{}", outcome.code, outcome.stderr);
        // Not always with the state: a run that starts from the beginning finds what the dead one has staged.
        arguments = if job.path("state.json").exists() && !dice.one_in(6) { &Job::RESUME } else { &Job::SYNC };
    }
    job.run(arguments).succeeded();
    struck
}

/// What happens to a run.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Terminate,
    /// The server crashes and recovers; the run may get over that.
    Crash,
    CrashAndKill,
}

impl Blow {
    /// Strikes. Gives the outcome and the exit codes that it may have; a run may have come to its end just before.
    fn strike(self, run: Running, server: &Server) -> (Outcome, Vec<Option<i32>>) {
        const DONE: Option<i32> = Some(exit::DONE);
        match self {
            Self::Kill => (run.kill(), vec![DONE, None]),
            Self::Terminate => {
                run.signal("TERM");
                // None: a run that has just started does not listen to signals yet.
                (run.finish(), vec![DONE, Some(exit::INTERRUPTED), None])
            }
            Self::Crash => {
                server.crash();
                (run.finish(), vec![DONE, Some(exit::SOURCE)])
            }
            Self::CrashAndKill => {
                server.crash();
                (run.kill(), vec![DONE, Some(exit::SOURCE), None])
            }
        }
    }
}
