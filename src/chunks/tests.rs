#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn chunk(from_page: u64, to_page: Option<u64>) -> Chunk {
    Chunk {
        namespace: "My \"S\"".into(),
        relation: "t".into(),
        oid: 1,
        filenode: 2,
        from_page,
        to_page,
        keys: None,
        tree: false,
        estimated_rows: None,
        estimated_bytes: 3,
    }
}

#[test]
fn queries() {
    let columns = ["\"a\"".to_owned(), "\"b\"::text".to_owned()];
    for (columns, chunk, filter, expected) in [
        (&columns[..], chunk(0, None), None, r#"SELECT "a", "b"::text FROM ONLY "My ""S"""."t""#),
        (&columns[..1], chunk(0, Some(5)), None, r#"SELECT "a" FROM ONLY "My ""S"""."t" WHERE ctid < '(5,0)'::tid"#),
        (&columns[..1], chunk(5, None), Some("x OR y"), r#"SELECT "a" FROM ONLY "My ""S"""."t" WHERE ctid >= '(5,0)'::tid AND (x OR y)"#),
        (&[], chunk(5, Some(9)), None, r#"SELECT FROM ONLY "My ""S"""."t" WHERE ctid >= '(5,0)'::tid AND ctid < '(9,0)'::tid"#),
        (&[], Chunk { tree: true, ..chunk(0, None) }, Some("x"), r#"SELECT FROM "My ""S"""."t" WHERE (x)"#),
    ] {
        assert_eq!(query(columns, &chunk, filter, Wire::Binary), format!("COPY ({expected}) TO STDOUT (FORMAT binary)"));
        assert_eq!(query(columns, &chunk, filter, Wire::Text), format!("COPY ({expected}) TO STDOUT (FORMAT text)"));
    }
}

#[test]
fn bounds_as_olake_writes_them() {
    let form = |chunk: &Chunk| chunk.olake_form().to_string();
    assert_eq!(form(&chunk(0, Some(262_144))), r#"{"min":"'(0,0)'","max":"'(262144,0)'"}"#);
    assert_eq!(form(&chunk(262_144, None)), r#"{"min":"'(262144,0)'","max":"'(4294967295,0)'"}"#);
    assert_eq!(form(&keyed(None, Some("7"))), r#"{"min":null,"max":"7"}"#);
}

fn keyed(from: Option<&str>, to: Option<&str>) -> Chunk {
    let bound = |text: &str| vec![text.to_owned()];
    let keys = KeyRange { columns: vec!["id".into()], nullable: false, from: from.map(bound), to: to.map(bound) };
    Chunk { keys: Some(keys), ..chunk(0, None) }
}

#[test]
fn neighbours_are_joined_and_others_are_not() {
    let join = |mut first: Chunk, next: &Chunk| first.join(next).then(|| first.describe());
    assert_eq!(join(chunk(0, Some(5)), &chunk(5, Some(9))), Some("pages 0..9".into()));
    assert_eq!(join(chunk(5, Some(9)), &chunk(9, None)), Some("pages 5..".into()));
    assert_eq!(join(chunk(0, Some(5)), &chunk(6, None)), None);
    assert_eq!(join(chunk(0, Some(5)), &Chunk { oid: 9, ..chunk(5, None) }), None, "a leaf of another table");
    assert_eq!(join(keyed(None, Some("5")), &keyed(Some("5"), None)), Some("id ..".into()));
    assert_eq!(join(keyed(None, Some("5")), &keyed(Some("6"), None)), None);
    assert_eq!(join(keyed(None, Some("5")), &chunk(5, None)), None);
    let piece = Chunk { to_page: Some(5), ..keyed(Some("5"), Some("6")) };
    assert_eq!(join(keyed(None, Some("5")), &piece), None, "a value that is cut by pages");
}

#[test]
fn json_is_stable() {
    let text = r#"{"namespace":"My \"S\"","relation":"t","oid":1,"filenode":2,"from_page":4,"to_page":null,"estimated_bytes":3}"#;
    assert_eq!(serde_json::to_string(&chunk(4, None)).unwrap(), text);
    assert_eq!(serde_json::from_str::<Chunk>(text).unwrap(), chunk(4, None));
}
