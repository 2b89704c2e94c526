//! What a broker may say that the standard does not: its framing is checked and what mproxy has to understand of it, the
//! rest is its own affair and passes as it came.

use mproxy_core::Side;
use mproxy_core::fault::Fault;
use mproxy_sim::Stage;
use mproxy_sim::wire::{self, Publish, Version};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Passes in these versions.
type Odd = (&'static str, &'static [Version], fn(Version) -> Vec<u8>);

const ODD: &[Odd] = &[
    ("a PUBACK with a code of its own", &[Version::V5], |_| wire::packet(0x40, &[0, 1, 0x55])),
    ("a PUBREC with a code of its own", &[Version::V5], |_| wire::packet(0x50, &[0, 1, 0xF0])),
    ("a PUBACK for nothing", &VERSIONS, |_| wire::puback(77)),
    ("a PUBCOMP for nothing", &VERSIONS, |_| wire::pubcomp(77)),
    ("a SUBACK with a code of its own", &VERSIONS, |version| wire::suback(version, 9, &[0x55])),
    ("a SUBACK for nothing", &VERSIONS, |version| wire::suback(version, 77, &[0])),
    ("an UNSUBACK with a code of its own", &[Version::V5], |version| wire::unsuback(version, 9, &[0xEE])),
    ("a PINGRESP that nobody asked for", &VERSIONS, |_| wire::pingresp()),
    ("a delivery that nobody subscribed to", &VERSIONS, |version| {
        wire::publish(version, &Publish { topic: "a", ..Publish::default() })
    }),
    ("a topic with a wildcard, where nobody reads it", &VERSIONS, |version| {
        wire::publish(version, &Publish { topic: "a/#", ..Publish::default() })
    }),
];

#[test]
fn oddities_of_the_broker_pass_as_they_came() {
    for (what, versions, bytes) in ODD {
        for version in *versions {
            let mut stage = Stage::new().open(*version);
            stage.broker(&bytes(*version));
            assert_eq!(stage.at_client(), bytes(*version), "{what} in {version:?}");
            assert_eq!(stage.session.phase_name(), "open", "{what} in {version:?}");
        }
    }
}

#[test]
fn a_connack_that_refuses_in_its_own_way_is_passed_on() {
    for version in VERSIONS {
        let mut stage = Stage::new();
        stage.client(&wire::connect(version, "c", &wire::ConnectOptions::default()));
        let connack = wire::connack(version, false, 0x77, b"");
        stage.broker(&connack);
        assert_eq!(stage.at_client(), connack);
        assert_eq!(stage.finish(), Fault::BrokerRefused { code: 0x77 });
    }
}

/// What of the broker's cannot be passed on, for nobody could say where it ends or what it means.
#[test]
fn a_broker_whose_packets_cannot_be_understood_is_left() {
    let broken: &[(&str, &[u8])] = &[
        ("packet type 0", &[0, 0]),
        ("a length of five bytes", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ("CONNECT", &[0x10, 0]),
        ("SUBSCRIBE", &[0x82, 2, 0, 1]),
        ("PUBACK without a packet id", &[0x40, 0]),
        ("SUBACK with packet id 0", &[0x90, 3, 0, 0, 0]),
        ("a second CONNACK", &[0x20, 2, 0, 0]),
    ];
    for (what, bytes) in broken {
        for version in VERSIONS {
            let mut stage = Stage::new().open(version);
            stage.broker(bytes);
            // The client is told, where it can be: none of its doing.
            let told = if version == Version::V5 { wire::packet(0xE0, &[0x80]) } else { Vec::new() };
            assert_eq!(stage.at_client(), told, "{what} in {version:?}");
            assert!(stage.is_shut(Side::Client) && stage.is_shut(Side::Broker), "{what} in {version:?}");
            let fault = stage.finish();
            let theirs = matches!(
                fault,
                Fault::Malformed { side: Side::Broker, .. } | Fault::Protocol { side: Side::Broker, .. }
            );
            assert!(theirs, "{what} in {version:?}: {fault}");
        }
    }
}
