//! A slot that is being read and holds back too much, as an endless run sees it.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::update_method::{OnDetach, OnTruncate};
use crate::postgres::lsn::Lsn;
use crate::postgres::replication::{Protocol, Replication, StartOptions, Streaming};
use crate::postgres::testing::Server;
use std::time::Duration;

fn terms(limit: u64, on_slot_lag: OnSlotLag) -> Terms {
    Terms {
        slot: "lagging".into(),
        publication: "lagging".into(),
        create_if_missing: false,
        failover: false,
        sync_publication: false,
        max_slot_lag_bytes: Some(limit),
        on_slot_lag,
        heartbeat: Duration::ZERO,
        way: Way::Stream,
        on_detach: OnDetach::Keep,
        on_truncate: OnTruncate::Apply,
    }
}

#[tokio::test]
async fn the_lag_of_a_slot_that_is_read_is_judged_and_the_slot_dropped_when_it_is_not() {
    let server = Server::own();
    let options = server.options(server.unix(), "postgres");
    let session = connect::session(&options).await.unwrap();
    assert!(check_lag(&session, &terms(1, OnSlotLag::Stop)).await.is_ok(), "there is no slot");
    session.execute("CREATE PUBLICATION lagging").await.unwrap();
    session.execute(&slot::create_sql("lagging", "pgoutput")).await.unwrap();
    for _ in 0..2 {
        session.execute("SELECT pg_logical_emit_message(false, 'x', 'x')").await.unwrap();
        session.execute("SELECT pg_switch_wal()").await.unwrap();
    }
    let replication = Replication::connect(&options).await.unwrap();
    let start = StartOptions {
        slot: "lagging".into(),
        from: Lsn::default(),
        publications: vec!["lagging".into()],
        protocol: Protocol { version: 1, binary: false, streaming: Streaming::Off, two_phase: false, messages: false },
        status_interval: Duration::from_secs(10),
        timeout: Duration::from_secs(60),
    };
    let stream = replication.start(&start).await.unwrap();
    let lagging = 1 << 20;
    assert!(check_lag(&session, &terms(1 << 40, OnSlotLag::Stop)).await.is_ok());
    assert!(check_lag(&session, &terms(lagging, OnSlotLag::Warn)).await.is_ok());
    for on_slot_lag in [OnSlotLag::Stop, OnSlotLag::DropSlot] {
        let error = check_lag(&session, &terms(lagging, on_slot_lag)).await.unwrap_err();
        assert!(error.to_string().contains("[slot_lag]") && !error.to_string().contains("dropped"), "{error}");
    }
    // Only when it is not read any more, and only where it was asked for.
    drop(stream);
    assert!(drop_lagging(&options, &terms(lagging, OnSlotLag::Stop)).await.is_ok());
    assert!(drop_lagging(&options, &terms(1 << 40, OnSlotLag::DropSlot)).await.is_ok());
    let error = drop_lagging(&options, &terms(lagging, OnSlotLag::DropSlot)).await.unwrap_err();
    assert!(error.to_string().contains("it was dropped"), "{error}");
    assert_eq!(slot::find(&session, "lagging").await.unwrap(), None);
    assert!(drop_lagging(&options, &terms(lagging, OnSlotLag::DropSlot)).await.is_ok());
}
