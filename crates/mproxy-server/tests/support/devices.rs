//! rumqttc as a device that talks to itself, in both versions that it has.

use std::net::SocketAddr;
use std::time::Duration;

use mproxy_testkit::PATIENCE;
use tokio::time::timeout;

/// Subscribes, publishes a message of each QoS to itself, waits until all three are back and acknowledged, and takes
/// its leave. A macro, for the two versions' types are the same only by name.
macro_rules! talks_to_itself {
    ($client:expr, $events:expr, $qos:path, $event:path, $packet:path) => {{
        use $event as Event;
        use $packet as Packet;
        use $qos as QoS;
        let (client, mut events) = ($client, $events);
        client.subscribe("rumqttc/#", QoS::ExactlyOnce).await.unwrap();
        for (payload, qos) in [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c", QoS::ExactlyOnce)] {
            client.publish("rumqttc/itself", qos, false, payload).await.unwrap();
        }
        let (mut back, mut ends) = (Vec::new(), 0);
        while back.len() < 3 || ends < 3 {
            let event = timeout(PATIENCE, events.poll()).await.expect("an event in time").expect("connected");
            match event {
                Event::Incoming(Packet::Publish(publish)) => {
                    back.push((publish.qos as u8, String::from_utf8(publish.payload.to_vec()).unwrap()));
                }
                // The ends of what it published, and of what it was sent with QoS 2.
                Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_) | Packet::PubRel(_)) => ends += 1,
                _ => {}
            }
        }
        back.sort();
        assert_eq!(back, [(0, "a".to_owned()), (1, "b".to_owned()), (2, "c".to_owned())]);
        client.disconnect().await.unwrap();
        while timeout(PATIENCE, events.poll()).await.expect("an end in time").is_ok() {}
    }};
}

pub(crate) async fn rumqttc_311(door: SocketAddr) {
    use rumqttc::{AsyncClient, MqttOptions};
    let mut options = MqttOptions::new("rumqttc-4", door.ip().to_string(), door.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, events) = AsyncClient::new(options, 10);
    talks_to_itself!(client, events, rumqttc::QoS, rumqttc::Event, rumqttc::Packet);
}

pub(crate) async fn rumqttc_5(door: SocketAddr) {
    use rumqttc::v5::{AsyncClient, MqttOptions, mqttbytes};
    let mut options = MqttOptions::new("rumqttc-5", door.ip().to_string(), door.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, events) = AsyncClient::new(options, 10);
    talks_to_itself!(client, events, mqttbytes::QoS, rumqttc::v5::Event, mqttbytes::v5::Packet);
}
