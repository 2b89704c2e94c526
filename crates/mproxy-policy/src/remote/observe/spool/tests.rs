//! A spool on a real disk: what it holds after a crash, after an end in order, when it is damaged, full or gone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::files::{Lost, NotWritten};
use super::*;
use crate::watch::NoWatch;

const SIZE: u64 = 4 << 20;
const RUN: u128 = 7;

fn client(connection: u128) -> EventClient {
    let field = Arc::new(Bytes::from(format!("client {connection}")));
    EventClient::Kept(KeptClient { connection, field })
}

fn event(kind: Kind, fields: &str) -> EncodedEvent {
    EncodedEvent { kind, fields: Bytes::copy_from_slice(fields.as_bytes()) }
}

fn open_sized(folder: &Path, size: u64) -> io::Result<Spool> {
    Spool::open(
        &SpoolConfig { folder: folder.to_owned(), size, succeeds: false },
        RUN,
        1 << 20,
        |_| false,
        &NoWatch,
    )
}

fn open(folder: &Path) -> Spool {
    open_sized(folder, SIZE).expect("it can be opened")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

impl Spool {
    fn add(&mut self, sequence: u64, connection: u128, kind: Kind, fields: &str) -> Result<(), Lost> {
        self.files.reserve(sequence).expect("it can be reserved");
        self.files.append(sequence, &client(connection), &event(kind, fields), true)
    }

    fn put(&mut self, sequence: u64, connection: u128, kind: Kind) {
        self.add(sequence, connection, kind, &sequence.to_string()).expect("there is room");
    }

    /// The events that it held, by number: connection, and what they say.
    fn held(&self) -> BTreeMap<u64, (u128, String)> {
        let text = |event: &EncodedEvent| String::from_utf8_lossy(&event.fields).into_owned();
        self.events
            .iter()
            .map(|(sequence, client, event)| (*sequence, (client.connection(), text(event))))
            .collect()
    }
}

#[test]
fn after_a_crash_events_are_found_and_open_connections_end() {
    let folder = folder();
    let mut spool = open(folder.path());
    assert!(spool.events.is_empty() && spool.last == 0);
    for connection in 1..=3 {
        spool.put(connection, connection.into(), Kind::Connect);
    }
    spool.put(4, 2, Kind::Publish);
    spool.put(5, 1, Kind::Disconnect);
    spool.files.flush().expect("it is written");
    drop(spool);

    let spool = open(folder.path());
    assert_eq!((spool.run_id, spool.confirmed), (RUN, 0));
    let held = spool.held();
    assert_eq!(held.keys().take(5).copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((&*held[&4].1, held[&4].0), ("4", 2));
    let ended: Vec<_> = held.iter().skip(5).collect();
    assert_eq!(ended.iter().map(|(_, (connection, _))| *connection).collect::<Vec<_>>(), [2, 3]);
    assert!(
        ended.iter().all(|(sequence, _)| **sequence > 5),
        "numbers that may have been given are not given again"
    );
    assert!(ended.iter().all(|(_, (_, text))| text.contains("mproxy ended without notice")));
    let last = spool.last;
    drop(spool);

    let again = open(folder.path());
    assert_eq!(again.held(), held, "each end is told once");
    assert!(again.last > last);
}

#[test]
fn a_connection_that_goes_on_in_another_process_has_not_ended() {
    let folder = folder();
    let mut spool = open(folder.path());
    for connection in 1..=3 {
        spool.put(connection, connection.into(), Kind::Connect);
    }
    spool.files.flush().expect("it is written");
    spool.files.finish(3).expect("it ends");
    drop(spool);
    let config = SpoolConfig { folder: folder.path().to_owned(), size: SIZE, succeeds: true };
    let goes_on = |connection| connection == 2;
    let spool = Spool::open(&config, RUN, 1 << 20, goes_on, &NoWatch).expect("it can be opened");
    let ended = |spool: &Spool| spool.held().into_iter().skip(3).map(|(_, held)| held.0).collect::<Vec<_>>();
    assert_eq!(ended(&spool), [1, 3]);
    drop(spool);
    assert_eq!(ended(&open(folder.path())), [1, 3, 2], "and has when that one has ended without a word");
}

#[test]
fn after_an_end_in_order_no_number_is_lost() {
    let folder = folder();
    let mut spool = open(folder.path());
    spool.put(1, 1, Kind::Connect);
    spool.put(2, 1, Kind::Disconnect);
    spool.files.flush().expect("it is written");
    spool.files.finish(2).expect("it ends");
    drop(spool);
    let spool = open(folder.path());
    assert_eq!((spool.last, spool.events.len(), spool.run_id), (2, 2, RUN));
}

#[test]
fn what_is_confirmed_is_not_found_and_its_files_go() {
    let folder = folder();
    let mut spool = open(folder.path());
    let files = |folder: &Path| folder::event_files(folder).expect("a folder").len();
    for sequence in 1..=200 {
        spool.add(sequence, 1, Kind::Publish, &"x".repeat(4000)).expect("there is room");
        spool.files.flush().expect("it is written");
    }
    assert!(files(folder.path()) > 2);
    spool.files.release(150);
    spool.files.sync().expect("it is on disk");
    drop(spool);
    let mut spool = open(folder.path());
    assert_eq!(spool.held().keys().copied().collect::<Vec<_>>(), (151..=200).collect::<Vec<_>>());
    spool.files.release(200);
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn a_spool_that_is_full_takes_nothing_and_takes_again_when_there_is_room() {
    let folder = folder();
    let mut spool = open_sized(folder.path(), 256 << 10).expect("it can be opened");
    let mut taken = 0;
    let full = loop {
        match spool.add(taken + 1, 1, Kind::Publish, &"x".repeat(4000)) {
            Ok(()) => taken += 1,
            Err(lost) => break lost,
        }
        spool.files.flush().expect("it is written");
        assert!(spool.files.bytes() <= 256 << 10);
    };
    assert!(matches!(full, Lost { events: 1, why: NotWritten::Full }) && taken > 50);
    spool.files.release(taken);
    spool.put(taken + 2, 1, Kind::Publish);
}

#[test]
fn a_folder_that_is_gone_fails_each_write_and_harms_nothing() {
    let folder = folder();
    let path = folder.path().join("spool");
    let mut spool = open(&path);
    fs::remove_dir_all(&path).expect("it can be removed");
    assert!(matches!(
        spool.add(1, 1, Kind::Publish, "x"),
        Err(Lost { events: 1, why: NotWritten::Failed(_) })
    ));
    fs::create_dir(&path).expect("it is back");
    spool.put(2, 1, Kind::Publish);
    spool.files.flush().expect("it is written");
}

#[test]
fn connections_that_come_and_go_leave_no_trace() {
    let folder = folder();
    let mut spool = open(folder.path());
    let stays = Bytes::from(vec![b'x'; 100]);
    let mut sequence = 0;
    for round in 0..200_u128 {
        for connection in 0..100 {
            let id = round * 1000 + connection;
            let kept = KeptClient { connection: id, field: Arc::new(stays.clone()) };
            for kind in [Kind::Connect, Kind::Disconnect] {
                if kind == Kind::Disconnect && id == 5 {
                    continue;
                }
                sequence += 1;
                let client = EventClient::Kept(kept.clone());
                spool.files.append(sequence, &client, &event(kind, ""), true).expect("there is room");
            }
        }
        spool.files.reserve(sequence).expect("it can be reserved");
        spool.files.flush().expect("it is written");
        spool.files.release(sequence);
    }
    assert!(spool.files.bytes() < 2 << 20, "{}", spool.files.bytes());
    drop(spool);
    let spool = open(folder.path());
    let ended: Vec<_> = spool.events.iter().filter(|(_, client, _)| client.connection() == 5).collect();
    assert_eq!(
        (ended.len(), ended[0].2.kind),
        (1, Kind::Disconnect),
        "however often the file was written anew"
    );
}

#[test]
fn one_mproxy_at_a_time_has_it_and_nobody_else_reads_it() {
    let folder = folder();
    let path = folder.path().join("spool");
    let mut spool = open(&path);
    spool.put(1, 1, Kind::Connect);
    let taken = open_sized(&path, SIZE).map(drop).expect_err("another has it");
    assert!(taken.to_string().contains("another mproxy uses it"), "{taken}");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).expect("a folder") {
        let file = entry.expect("a file").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(spool);
    open(&path);
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("it can be written");
    assert!(open_sized(&file, SIZE).is_err());
}

#[test]
fn without_a_cursor_its_events_get_new_numbers() {
    let folder = folder();
    let mut spool = open(folder.path());
    for sequence in 5..=8 {
        spool.put(sequence, 1, Kind::Publish);
    }
    spool.files.flush().expect("it is written");
    drop(spool);
    fs::write(folder.path().join("cursor"), "garbage").expect("it can be written");
    let config = SpoolConfig { folder: folder.path().to_owned(), size: SIZE, succeeds: false };
    let spool = Spool::open(&config, 99, 1 << 20, |_| false, &NoWatch).expect("it can be opened");
    assert_eq!((spool.run_id, spool.confirmed), (99, 0));
    let texts: Vec<_> = spool.held().into_iter().map(|(sequence, (_, text))| (sequence, text)).collect();
    assert_eq!(texts, (1..=4).map(|sequence| (sequence, (sequence + 4).to_string())).collect::<Vec<_>>());
}

#[test]
fn events_beyond_what_memory_may_hold_are_counted() {
    let folder = folder();
    let mut spool = open(folder.path());
    for sequence in 1..=10 {
        spool.put(sequence, 1, Kind::Publish);
    }
    spool.files.flush().expect("it is written");
    drop(spool);
    let config = SpoolConfig { folder: folder.path().to_owned(), size: SIZE, succeeds: false };
    let spool = Spool::open(&config, RUN, 1000, |_| false, &NoWatch).expect("it can be opened");
    assert_eq!((spool.events.len(), spool.without_room.len()), (3, 7));
    assert!(spool.last >= 10);
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u32),
    Garbage(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), 0_u32..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        prop::collection::vec(any::<u8>(), 1..100).prop_map(Damage::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever was written, wherever mproxy was killed, and whatever happened to one of the files since: the spool opens,
    /// what it gives was written so, in order and once, and what was behind the damage is all that is missing.
    #[test]
    fn a_damaged_spool_opens_and_makes_nothing_up(
        steps in prop::collection::vec((0_u128..4, 0_usize..5, any::<bool>()), 1..60),
        confirmed in 0_u64..20,
        which in any::<prop::sample::Index>(),
        damage in damage(),
    ) {
        let folder = folder();
        // Small files, so that there are several.
        let mut spool = open_sized(folder.path(), 1 << 20).expect("it can be opened");
        let mut written = BTreeMap::new();
        for (sequence, (connection, kind, flush)) in (1..).zip(&steps) {
            let text = format!("{sequence} {}", "x".repeat(3000 * (sequence % 5) as usize));
            spool.add(sequence, *connection, Kind::ALL[*kind], &text).expect("there is room");
            if *flush {
                spool.files.flush().expect("it is written");
            }
            written.insert(sequence, (*connection, text));
        }
        spool.files.flush().expect("it is written");
        let confirmed = confirmed.min(steps.len() as u64);
        spool.files.release(confirmed);
        spool.files.sync().expect("it is on disk");
        drop(spool);
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let file = &files[which.index(files.len())];
        let mut bytes = fs::read(file).unwrap();
        match damage {
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Damage::Flip(at, bit) => {
                let at = at.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Garbage(garbage) => bytes.extend(garbage),
        }
        fs::write(file, bytes).unwrap();

        let spool = open_sized(folder.path(), 1 << 20).expect("it can be opened");
        let found: Vec<_> = spool.held().into_iter().filter(|(_, (_, text))| !text.contains("without notice")).collect();
        prop_assert!(spool.events.is_sorted_by_key(|(sequence, ..)| *sequence));
        prop_assert!(spool.last >= spool.events.last().map_or(0, |(sequence, ..)| *sequence));
        let (event_file, cursor_file) = (file.to_string_lossy().contains("events-"), file.ends_with("cursor"));
        let known = spool.run_id == RUN && (!cursor_file || spool.last >= steps.len() as u64);
        if known {
            for (sequence, event) in &found {
                prop_assert_eq!(written.get(sequence), Some(event));
                prop_assert!(*sequence > confirmed || cursor_file);
            }
        }
        if !event_file && !cursor_file {
            prop_assert_eq!(found.len() as u64, steps.len() as u64 - confirmed);
        }
    }
}
