use super::super::advance::Aim;
use super::*;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bytes(u64);

impl Part for Bytes {
    fn stats(&self) -> Stats {
        Stats { rows: 1, files: 1, bytes: self.0 }
    }
}

fn work(name: &str, chunks: u64, bytes: u64) -> Work<Bytes> {
    let chunk = |at: u64| Chunk {
        namespace: "public".into(),
        relation: name.into(),
        oid: 1,
        filenode: 2,
        from_page: at * 100,
        to_page: (at + 1 < chunks).then_some((at + 1) * 100),
        keys: None,
        tree: false,
        estimated_rows: Some(10),
        estimated_bytes: bytes,
    };
    Work {
        aim: Aim::everything(None),
        generation: name.into(),
        attempt: 3,
        kept: Vec::new(),
        chunks: (0..chunks).map(chunk).collect(),
        done: None,
    }
}

#[test]
fn the_largest_table_comes_first_and_jobs_shrink_towards_the_end() {
    let mut board = Board::new(vec![work("small", 1, MIB), work("large", 40, 64 * MIB)], 2, 256 * MIB);
    assert_eq!(board.chunks_left(), 41);
    let mut sizes = Vec::new();
    while let Some(job) = board.next_job() {
        sizes.push((job.stream, job.planned.len()));
        assert_eq!(job.pieces.len(), 1, "neighbours are one query");
        let complete = board.staged(&job, Bytes(16 * MIB * job.planned.len() as u64));
        assert_eq!(complete, job.stream == 0 || board.tables[1].queue.is_empty());
    }
    // A quarter of 2,560 MiB is less than a file's worth of 1,024 MiB.
    assert_eq!(sizes[..4], [(1, 10), (1, 7), (1, 5), (1, 4)]);
    assert_eq!(sizes[sizes.len() - 2..], [(1, 1), (0, 1)]);
    assert_eq!(sizes.iter().map(|(_, chunks)| chunks).sum::<usize>(), 41);
}

#[test]
fn a_file_has_the_right_size_once_the_table_has_told_how_it_compresses() {
    let mut board = Board::new(vec![work("t", 1000, 64 * MIB)], 2, 256 * MIB);
    let first = board.next_job().expect("work");
    assert_eq!(first.planned.len(), 16, "a gigabyte, until more is known");
    board.staged(&first, Bytes(16 * 32 * MIB));
    assert_eq!(board.next_job().expect("work").planned.len(), 8, "a heap that only halves");
}

#[test]
fn chunks_of_many_leaves_go_into_one_part() {
    let mut leaves = work("t", 1, MIB);
    leaves.chunks = (0..100).map(|oid| Chunk { oid, ..leaves.chunks[0].clone() }).collect();
    let mut board = Board::new(vec![leaves], 2, 256 * MIB);
    let job = board.next_job().expect("work");
    assert_eq!((job.pieces.len(), job.planned.len()), (25, 25));
    assert_eq!(job.name.to_string(), "t-3-00000");
    assert_eq!(board.next_job().expect("work").name.sequence, 1);
}

#[test]
fn an_abandoned_table_is_not_read_further() {
    let mut board = Board::new(vec![work("a", 10, 64 * MIB), work("b", 1, MIB)], 1, 256 * MIB);
    let job = board.next_job().expect("work");
    board.abandon(0);
    assert!(!board.staged(&job, Bytes(1)));
    assert_eq!(board.next_job().expect("work").stream, 1);
    assert!(board.next_job().is_none());
    assert_eq!(board.left, 0);
}
