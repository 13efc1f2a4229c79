//! Records as JSON, by the descriptors of the protocol: fields by their names, digests in hexadecimal, and in a call the request
//! and the answer that it carries.

use anyhow::{Context as _, Result};
use fieldfare_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde_json::{Map, json};

/// Decodes records.
pub(super) struct Decoder {
    pool: DescriptorPool,
    record: MessageDescriptor,
}

impl Decoder {
    pub(super) fn new() -> Result<Self> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).context("the descriptors of this build")?;
        let record = pool.get_message_by_name("fieldfare.v1.AuditRecord");
        Ok(Self {
            record: record.context("the descriptors of this build name no audit record")?,
            pool,
        })
    }

    /// One record; nothing where it is none that this version knows the form of.
    pub(super) fn record(&self, bytes: &[u8]) -> Option<Map<String, serde_json::Value>> {
        let mut record = object(&DynamicMessage::decode(self.record.clone(), bytes).ok()?);
        let method = record
            .get("call")
            .and_then(|call| call["method"].as_str())
            .map(ToOwned::to_owned);
        if let Some(method) = method
            && let Some(call) = record.get_mut("call").and_then(serde_json::Value::as_object_mut)
        {
            let input = self.method(&method).map(|method| method.input());
            spell_out(call, "request", input);
        }
        Some(record)
    }

    /// The answer in an outcome, which is that of a method.
    pub(super) fn answer(&self, outcome: &mut Map<String, serde_json::Value>, method: &str) {
        spell_out(outcome, "response", self.method(method).map(|method| method.output()));
    }

    fn method(&self, name: &str) -> Option<prost_reflect::MethodDescriptor> {
        let (service, method) = name.split_once('/')?;
        self.pool
            .get_service_by_name(service)?
            .methods()
            .find(|found| found.name() == method)
    }
}

/// Puts a message in the place of its bytes.
fn spell_out(holder: &mut Map<String, serde_json::Value>, field: &str, message: Option<MessageDescriptor>) {
    let bytes = holder
        .get(field)
        .and_then(serde_json::Value::as_str)
        .and_then(|text| hex::decode(text).ok());
    let decoded = bytes
        .zip(message)
        .and_then(|(bytes, message)| DynamicMessage::decode(message, &*bytes).ok());
    if let Some(decoded) = decoded {
        holder.insert(field.to_owned(), object(&decoded).into());
    }
}

fn object(message: &DynamicMessage) -> Map<String, serde_json::Value> {
    message
        .fields()
        .map(|(field, content)| (field.name().to_owned(), value(&field, content)))
        .collect()
}

fn value(field: &FieldDescriptor, content: &Value) -> serde_json::Value {
    match content {
        Value::Bool(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Bytes(value) => json!(hex::encode(value)),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(known) => known
                .get_value(*number)
                .map_or(json!(number), |value| json!(value.name())),
            _ => json!(number),
        },
        Value::Message(message) => object(message).into(),
        Value::List(items) => items.iter().map(|item| value(field, item)).collect(),
        Value::Map(entries) => map(field, entries.iter()),
    }
}

fn map<'a>(field: &FieldDescriptor, entries: impl Iterator<Item = (&'a MapKey, &'a Value)>) -> serde_json::Value {
    let Kind::Message(entry) = field.kind() else {
        return serde_json::Value::Null;
    };
    let inner = entry.map_entry_value_field();
    let key = |key: &MapKey| match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    };
    let object: Map<_, _> = entries
        .map(|(name, content)| (key(name), value(&inner, content)))
        .collect();
    object.into()
}
