//! `mproxy hooks check` against services that play each fault: what it prints, its JSON, its exit code, and that it ends.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::time::{Duration, Instant};

use mproxy_testkit::certificates::{Authority, Folder};
use mproxy_testkit::commanding::CommandingService;
use mproxy_testkit::hook::{HookService, MproxyProcess};
use mproxy_testkit::service::contract::{
    AuthConnectRequest, AuthSubscribeResponse, ConnectAllow, Deny, Effect, ExchangeContinue, FilterAllow,
    Grant, GrantRule, HelloResponse, Hook, PublishAllow, StreamAnswer, Want,
};
use mproxy_testkit::service::{
    AnswerScript, ObservePlay, Play, Request, Running, Service, Status, StreamPlay, each_filter,
    wants_everything,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A check that has ended.
struct Checked {
    code: i32,
    json: Value,
}

impl Checked {
    /// The answer to this question.
    fn answer(&self, call: &str, question: &str) -> &Value {
        let all = self.json["answers"].as_array().unwrap();
        let found = all.iter().find(|answer| answer["call"] == call && answer["question"] == question);
        found.unwrap_or_else(|| panic!("no {call}, {question}: {:#}", self.json))
    }

    /// The results of all questions of this call, each once.
    fn results(&self, call: &str) -> Vec<&str> {
        let all = self.json["answers"].as_array().unwrap().iter();
        let mut results: Vec<_> = all
            .filter(|answer| answer["call"] == call)
            .map(|answer| answer["result"].as_str().unwrap())
            .collect();
        results.sort_unstable();
        results.dedup();
        results
    }

    /// The finding with this label.
    fn finding(&self, code: &str) -> Option<&Value> {
        self.json["findings"].as_array().unwrap().iter().find(|finding| finding["code"] == code)
    }

    /// The level of the finding with this label.
    fn level(&self, code: &str) -> &str {
        let found = self.finding(code).unwrap_or_else(|| panic!("no {code}: {:#}", self.json["findings"]));
        found["level"].as_str().unwrap()
    }
}

/// Checks what is there, with these flags.
async fn check_with(url: &str, flags: &[&str]) -> Checked {
    let count: &[&str] = if flags.contains(&"--count") { &[] } else { &["--count", "5"] };
    let args = [&["hooks", "check", url, "--json"], count, flags].concat();
    let ended = MproxyProcess::run(&[], &args).await;
    let text = ended.lines.join("\n");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = ended.code().unwrap();
    assert_eq!(json["exit_code"], code);
    Checked { code, json }
}

async fn check(service: Service) -> Checked {
    let service = Running::start(service).await;
    check_with(&service.url, &["--timeout", "5s"]).await
}

/// A service that nothing can be said against: no anonymous clients, no names with wildcards, nobody sees everything.
fn careful() -> Service {
    let hello = HelloResponse { name: "careful".to_owned(), ..wants_everything() };
    Service {
        hello: Some(hello),
        connect: Box::new(|asked| {
            let client = asked.get_ref().client.clone().unwrap();
            let wide = client.client_id.contains(['/', '+', '#']);
            if client.username.is_none() || wide {
                Play::answer(deny())
            } else {
                Play::answer(ConnectAllow::default())
            }
        }),
        subscribe: each_filter(|filter| {
            if filter.starts_with(['#', '+']) { deny().into() } else { FilterAllow::default().into() }
        }),
        ..Service::default()
    }
}

fn deny() -> Deny {
    Deny { reason_code: 0x87, ..Deny::default() }
}

fn admitting_with(grant: Grant) -> Service {
    let connect: AnswerScript<_, _> = Box::new(move |asked: &Request<AuthConnectRequest>| {
        if asked.get_ref().client.as_ref().unwrap().username.is_none() {
            return Play::answer(deny());
        }
        Play::answer(ConnectAllow { grant: Some(grant.clone()), ..ConnectAllow::default() })
    });
    Service { connect, ..careful() }
}

#[tokio::test]
async fn a_careful_service_passes_and_is_asked_everything() {
    let service = Running::start(careful()).await;
    let checked = check_with(&service.url, &["--timeout", "5s", "--strict"]).await;
    assert_eq!(checked.code, 0, "{:#}", checked.json["findings"]);
    assert_eq!(checked.json["hello"]["name"], "careful");
    assert_eq!(checked.json["hello"]["wants"].as_array().unwrap().len(), 9);
    for transport in ["tcp", "tls", "ws", "wss", "unix"] {
        for version in ["3.1", "3.1.1", "5.0"] {
            let answer = checked.answer("AuthConnect", &format!("{transport}, MQTT {version}"));
            assert_eq!((&answer["result"], &answer["fields"]["allow"]), (&"allow".into(), &"{}".into()));
        }
    }
    let anonymous = checked.answer("AuthConnect", "no user name, no password");
    assert_eq!((&anonymous["result"], &anonymous["reason_code"]), (&"deny".into(), &0x87.into()));
    assert_eq!(anonymous["fields"]["deny.reason_code"], "135");
    let wildcards = checked.answer("AuthSubscribe", "wildcards");
    assert_eq!((&wildcards["result"], &wildcards["filters"][2]["result"]), (&"mixed".into(), &"deny".into()));
    for event in ["Connect", "Publish", "Subscribe", "Unsubscribe", "Disconnect"] {
        assert_eq!(checked.results(event), ["received"]);
    }
    assert_eq!(checked.results("AuthDeliver"), ["allow"]);
    let latency = &checked.json["latencies"][0];
    assert_eq!((&latency["call"], &latency["count"]), (&"AuthPublish".into(), &5.into()));
    assert!(latency["p50_ms"].as_f64().unwrap() <= latency["p99_ms"].as_f64().unwrap());
    let told: Vec<_> = service.events().into_iter().map(|told| told.sequence).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn steps_of_authentications_are_asked_of_a_service_that_wants_them() {
    let mut hello = careful().hello.unwrap();
    hello.wants.push(Want { hook: Hook::AuthExchange.into(), ..Want::default() });
    for streams in [false, true] {
        let service = Service {
            hello: Some(HelloResponse { streams, ..hello.clone() }),
            exchange: Box::new(|asked| {
                let asked = asked.get_ref();
                match (asked.method.as_str(), asked.step, &asked.data) {
                    ("SCRAM-SHA-256", 1, Some(data)) if data.starts_with(b"n,,") => {
                        Play::answer(ExchangeContinue { data: Some(b"r=".into()) })
                    }
                    _ => Play::answer(Deny { reason_code: 0x8C, ..Deny::default() }),
                }
            }),
            ..careful()
        };
        let checked = check(service).await;
        assert_eq!(checked.code, 0, "{:#}", checked.json["findings"]);
        assert_eq!(checked.results("AuthExchange"), ["allow", "deny"]);
        let first = checked.answer("AuthExchange", "SCRAM-SHA-256, step 1");
        assert_eq!(first["details"][0], "AUTH 0x18 to the client");
        let unknown = checked.answer("AuthExchange", "a method that nobody knows");
        assert_eq!((&unknown["result"], &unknown["reason_code"]), (&"deny".into(), &0x8C.into()));
    }
    // The service of the testkit lets everybody in.
    let checked = check(Service { hello: Some(hello), ..careful() }).await;
    assert_eq!(checked.level("unknown_method_authenticated"), "warning");
}

#[tokio::test]
async fn the_page_fits_a_terminal_and_ends_with_what_is_wrong() {
    let service = Running::start(Service {
        publish: Box::new(|_| Play::Fail(Status::internal("no \u{1b}[31m database ".repeat(40)))),
        ..careful()
    })
    .await;
    let ended = MproxyProcess::run(&[], &["hooks", "check", &service.url, "--count", "0"]).await;
    assert_eq!(ended.code(), Some(2));
    for line in &ended.lines {
        assert!(line.chars().count() <= 80 && !line.contains('\u{1b}'), "{line:?}");
    }
    assert!(ended.has_line("AuthPublish: failed answer: unavailable: Internal"), "{:#?}", ended.lines);
    let last = ended.lines.last().unwrap();
    assert!(last.ends_with("1 error, 0 warnings, 0 notes"), "{last}");
}

#[tokio::test]
async fn the_example_in_rust_passes() {
    let service = HookService::start().await;
    let checked = check_with(&service.url(), &["--timeout", "5s"]).await;
    assert_eq!((checked.code, &checked.json["errors"]), (0, &0.into()), "{:#}", checked.json["findings"]);
}

#[tokio::test]
async fn a_service_at_a_unix_socket_is_checked() {
    let folder = Folder::default();
    let service = Running::start_unix(&folder.path().join("hooks.sock"), careful()).await;
    assert_eq!(check_with(&service.url, &[]).await.code, 0);
}

#[tokio::test]
async fn a_service_behind_tls_is_checked_with_the_files_of_the_policy() {
    let (authority, folder) = (Authority::root("hooks"), Folder::default());
    let server = authority.sign("localhost");
    let identity = (server.chain.into_bytes(), server.key.into_bytes());
    let service = Running::start_tls(identity, authority.pem().as_bytes().to_vec(), careful()).await;
    let ca = folder.write("ca.pem", authority.pem());
    let (cert, key) = folder.keep("client", &authority.sign("mproxy"));
    let [ca, cert, key] = [&ca, &cert, &key].map(|file| file.to_str().unwrap());
    let checked = check_with(&service.url, &["--ca-certs", ca, "--cert", cert, "--key", key]).await;
    assert_eq!(checked.code, 0, "{:#}", checked.json["findings"]);
    // The service does not take somebody without a certificate, and we do not take the service without its CA.
    for flags in [&["--ca-certs", ca][..], &["--cert", cert, "--key", key]] {
        let checked = check_with(&service.url, flags).await;
        assert_eq!(checked.code, 3);
        assert!(checked.json["unreachable"].is_string());
    }
}

#[tokio::test]
async fn wrong_arguments_are_told_before_anything_is_asked() {
    for args in [
        &["hooks", "check"][..],
        &["hooks", "check", "127.0.0.1:50051"],
        &["hooks", "check", "http://127.0.0.1:1", "--timeout", "2m"],
        &["hooks", "check", "http://127.0.0.1:1", "--cert", "x"],
        &["hooks", "check", "http://127.0.0.1:1", "--mqtt-port", "1"],
        &["hooks", "check", "https://localhost:1", "--ca-certs", "/nowhere/ca.pem"],
    ] {
        assert_eq!(MproxyProcess::run(&[], args).await.code(), Some(2), "{args:?}");
    }
}

// --------------------------------------------------------------------------------------- nobody, or somebody else

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let checked = check_with(&url, &[]).await;
    assert_eq!(checked.code, 3);
    assert!(checked.json["unreachable"].as_str().unwrap().contains("refused"));
}

#[tokio::test]
async fn a_peer_that_is_no_service_is_unreachable_and_holds_nobody_up() {
    /// What a peer does with a connection.
    #[derive(Clone, Copy)]
    enum Peer {
        Closes,
        Hangs,
        Says(&'static [u8]),
    }
    for peer in
        [Peer::Closes, Peer::Hangs, Peer::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Peer::Says(b"\0\xff")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let playing = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if let Peer::Says(bytes) = peer {
                    let _ = stream.write_all(bytes).await;
                }
                if !matches!(peer, Peer::Closes) {
                    let mut sink = [0; 1024];
                    while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
                }
            }
        });
        let began = Instant::now();
        assert_eq!(check_with(&url, &[]).await.code, 3);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        playing.abort();
    }
}

// ----------------------------------------------------------------------------------------------- failed answers

#[tokio::test]
async fn a_service_that_never_answers_does_not_hold_the_check_up() {
    let service = Running::start(Service {
        connect: Box::new(|_| Play::Never),
        publish: Box::new(|_| Play::Never),
        tell: Box::new(|| Play::Never),
        ..careful()
    })
    .await;
    let began = Instant::now();
    let checked = check_with(&service.url, &["--timeout", "200ms", "--count", "1000000"]).await;
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!((checked.code, service.calls("AuthConnect")), (2, 5));
    assert_eq!(checked.results("AuthConnect"), ["failed", "not_asked"]);
    assert_eq!(checked.results("AuthSubscribe"), ["allow", "deny", "mixed"], "others are asked all the same");
    let first = checked.answer("AuthConnect", "user name and password");
    assert!(first["details"][0].as_str().unwrap().starts_with("deadline: "), "{first:#}");
    assert_eq!(checked.level("not_asked"), "error");
}

#[tokio::test]
async fn an_error_is_a_failed_answer_and_no_refusal() {
    let checked =
        check(Service { connect: Box::new(|_| Play::Fail(Status::permission_denied("no"))), ..careful() })
            .await;
    assert_eq!((checked.code, checked.results("AuthConnect")), (2, vec!["failed"]));
    let finding = checked.finding("failed").unwrap();
    assert_eq!(finding["text"], "AuthConnect: failed answer: error: PermissionDenied: \"no\"");
    assert!(finding["questions"].as_array().unwrap().len() > 30, "one finding for all of them");
}

#[tokio::test]
async fn a_wanted_call_that_is_not_implemented_is_an_error_and_an_event_a_warning() {
    let checked = check(Service {
        publish: Box::new(|_| Play::Fail(Status::unimplemented(""))),
        tell: Box::new(|| Play::Fail(Status::unimplemented(""))),
        ..careful()
    })
    .await;
    assert_eq!((checked.code, checked.level("unimplemented")), (2, "error"));
    assert_eq!(checked.results("AuthPublish"), ["failed"]);
    assert_eq!(
        (checked.level("event_unimplemented"), checked.results("Connect")),
        ("warning", vec!["not_wanted"])
    );
    let without =
        check(Service { hello: None, tell: Box::new(|| Play::Fail(Status::unimplemented(""))), ..careful() })
            .await;
    assert_eq!((without.code, without.level("hello_unimplemented")), (0, "warning"));
    assert!(without.finding("event_unimplemented").is_none(), "nobody said that they are wanted");
    assert_eq!(without.json["hello"]["answered"], false);
}

#[tokio::test]
async fn an_answer_that_holds_nothing_is_told_with_how_names_are_lost() {
    let empty = Running::answering(b"").await;
    let checked = check_with(&empty.url, &[]).await;
    assert_eq!((checked.code, checked.results("AuthPublish")), (2, vec!["failed"]));
    let first = checked.answer("AuthPublish", "QoS 0");
    assert_eq!(first["details"][0], "unspecified: the answer has no verdict");
    assert!(checked.finding("empty_answer").unwrap()["text"].as_str().unwrap().contains("keepCase"));

    // Field 9, which no answer has, with two bytes in it.
    let other = Running::answering(b"\x4a\x02\x08\x01").await;
    let checked = check_with(&other.url, &[]).await;
    assert_eq!((checked.code, checked.level("unknown_fields")), (2, "warning"));
    assert_eq!(checked.answer("AuthPublish", "QoS 0")["unknown_fields"][0], "9");
}

#[tokio::test]
async fn bytes_that_are_no_answer_and_far_too_many_of_them_are_told() {
    let garbage = Running::garbage().await;
    let checked = check_with(&garbage.url, &[]).await;
    assert_eq!((checked.code, checked.results("AuthPublish")), (2, vec!["failed"]));
    let first = checked.answer("AuthPublish", "QoS 0");
    assert!(first["details"][0].as_str().unwrap().starts_with("unreadable: "), "{first:#}");

    let large = Running::answering(&vec![0; 64 << 20]).await;
    let checked = check_with(&large.url, &["--timeout", "5s"]).await;
    assert_eq!((checked.code, checked.results("AuthPublish")), (2, vec!["unusable"]));
    let first = checked.answer("AuthPublish", "QoS 0");
    assert!(first["details"][0].as_str().unwrap().starts_with("too_large: "), "{first:#}");
    assert_eq!(first["reason_code"], 0x95);
}

#[tokio::test]
async fn a_service_that_dies_of_a_question_is_asked_the_others() {
    let checked = check(Service {
        connect: Box::new(|asked| {
            let client = asked.get_ref().client.as_ref().unwrap();
            assert!(!client.client_id.contains("\u{6e29}"), "a name that the service does not survive");
            if client.username.is_none() {
                Play::answer(deny())
            } else {
                Play::answer(ConnectAllow::default())
            }
        }),
        ..careful()
    })
    .await;
    assert_eq!(checked.code, 2);
    assert_eq!(checked.answer("AuthConnect", "client id and user name: unicode")["result"], "failed");
    assert_eq!(checked.results("AuthConnect"), ["allow", "deny", "failed"]);
    assert_eq!(checked.results("AuthPublish"), ["allow"]);
}

// --------------------------------------------------------------------------------------------- unusable answers

#[tokio::test]
async fn answers_that_cannot_be_carried_out_are_told() {
    let checked = check(Service {
        publish: Box::new(|_| {
            Play::answer(PublishAllow { topic: Some("a/#".to_owned()), ..PublishAllow::default() })
        }),
        subscribe: Box::new(|_| Play::Answer(AuthSubscribeResponse { verdicts: Vec::new() })),
        ..careful()
    })
    .await;
    assert_eq!((checked.code, checked.results("AuthPublish")), (2, vec!["unusable"]));
    assert_eq!(checked.results("AuthSubscribe"), ["unusable"]);
    let one = checked.answer("AuthSubscribe", "one filter");
    assert!(one["details"][0].as_str().unwrap().starts_with("wrong_length: "), "{one:#}");
    let publish = checked.answer("AuthPublish", "QoS 1");
    assert_eq!(
        (&publish["reason_code"], &publish["fields"]["allow.topic"]),
        (&0x83.into(), &"\"a/#\"".into())
    );
}

#[tokio::test]
async fn a_hello_that_cannot_be_used_ends_the_check() {
    let hello = HelloResponse { wants: vec![Want::default()], ..HelloResponse::default() };
    let checked = check(Service { hello: Some(hello), ..careful() }).await;
    assert_eq!((checked.code, checked.level("hello_unusable")), (2, "error"));
    assert_eq!(checked.json["answers"], Value::Array(Vec::new()));
}

// ------------------------------------------------------------------------------------------------------ warnings

#[tokio::test]
async fn a_grant_that_leaves_out_what_matters_is_warned_of() {
    let deny_rest = || Some(Effect::Deny.into());
    let empty = Grant { default_effect: deny_rest(), ..Grant::default() };
    let rule = GrantRule { effect: Effect::Allow.into(), ..GrantRule::default() };
    let lost = Grant { rules: vec![rule.clone()], default_effect: deny_rest(), ..Grant::default() };
    for (grant, code) in [(empty, "grant_without_rules"), (lost, "allow_without_topics")] {
        let service = Running::start(admitting_with(grant)).await;
        let checked = check_with(&service.url, &[]).await;
        assert_eq!((checked.code, checked.level(code)), (0, "warning"));
        assert_eq!(check_with(&service.url, &["--strict"]).await.code, 1);
    }
    // What asks needs somebody who wants to be asked.
    let own = GrantRule { topic_filters: vec!["own/#".to_owned()], ..rule };
    let hello = HelloResponse {
        wants: vec![Want { hook: Hook::AuthConnect.into(), ..Want::default() }],
        ..HelloResponse::default()
    };
    let grant = Grant { rules: vec![own], ..Grant::default() };
    let checked = check(Service { hello: Some(hello), ..admitting_with(grant) }).await;
    assert_eq!(
        (checked.level("ask_not_wanted"), checked.level("grant_without_default")),
        ("warning", "note")
    );
    assert!(checked.finding("subscribe_not_wanted").is_none(), "every client has a grant");
}

#[tokio::test]
async fn open_doors_are_warned_of() {
    let checked = check(Service { hello: Some(wants_everything()), ..Service::default() }).await;
    assert_eq!((checked.code, checked.level("wide_names")), (0, "warning"));
    let all = checked.finding("anonymous_sees_everything").unwrap();
    assert!(all["text"].as_str().unwrap().starts_with("everything is allowed"), "{all:#}");
    let hello = HelloResponse {
        wants: vec![Want { hook: Hook::AuthPublish.into(), ..Want::default() }],
        ..HelloResponse::default()
    };
    let checked = check(Service { hello: Some(hello), ..careful() }).await;
    for code in ["connect_not_wanted", "subscribe_not_wanted", "anonymous_sees_everything"] {
        assert_eq!(checked.level(code), "warning", "{code}");
    }
}

#[tokio::test]
async fn a_deny_is_one_whatever_its_code_and_that_is_told() {
    let codes = [(0, "deny_without_code", "note"), (5, "questionable", "warning")];
    for (reason_code, finding, level) in codes {
        let checked = check(Service {
            publish: Box::new(move |_| Play::answer(Deny { reason_code, ..Deny::default() })),
            ..careful()
        })
        .await;
        assert_eq!((checked.code, checked.level(finding)), (0, level));
        assert_eq!(checked.answer("AuthPublish", "QoS 0")["reason_code"], 0x87);
    }
}

#[tokio::test]
async fn an_answer_that_is_almost_late_is_warned_of() {
    let service = Running::start(Service {
        connect: Box::new(|asked| {
            let client = asked.get_ref().client.as_ref().unwrap();
            if client.client_id == "mproxy-check" && !asked.get_ref().refresh {
                std::thread::sleep(Duration::from_millis(2600));
            }
            if client.username.is_none() {
                Play::answer(deny())
            } else {
                Play::answer(ConnectAllow::default())
            }
        }),
        ..careful()
    })
    .await;
    let checked = check_with(&service.url, &["--timeout", "5s"]).await;
    assert_eq!((checked.code, checked.level("slow")), (0, "warning"));
    assert_eq!(checked.finding("slow").unwrap()["questions"][0], "user name and password");
}

#[tokio::test]
async fn topics_outside_of_what_hello_wants_are_not_asked_about() {
    let want = |hook: Hook| Want { hook: hook.into(), ..Want::default() };
    let publish = Want { topic_filters: vec!["orders/+/in".to_owned()], ..want(Hook::AuthPublish) };
    let wants = vec![want(Hook::AuthConnect), publish, want(Hook::AuthSubscribe)];
    let hello = HelloResponse { wants, ..HelloResponse::default() };
    let checked = check(Service { hello: Some(hello), ..careful() }).await;
    assert_eq!((checked.code, &checked.json["errors"]), (0, &0.into()));
    assert_eq!(checked.answer("AuthPublish", "QoS 0")["result"], "allow");
    assert_eq!(checked.answer("AuthPublish", "topic $SYS/broker/uptime")["result"], "not_asked");
}

// ------------------------------------------------------------------------------------------------------ streams

/// The careful service, with streams.
fn streaming() -> Service {
    let hello = HelloResponse { streams: true, ..wants_everything() };
    Service { hello: Some(hello), ..careful() }
}

/// Asks as it should, and does this with what came.
fn deciding(
    play: impl Fn(&mproxy_testkit::service::contract::DecideRequest, &mproxy_testkit::service::AnswerSender)
    + Send
    + Sync
    + 'static,
) -> Service {
    Service { decide: StreamPlay::Script(Box::new(play)), ..streaming() }
}

#[tokio::test]
async fn a_service_with_streams_is_asked_and_told_over_them_too() {
    let service = Running::start(streaming()).await;
    let checked = check_with(&service.url, &["--timeout", "5s", "--strict"]).await;
    assert_eq!(checked.code, 0, "{:#}", checked.json["findings"]);
    for question in [
        "one question",
        "all questions in one batch",
        "references used again for other clients",
        "after a reconnect",
    ] {
        let answer = checked.answer("Decide", question);
        assert_eq!(answer["result"], "received");
        assert!(
            answer["details"][0].as_str().unwrap().ends_with("answered in 1 message, in order"),
            "{answer:#}"
        );
    }
    let anonymous = checked.answer("AuthConnect", "no user name, no password (all questions in one batch)");
    assert_eq!((&anonymous["way"], &anonymous["result"]), (&"stream".into(), &"deny".into()));
    let observed = checked.answer("Observe", "a gap, and an event after it");
    assert_eq!(
        (&observed["result"], &observed["details"][0]),
        (&"received".into(), &"confirmed up to 10".into())
    );
    let ways: Vec<_> = checked.json["latencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["way"], &one["count"]))
        .collect();
    assert_eq!(
        ways,
        [(&"unary".into(), &5.into()), (&"stream".into(), &5.into()), (&"stream".into(), &5.into())]
    );
    assert_eq!(service.calls("Decide"), 2, "a stream, and one after a reconnect");
}

#[tokio::test]
async fn a_service_that_says_no_streams_is_asked_for_none() {
    let service = Running::start(careful()).await;
    check_with(&service.url, &[]).await;
    assert_eq!((service.calls("Decide"), service.calls("Observe")), (0, 0));
}

#[tokio::test]
async fn streams_that_are_promised_and_not_there_are_warned_of() {
    let none =
        Service { decide: StreamPlay::Unimplemented, observe: ObservePlay::Unimplemented, ..streaming() };
    let checked = check(none).await;
    assert_eq!((checked.code, checked.level("stream_unimplemented")), (0, "warning"));
    // There is one flag for all of them: who serves one has to set it.
    let one = check(Service { observe: ObservePlay::Unimplemented, ..streaming() }).await;
    assert_eq!((one.code, one.level("stream_unimplemented")), (0, "note"));
}

#[tokio::test]
async fn answers_may_come_in_any_order_and_message() {
    let checked = check(deciding(|request, answers| {
        for question in request.questions.iter().rev() {
            answers.allow(std::slice::from_ref(question));
        }
    }))
    .await;
    let batch = checked.answer("Decide", "all questions in one batch");
    assert!(batch["details"][0].as_str().unwrap().contains("in another order"), "{batch:#}");
    // Everything allowed, where the calls deny some: somebody mixes up clients.
    assert_eq!((checked.code, checked.level("stream_differs")), (0, "warning"));
}

#[tokio::test]
async fn answers_to_nothing_and_second_answers_are_told() {
    let checked = check(deciding(|request, answers| {
        answers.send(vec![StreamAnswer { id: 1 << 40, answer: None }]);
        let Some(first) = request.questions.first() else { return };
        answers.allow(&[first.clone(), first.clone()]);
        answers.allow(&request.questions[1..]);
    }))
    .await;
    assert_eq!((checked.code, checked.level("unknown_id")), (2, "error"));
    assert_eq!(checked.level("answered_twice"), "warning");
}

/// The second answer of the first question in a message comes alone behind the others, and that of the last one in front of
/// those to the next message.
#[tokio::test]
async fn a_second_answer_in_a_later_message_is_no_foreign_one() {
    let last = std::sync::Mutex::new(std::collections::HashMap::new());
    let checked = check(deciding(move |request, answers| {
        let mut last = last.lock().unwrap();
        if let Some(before) = last.remove(&answers.stream) {
            answers.allow(&[before]);
        }
        let (Some(first), Some(end)) = (request.questions.first(), request.questions.last()) else { return };
        last.insert(answers.stream, end.clone());
        if first.id == end.id {
            return answers.allow(std::slice::from_ref(first));
        }
        answers.allow(std::slice::from_ref(first));
        answers.allow(std::slice::from_ref(first));
        answers.allow(&request.questions[1..]);
    }))
    .await;
    assert_eq!(checked.level("answered_twice"), "warning");
    assert!(checked.finding("unknown_id").is_none(), "{:#}", checked.finding("unknown_id").unwrap());
    assert_ne!(checked.code, 2);
}

#[tokio::test]
async fn a_stream_that_is_silent_or_broken_does_not_hold_the_check_up() {
    let silent = Running::start(deciding(|_, _| {})).await;
    let checked = check_with(&silent.url, &["--timeout", "300ms"]).await;
    assert_eq!((checked.code, checked.level("decide_failed")), (2, "error"));
    let question = checked.answer("AuthConnect", "user name and password (one question)");
    assert_eq!((&question["result"], &question["way"]), (&"failed".into(), &"stream".into()));

    // Half of a message, and then the stream is reset; and bytes that are no message.
    for bytes in [&b"\0\0\0\0\x09\x0a"[..], b"\0\0\0\0\x03\xff\xff\xff"] {
        let checked = check(Service { decide: StreamPlay::Raw(bytes), ..streaming() }).await;
        assert_eq!((checked.code, checked.level("decide_failed")), (2, "error"), "{bytes:?}");
    }
}

#[tokio::test]
async fn an_answer_over_the_stream_that_is_unset_has_failed() {
    let checked = check(deciding(|request, answers| {
        let unset = |question: &mproxy_testkit::service::contract::StreamQuestion| StreamAnswer {
            id: question.id,
            answer: None,
        };
        answers.send(request.questions.iter().map(unset).collect());
    }))
    .await;
    assert_eq!(checked.code, 2);
    let question = checked.answer("AuthConnect", "user name and password (one question)");
    assert_eq!(question["details"][0], "unspecified: the answer is unset");
}

#[tokio::test]
async fn confirmations_that_never_come_or_come_from_the_future_are_told() {
    let never = Service { observe: ObservePlay::Script(Box::new(|_, _| {})), ..streaming() };
    let service = Running::start(never).await;
    let checked = check_with(&service.url, &["--timeout", "200ms"]).await;
    assert_eq!((checked.code, checked.level("observe_failed")), (2, "error"));
    assert_eq!(checked.answer("Observe", "a batch of 4 events")["result"], "failed");

    let future = ObservePlay::Script(Box::new(|_, confirmations| confirmations.send(1 << 40)));
    let checked = check(Service { observe: future, ..streaming() }).await;
    assert_eq!(checked.code, 2);
    assert!(
        checked.finding("observe_failed").unwrap()["text"]
            .as_str()
            .unwrap()
            .contains("is the last that was sent")
    );
}

#[tokio::test]
async fn a_service_that_commands_is_told_that_nobody_is_there() {
    let service = CommandingService::start(None, true).await;
    let checked = check_with(&service.url, &["--timeout", "5s"]).await;
    let control = checked.answer("Control", "the stream opens, no grants are in force");
    assert_eq!((&control["result"], &control["details"][0]), (&"received".into(), &"no commands".into()));
    assert!(service.stream(1).await.is_empty(), "no grants in force");
    assert_eq!(service.wrong(), Vec::<String>::new());
    // Where there is none, that is good to know.
    let without = check(streaming()).await;
    assert_eq!(without.answer("Control", "the stream opens, no grants are in force")["result"], "not_wanted");
    assert_eq!((without.code, without.level("stream_unimplemented")), (0, "note"));
}
