//! Byte vectors of public test suites. They are not part of this repository: the tests run where the environment
//! variable `MPROXY_VECTORS` names their folder, and say that they were skipped elsewhere.

use mproxy_codec::topic::{check_filter, check_name, matches};
use mproxy_codec::{ErrorKind, Frame, Malformed, Packet, PacketType, Sender, Version, text};
use serde_json::Value;

fn vectors(file: &str) -> Option<Vec<Value>> {
    let Ok(folder) = std::env::var("MPROXY_VECTORS") else {
        println!("skipped: MPROXY_VECTORS does not name a folder with {file}");
        return None;
    };
    let text = std::fs::read_to_string(format!("{folder}/{file}")).expect("MPROXY_VECTORS holds the file");
    let Value::Object(mut file) = serde_json::from_str(&text).expect("it is JSON") else {
        panic!("an object")
    };
    let Some(Value::Array(vectors)) = file.remove("vectors") else { panic!("a list of vectors") };
    Some(vectors)
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().expect("hex");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

/// Whether the bytes are one packet of a client, and nothing more.
fn judge(bytes: &[u8], version: Version) -> Result<(), Malformed> {
    let opening = bytes.first().is_some_and(|first| first >> 4 == PacketType::Connect as u8);
    let split = Frame::split(bytes, Sender::Client, if opening { None } else { Some(version) })?;
    let cut = Malformed { kind: ErrorKind::Overrun, packet: None, offset: 0 };
    let (frame, rest) = split.ok_or(cut)?;
    let packet = Packet::parse(&frame, Sender::Client, version)?;
    match packet {
        Packet::Connect(connect) => assert_eq!(connect.version, version),
        packet => assert_eq!(packet.kind(), frame.header.kind),
    }
    assert!(rest.is_empty());
    Ok(())
}

/// Where the suite goes further than the standard. 3.3.2.3.2 names the values 0 and 1 of the Payload Format Indicator, and
/// says nowhere that others must not be: they pass.
const STRICTER: &str = "/payload-format-indicator=2_(byte,_invalid)";

#[test]
fn packets_of_the_mosquitto_suite_are_judged_alike() {
    let Some(vectors) = vectors("codec_mosquitto.json") else { return };
    let mut wrong = Vec::new();
    let (mut valid, mut invalid) = (0, 0);
    for vector in vectors.iter().filter(|vector| vector["agree"] == true) {
        let id = vector["id"].as_str().expect("an id");
        let version = match vector["version"].as_u64() {
            Some(3) => Version::V31,
            Some(4) => Version::V311,
            Some(5) => Version::V5,
            other => panic!("{id}: version {other:?}"),
        };
        assert_eq!(vector["direction"], "c2s", "{id}");
        let hex = vector.get("hex_framed").unwrap_or_else(|| &vector["hex"]);
        let verdict = judge(&bytes(hex), version);
        let expected = vector["expect"] == "valid" || id.ends_with(STRICTER);
        *if expected { &mut valid } else { &mut invalid } += 1;
        if verdict.is_ok() != expected {
            wrong.push(format!("{id} {hex}: {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), valid + invalid, wrong.join("\n"));
    assert!(valid > 100 && invalid > 1000, "{valid} valid, {invalid} invalid");
}

#[test]
fn topics_of_three_suites_are_judged_alike() {
    let Some(vectors) = vectors("topics.json") else { return };
    let mut wrong = Vec::new();
    for vector in vectors.iter().filter(|vector| vector["agree"] == true) {
        let text = |key: &str| vector[key].as_str();
        let id = text("id").expect("an id");
        let expected = matches!(text("expect"), Some("match" | "valid"));
        let verdict = match (text("filter"), text("topic")) {
            (Some(filter), Some(topic)) => {
                check_filter(filter).is_ok() && check_name(topic).is_ok() && matches(filter, topic)
            }
            (Some(filter), None) => check_filter(filter).is_ok(),
            (None, Some(topic)) => check_name(topic).is_ok(),
            (None, None) => panic!("{id} has neither filter nor topic"),
        };
        if verdict != expected {
            wrong.push(vector.to_string());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn text_of_the_mosquitto_suite_is_judged_by_the_standard() {
    let Some(vectors) = vectors("utf8_mosquitto.json") else { return };
    for vector in &vectors {
        let bytes = bytes(&vector["hex"]);
        let verdict = text::check(&bytes);
        assert_eq!(verdict.is_ok(), vector["expect"] == "valid", "{vector}");
    }
}
