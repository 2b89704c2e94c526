use super::*;

fn entry(topic: &str) -> Arc<DecisionEntry> {
    Arc::new(DecisionEntry { topic: Some(topic.into()), ..DecisionEntry::default() })
}

fn config(path: &Path, file_size: u64, files: usize) -> DecisionLogConfig {
    DecisionLogConfig { file: Some(path.to_owned()), file_size, files, ..DecisionLogConfig::default() }
}

fn lost(counts: &DecisionCounts, reason: &'static str) -> u64 {
    counts.lost.get_or_create(&super::super::ReasonLabels { reason }).get()
}

fn errors(counts: &DecisionCounts, operation: &'static str) -> u64 {
    counts.file_errors.get_or_create(&super::super::OperationLabels { operation }).get()
}

/// The topics in these files, in the order of the files, each of whose lines is whole.
fn topics(paths: &[PathBuf]) -> Vec<String> {
    let text: String = paths.iter().map(|path| fs::read_to_string(path).expect("a file")).collect();
    let topic = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("a whole line");
        value["topic"].as_str().expect("a topic").to_owned()
    };
    text.lines().map(topic).collect()
}

#[test]
fn files_are_rotated_under_load_and_no_line_is_torn() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("decisions.jsonl");
    let counts = DecisionCounts::default();
    let file = DecisionFile::start(&config(&path, 64 << 10, 3), counts.clone());
    thread::scope(|scope| {
        for thread in 0..4 {
            let file = &file;
            scope.spawn(move || {
                for n in 0..2000 {
                    file.push(entry(&format!("{thread}/{n}")));
                    if n % 50 == 0 {
                        // So that the queue is never full, and what is lost is what was rotated away.
                        assert!(file.flush(Duration::from_secs(10)));
                    }
                }
            });
        }
    });
    file.push(entry("end"));
    assert!(file.flush(Duration::from_secs(10)));
    assert_eq!((lost(&counts, "queue_full"), lost(&counts, "write_failed")), (0, 0));
    let older = |n: usize| folder.path().join(format!("decisions.jsonl.{n}"));
    let all = [older(2), older(1), path];
    for path in &all {
        assert!(fs::metadata(path).expect("a file").len() <= 64 << 10);
    }
    assert!(!older(3).exists(), "three are kept");
    let topics = topics(&all);
    assert_eq!(topics.last().map(String::as_str), Some("end"));
    // Of each thread those that are left are in their order.
    for thread in 0..4 {
        let own: Vec<usize> = topics
            .iter()
            .filter_map(|topic| topic.strip_prefix(&format!("{thread}/"))?.parse().ok())
            .collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

#[test]
fn a_full_disk_costs_only_the_lines_and_is_counted() {
    let counts = DecisionCounts::default();
    let file = DecisionFile::start(&config(Path::new("/dev/full"), 1 << 20, 3), counts.clone());
    for n in 0..100 {
        file.push(entry(&n.to_string()));
    }
    assert!(file.flush(Duration::from_secs(10)));
    assert_eq!(lost(&counts, "write_failed"), 100);
    assert_eq!(errors(&counts, "write"), 1, "it is tried once a second");
    assert!(Path::new("/dev/full").exists());
    assert_eq!(file.give_up(), 0, "what could not be written has been counted");
}

#[test]
fn what_is_no_file_is_no_decision_log_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
    fs::write(path("file"), "").expect("a file");
    for (name, told) in [
        ("pipe", "no regular file"),
        ("socket", "no regular file"),
        ("", "is a directory"),
        ("missing/d.jsonl", "No such file"),
        ("file/d.jsonl", " a directory"),
    ] {
        let error = DecisionFile::check(&path(name)).expect_err(name).to_string();
        assert!(error.to_lowercase().contains(&told.to_lowercase()), "{name}: {error}");
        let counts = DecisionCounts::default();
        let file = DecisionFile::start(&config(&path(name), 1 << 20, 3), counts.clone());
        file.push(entry("a"));
        assert!(file.flush(Duration::from_secs(10)), "{name}");
        assert_eq!((lost(&counts, "write_failed"), errors(&counts, "open")), (1, 1), "{name}");
    }
    for name in ["file", "new"] {
        DecisionFile::check(&path(name)).expect(name);
    }
    assert!(!path("new").exists(), "looking makes none");
    DecisionFile::check(Path::new("/dev/null")).expect("takes everything");
    let _writer = DecisionFile::start(&config(&path("new"), 1 << 20, 3), DecisionCounts::default());
    let late = Instant::now() + Duration::from_secs(10);
    while !path("new").exists() {
        assert!(Instant::now() < late, "it is opened at the start, and not with the first record");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_missing_folder_is_tried_again_until_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("later");
    let counts = DecisionCounts::default();
    let mut writer = Writer {
        shared: Arc::default(),
        counts: counts.clone(),
        file: RotatedFile {
            path: missing.join("d"),
            size: 1 << 20,
            files: 2,
            open: None,
            rotate_after: None,
        },
        failing: false,
        lost: 0,
        tried: None,
    };
    writer.write(b"{}\n{}\n");
    writer.write(b"{}\n");
    assert_eq!((errors(&counts, "open"), lost(&counts, "write_failed")), (1, 3));
    fs::create_dir(&missing).expect("a folder");
    writer.tried = writer.tried.and_then(|tried| tried.checked_sub(PAUSE));
    writer.write(b"{\"a\":1}\n");
    assert_eq!(fs::read_to_string(missing.join("d")).expect("a file"), "{\"a\":1}\n");
    assert!(!writer.failing && writer.lost == 0, "how many were lost has been told");
}

#[test]
fn a_torn_line_of_the_last_run_does_not_stand_before_the_first_of_this() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d");
    fs::write(&path, "{\"a\":1}\n{\"b").expect("a file");
    let mut file =
        RotatedFile { path: path.clone(), size: 1 << 20, files: 2, open: None, rotate_after: None };
    file.append(b"{\"c\":1}\n").expect("written");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "{\"a\":1}\n{\"b\n{\"c\":1}\n");
}

#[test]
fn a_rotation_that_fails_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d");
    // A folder in its place cannot be replaced by a file.
    fs::create_dir_all(folder.path().join("d.1/x")).expect("a folder");
    let mut file = RotatedFile { path: path.clone(), size: 10, files: 2, open: None, rotate_after: None };
    file.append(b"{\"a\":1}\n").expect("written");
    let error = file.append(b"{\"b\":1}\n").expect_err("it cannot be rotated");
    assert_eq!(error.operation, ROTATE);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "{\"a\":1}\n{\"b\":1}\n");
}

#[test]
fn older_files_stay_where_somebody_else_moves_the_newest() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d");
    for number in 1..5 {
        fs::write(folder.path().join(format!("d.{number}")), format!("{number}\n")).expect("a file");
    }
    let mut file = RotatedFile { path: path.clone(), size: 10, files: 5, open: None, rotate_after: None };
    file.append(b"{\"a\":1}\n").expect("written");
    fs::rename(&path, folder.path().join("elsewhere")).expect("moved");
    file.append(b"{\"b\":1}\n").expect("written to a new one");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "{\"b\":1}\n");
    for number in 1..5 {
        let older = fs::read_to_string(folder.path().join(format!("d.{number}")));
        assert_eq!(older.expect("a file"), format!("{number}\n"));
    }
    let elsewhere = fs::read_to_string(folder.path().join("elsewhere")).expect("a file");
    assert_eq!(elsewhere, "{\"a\":1}\n", "it is written no more");
    // The next one is moved as ever.
    file.append(b"{\"c\":1}\n").expect("rotated");
    assert_eq!(fs::read_to_string(folder.path().join("d.1")).expect("a file"), "{\"b\":1}\n");
    assert_eq!(fs::read_to_string(folder.path().join("d.4")).expect("a file"), "3\n");
}

#[test]
fn older_files_stay_where_the_newest_cannot_be_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("d");
    fs::write(folder.path().join("d.1"), "1\n").expect("a file");
    // A folder in its way.
    fs::create_dir_all(folder.path().join("d.0/x")).expect("a folder");
    let mut file = RotatedFile { path: path.clone(), size: 10, files: 3, open: None, rotate_after: None };
    file.append(b"{\"a\":1}\n").expect("written");
    assert!(file.append(b"{\"b\":1}\n").is_err());
    // Not with each line.
    file.append(b"{\"c\":1}\n").expect("written");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "{\"a\":1}\n{\"b\":1}\n{\"c\":1}\n");
    assert_eq!(fs::read_to_string(folder.path().join("d.1")).expect("a file"), "1\n");
}

#[test]
fn more_than_the_queue_holds_is_lost_and_counted() {
    let counts = DecisionCounts::default();
    let file = DecisionFile { shared: Arc::default(), counts: counts.clone(), path: PathBuf::new() };
    let one = entry("a").weight();
    let fits = QUEUE / one;
    for _ in 0..fits + 7 {
        file.push(entry("a"));
    }
    assert_eq!(lost(&counts, "queue_full"), 7);
    {
        let waiting = file.shared.waiting.lock();
        assert!(waiting.bytes <= QUEUE && waiting.full);
        assert_eq!(waiting.lost, 7, "as is told when there is room again");
    }
    // A disk that hangs: the writer has taken some, and is never heard of again.
    file.shared.waiting.lock().taken = 3;
    assert!(!file.flush(Duration::from_millis(1)));
    assert_eq!((file.give_up(), lost(&counts, "stopped")), (fits as u64 + 3, fits as u64 + 3));
    assert_eq!(file.give_up(), 0);
}

#[test]
fn the_writer_is_woken_for_the_first_record_and_for_a_full_batch() {
    let mut waiting = PendingRecords { entries: [entry("a")].into(), ..PendingRecords::default() };
    assert!(waiting.wakes_writer());
    waiting.writer = WriterPhase::Gathering;
    let woken: Vec<usize> = (2..=AT_A_TIME + 1)
        .filter(|_| {
            waiting.entries.push_back(entry("b"));
            waiting.wakes_writer()
        })
        .collect();
    assert_eq!(woken, [AT_A_TIME]);
    waiting.writer = WriterPhase::Writing;
    assert!(!waiting.wakes_writer(), "it looks again");
}

#[test]
fn what_was_gathered_is_written_without_being_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("decisions.jsonl");
    let file = DecisionFile::start(&config(&path, 1 << 20, 3), DecisionCounts::default());
    file.push(entry("a"));
    file.push(entry("b"));
    let late = Instant::now() + Duration::from_secs(10);
    while !path.exists() || topics(std::slice::from_ref(&path)).len() < 2 {
        assert!(Instant::now() < late, "it is not written");
        thread::sleep(Duration::from_millis(10));
    }
}
