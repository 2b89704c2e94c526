//! What is in a message, field by field, by the names of the contract. Reads bytes and not generated types, because those
//! drop what they do not know, which is what somebody looks for here.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use bytes::Buf;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::descriptors;

/// AnswerFields that are told of one message at most.
const FIELDS_MOST: usize = 256;

/// Characters of a text that are shown.
const TEXT_MOST: usize = 60;

/// As deep as messages are looked into.
const DEPTH_MOST: usize = 8;

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::load);

struct Contract {
    messages: HashMap<String, DescriptorProto>,
    /// Names of values by enum and number.
    values: HashMap<(String, i32), String>,
}

impl Contract {
    fn load() -> Self {
        // Made by our own build; if it were broken, fields would be shown by their numbers.
        let files = FileDescriptorSet::decode(descriptors()).unwrap_or_default().file;
        let mut contract = Self { messages: HashMap::new(), values: HashMap::new() };
        for file in files {
            let package = format!(".{}", file.package());
            for each in file.enum_type {
                for value in &each.value {
                    let name = format!("{package}.{}", each.name());
                    contract.values.insert((name, value.number()), value.name().to_owned());
                }
            }
            for message in file.message_type {
                contract.add(&package, message);
            }
        }
        contract
    }

    fn add(&mut self, within: &str, message: DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested.clone());
        }
        self.messages.insert(name, message);
    }
}

/// What is in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerFields {
    /// Each field that has a value, by its path, `allow.grant.rules[0].effect`; the first 256. Of bytes and passwords only
    /// the length is told.
    pub(crate) known: Vec<(String, String)>,
    /// Paths of those that the contract does not have, which end in their numbers.
    pub(crate) unknown: Vec<String>,
    /// All of it in one line.
    pub(crate) text: String,
}

impl AnswerFields {
    /// Of a message of this type, `"AuthConnectResponse"`.
    pub(crate) fn read(message: &str, bytes: &[u8]) -> Self {
        let mut fields = Self::default();
        fields.message(&format!(".mproxy.v1.{message}"), bytes, "", 0);
        fields
    }

    /// Takes apart what is a message of this type. Bytes that are none end it; whoever reads the answer has said so.
    fn message(&mut self, name: &str, mut bytes: &[u8], path: &str, depth: usize) {
        let descriptor = CONTRACT.messages.get(name);
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let mut first = true;
        while let Ok((number, wire)) = decode_key(&mut bytes) {
            let Some(raw) = Raw::read(wire, &mut bytes) else { return };
            let field = descriptor.and_then(|message| {
                message.field.iter().find(|field| u32::try_from(field.number()) == Ok(number))
            });
            if !std::mem::take(&mut first) {
                self.text.push(' ');
            }
            let Some(field) = field else {
                self.unknown(join(path, &number.to_string()));
                continue;
            };
            let count = counts.entry(number).or_default();
            let index = if is_list(field) { format!("[{count}]") } else { String::new() };
            *count += 1;
            self.field(field, raw, join(path, &format!("{}{index}", field.name())), depth);
        }
    }

    fn field(&mut self, field: &FieldDescriptorProto, raw: Raw<'_>, path: String, depth: usize) {
        self.text.push_str(field.name());
        match (field.r#type(), raw) {
            (Type::Message, Raw::Bytes(bytes)) => {
                self.text.push('{');
                // An empty message says something, too: which of several it is.
                if bytes.is_empty() {
                    self.known(&path, "{}".to_owned());
                } else if depth < DEPTH_MOST {
                    self.message(field.type_name(), bytes, &path, depth + 1);
                }
                self.text.push('}');
            }
            (kind, raw) => {
                let value = value(field, kind, &raw);
                self.text.push('=');
                self.text.push_str(&value);
                self.known(&path, value);
            }
        }
    }

    fn known(&mut self, path: &str, value: String) {
        // An answer may be 4 MiB of fields, and this is read by people.
        if self.known.len() < FIELDS_MOST {
            self.known.push((path.to_owned(), value));
        }
    }

    fn unknown(&mut self, path: String) {
        self.text.push('?');
        self.text.push_str(path.rsplit('.').next().unwrap_or_default());
        if self.unknown.len() < FIELDS_MOST {
            self.unknown.push(path);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn is_list(field: &FieldDescriptorProto) -> bool {
    field.label() == Label::Repeated
}

/// A value as it stands on the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn read(wire: WireType, bytes: &mut &'a [u8]) -> Option<Self> {
        Some(match wire {
            WireType::Varint => Self::Number(decode_varint(bytes).ok()?),
            WireType::SixtyFourBit => Self::Number(bytes.try_get_u64_le().ok()?),
            WireType::ThirtyTwoBit => Self::Number(bytes.try_get_u32_le().ok()?.into()),
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(bytes).ok()?).ok()?;
                let (value, rest) = bytes.split_at_checked(len)?;
                *bytes = rest;
                Self::Bytes(value)
            }
            // No contract of proto3 has them.
            WireType::StartGroup | WireType::EndGroup => return None,
        })
    }
}

fn value(field: &FieldDescriptorProto, kind: Type, raw: &Raw<'_>) -> String {
    match (kind, raw) {
        (Type::Bytes, Raw::Bytes(bytes)) => format!("<{} bytes>", bytes.len()),
        (Type::String, Raw::Bytes(bytes)) => text(&String::from_utf8_lossy(bytes)),
        (Type::Bool, Raw::Number(number)) => (*number != 0).to_string(),
        (Type::Enum, Raw::Number(number)) => of_enum(field, *number),
        (Type::Double, Raw::Number(number)) => f64::from_bits(*number).to_string(),
        (Type::Int32 | Type::Int64, Raw::Number(number)) => number.cast_signed().to_string(),
        (_, Raw::Number(number)) => number.to_string(),
        // Numbers that repeat, packed.
        (_, &Raw::Bytes(mut bytes)) => {
            let mut all = String::new();
            while let Ok(number) = decode_varint(&mut bytes) {
                let comma = if all.is_empty() { "" } else { "," };
                let shown = if kind == Type::Enum { of_enum(field, number) } else { number.to_string() };
                // Writing to a String cannot fail.
                let _ = write!(all, "{comma}{shown}");
                if all.len() > TEXT_MOST {
                    all.push('…');
                    break;
                }
            }
            all
        }
    }
}

fn of_enum(field: &FieldDescriptorProto, number: u64) -> String {
    let known = i32::try_from(number).ok();
    let key = known.map(|known| (field.type_name().to_owned(), known));
    key.and_then(|key| CONTRACT.values.get(&key).cloned()).unwrap_or_else(|| number.to_string())
}

/// In quotes, and not endlessly long.
fn text(text: &str) -> String {
    match text.char_indices().nth(TEXT_MOST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;

    #[test]
    fn fields_have_the_names_and_values_of_the_contract() {
        let rule = wire::GrantRule {
            effect: wire::Effect::Allow.into(),
            actions: vec![1, 2],
            topic_filters: vec!["a/#".into(), "b".into()],
            ..Default::default()
        };
        let grant = wire::Grant { rules: vec![rule], ..Default::default() };
        let allow = wire::ConnectAllow {
            password: Some(bytes::Bytes::from_static(b"sesame")),
            attributes: [("tenant".to_owned(), "acme".to_owned())].into(),
            grant: Some(grant),
            ..Default::default()
        };
        let verdict = Some(wire::auth_connect_response::Verdict::Allow(allow));
        let bytes = wire::AuthConnectResponse { verdict }.encode_to_vec();
        let fields = AnswerFields::read("AuthConnectResponse", &bytes);
        assert_eq!(
            fields.text,
            "allow{password=<6 bytes> attributes{key=\"tenant\" value=\"acme\"} \
             grant{rules{effect=EFFECT_ALLOW actions=GRANT_ACTION_PUBLISH,GRANT_ACTION_SUBSCRIBE \
             topic_filters=\"a/#\" topic_filters=\"b\"}}}"
        );
        let known =
            |path: &str| fields.known.iter().find(|(known, _)| known == path).map(|(_, value)| &**value);
        assert_eq!(known("allow.grant.rules[0].effect"), Some("EFFECT_ALLOW"));
        assert_eq!(known("allow.grant.rules[0].topic_filters[1]"), Some("\"b\""));
        assert_eq!(known("allow.attributes[0].value"), Some("\"acme\""));
        assert!(fields.unknown.is_empty());
    }

    #[test]
    fn what_the_contract_does_not_have_is_told_by_its_number() {
        // deny { 77: 1, reason_code: 5 }
        let bytes = [0x12, 5, 0xE8, 0x04, 1, 0x08, 5];
        let fields = AnswerFields::read("AuthPublishResponse", &bytes);
        assert_eq!(fields.unknown, ["deny.77"]);
        assert_eq!(fields.text, "deny{?77 reason_code=5}");
    }

    #[test]
    fn bytes_that_are_no_message_end_it() {
        for bytes in [&b"\xff"[..], b"\x0a\xff", b"\x0b", b"\x0a\x09\x0a", b"\x0d\x00"] {
            let fields = AnswerFields::read("AuthConnectResponse", bytes);
            assert!(fields.unknown.is_empty(), "{bytes:?}");
        }
    }
}
