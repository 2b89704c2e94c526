//! rumqttc as applications run it: its loop is polled again after an error. It says what it hears, until it is killed.
//! Usage: rumqttc-stays HOST PORT 4|5

use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, v5};
use tokio::time::sleep;

/// Its documentation leaves the pause between two tries to the application.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, version] = arguments.as_slice() else { panic!("usage: rumqttc-stays HOST PORT 4|5") };
    let port = port.parse().expect("a port");
    if version == "5" { five(host, port).await } else { four(host, port).await }
}

async fn four(host: &str, port: u16) {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("rumqttc-4", host, port), 10);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                client.try_subscribe("news", QoS::AtLeastOnce).expect("room for a SUBSCRIBE");
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => println!("subscribed"),
            Ok(Event::Incoming(Packet::Publish(news))) => heard(&news.payload),
            Ok(_) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn five(host: &str, port: u16) {
    let (client, mut events) = v5::AsyncClient::new(v5::MqttOptions::new("rumqttc-5", host, port), 10);
    loop {
        match events.poll().await {
            Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::ConnAck(_))) => {
                client.try_subscribe("news", v5::mqttbytes::QoS::AtLeastOnce).expect("room for a SUBSCRIBE");
            }
            Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::SubAck(_))) => println!("subscribed"),
            Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::Publish(news))) => heard(&news.payload),
            Ok(_) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
}

fn heard(payload: &[u8]) {
    println!("heard {}", String::from_utf8_lossy(payload));
}
