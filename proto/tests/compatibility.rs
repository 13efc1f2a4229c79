//! What agents, trainers and operators of an earlier protocol version say is still understood, and what they are told they understand:
//! nothing of their messages was removed, renumbered or given another type.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The contract as version 1 had it. It is never made anew: a later version gets a file of its own beside it, and this one goes when a
/// controller no longer speaks version 1.
const VERSION_1: &[u8] = include_bytes!("compatibility/protocol-1.descriptors");

/// What is stored and logged is no part of the protocol: it has versions of its own.
const OWN_VERSIONS: [&str; 2] = ["fieldfare/v1/state.proto", "fieldfare/v1/audit.proto"];

#[derive(Default)]
struct Contract {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    /// By service and name: what goes in and out, and whether each is a stream.
    methods: BTreeMap<String, (String, String, bool, bool)>,
}

impl Contract {
    fn read(bytes: &[u8]) -> Self {
        let mut contract = Self::default();
        let files = FileDescriptorSet::decode(bytes).unwrap().file;
        for file in files.iter().filter(|file| !OWN_VERSIONS.contains(&file.name())) {
            for message in &file.message_type {
                contract.message("", message);
            }
            for value in &file.enum_type {
                contract.enums.insert(value.name().to_owned(), value.clone());
            }
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let shape = (
                        method.input_type().to_owned(),
                        method.output_type().to_owned(),
                        method.client_streaming(),
                        method.server_streaming(),
                    );
                    contract.methods.insert(name, shape);
                }
            }
        }
        contract
    }

    fn message(&mut self, outer: &str, message: &DescriptorProto) {
        let name = format!("{outer}{}", message.name());
        for inner in &message.nested_type {
            self.message(&format!("{name}."), inner);
        }
        for value in &message.enum_type {
            self.enums.insert(format!("{name}.{}", value.name()), value.clone());
        }
        self.messages.insert(name, message.clone());
    }
}

/// What is on the wire of a field, and by which name JSON knows it.
fn shape(field: &FieldDescriptorProto) -> (String, i32, i32, String, bool) {
    (
        field.name().to_owned(),
        field.r#type.unwrap_or_default(),
        field.label.unwrap_or_default(),
        field.type_name().to_owned(),
        field.oneof_index.is_some(),
    )
}

/// What a later contract took away from an earlier one.
fn broken(before: &Contract, now: &Contract) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, message) in &before.messages {
        let Some(present) = now.messages.get(name) else {
            broken.push(format!("message {name} is gone"));
            continue;
        };
        for field in &message.field {
            let found = present.field.iter().find(|found| found.number == field.number);
            if found.map(shape) != Some(shape(field)) {
                broken.push(format!("field {} of {name} is gone or another one", field.name()));
            }
        }
    }
    for (name, values) in &before.enums {
        let present = now.enums.get(name);
        for value in &values.value {
            let found = present.and_then(|present| present.value.iter().find(|found| found.name == value.name));
            if found.and_then(|found| found.number) != value.number {
                broken.push(format!("value {} of {name} is gone or another one", value.name()));
            }
        }
    }
    for (name, shape) in &before.methods {
        if now.methods.get(name) != Some(shape) {
            broken.push(format!("method {name} is gone or another one"));
        }
    }
    broken
}

#[test]
fn nothing_of_version_1_was_taken_away() {
    let (before, now) = (
        Contract::read(VERSION_1),
        Contract::read(fieldfare_proto::FILE_DESCRIPTOR_SET),
    );
    assert!(before.messages.len() > 100 && before.enums.len() > 15 && before.methods.len() > 40);
    assert_eq!(broken(&before, &now), Vec::<String>::new());
}

/// The judge itself: each kind of breaking is noticed.
#[test]
fn what_was_taken_away_is_named() {
    let before = Contract::read(VERSION_1);
    let altered = |change: &dyn Fn(&mut Contract)| {
        let mut now = Contract::read(VERSION_1);
        change(&mut now);
        broken(&before, &now)
    };
    assert!(altered(&|_| {}).is_empty());
    let hello = |now: &mut Contract, change: &dyn Fn(&mut Vec<FieldDescriptorProto>)| {
        change(&mut now.messages.get_mut("Hello").unwrap().field);
    };
    type Change<'a> = &'a dyn Fn(&mut Contract);
    let cases: [(Change<'_>, &str); 6] = [
        (&|now| drop(now.messages.remove("Hello")), "message Hello"),
        (&|now| hello(now, &|fields| drop(fields.remove(0))), "of Hello"),
        (&|now| hello(now, &|fields| fields[0].number = Some(900)), "of Hello"),
        (&|now| hello(now, &|fields| fields[0].r#type = Some(9)), "of Hello"),
        (
            &|now| now.enums.get_mut("RefusalReason").unwrap().value[1].number = Some(900),
            "of RefusalReason",
        ),
        (
            &|now| drop(now.methods.remove("DeviceGateway/Session")),
            "method DeviceGateway/Session",
        ),
    ];
    for (change, named) in cases {
        let found = altered(change);
        assert!(
            !found.is_empty() && found.iter().all(|text| text.contains(named)),
            "{found:?}"
        );
    }
}
