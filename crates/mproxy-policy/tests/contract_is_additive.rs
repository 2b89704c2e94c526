//! The contract only grows: what a release of `proto/events.proto` had, the present one has, with the same numbers,
//! names and types. The rules are those of buf's `WIRE_JSON` category, with deletion forbidden even where it is reserved.

use std::path::{Path, PathBuf};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

fn contract(folder: &Path) -> FileDescriptorProto {
    let set = protox::compile(["events.proto"], [folder]).expect("the contract compiles");
    set.file.into_iter().find(|file| file.name() == "events.proto").expect("it is in its own set")
}

fn proto_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

/// What the new one lacks or has otherwise, a line each.
fn breaks(old: &FileDescriptorProto, new: &FileDescriptorProto) -> Vec<String> {
    let mut found = Vec::new();
    if old.package() != new.package() {
        found.push(format!("package {} became {}", old.package(), new.package()));
    }
    messages("", &old.message_type, &new.message_type, &mut found);
    enums("", &old.enum_type, &new.enum_type, &mut found);
    for service in &old.service {
        match new.service.iter().find(|other| other.name() == service.name()) {
            Some(other) => methods(service, other, &mut found),
            None => found.push(format!("service {} is gone", service.name())),
        }
    }
    found
}

fn messages(within: &str, old: &[DescriptorProto], new: &[DescriptorProto], found: &mut Vec<String>) {
    for message in old {
        let name = format!("{within}{}", message.name());
        let Some(other) = new.iter().find(|other| other.name() == message.name()) else {
            found.push(format!("message {name} is gone"));
            continue;
        };
        for field in &message.field {
            let same = other.field.iter().find(|other| other.number() == field.number());
            match same {
                None => found.push(format!("{name}.{} = {} is gone", field.name(), field.number())),
                Some(same) => {
                    let (was, is) = (shape(message, field), shape(other, same));
                    if was != is {
                        found.push(format!("{name}, field {}: {was} became {is}", field.number()));
                    }
                }
            }
        }
        let within = format!("{name}.");
        messages(&within, &message.nested_type, &other.nested_type, found);
        enums(&within, &message.enum_type, &other.enum_type, found);
    }
}

/// All that a wire format or JSON depends on.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field
        .oneof_index
        .and_then(|at| message.oneof_decl.get(at as usize))
        .map_or("", |oneof| oneof.name.as_deref().unwrap_or_default());
    format!(
        "{:?} {:?} {} {} (json {}, oneof {oneof:?})",
        field.label(),
        field.r#type(),
        field.type_name(),
        field.name(),
        field.json_name(),
    )
}

fn enums(within: &str, old: &[EnumDescriptorProto], new: &[EnumDescriptorProto], found: &mut Vec<String>) {
    for one in old {
        let name = format!("{within}{}", one.name());
        let Some(other) = new.iter().find(|other| other.name() == one.name()) else {
            found.push(format!("enum {name} is gone"));
            continue;
        };
        for value in &one.value {
            match other.value.iter().find(|other| other.number() == value.number()) {
                Some(same) if same.name() == value.name() => {}
                Some(same) => found.push(format!("{name}: {} became {}", value.name(), same.name())),
                None => found.push(format!("{name}: {} = {} is gone", value.name(), value.number())),
            }
        }
    }
}

fn methods(old: &ServiceDescriptorProto, new: &ServiceDescriptorProto, found: &mut Vec<String>) {
    for method in &old.method {
        let same = new.method.iter().any(|other| {
            other.name() == method.name()
                && other.input_type() == method.input_type()
                && other.output_type() == method.output_type()
                && other.client_streaming() == method.client_streaming()
                && other.server_streaming() == method.server_streaming()
        });
        if !same {
            found.push(format!("{}.{} is gone or has another signature", old.name(), method.name()));
        }
    }
}

#[test]
fn every_release_is_still_understood() {
    let present = contract(&proto_folder());
    let mut releases = 0;
    for entry in std::fs::read_dir(proto_folder().join("released")).expect("releases are kept") {
        let folder = entry.expect("readable").path();
        releases += 1;
        let found = breaks(&contract(&folder), &present);
        assert!(found.is_empty(), "breaks {}:\n{}", folder.display(), found.join("\n"));
    }
    assert!(releases > 0, "no release to compare with");
}

#[test]
fn a_break_is_found() {
    let old = contract(&proto_folder());
    let mut new = old.clone();
    let client = new.message_type.iter_mut().find(|message| message.name() == "Client").expect("it exists");
    client.field[0].number = Some(1999);
    client.field.pop();
    new.enum_type[0].value[1].name = Some("OTHER".to_owned());
    new.service[0].method.remove(0);
    let found = breaks(&old, &new);
    assert_eq!(found.len(), 4, "{found:#?}");
}
