//! Real clients that are refused: paho, mqtt.js, rumqttc, mosquitto. Each sees the code where its version has one, and
//! stays connected.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::path::Path;
use std::time::Duration;

use mproxy_testkit::PATIENCE;
use mproxy_testkit::foreign::{mqttjs, paho};
use mproxy_testkit::mosquitto::{publish, subscribe, subscriber};
use mproxy_testkit::process::run;
use mproxy_testkit::wire::{Version, packets};
use support::judge::{House, NO};
use support::{Proxy, VERSIONS, flag};
use tokio::process::Command;
use tokio::time::timeout;

/// Of the connection that ended next, the broker saw nothing that was refused.
async fn nothing_was_heard(house: &mut House) {
    let up = house.tap.recording().await.up;
    let refused = packets(&up)
        .into_iter()
        .find(|packet| packet.windows(NO.len()).any(|window| window == NO.as_bytes()));
    assert_eq!(refused, None);
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a script of ours against mproxy, and gives what it says.
async fn says(name: &str, mut command: Command, proxy: &Proxy, version: u8) -> Vec<String> {
    command.arg(proxy.mqtt.ip().to_string()).arg(proxy.mqtt.port().to_string()).arg(version.to_string());
    let ended = run(name, command).await;
    assert_eq!(ended.code(), Some(0), "{name} with {version}: {:#?}", ended.lines);
    ended.lines
}

#[tokio::test]
async fn paho_copes_with_refusals() {
    let mut house = House::new().await;
    for version in [3, 4, 5] {
        let command = paho(&script("paho_refusals.py")).await;
        let (no, suback) = if version == 5 { (135, 135) } else { (0, 128) };
        let expected = [
            "connected 0".to_owned(),
            "published 0 0".to_owned(),
            format!("published 1 {no}"),
            // It takes no notice of the code in a PUBREC, sends a PUBREL, and tells what the broker says to that.
            "published 2 0".to_owned(),
            format!("subscribed {suback} 2 {suback}"),
            format!("subscribed {suback}"),
            "received paho/yes 0".to_owned(),
            "received paho/yes 1".to_owned(),
            "received paho/yes 2".to_owned(),
            "disconnected 0".to_owned(),
            // It translates return code 5.
            "refused 135".to_owned(),
        ];
        assert_eq!(says("paho", command, &house.proxy, version).await, expected, "version {version}");
        nothing_was_heard(&mut house).await;
    }
    house.proxy.stop().await;
}

#[tokio::test]
async fn mqttjs_copes_with_refusals() {
    let mut house = House::new().await;
    for version in [3, 4, 5] {
        let command = mqttjs(&script("mqttjs_refusals.js")).await;
        let (no, suback, refused) = if version == 5 { (135, 135, 135) } else { (0, 128, 5) };
        let expected = [
            "connected 0".to_owned(),
            "published 0 0".to_owned(),
            format!("published 1 {no}"),
            format!("published 2 {no}"),
            format!("subscribed {suback} 2 {suback}"),
            format!("subscribed {suback}"),
            "received js/yes 0".to_owned(),
            "received js/yes 1".to_owned(),
            "received js/yes 2".to_owned(),
            "closed".to_owned(),
            format!("refused {refused}"),
        ];
        assert_eq!(says("mqtt.js", command, &house.proxy, version).await, expected, "version {version}");
        nothing_was_heard(&mut house).await;
    }
    house.proxy.stop().await;
}

/// What a client of this name comes with. Macros, here and below: the two versions' types are the same only by name.
macro_rules! options {
    ($options:ident, $house:expr) => {{
        let door = $house.proxy.mqtt;
        move |id: &str| {
            let mut options = $options::new(id, door.ip().to_string(), door.port());
            options.set_keep_alive(Duration::from_secs(60));
            options
        }
    }};
}

/// A CONNECT that is refused.
macro_rules! is_not_let_in {
    ($client:ident, $error:ident, $code:ident, $options:expr) => {{
        let mut options = $options;
        options.set_credentials(NO, "");
        let (_client, mut events) = $client::new(options, 10);
        let refused = timeout(PATIENCE, events.poll()).await.unwrap();
        assert!(matches!(refused, Err($error::ConnectionRefused($code::NotAuthorized))), "{refused:?}");
    }};
}

/// What is refused and what is not, through one connection. `$told` picks what is worth comparing.
macro_rules! is_refused_and_goes_on {
    ($client:expr, $events:expr, $qos:path, $event:path, $filter:expr, $told:expr) => {{
        use $event as Event;
        use $qos as QoS;
        let (client, mut events) = ($client, $events);
        let mut told = Vec::new();
        let mut until = async |count: usize| {
            while told.len() < count {
                let event = timeout(PATIENCE, events.poll()).await.expect("an event in time");
                if let Event::Incoming(packet) = event.expect("connected") {
                    told.extend($told(packet));
                }
            }
        };
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.publish(NO, qos, false, "x").await.unwrap();
        }
        until(2).await;
        let filters = [(NO, QoS::AtLeastOnce), ("yes", QoS::ExactlyOnce)];
        client.subscribe_many(filters.map(|(filter, qos)| $filter(filter.to_owned(), qos))).await.unwrap();
        client.publish("yes", QoS::ExactlyOnce, false, "x").await.unwrap();
        until(5).await;
        client.disconnect().await.unwrap();
        while timeout(PATIENCE, events.poll()).await.expect("an end in time").is_ok() {}
        told
    }};
}

#[tokio::test]
async fn rumqttc_copes_with_refusals_in_3_1_1() {
    use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, MqttOptions, Packet, SubscribeFilter};
    let mut house = House::new().await;
    let options = options!(MqttOptions, house);
    let (client, events) = AsyncClient::new(options("rumqttc-4"), 10);
    let told = |packet| match packet {
        Packet::PubAck(_) => Some("PUBACK".to_owned()),
        Packet::PubComp(_) => Some("PUBCOMP".to_owned()),
        Packet::SubAck(suback) => Some(format!("{:?}", suback.return_codes)),
        Packet::Publish(publish) => Some(publish.topic),
        _ => None,
    };
    let mut told =
        is_refused_and_goes_on!(client, events, rumqttc::QoS, rumqttc::Event, SubscribeFilter::new, told);
    told[3..].sort();
    assert_eq!(told, ["PUBACK", "PUBCOMP", "[Failure, Success(ExactlyOnce)]", "PUBCOMP", "yes"]);
    nothing_was_heard(&mut house).await;

    is_not_let_in!(AsyncClient, ConnectionError, ConnectReturnCode, options("refused"));
    house.proxy.stop().await;
}

#[tokio::test]
async fn rumqttc_copes_with_refusals_in_5() {
    use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, Packet};
    use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions};
    let mut house = House::new().await;
    let options = options!(MqttOptions, house);
    let (client, events) = AsyncClient::new(options("rumqttc-5"), 10);
    let told = |packet| match packet {
        Packet::PubAck(puback) => Some(format!("PUBACK {:?}", puback.reason)),
        Packet::PubRec(pubrec) => Some(format!("PUBREC {:?}", pubrec.reason)),
        Packet::SubAck(suback) => Some(format!("{:?}", suback.return_codes)),
        Packet::Publish(publish) => Some(String::from_utf8(publish.topic.to_vec()).unwrap()),
        _ => None,
    };
    let mut told = is_refused_and_goes_on!(
        client,
        events,
        rumqttc::v5::mqttbytes::QoS,
        rumqttc::v5::Event,
        Filter::new,
        told
    );
    told[3..].sort();
    assert_eq!(
        told,
        [
            "PUBACK NotAuthorized",
            "PUBREC NotAuthorized",
            "[NotAuthorized, Success(ExactlyOnce)]",
            "PUBREC Success",
            "yes"
        ]
    );
    nothing_was_heard(&mut house).await;

    is_not_let_in!(AsyncClient, ConnectionError, ConnectReturnCode, options("refused"));
    house.proxy.stop().await;
}

#[tokio::test]
async fn mosquittos_clients_cope_with_refusals() {
    let mut house = House::new().await;
    for version in [Version::V31, VERSIONS[0], VERSIONS[1]] {
        let flag = flag(version);
        for qos in ["0", "1", "2"] {
            let args = ["-V", flag, "-q", qos, "-t", NO, "-m", "x", "--repeat", "3", "--repeat-delay", "0"];
            let ended = publish(house.proxy.mqtt, args).await;
            assert_eq!(ended.code(), Some(0), "{:#?}", ended.lines);
            let told = ended.lines.iter().filter(|line| line.contains("Not authorized")).count();
            let expected = if version == Version::V5 && qos != "0" { 3 } else { 0 };
            assert_eq!(told, expected, "{flag} QoS {qos}: {:#?}", ended.lines);
            nothing_was_heard(&mut house).await;
        }

        let args = ["-V", flag, "-t", NO, "-t", "yes", "-q", "2", "-F", "got %t", "-C", "1"];
        let mut reader = subscriber(house.proxy.mqtt, args).await;
        let code = if version == Version::V5 { 135 } else { 128 };
        assert!(
            reader.lines().iter().any(|line| line.ends_with(&format!(": {code}, 2"))),
            "{:#?}",
            reader.lines()
        );
        publish(house.proxy.mqtt, ["-V", flag, "-q", "2", "-t", "yes", "-m", "x"]).await;
        reader.line("got yes").await.unwrap();
        assert_eq!(reader.end().await.unwrap().code(), Some(0));
        nothing_was_heard(&mut house).await;
        nothing_was_heard(&mut house).await;

        let ended = subscribe(house.proxy.mqtt, ["-V", flag, "-t", NO, "-W", "10"]).await;
        assert!(ended.has_line("All subscription requests were denied"), "{flag}: {:#?}", ended.lines);
        nothing_was_heard(&mut house).await;
        let ended = publish(house.proxy.mqtt, ["-V", flag, "-u", NO, "-t", "a", "-m", "b"]).await;
        assert!(ended.has_line("ot authori"), "{flag}: {:#?}", ended.lines);
    }
    house.proxy.stop().await;
}
