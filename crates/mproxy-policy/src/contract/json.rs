//! The contract's messages in JSON, as proto3 maps them, for services that do not speak protobuf. From bytes and to bytes:
//! what a question is and what its answer means is decided where it is for gRPC.

use std::sync::LazyLock;

use bytes::{Buf, Bytes};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor,
    SerializeOptions, ServiceDescriptor,
};
use tonic::Status;

use super::descriptors;
use super::unreadable::text_restricts;
use crate::post::{unreadable, unusable};

/// 64-bit numbers as text, enums by name, lowerCamelCase; what has its default is left out.
const WRITTEN: SerializeOptions = SerializeOptions::new();

/// A name that is misspelt must not pass for one that was left out.
const READ: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);

/// The calls of `Hooks`. Made by our own build; if it were broken, every call would fail.
static HOOKS: LazyLock<Option<ServiceDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(descriptors()).ok()?;
    pool.get_service_by_name("mproxy.v1.Hooks")
});

/// One call, by the name that the contract gives it.
#[derive(Clone, Debug)]
pub(super) struct JsonCall(MethodDescriptor);

impl JsonCall {
    pub(super) fn new(name: &str) -> Result<Self, Status> {
        let method = HOOKS.as_ref().and_then(|hooks| hooks.methods().find(|method| method.name() == name));
        method.map(Self).ok_or_else(|| Status::internal(format!("{name}: no call of the contract")))
    }

    pub(super) fn name(&self) -> &str {
        self.0.name()
    }

    /// The message that answers it.
    pub(super) fn answer(&self) -> MessageDescriptor {
        self.0.output()
    }

    /// A request in JSON.
    pub(super) fn write(&self, request: impl Buf) -> Result<Bytes, Status> {
        let len = request.remaining();
        let message = DynamicMessage::decode(self.0.input(), request)
            .map_err(|error| Status::internal(error.to_string()))?;
        // Names take more room than numbers.
        let mut json = serde_json::Serializer::new(Vec::with_capacity(2 * len + 256));
        match message.serialize_with_options(&mut json, &WRITTEN) {
            Ok(()) => Ok(json.into_inner().into()),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    /// The bytes of an answer in JSON.
    pub(super) fn read(&self, json: &[u8]) -> Result<Bytes, Status> {
        read(self.answer(), json).map(|message| message.encode_to_vec().into()).map_err(|error| {
            let error = without_value(&error.to_string());
            match text_restricts(json) {
                true => unusable(format_args!("{error}")),
                false => unreadable(format_args!("{error}")),
            }
        })
    }
}

fn read(message: MessageDescriptor, json: &[u8]) -> serde_json::Result<DynamicMessage> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize_with_options(message, &mut json, &READ)?;
    json.end()?;
    Ok(message)
}

/// The text without the value that serde repeats where it is of the wrong type: it may be a password for the broker.
fn without_value(text: &str) -> String {
    let told = ["invalid type: ", "invalid value: "].into_iter().find_map(|start| {
        let rest = text.strip_prefix(start)?;
        let (value, expected) = rest.rsplit_once(", expected ")?;
        let kind = value.split(['"', '`']).next().unwrap_or_default().trim();
        Some(format!("{start}{kind}, expected {expected}"))
    });
    told.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonic::Code;

    use super::super::wire;
    use super::*;

    fn call(name: &str) -> JsonCall {
        JsonCall::new(name).expect("it is a call of the contract")
    }

    fn written(name: &str, message: &impl Message) -> Value {
        let json = call(name).write(&*message.encode_to_vec()).expect("it can be written");
        serde_json::from_slice(&json).expect("it is JSON")
    }

    fn read<M: Message + Default>(name: &str, json: Value) -> M {
        M::decode(call(name).read(json.to_string().as_bytes()).expect("it reads")).expect("it is a message")
    }

    #[test]
    fn every_call_of_the_contract_is_known() {
        for path in
            super::super::Rpc::ALL.map(super::super::Rpc::path).into_iter().chain([super::super::HELLO])
        {
            assert!(JsonCall::new(path.rsplit('/').next().unwrap_or_default()).is_ok(), "{path}");
        }
        assert!(JsonCall::new("Decide").is_err());
    }

    #[test]
    fn a_no_with_a_mistake_in_it_is_never_a_failed_answer() {
        let error = |name: &str, text: &str| {
            call(name).read(text.as_bytes()).expect_err("it cannot be read").message().to_owned()
        };
        for (name, text) in [
            ("AuthConnect", r#"{"deny":{"action":"ACTION_FOO"}}"#),
            ("AuthConnect", r#"{"deny":{"reasonCode":"abc"}}"#),
            ("AuthConnect", r#"{"allow":{},"deny":{}}"#),
            ("AuthConnect", r#"{"deny":{},"deny":{}}"#),
            ("AuthConnect", r#"{"deny":{},"reason":1}"#),
            ("AuthConnect", r#"{"allow":{"grant":{"rules":[{"effect":"EFFECT_NO"}]}}}"#),
            ("AuthConnect", r#"{"allow":{"grant":{"ttl":"soon"}}}"#),
            ("AuthSubscribe", r#"{"verdicts":[{"allow":{}},{"deny":{"action":7.5}}]}"#),
            ("AuthExchange", r#"{"success":{"grant":{"versoin":"7"}}}"#),
            ("AuthConnect", r#"{"deny":{"#),
            ("AuthConnect", r#"{"allow":{},"deny":null,"x":1}"#),
            ("AuthConnect", r#"{"d\u0065ny":{"x":1}}"#),
            ("AuthSubscribe", r#"[{"deny":{}}]"#),
        ] {
            assert!(error(name, text).starts_with(crate::post::UNUSABLE), "{text}: {}", error(name, text));
        }
        for text in [r#"{"alow":{}}"#, r#"{"allow":{}"#, "[]", "true", "<html>"] {
            assert!(error("AuthConnect", text).starts_with(crate::post::UNREADABLE), "{text}");
        }
    }

    #[test]
    fn a_question_is_written_as_proto3_maps_it() {
        let client = wire::Client {
            epoch: u64::MAX,
            client_id: "c1".into(),
            transport: wire::Transport::Tls.into(),
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            tls: Some(wire::Tls {
                certificate_chain: vec![Bytes::from_static(&[0xFB, 0xFF])],
                ..Default::default()
            }),
            ..Default::default()
        };
        let question = wire::AuthPublishRequest {
            client: Some(client),
            topic: "\u{e4}/\"".into(),
            payload: Some(Bytes::new()),
            properties: Some(wire::PublishProperties { payload_format: Some(0), ..Default::default() }),
            ..Default::default()
        };
        let expected = json!({
            "client": {
                "epoch": "18446744073709551615",
                "clientId": "c1",
                "transport": "TRANSPORT_TLS",
                "attributes": { "a": "b" },
                "tls": { "certificateChain": ["+/8="] },
            },
            "topic": "\u{e4}/\"",
            // Set and empty is another thing than absent: such a message clears a retained one.
            "payload": "",
            "properties": { "payloadFormat": 0 },
        });
        assert_eq!(written("AuthPublish", &question), expected);
        let event = wire::ConnectEvent {
            time: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            sequence: 7,
            ..Default::default()
        };
        assert_eq!(
            written("Connect", &event),
            json!({ "time": "1970-01-01T00:00:01.500Z", "sequence": "7" })
        );
    }

    #[test]
    fn an_answer_may_be_spelt_in_every_way_that_proto3_has() {
        let deny = |deny: Value| match read("AuthPublish", json!({ "deny": deny })) {
            wire::AuthPublishResponse { verdict: Some(wire::auth_publish_response::Verdict::Deny(deny)) } => {
                deny
            }
            other => panic!("{other:?}"),
        };
        for spelt in [
            json!({ "reasonCode": 135, "action": "ACTION_DROP", "cacheFor": "1.500s" }),
            json!({ "reason_code": "135", "action": 2, "cache_for": "1.5s", "reasonString": null }),
            json!({ "reason_code": 1.35e2, "action": "ACTION_DROP", "cacheFor": "1.5s" }),
        ] {
            let deny = deny(spelt.clone());
            assert_eq!((deny.reason_code, deny.action), (135, Some(wire::Action::Drop.into())), "{spelt}");
            assert_eq!(deny.cache_for, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
        }
        assert_eq!(deny(json!({ "action": 77 })).action, Some(77), "a newer service's");
        for base64 in ["+/8=", "-_8=", "+/8", "-_8"] {
            let answer = read("AuthPublish", json!({ "allow": { "payload": base64 } }));
            let wire::AuthPublishResponse {
                verdict: Some(wire::auth_publish_response::Verdict::Allow(allow)),
            } = answer
            else {
                panic!("{answer:?}")
            };
            assert_eq!(allow.payload.as_deref(), Some(&[0xFB, 0xFF][..]), "{base64}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_repeated() {
        for (password, told) in [
            (json!(2_718_281), "invalid type: integer, expected a base64-encoded string"),
            (json!("hunter2!"), "invalid base64"),
            (json!({ "is": "hunter2" }), "invalid type: map, expected a base64-encoded string"),
        ] {
            let answer = json!({ "allow": { "password": password } }).to_string();
            let error = call("AuthConnect").read(answer.as_bytes()).expect_err("no base64");
            assert_eq!(error.code(), Code::Internal);
            let text = error.message();
            assert!(text.contains(told) && text.contains("line 1 column"), "{text}");
            assert!(!text.contains("hunter2") && !text.contains("2718281"), "{text}");
        }
        let quoted = "invalid type: string \"a, expected b\", expected u32 at line 1 column 2";
        assert_eq!(without_value(quoted), "invalid type: string, expected u32 at line 1 column 2");
    }
}
