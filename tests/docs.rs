//! Pages in `docs/` that the code generates.
//!
//! After an intended change: `./build.sh docs`, then read the diff.
#![expect(clippy::unwrap_used, reason = "tests")]

use lakeward::config::streams::StreamsFile;
use lakeward::config::{FileKind, Source, load};
use std::fs;

#[test]
fn the_page_of_types_is_what_the_table_of_types_says() {
    let page = lakeward::types::page::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all("docs").unwrap();
        fs::write("docs/types.md", &page).unwrap();
    }
    assert_eq!(page, fs::read_to_string("docs/types.md").unwrap_or_default(), "docs/types.md: run with UPDATE_DOCS=1");
}

#[test]
fn the_examples_of_the_page_are_files_that_load() {
    let page = lakeward::types::page::page();
    let folder = tempfile::tempdir().unwrap();
    let (mut streams, mut sources) = (0, 0);
    for example in page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        let path = folder.path().join("example.json");
        fs::write(&path, example).unwrap();
        if example.contains("selected_streams") {
            let file = load::<StreamsFile>(&path, FileKind::Streams, false).unwrap();
            assert_eq!(file.notes, Vec::<String>::new());
            streams += 1;
        } else {
            let file = load::<Source>(&path, FileKind::Source, false).unwrap();
            assert_eq!(file.notes, Vec::<String>::new());
            file.value.resolve().unwrap();
            sources += 1;
        }
    }
    assert_eq!((streams, sources), (1, 1));
}
