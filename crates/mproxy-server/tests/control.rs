//! Decisions that are taken back: a hook service commands over the Control stream, clients and a real broker see what
//! follows.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mproxy_testkit::PATIENCE;
use mproxy_testkit::black_hole::BlackHole;
use mproxy_testkit::commanding::CommandingService;
use mproxy_testkit::mosquitto::Mosquitto;
use mproxy_testkit::service::contract::control_command::Command;
use mproxy_testkit::service::contract::selector::By;
use mproxy_testkit::service::contract::{
    AllSelector, AttributeSelector, CheckGrantsCommand, DisconnectCommand, Effect, ForgetCommand, Grant,
    GrantAction, GrantRule, ReplaceGrantCommand, WillChoice,
};
use mproxy_testkit::wire::{self, ConnectOptions, Publish, Version, Will, WireClient};
use support::{Proxy, until};
use tokio::time::sleep;

const V5: Version = Version::V5;
const V311: Version = Version::V311;

/// A grant to publish anything and to subscribe to these, called `version`.
fn grant(version: &str, filters: &[&str]) -> Grant {
    let rule = |actions: &[GrantAction], filters: &[&str]| GrantRule {
        effect: Effect::Allow.into(),
        actions: actions.iter().map(|action| (*action).into()).collect(),
        topic_filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        ..GrantRule::default()
    };
    Grant {
        rules: vec![
            rule(&[GrantAction::Publish, GrantAction::Will], &["#"]),
            rule(&[GrantAction::Subscribe], filters),
        ],
        default_effect: Some(Effect::Deny.into()),
        version: version.to_owned(),
        ..Grant::default()
    }
}

fn replace(grant: Grant) -> Command {
    Command::ReplaceGrant(ReplaceGrantCommand { grant: Some(grant) })
}

const fn all() -> By {
    By::All(AllSelector {})
}

struct Scene {
    service: CommandingService,
    proxy: Proxy,
    broker: Mosquitto,
}

impl Scene {
    /// Everybody has this grant.
    async fn with(granted: Grant) -> Self {
        let broker = Mosquitto::start().await;
        let service = CommandingService::start(Some(granted), true).await;
        let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &service.url)]).await;
        service.stream(1).await;
        Self { service, proxy, broker }
    }

    async fn subscribed(&self, id: &str, filters: &[&str]) -> WireClient {
        let mut client = WireClient::login(self.proxy.mqtt, V311, id).await;
        let asked: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
        client.send(&wire::subscribe(V311, 1, &asked)).await;
        client.expect(&wire::suback(V311, 1, &vec![1; filters.len()])).await;
        client
    }

    async fn end(self) {
        assert_eq!(self.service.wrong(), Vec::<String>::new());
        drop(self.service);
        self.proxy.stop().await;
    }
}

fn message(topic: &str, number: u32) -> Vec<u8> {
    wire::publish(V311, &Publish { topic, payload: &number.to_be_bytes(), ..Publish::default() })
}

/// Topic and number of a delivery of QoS 0.
fn delivered(packet: &[u8]) -> (&str, u32) {
    let topic = usize::from(packet[3]);
    let (topic, payload) = packet[4..].split_at(topic);
    (str::from_utf8(topic).unwrap(), u32::from_be_bytes(payload.try_into().unwrap()))
}

#[tokio::test]
async fn nothing_is_delivered_after_the_acknowledgement_and_nothing_else_is_lost() {
    let scene = Scene::with(grant("1", &["#"])).await;
    let mut met = scene.subscribed("met-1", &["secret/#", "open"]).await;
    let mut other = scene.subscribed("other-1", &["secret/#"]).await;
    let mut feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
    let send = async |feeder: &mut WireClient, number: u32| {
        feeder.send(&[message("secret/x", number), message("open", number)].concat()).await;
    };
    // In the middle of traffic.
    let (mut number, mut answered) = (0, None);
    let command =
        scene.service.send(Some(By::ClientId("met-1".into())), Some(replace(grant("2", &["open"]))));
    let mut result = Box::pin(scene.service.result(command));
    while number < 400 || answered.is_none() {
        send(&mut feeder, number).await;
        number += 1;
        if answered.is_none()
            && let Ok(result) = tokio::time::timeout(Duration::from_millis(1), &mut result).await
        {
            assert_eq!((result.clients, result.subscriptions, &*result.error), (1, 1, ""));
            answered = Some(number);
        }
    }
    drop(result);
    let answered = answered.unwrap();
    for _ in 0..200 {
        send(&mut feeder, number).await;
        number += 1;
    }
    let (mut open, mut secret) = (0, 0);
    while open < number {
        let packet = met.packet().await;
        match delivered(&packet) {
            ("open", at) => {
                assert_eq!(at, open, "lost, doubled or out of order");
                open += 1;
            }
            (topic, at) => {
                assert_eq!((topic, at), ("secret/x", secret));
                assert!(at < answered, "{at} was published after the answer at {answered}");
                secret += 1;
            }
        }
    }
    // Who was not met sees all of it.
    for at in 0..number {
        assert_eq!(delivered(&other.packet().await), ("secret/x", at));
    }
    scene.end().await;
}

/// A client that reads nothing, and for whom the kernel and mproxy hold all that they hold for one.
async fn slow_reader(scene: &Scene, id: &str) -> WireClient {
    let will = Will { topic: "gone", payload: id.as_bytes(), ..Will::default() };
    let mut slow = WireClient::open(scene.proxy.mqtt).await;
    let options = ConnectOptions { will: Some(will), ..ConnectOptions::default() };
    slow.send(&wire::connect(V311, id, &options)).await;
    assert_eq!(slow.packet().await[3], 0);
    slow.send(&wire::subscribe(V311, 1, &[("secret/#", 0)])).await;
    slow.expect(&wire::suback(V311, 1, &[0])).await;
    let mut feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
    let delivery =
        wire::publish(V311, &Publish { topic: "secret/x", payload: &[7; 8 << 10], ..Publish::default() });
    let taken = async || {
        let sessions = scene.proxy.sessions().await;
        let session = sessions.iter().find(|session| session["client_id"] == id).unwrap();
        session["traffic"]["broker_bytes"].as_u64().unwrap()
    };
    let mut before = 0;
    loop {
        for _ in 0..256 {
            feeder.send(&delivery).await;
        }
        sleep(Duration::from_millis(100)).await;
        let now = taken().await;
        if now == before {
            return slow;
        }
        before = now;
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_get_what_waits_for_it_after_the_report_and_nobody_else_waits() {
    let mut scene = Scene::with(grant("1", &["#"])).await;
    let mut watcher = WireClient::login(scene.broker.addr(), V311, "watcher").await;
    watcher.send(&wire::subscribe(V311, 1, &[("gone", 0)])).await;
    watcher.expect(&wire::suback(V311, 1, &[0])).await;
    let disconnect = || Command::Disconnect(DisconnectCommand::default());
    for (id, command, cause) in
        [("slow-1", replace(grant("2", &["open"])), "slow_reader"), ("slow-2", disconnect(), "kicked")]
    {
        let slow = slow_reader(&scene, id).await;
        let from = slow.local_addr();
        let mut met = scene.subscribed("slow-reads", &["secret/#", "open"]).await;
        let mut other = scene.subscribed("other-1", &["secret/#"]).await;
        let begun = Instant::now();
        let command = scene.service.send(Some(By::Username("slow".into())), Some(command));
        // Whoever is met by another command has its report at once.
        let others =
            scene.service.command(By::Username("other".into()), replace(grant("3", &["open"]))).await;
        assert_eq!((others.clients, others.subscriptions), (1, 1));
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
        let result = scene.service.result(command).await;
        let took = begun.elapsed();
        assert_eq!((result.clients, &*result.error), (2, ""));
        assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
        // What mproxy held of it is gone: the broker has been told, and the client finds its connection cut.
        watcher
            .expect(&wire::publish(
                V311,
                &Publish { topic: "gone", payload: id.as_bytes(), ..Publish::default() },
            ))
            .await;
        scene.proxy.line(&[&format!("peer_addr={from}"), cause]).await;
        drop(slow);
        // It is not the command that is slow: who reads was served all the while.
        if cause == "slow_reader" {
            let mut feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
            feeder.send(&[message("secret/x", 1), message("open", 1)].concat()).await;
            met.expect(&message("open", 1)).await;
        }
        other.expect_nothing_but_pingresp().await;
    }
    scene.end().await;
}

#[tokio::test]
async fn commands_that_cannot_be_understood_are_answered_and_nobody_is_touched() {
    let scene = Scene::with(grant("1", &["#"])).await;
    let mut client = scene.subscribed("a-1", &["x"]).await;
    let disconnect = |change: fn(&mut DisconnectCommand)| {
        let mut command = DisconnectCommand::default();
        change(&mut command);
        Some(Command::Disconnect(command))
    };
    let unusable = Grant { version: "v".repeat(257), ..grant("", &["x"]) };
    for (by, command) in [
        (None, Some(Command::Forget(ForgetCommand {}))),
        (Some(all()), None),
        (Some(By::ConnectionId("none".into())), disconnect(|_| {})),
        (Some(all()), disconnect(|one| one.will = Some(WillChoice::Unspecified.into()))),
        (Some(all()), disconnect(|one| one.reason_code = 1)),
        (Some(all()), disconnect(|one| one.reason_string = "x".repeat(1 << 16))),
        (Some(all()), disconnect(|one| one.server_reference = "x".repeat(1 << 16))),
        (Some(all()), Some(replace(unusable))),
    ] {
        let result = scene.service.result(scene.service.send(by, command)).await;
        assert!(!result.error.is_empty() && result.clients == 0, "{result:?}");
    }
    let result =
        scene.service.command(By::ClientId("nobody".into()), Command::Forget(ForgetCommand {})).await;
    assert_eq!((result.clients, &*result.error), (0, ""));
    client.expect_nothing_but_pingresp().await;
    for (labels, count) in [
        ("command=\"unknown\",outcome=\"unusable\"", 8.0),
        ("command=\"forget\",outcome=\"carried_out\"", 1.0),
    ] {
        let counted = scene.proxy.metric(&format!("mproxy_policy_commands_total{{{labels}}}")).await;
        assert_eq!(counted, count, "{labels}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_new_stream_begins_with_the_grants_in_force_and_versions_are_made_good() {
    let scene = Scene::with(grant("1", &["#"])).await;
    let _a = scene.subscribed("a-1", &["x"]).await;
    let mut b = scene.subscribed("b-1", &["y"]).await;
    let met = scene.service.command(By::Username("a".into()), replace(grant("2", &["#"]))).await;
    assert_eq!((met.clients, met.subscriptions), (1, 0));
    let (_, sessions) = scene.proxy.http("GET", "/api/v1/sessions?client_id=a-1").await;
    assert!(sessions.contains("\"grant_version\":\"2\""), "{sessions}");
    scene.service.end_stream();
    let mut grants = scene.service.stream(2).await;
    grants.sort_by(|one, other| one.client_id.cmp(&other.client_id));
    let named: Vec<_> =
        grants.iter().map(|one| (&*one.client_id, one.username.as_deref(), &*one.version)).collect();
    assert_eq!(named, [("a-1", Some("a"), "2"), ("b-1", Some("b"), "1")]);
    // What was missed is asked for again.
    scene.service.grants(Some(grant("2", &["z"])));
    let check = Command::CheckGrants(CheckGrantsCommand { version: "2".to_owned() });
    assert_eq!(scene.service.command(all(), check).await.clients, 2);
    let mut feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
    for _ in 0..500 {
        let (_, sessions) = scene.proxy.http("GET", "/api/v1/sessions?client_id=b-1").await;
        if sessions.contains("\"grant_version\":\"2\"") {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    feeder.send(&message("y", 1)).await;
    b.expect_nothing_but_pingresp().await;
    scene.end().await;
}

#[tokio::test]
async fn a_disconnect_meets_whom_it_means_and_the_will_goes_as_was_said() {
    let scene = Scene::with(grant("1", &["#"])).await;
    let mut watcher = WireClient::login(scene.broker.addr(), V311, "watcher").await;
    watcher.send(&wire::subscribe(V311, 1, &[("gone/+", 0)])).await;
    watcher.expect(&wire::suback(V311, 1, &[0])).await;
    for (id, will) in [("a-1", WillChoice::Suppressed), ("b-1", WillChoice::Published)] {
        let mut client = WireClient::open(scene.proxy.mqtt).await;
        let topic = format!("gone/{id}");
        let will_message = Will { topic: &topic, payload: b"x", ..Will::default() };
        let options = ConnectOptions { will: Some(will_message), ..ConnectOptions::default() };
        client.send(&wire::connect(V5, id, &options)).await;
        assert_eq!(client.packet().await[3], 0);
        let group = AttributeSelector { name: "group".to_owned(), value: id[..1].to_owned() };
        let command = DisconnectCommand {
            reason_string: "enough".to_owned(),
            will: Some(will.into()),
            ..DisconnectCommand::default()
        };
        let met = scene.service.command(By::Attribute(group), Command::Disconnect(command)).await;
        assert_eq!((met.clients, &*met.error), (1, ""));
        let text = [b"\x1f".to_vec(), wire::string("enough")].concat();
        client.expect(&wire::disconnect_with(0x98, &text)).await;
        client.expect_closed().await;
    }
    let will = Publish { topic: "gone/b-1", payload: b"x", ..Publish::default() };
    watcher.expect(&wire::publish(V311, &will)).await;
    watcher.expect_nothing_but_pingresp().await;
    scene.end().await;
}

#[tokio::test]
async fn a_thousand_commands_at_once_are_answered_in_their_order() {
    let scene = Scene::with(grant("0", &["#"])).await;
    let mut client = scene.subscribed("a-1", &["x"]).await;
    let begun = Instant::now();
    let ids: Vec<u64> = (1..=1000)
        .map(|n: u32| scene.service.send(Some(all()), Some(replace(grant(&n.to_string(), &["#"])))))
        .collect();
    for id in ids {
        assert_eq!(scene.service.result(id).await.clients, 1);
    }
    println!("1000 commands: {:?}", begun.elapsed());
    let (_, sessions) = scene.proxy.http("GET", "/api/v1/sessions").await;
    assert!(sessions.contains("\"grant_version\":\"1000\""), "{sessions}");
    client.expect_nothing_but_pingresp().await;
    scene.end().await;
}

const CARRIED_OUT: &str = "mproxy_policy_commands_total{command=\"replace_grant\",outcome=\"carried_out\"}";
const DISCONNECTED: &str = "mproxy_policy_commands_total{command=\"disconnect\",outcome=\"carried_out\"}";

#[tokio::test]
async fn a_thousand_commands_a_second_cost_nobody_a_message() {
    const SECONDS: u32 = 3;
    let mut scene = Scene::with(grant("0", &["#"])).await;
    let mut client = scene.subscribed("a-1", &["x"]).await;
    let mut feeder = WireClient::login(scene.proxy.mqtt, V311, "feeder-1").await;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for tick in 0..100 * SECONDS {
        let due = begun + Duration::from_millis(10) * tick;
        sleep(due.saturating_duration_since(Instant::now())).await;
        let commands = (1..=10).map(|n| {
            let version = (10 * tick + n).to_string();
            scene.service.send(Some(all()), Some(replace(grant(&version, &["#"]))))
        });
        let last = commands.last().unwrap();
        let sent = Instant::now();
        feeder.send(&message("x", tick)).await;
        client.expect(&message("x", tick)).await;
        if tick % 20 == 0 {
            assert_eq!(scene.service.result(last).await.clients, 2);
            slowest = slowest.max(sent.elapsed());
        }
    }
    let commands = u64::from(1000 * SECONDS);
    assert_eq!(scene.service.result(commands).await.error, "");
    println!("{commands} commands in {:?}, the slowest result after {slowest:?}", begun.elapsed());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert_eq!(scene.service.results(), commands as usize);
    assert_eq!(scene.proxy.metric(CARRIED_OUT).await, commands as f64);
    let (_, sessions) = scene.proxy.http("GET", "/api/v1/sessions?client_id=a-1").await;
    assert!(sessions.contains(&format!("\"grant_version\":\"{commands}\"")), "{sessions}");
    scene.proxy.line(&["command carried out", &format!("command_id={commands}"), "clients=2"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_service_that_reads_no_results_is_told_of_bounds_what_it_commands_and_harms_nobody() {
    const COMMANDS: u64 = 40_000;
    let mut scene = Scene::with(grant("1", &["#"])).await;
    let mut client = scene.subscribed("a-1", &["x"]).await;
    let mut feeder = WireClient::login(scene.proxy.mqtt, V311, "feeder-1").await;
    let before = scene.proxy.process().resident_bytes();
    scene.service.reads(false);
    // Their results have an error in words.
    let unusable = "mproxy_policy_commands_total{command=\"unknown\",outcome=\"unusable\"}";
    for _ in 0..COMMANDS {
        scene.service.send(None, Some(Command::Forget(ForgetCommand {})));
    }
    scene.proxy.line(&["WARN", "policy service does not read the results of its commands"]).await;
    let stopped = scene.proxy.metric(unusable).await;
    for number in 0..100 {
        feeder.send(&message("x", number)).await;
        client.expect(&message("x", number)).await;
    }
    WireClient::login(scene.proxy.mqtt, V311, "b-1").await;
    assert_eq!(scene.proxy.metric(unusable).await, stopped, "no command is taken whose result has no place");
    assert!(stopped < COMMANDS as f64, "{stopped}");
    let held = scene.proxy.process().resident_bytes().saturating_sub(before);
    println!("{stopped} commands answered and not read; {held} bytes");
    assert!(held < 32 << 20, "{held} bytes");
    scene.service.reads(true);
    assert!(!scene.service.result(COMMANDS).await.error.is_empty());
    assert_eq!(scene.service.results(), COMMANDS as usize);
    assert_eq!(scene.proxy.metric(unusable).await, COMMANDS as f64);
    scene.end().await;
}

#[tokio::test]
async fn a_command_meets_a_client_that_is_being_drained() {
    let mut scene = Scene::with(grant("1", &["#"])).await;
    let mut client = WireClient::login(scene.proxy.mqtt, V5, "a-1").await;
    // A flow that is not over keeps it: nothing is drained before its PUBREL.
    let open = Publish { topic: "x", payload: b"x", qos: 2, packet_id: 7, ..Publish::default() };
    client.send(&wire::publish(V5, &open)).await;
    client.expect(&wire::pubrec(7)).await;
    scene.proxy.signal("TERM").await;
    scene.proxy.line(&["drain"]).await;
    let met = scene.service.command(all(), replace(grant("2", &["#"]))).await;
    assert_eq!((met.clients, &*met.error), (1, ""));
    let met = scene.service.command(all(), Command::Disconnect(DisconnectCommand::default())).await;
    assert_eq!((met.clients, &*met.error), (1, ""));
    client.expect(&wire::packet(0xE0, &[0x98])).await;
    client.expect_closed().await;
    drop(client);
    let ended = scene.proxy.end().await;
    assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
    for command in ["command=\"replace_grant\"", "command=\"disconnect\""] {
        let told = |line: &&String| line.contains("command carried out") && line.contains(command);
        assert!(ended.lines.iter().any(|line| told(&line)), "{command}: {:#?}", ended.lines);
    }
    assert_eq!(scene.service.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn a_selector_that_meets_everybody_ends_everybody() {
    const CLIENTS: usize = 300;
    let mut scene = Scene::with(grant("1", &["#"])).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(WireClient::login(scene.proxy.mqtt, V5, &format!("a-{n}")).await);
    }
    let met = scene.service.command(all(), Command::Disconnect(DisconnectCommand::default())).await;
    assert_eq!((met.clients, &*met.error), (CLIENTS as u64, ""));
    for mut client in clients {
        client.expect(&wire::packet(0xE0, &[0x98])).await;
        client.expect_closed().await;
    }
    assert_eq!(scene.proxy.metric(DISCONNECTED).await, 1.0);
    scene.proxy.line(&["command carried out", "command=\"disconnect\"", &format!("clients={CLIENTS}")]).await;
    // Nobody is kept out by it.
    WireClient::login(scene.proxy.mqtt, V5, "a-0").await;
    scene.end().await;
}

#[tokio::test]
async fn the_stream_goes_back_to_the_endpoint_that_is_preferred() {
    let broker = Mosquitto::start().await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let second = CommandingService::start(Some(grant("1", &["#"])), true).await;
    let both = format!("http://{address},{}", second.url);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &both)]).await;
    second.stream(1).await;
    let first = CommandingService::start_at(&address, Some(grant("1", &["#"])), true).await;
    first.stream(1).await;
    let _a = WireClient::login(proxy.mqtt, V311, "a-1").await;
    assert_eq!(first.command(all(), replace(grant("2", &["#"]))).await.clients, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn the_next_endpoint_commands_where_the_preferred_one_has_no_commands() {
    let broker = Mosquitto::start().await;
    let first = CommandingService::start(Some(grant("1", &["#"])), false).await;
    let second = CommandingService::start(Some(grant("1", &["#"])), true).await;
    let both = format!("{},{}", first.url, second.url);
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &both)]).await;
    proxy.line(&["WARN", "HookStream.Control unimplemented", &first.url]).await;
    // It may have had a stream before the first one was healthy, and then lost it for as long as that took.
    let _a = WireClient::login(proxy.mqtt, V311, "a-1").await;
    second.stream(1).await;
    proxy.line(&["control stream opened", &second.url]).await;
    until("a command is carried out", async || {
        second.is_open() && second.command(all(), replace(grant("2", &["#"]))).await.clients == 1
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn who_decides_while_the_preferred_endpoint_is_swallowed_takes_back_as_well() {
    let broker = Mosquitto::start().await;
    let first = CommandingService::start(Some(grant("1", &["#"])), true).await;
    let second = CommandingService::start(Some(grant("1", &["#"])), true).await;
    let hole = BlackHole::start(first.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
    let both = format!("{},{}", hole.url(), second.url);
    let proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &both)]).await;
    first.stream(1).await;
    let _a = WireClient::login(proxy.mqtt, V311, "a-1").await;
    // The second one may have been healthy first, and have had a stream until the first one was.
    let before = second.streams();
    hole.swallow();
    // Nobody notices before somebody asks.
    let _b = WireClient::login(proxy.mqtt, V311, "b-1").await;
    second.stream(before + 1).await;
    assert_eq!(second.command(all(), replace(grant("2", &["#"]))).await.clients, 2);
    hole.release();
    first.stream(2).await;
    assert_eq!(first.command(all(), replace(grant("3", &["#"]))).await.clients, 2);
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_without_control_is_told_of_once_and_asked_as_before() {
    let broker = Mosquitto::start().await;
    let service = CommandingService::start(Some(grant("1", &["#"])), false).await;
    let mut proxy = Proxy::with(broker.addr(), &[("MPROXY_POLICY_URL", &service.url)]).await;
    proxy.line(&["WARN", "HookStream.Control unimplemented"]).await;
    WireClient::login(proxy.mqtt, V311, "a-1").await;
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_taken_back_stays_so_when_the_client_comes_back_to_its_old_session() {
    let scene = Scene::with(grant("1", &["#"])).await;
    let returns = async || {
        let mut client = WireClient::open(scene.proxy.mqtt).await;
        let options = ConnectOptions { clean: false, ..ConnectOptions::default() };
        client.send(&wire::connect(V311, "met-1", &options)).await;
        let connack = client.packet().await;
        (client, connack[2] == 1)
    };
    let (mut client, present) = returns().await;
    assert!(!present);
    client.send(&wire::subscribe(V311, 1, &[("secret/#", 0), ("open", 0)])).await;
    client.expect(&wire::suback(V311, 1, &[0, 0])).await;
    let mut feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
    for (version, secret) in [("1", true), ("2", false), ("1", true)] {
        client.finish().await;
        scene.service.grants(Some(grant(version, if secret { &["#"] } else { &["open"] })));
        let (back, present) = returns().await;
        assert!(present, "the broker goes on with it");
        client = back;
        feeder.send(&[message("secret/x", 1), message("open", 2)].concat()).await;
        if secret {
            client.expect(&message("secret/x", 1)).await;
        }
        client.expect(&message("open", 2)).await;
    }
    assert_eq!(scene.proxy.metric("mproxy_revoked_deliveries_total").await, 1.0);
    scene.end().await;
}

/// What half of the crowd loses, and what all keep.
const CROWD: [&str; 5] = ["t/0", "t/1", "t/2", "t/3", "keep"];

/// Deliveries a second to all of them together, while the command is carried out.
const LOAD: f64 = if cfg!(debug_assertions) { 4_000.0 } else { 20_000.0 };

/// Messages to all before the command and after its report.
const ROUNDS: u32 = 12;

/// Somebody who publishes to the crowd all the time.
struct Load {
    begun: Instant,
    /// Numbers that were given to messages of each topic.
    given: [AtomicU32; CROWD.len()],
    /// When the command was sent, in microseconds.
    commanded: OnceLock<u64>,
    stops: AtomicBool,
}

impl Load {
    fn micros(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn given(&self) -> [u32; CROWD.len()] {
        self.given.each_ref().map(|given| given.load(Ordering::SeqCst))
    }

    /// With number and time, so that each says how it came. The last one is on a topic that everybody keeps.
    async fn publish(self: Arc<Self>, mut feeder: WireClient, pace: Duration) {
        let mut ticks = tokio::time::interval(pace);
        for at in (0..CROWD.len()).cycle() {
            ticks.tick().await;
            let last = at + 1 == CROWD.len() && self.stops.load(Ordering::SeqCst);
            let number = self.given[at].fetch_add(1, Ordering::SeqCst);
            let payload =
                [&number.to_be_bytes()[..], &self.micros().to_be_bytes(), &[u8::from(last)]].concat();
            let message = Publish { topic: CROWD[at], payload: &payload, ..Publish::default() };
            feeder.send(&wire::publish(V311, &message)).await;
            if last {
                return;
            }
        }
    }

    /// Until each topic has had so many more.
    async fn rounds(&self, more: u32) {
        let until = self.given[0].load(Ordering::SeqCst) + more;
        while self.given[CROWD.len() - 1].load(Ordering::SeqCst) < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What one of the crowd has heard when the last message has come.
#[derive(Default)]
struct Heard {
    /// Messages of each topic: the first so many, each once and in order.
    count: [u32; CROWD.len()],
    /// The longest way of one that was sent before the command, and of one since.
    slowest: [Duration; 2],
}

impl Heard {
    async fn by(mut client: WireClient, load: Arc<Load>) -> (WireClient, Self) {
        let mut heard = Self::default();
        loop {
            let packet = client.packet().await;
            let (topic, payload) = packet[4..].split_at(usize::from(packet[3]));
            let at = CROWD.iter().position(|one| one.as_bytes() == topic).unwrap();
            let (number, rest) = payload.split_first_chunk().unwrap();
            assert_eq!(u32::from_be_bytes(*number), heard.count[at], "lost, doubled or out of order");
            heard.count[at] += 1;
            let (sent, last) = rest.split_first_chunk().unwrap();
            let sent = u64::from_be_bytes(*sent);
            let since = load.commanded.get().is_some_and(|commanded| sent >= *commanded);
            let way = Duration::from_micros(load.micros() - sent);
            heard.slowest[usize::from(since)] = heard.slowest[usize::from(since)].max(way);
            if last == [1] {
                return (client, heard);
            }
        }
    }
}

/// `MPROXY_REVOCATION_CLIENTS=9500` takes more; see `bench/revocation`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_clients_lose_what_one_command_takes_back_and_nobody_else_anything() {
    let clients: usize =
        std::env::var("MPROXY_REVOCATION_CLIENTS").map_or(1000, |count| count.parse().unwrap());
    let scene = Scene::with(grant("1", &["#"])).await;
    let mut crowd = Vec::new();
    for n in 0..clients {
        let group = if n % 2 == 0 { "even" } else { "odd" };
        crowd.push(scene.subscribed(&format!("{group}-{n}"), &CROWD).await);
    }
    let load = Arc::new(Load {
        begun: Instant::now(),
        given: Default::default(),
        commanded: OnceLock::new(),
        stops: AtomicBool::new(false),
    });
    let feeder = WireClient::login(scene.broker.addr(), V311, "feeder").await;
    let hearing: Vec<_> =
        crowd.into_iter().map(|client| tokio::spawn(Heard::by(client, Arc::clone(&load)))).collect();
    let feeding =
        tokio::spawn(Arc::clone(&load).publish(feeder, Duration::from_secs_f64(clients as f64 / LOAD)));
    load.rounds(ROUNDS).await;
    load.commanded.set(load.micros()).unwrap();
    let begun = Instant::now();
    let met = scene.service.command(By::Username("even".into()), replace(grant("2", &["keep"]))).await;
    let (took, reported) = (begun.elapsed(), load.given());
    load.rounds(ROUNDS).await;
    load.stops.store(true, Ordering::SeqCst);
    feeding.await.unwrap();
    assert_eq!((met.clients, met.subscriptions, &*met.error), (clients as u64 / 2, clients as u64 * 2, ""));
    let (all, mut slowest) = (load.given(), [Duration::ZERO; 2]);
    for (n, hearing) in hearing.into_iter().enumerate() {
        let (mut client, heard) = hearing.await.unwrap();
        if n % 2 == 1 {
            assert_eq!(heard.count, all, "client {n}, which was not met, misses some");
            slowest = [0, 1].map(|since| slowest[since].max(heard.slowest[since]));
        } else {
            assert_eq!(heard.count[4], all[4], "client {n} misses some of what it keeps");
            for (heard, reported) in heard.count.iter().zip(reported).take(4) {
                assert!(*heard <= reported, "client {n} got one that was sent after the report");
            }
        }
        if n % 100 == 0 {
            client.expect_nothing_but_pingresp().await;
        }
    }
    println!(
        "{clients} clients, half revoked under load: reported after {took:?}; slowest delivery to the others \
         {:?} before the command, {:?} since",
        slowest[0], slowest[1]
    );
    // A debug build shares its machine with other tests: there it is only no wait for an end that never comes.
    let most = if cfg!(debug_assertions) { PATIENCE / 2 } else { slowest[0] + Duration::from_secs(1) };
    assert!(slowest[1] < most, "others waited {:?}", slowest[1]);
    scene.end().await;
}
