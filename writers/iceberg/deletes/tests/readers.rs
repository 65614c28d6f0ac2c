//! What readers make of the delete files that we did not write: PyIceberg and DuckDB.
//!
//! `LAKEWARD_PYTHON` names a Python that has both (`pyiceberg[pyarrow]`, `duckdb`, `duckdb-extension-{avro,httpfs,iceberg}`).

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use super::lake::Lake;
use super::rows;
use std::collections::BTreeMap;
use std::process::Command;

const PRINT: &str = r#"
import glob, importlib, json, sys
from os.path import dirname
try:
    import duckdb
    extensions = [importlib.import_module("duckdb_extension_" + name) for name in ("avro", "httpfs", "iceberg")]
    from pyiceberg.table import StaticTable
except ImportError as error:
    print(error); sys.exit(77)
metadata = sys.argv[1]
table = StaticTable.from_metadata(metadata).scan().to_arrow()
print(json.dumps(sorted(zip(table["id"].to_pylist(), table["name"].to_pylist()))))
one = StaticTable.from_metadata(metadata).scan(row_filter="id == 17").to_arrow()
assert one["id"].to_pylist() == [17], one
connection = duckdb.connect()
for extension in extensions:
    connection.execute("LOAD '%s'" % glob.glob(dirname(extension.__file__) + "/extensions/*/*.duckdb_extension")[0])
query = "select id, name from iceberg_scan('%s')" % metadata
print(json.dumps(connection.execute(query + " order by id, name").fetchall()))
assert connection.execute(query + " where id = 17").fetchall() == [(17, "new 17")]
print(json.dumps(connection.execute("select count(*) from iceberg_scan('%s')" % metadata).fetchall()))
"#;

/// What each reader sees; `None` where there is none.
fn seen(lake: &Lake) -> Option<(BTreeMap<i64, String>, BTreeMap<i64, String>)> {
    let python = std::env::var_os("LAKEWARD_PYTHON").unwrap_or_else(|| "python3".into());
    let missing = |why: &str| {
        assert!(std::env::var_os("LAKEWARD_REQUIRE_ALL").is_none(), "not tested: {why}");
        eprintln!("not tested: {why}; set LAKEWARD_PYTHON to a Python that has PyIceberg and DuckDB with its extensions");
    };
    let Ok(output) = Command::new(&python).args(["-c", PRINT, lake.metadata().trim_start_matches("file://")]).output() else {
        missing(&format!("{} does not run", python.display()));
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        missing(text.trim());
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = text.lines();
    let mut read = || {
        let rows: Vec<(i64, String)> = serde_json::from_str(lines.next().expect("a line")).expect("rows");
        let map: BTreeMap<i64, String> = rows.iter().cloned().collect();
        assert_eq!(map.len(), rows.len(), "a key twice");
        map
    };
    let both = (read(), read());
    let counted: Vec<(usize,)> = serde_json::from_str(lines.next().expect("a line")).expect("a count");
    assert_eq!(counted, [(both.1.len(),)]);
    Some(both)
}

async fn readers_agree(version: u8, partition: &str) {
    let mut lake = Lake::new(version, partition).await;
    let mut model = BTreeMap::new();
    lake.append(rows(0..3000)).await;
    lake.append(rows(3000..6000)).await;
    model.extend(rows(0..6000));
    let mut index = lake.index().await;
    // Twice, so that vectors are merged; the second time also rows that came with the first.
    for (word, step) in [("old", 3), ("new", 2)] {
        let touched: Vec<i64> = (0..5000).filter(|id| id % step == 0 || *id == 17).collect();
        let (gone, changed): (Vec<i64>, Vec<i64>) = touched.iter().partition(|id| **id % 5 == 0);
        let changed: Vec<_> = changed.into_iter().map(|id| (id, format!("{word} {id}"))).collect();
        gone.iter().for_each(|id| drop(model.remove(id)));
        model.extend(changed.iter().cloned());
        lake.upsert(&mut index, changed, &gone).await;
    }
    let Some((pyiceberg, duckdb)) = seen(&lake) else { return };
    assert_eq!(pyiceberg, model, "PyIceberg");
    assert_eq!(duckdb, model, "DuckDB");
}

#[tokio::test]
async fn position_deletes_are_read_by_others() {
    readers_agree(2, "").await;
    readers_agree(2, "/{id, bucket[4]}").await;
}

#[tokio::test]
async fn deletion_vectors_are_read_by_others() {
    readers_agree(3, "").await;
    readers_agree(3, "/{id, bucket[4]}").await;
}
