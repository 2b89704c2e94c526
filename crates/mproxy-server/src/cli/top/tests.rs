use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::figures::TopFigures;
use super::keys::{KeyAction, KeyMode, SessionSort, TopKeys};
use super::sample::{PolicyEndpoint, RefusalSample, SessionSample, StatsSample, TopSample};
use super::*;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("what the API says")
}

fn session(id: &str, client_id: &str, packets: u64, bytes: u64, since: &str) -> Value {
    json!({
        "connection_id": id, "client_id": client_id, "username": "ann", "listener": "mqtt",
        "peer_addr": "10.0.0.1:5", "phase": "open", "connected_since": since,
        "traffic": { "client_packets": packets, "client_bytes": bytes, "broker_packets": packets, "broker_bytes": 0 },
    })
}

fn sample(at: Instant, sessions: &[Value]) -> TopSample {
    let stats: StatsSample = read(json!({
        "version": "0.1.0", "connections_open": 3, "resident_memory_bytes": 47_185_920, "uptime_seconds": 3661,
        "windows": [{
            "seconds": 1, "decided": 1200, "refused": 3, "failed_answers": 0,
            "from_client": { "messages": 1500, "bytes": 348_160 }, "from_broker": { "messages": 2, "bytes": 10 },
            "decisions": [
                { "hook": "publish", "source": "acl", "outcome": "refused", "decisions": 3 },
                { "hook": "publish", "source": "grant", "outcome": "allowed", "decisions": 1197.4 },
            ],
            "policy_calls": [{ "rpc": "AuthPublish", "outcome": "answered", "calls": 44, "p50_seconds": 0.0004, "p99_seconds": 0.012 }],
            "a_field_of_later": true,
        }],
    }));
    TopSample {
        at,
        stats,
        endpoints: read::<Vec<PolicyEndpoint>>(json!([
            { "endpoint": "http://a:1", "healthy": true },
            { "endpoint": "http://b:1", "healthy": false, "error": "connection refused" },
        ])),
        refusals: read::<Vec<RefusalSample>>(json!([{
            "time": "2026-11-24T02:47:00.507Z", "client_id": "d\u{1b}[2J", "hook": "publish", "topic": "secret/\u{9b}x",
            "why": "refused by rules[0]",
        }])),
        sessions: sessions.iter().cloned().map(read::<SessionSample>).collect(),
        more_sessions: false,
    }
}

/// Two seconds in which `busy` sent 200 packets and `big` 20 KiB in one.
fn figures() -> TopFigures {
    let (then, since) =
        (Instant::now(), ["2026-01-03T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    let before = [session("1", "busy", 0, 0, since[0]), session("2", "big", 5, 100, since[1])];
    let after = [
        session("1", "busy", 100, 400, since[0]),
        session("2", "big", 6, 20_580, since[1]),
        session("3", "new\u{1b}]0;x\u{7}", 0, 0, since[2]),
    ];
    let now = sample(then + Duration::from_secs(2), &after);
    TopFigures::new(Some(&sample(then, &before)), &now, "127.0.0.1:9180".into())
}

fn press(keys: &mut TopKeys, figures: &TopFigures, codes: &[KeyCode]) -> KeyAction {
    let press = |keys: &mut TopKeys, code| keys.press(KeyEvent::new(code, KeyModifiers::NONE), figures);
    codes.iter().fold(KeyAction::Nothing, |_, code| press(keys, *code))
}

fn names(keys: &TopKeys, figures: &TopFigures) -> Vec<String> {
    keys.rows(figures).iter().map(|row| row.name.chars().take(4).collect()).collect()
}

#[test]
fn a_frame_shows_sessions_by_rate_decisions_policy_and_refusals_and_steers_no_terminal() {
    let figures = figures();
    let lines = frame_lines(&figures, &TopKeys::default(), 120, 40);
    let text = lines.join("\n");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
    for part in [
        "mproxy 0.1.0 at 127.0.0.1:9180, up 1h01m, 3 connections, 45 MiB of memory",
        "clients 1.5k msg/s, 340 KiB/s   broker 2 msg/s, 10 B/s   decided 1.2k/s, refused 3/s, failed 0/s",
        "publish by grant",
        "healthy http://a:1",
        "UNHEALTHY http://b:1: connection refused",
        "AuthPublish answered 44/s  p50 0.4ms  p99 12ms",
        "02:47:00 d\\u{1b}[2J publish secret/\\u{9b}x: refused by rules[0]",
        "Sessions: 3, by packets/s",
        "new\\u{1b}]0;x\\u{7}",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let place = |name: &str| lines.iter().position(|line| line.starts_with(name));
    assert!(place("busy") < place("big") && place("busy").is_some(), "{text}");
    let busy = lines.iter().find(|line| line.starts_with("busy")).expect("a line");
    assert!(busy.contains(" 100 ") && busy.contains(" 200 B "), "{busy}");
}

#[test]
fn a_frame_has_its_place_on_any_terminal() {
    let figures = figures();
    for (columns, lines) in [(40, 10), (1, 1), (20, 200), (300, 5)] {
        assert!(frame_lines(&figures, &TopKeys::default(), columns, lines).len() <= lines.into());
    }
    let none = TopFigures::default();
    assert!(frame_lines(&none, &TopKeys::default(), 100, 30).join("\n").contains("none on record"));
}

#[test]
fn at_80_columns_nothing_is_cut_that_says_something() {
    let lines = frame_lines(&figures(), &TopKeys::default(), 80, 24);
    let text = lines.join("\n");
    for part in
        ["decided 1.2k/s, refused 3/s, failed 0/s", "connected 0/s, closed 0/s", " 10.0.0.1:5 ", "RECEIVED/S"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("LISTENER") && !text.contains("STATE"), "{text}");
}

#[test]
fn sessions_have_the_lines_that_others_do_not_need() {
    let sessions = |lines: &[String]| {
        let at = |title: &str| lines.iter().position(|line| line.contains(title)).expect("a title");
        (at("Decisions"), at("Sessions: "), at("Refusals, "))
    };
    let lines = frame_lines(&TopFigures::default(), &TopKeys::default(), 80, 40);
    let (decisions, first, refusals) = sessions(&lines);
    assert_eq!((first - decisions, lines.len() - refusals), (2, 3), "{lines:#?}");
}

#[test]
fn keys_sort_and_filter_sessions() {
    let (figures, mut keys) = (figures(), TopKeys::default());
    assert_eq!(names(&keys, &figures), ["busy", "big", "new\\"]);
    press(&mut keys, &figures, &[KeyCode::Char('s')]);
    assert_eq!(
        (keys.sort, names(&keys, &figures)),
        (SessionSort::Bytes, vec!["big".into(), "busy".into(), "new\\".into()])
    );
    press(&mut keys, &figures, &[KeyCode::Char('s')]);
    assert_eq!(names(&keys, &figures), ["big", "new\\", "busy"]);
    press(
        &mut keys,
        &figures,
        &[KeyCode::Char('/'), KeyCode::Char('B'), KeyCode::Char('u'), KeyCode::Char('q')],
    );
    assert_eq!((names(&keys, &figures).len(), &keys.mode), (0, &KeyMode::Filter));
    press(&mut keys, &figures, &[KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!((names(&keys, &figures), &keys.mode), (vec!["busy".into()], &KeyMode::Browse));
    press(&mut keys, &figures, &[KeyCode::Esc]);
    assert_eq!(names(&keys, &figures).len(), 3);
    assert_eq!(press(&mut keys, &figures, &[KeyCode::Char('q')]), KeyAction::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut keys, &figures, &[KeyCode::Char('/')]);
    assert_eq!(keys.press(control_c, &figures), KeyAction::Quit, "in whatever mode");
}

#[test]
fn a_session_stays_chosen_and_is_disconnected_only_after_yes() {
    let (figures, mut keys) = (figures(), TopKeys::default());
    let kick = KeyCode::Char('k');
    press(&mut keys, &figures, &[kick]);
    assert!(keys.notice.as_ref().is_some_and(|notice| notice.contains("choose a session")));
    press(&mut keys, &figures, &[KeyCode::Down, KeyCode::Down]);
    assert_eq!(keys.chosen.as_deref(), Some("2"));
    press(&mut keys, &figures, &[KeyCode::Char('s')]);
    assert_eq!((keys.chosen.as_deref(), keys.chosen_at(&keys.rows(&figures))), (Some("2"), Some(0)));
    for no in [KeyCode::Enter, KeyCode::Char('n'), KeyCode::Esc, KeyCode::Char('q')] {
        assert_eq!(press(&mut keys, &figures, &[kick, no]), KeyAction::Nothing, "{no:?}");
        assert_eq!(keys.mode, KeyMode::Browse);
    }
    press(&mut keys, &figures, &[kick]);
    let asked = frame_lines(&figures, &keys, 120, 40).join("\n");
    assert!(asked.contains("Disconnect big (connection 2)? y/N"), "{asked}");
    let yes = press(&mut keys, &figures, &[KeyCode::Char('y')]);
    assert_eq!(yes, KeyAction::Kick { connection_id: "2".into(), name: "big".into() });
}

#[test]
fn of_thousands_the_chosen_one_is_on_the_screen() {
    let then = Instant::now();
    let many: Vec<Value> = (0..5000)
        .map(|n| session(&n.to_string(), &format!("client-{n:04}"), 0, 0, "2026-01-01T00:00:00Z"))
        .collect();
    let figures = TopFigures::new(None, &sample(then, &many), "here".into());
    let keys = TopKeys { chosen: Some("4321".into()), ..TopKeys::default() };
    let lines = frame_lines(&figures, &keys, 120, 40).join("\n");
    assert!(lines.contains("client-4321") && !lines.contains("client-4322"), "{lines}");
}
