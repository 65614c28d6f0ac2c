//! What changes come to, by hand and against a model.

use super::*;
use arrow::array::{BooleanArray, Int64Array, StringArray};
use arrow::datatypes::{Field, Int64Type, Schema};
use std::collections::BTreeMap;

fn schema() -> SchemaRef {
    change_schema(&Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("v", DataType::Utf8, true)])))
}

/// What is left of `changes` (key, value, gone) that come in batches of three.
fn left(changes: &[(i64, String, bool)], bound: usize) -> (BTreeMap<i64, String>, Vec<i64>) {
    let spill = tempfile::tempdir().expect("folder");
    let mut coalescer = Coalescer::new(schema(), vec![0], bound, spill.path()).expect("coalescer");
    for changes in changes.chunks(3) {
        let ids = Int64Array::from_iter_values(changes.iter().map(|c| c.0));
        let values = StringArray::from_iter_values(changes.iter().map(|c| &c.1));
        let gone = BooleanArray::from_iter(changes.iter().map(|c| Some(c.2)));
        coalescer
            .push(&RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(values), Arc::new(gone)]).expect("batch"))
            .expect("push");
    }
    let (mut rows, mut keys) = (BTreeMap::new(), Vec::new());
    coalescer
        .finish(|last| {
            keys.extend(last.keys.column(0).as_primitive::<Int64Type>().values());
            for (id, value) in last.rows.column(0).as_primitive::<Int64Type>().values().iter().zip(last.rows.column(1).as_string::<i32>()) {
                assert!(rows.insert(*id, value.expect("value").to_owned()).is_none(), "{id} comes once");
            }
            assert_eq!(last.rows.num_columns(), 2);
            Ok(())
        })
        .expect("finish");
    assert_eq!(std::fs::read_dir(spill.path()).expect("folder").count(), 0, "nothing stays");
    keys.sort_unstable();
    (rows, keys)
}

/// id 1 is whole, then left, then left again; id 2 is left of what is not among the changes; id 3 was left, and is whole in the end.
#[test]
fn what_stays_as_it_is_comes_from_the_change_before() {
    let fields = [Field::new("id", DataType::Int64, false), Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)];
    let kept = Field::new(KEPT, DataType::Utf8, true);
    let schema = Arc::new(Schema::new([&fields[..], &[Field::new(GONE, DataType::Boolean, false), kept]].concat()));
    let text = |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let batch = RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(Int64Array::from(vec![1, 2, 1, 3, 1, 3, 4])),
            text(&[Some("a1"), Some("a2"), None, None, Some("a1+"), Some("a3"), Some("a4")]),
            text(&[Some("b1"), None, Some("b1+"), Some("b3"), None, Some("b3+"), Some("b4")]),
            Arc::new(BooleanArray::from(vec![false, false, false, false, false, false, true])),
            text(&[None, Some("2"), Some("1"), Some("1"), Some("2"), None, None]),
        ],
    )
    .expect("batch");
    for bound in [usize::MAX, 0] {
        let spill = tempfile::tempdir().expect("folder");
        let mut coalescer = Coalescer::new(schema.clone(), vec![0], bound, spill.path()).expect("coalescer");
        for row in 0..batch.num_rows() {
            coalescer.push(&batch.slice(row, 1)).expect("push");
        }
        let mut found = BTreeMap::new();
        coalescer
            .finish(|Last { rows, kept, .. }| {
                let column = |at: usize| rows.column(at).as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
                for (row, id) in rows.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                    let kept = kept.as_ref().map_or(Vec::new(), |kept| kept.columns[row].clone());
                    found.insert(*id, (column(1)[row].clone(), column(2)[row].clone(), kept));
                }
                Ok(())
            })
            .expect("finish");
        let some = |text: &str| Some(text.to_owned());
        let expected = BTreeMap::from([
            (1, (some("a1+"), some("b1+"), vec![])),
            (2, (some("a2"), None, vec![2])),
            (3, (some("a3"), some("b3+"), vec![])),
        ]);
        assert_eq!(found, expected, "bound {bound}");
    }
}

#[test]
fn the_last_change_of_a_key_counts_in_memory_and_on_disk() {
    let changes: Vec<_> = (0..5000_i64).map(|n| (n * 7919 % 613, format!("v{n}"), n * 31 % 5 == 0)).collect();
    let mut model = BTreeMap::new();
    for (key, value, gone) in &changes {
        model.insert(*key, (!gone).then(|| value.clone()));
    }
    let expected: BTreeMap<_, _> = model.iter().filter_map(|(key, value)| Some((*key, value.clone()?))).collect();
    for bound in [usize::MAX, 1000, 0] {
        let (rows, keys) = left(&changes, bound);
        assert_eq!(rows, expected, "bound {bound}");
        assert_eq!(keys, model.keys().copied().collect::<Vec<_>>(), "bound {bound}");
    }
}

/// Key, values, whether the row goes, what is kept.
type Change = (i64, [Option<String>; 2], bool, Option<String>);

/// What a table shows of a row: `None` for a value that is gone, and whether the row is only a mark that it went.
type Shown = ([Option<String>; 2], bool);

/// A source, the destination as the last commit left it, and changes between them, of which some leave values as they are and some move rows to
/// other keys.
struct Model {
    seed: u64,
    /// Whether rows that go stay, marked.
    soft: bool,
    source: BTreeMap<i64, [Option<String>; 2]>,
    destination: BTreeMap<i64, Shown>,
    log: Vec<Change>,
    /// Rows of the log that must be in one batch with the one before.
    tied: Vec<bool>,
    written: usize,
}

impl Model {
    fn new(seed: u64, soft: bool) -> Self {
        let mut model =
            Self { seed, soft, source: BTreeMap::new(), destination: BTreeMap::new(), log: Vec::new(), tied: Vec::new(), written: 0 };
        for key in (0..8).step_by(2) {
            model.source.insert(key, [Some(format!("a{key} of old")), Some(format!("b{key} of old"))]);
        }
        model.destination = model.source.iter().map(|(key, values)| (*key, (values.clone(), false))).collect();
        model
    }

    fn below(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % end
    }

    fn value(&mut self) -> Option<String> {
        self.written += 1;
        (self.below(6) > 0).then(|| format!("v{}", self.written))
    }

    fn change(&mut self) {
        let (key, other) = (self.below(12).cast_signed(), self.below(12).cast_signed());
        let Some(before) = self.source.get(&key).cloned() else {
            let values = [self.value(), self.value()];
            self.source.insert(key, values.clone());
            return self.put(key, values, false, None);
        };
        if self.below(5) == 0 {
            self.source.remove(&key);
            return self.put(key, [None, None], true, None);
        }
        let (mut values, mut sent, mut kept) = (before, [None, None], Vec::new());
        for at in 0..2 {
            match self.below(3) {
                0 => {
                    values[at] = self.value();
                    sent[at] = values[at].clone();
                }
                _ => kept.push((at + 1).to_string()),
            }
        }
        let moves = self.below(2) == 0 && (key == other || !self.source.contains_key(&other));
        let new = if moves { other } else { key };
        self.source.remove(&key);
        self.source.insert(new, values);
        let mark = if moves { "^" } else { "" };
        let kept = (!kept.is_empty()).then(|| format!("{mark}{}", kept.join(",")));
        if moves {
            self.put(key, [None, None], true, None);
        }
        self.put(new, sent, false, kept);
        if let Some(tied) = self.tied.last_mut() {
            *tied = moves;
        }
    }

    fn put(&mut self, key: i64, values: [Option<String>; 2], gone: bool, kept: Option<String>) {
        self.log.push((key, values, gone, kept));
        self.tied.push(false);
    }

    fn schema(&self) -> SchemaRef {
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let (text, truth) = (DataType::Utf8, DataType::Boolean);
        let mut fields = vec![Field::new("id", DataType::Int64, false), field("a", &text), field("b", &text), field("marked", &truth)];
        if !self.soft {
            fields.push(field(GONE, &truth));
        }
        fields.push(field(KEPT, &text));
        Arc::new(Schema::new(fields))
    }

    fn batch(&self, rows: std::ops::Range<usize>) -> RecordBatch {
        let log = &self.log[rows];
        let text = |at: usize| Arc::new(log.iter().map(|row| row.1[at].clone()).collect::<StringArray>()) as ArrayRef;
        let gone: ArrayRef = Arc::new(log.iter().map(|row| Some(row.2)).collect::<BooleanArray>());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(log.iter().map(|row| row.0).collect::<Int64Array>()), text(0), text(1)];
        columns.push(if self.soft { gone.clone() } else { Arc::new(log.iter().map(|_| Some(false)).collect::<BooleanArray>()) });
        if !self.soft {
            columns.push(gone);
        }
        columns.push(Arc::new(log.iter().map(|row| row.3.clone()).collect::<StringArray>()));
        RecordBatch::try_new(self.schema(), columns).expect("batch")
    }

    /// What the destination is after the changes, which a coalescer with this bound has made.
    fn applied(&mut self, bound: usize) -> BTreeMap<i64, Shown> {
        let spill = tempfile::tempdir().expect("folder");
        let mut coalescer = Coalescer::new(self.schema(), vec![0], bound, spill.path()).expect("coalescer");
        let mut begin = 0;
        while begin < self.log.len() {
            let mut end = (begin + 1 + self.below(7) as usize).min(self.log.len());
            while end < self.log.len() && self.tied[end] {
                end += 1;
            }
            coalescer.push(&self.batch(begin..end)).expect("push");
            begin = end;
        }
        let mut after = self.destination.clone();
        let (mut keys_given, mut rows_given) = (BTreeMap::new(), BTreeMap::new());
        coalescer
            .finish(|Last { keys, rows, kept }| {
                for key in keys.column(0).as_primitive::<Int64Type>().values() {
                    assert!(keys_given.insert(*key, ()).is_none(), "the key {key} comes once");
                }
                for (row, key) in rows.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                    let text = |at: usize| rows.column(at).as_string::<i32>().iter().nth(row).flatten().map(str::to_owned);
                    let mut values = [text(1), text(2)];
                    if let Some(Kept { columns, under, .. }) = &kept {
                        let under = under.column(0).as_primitive::<Int64Type>().value(row);
                        for at in &columns[row] {
                            values[at - 1] = self.destination[&under].0[at - 1].clone();
                        }
                    }
                    let shown = (values, rows.column(3).as_boolean().value(row));
                    assert!(rows_given.insert(*key, shown).is_none(), "the row {key} comes once");
                }
                Ok(())
            })
            .expect("finish");
        assert!(rows_given.keys().all(|key| keys_given.contains_key(key)), "every row has its key among the keys");
        after.retain(|key, _| !keys_given.contains_key(key));
        after.extend(rows_given);
        after
    }
}

#[test]
fn rows_that_move_take_along_what_is_kept() {
    for seed in 0..250 {
        for soft in [false, true] {
            let mut model = Model::new(seed, soft);
            for _ in 0..=seed % 60 {
                model.change();
            }
            for bound in [usize::MAX, 4000, 0] {
                let mut after = model.applied(bound);
                // What is marked is not there.
                after.retain(|_, (_, marked)| !*marked);
                let after: BTreeMap<_, _> = after.into_iter().map(|(key, (values, _))| (key, values)).collect();
                assert_eq!(after, model.source, "seed {seed}, soft {soft}, bound {bound}, log {:#?}", model.log);
            }
        }
    }
}

/// A log in which a row is changed after the row of its key went is not that of a table with such a key.
#[test]
fn a_key_of_two_rows_is_an_error_that_names_it() {
    let mut model = Model::new(1, false);
    model.put(4, [None, None], true, None);
    model.put(4, [Some("a".into()), None], false, Some("2".into()));
    let mut coalescer = Coalescer::new(model.schema(), vec![0], usize::MAX, Path::new("/nowhere")).expect("coalescer");
    coalescer.push(&model.batch(0..2)).expect("push");
    let error = coalescer.finish(|_| Ok(())).expect_err("an error");
    assert!(error.to_string().contains("id = 4"), "{error}");
}
