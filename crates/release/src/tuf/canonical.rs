//! OLPC canonical JSON, over which TUF signatures and key ids are computed: no white space, keys sorted by code
//! point, only `"` and `\` escaped. A line break in a key's PEM stays a line break, so this form is no valid JSON
//! and cannot be what is stored.

use serde_json::Value;

/// The canonical form. `value` holds no fractions: it comes from [`super::json::parse`] or from our own types.
pub(super) fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => write_list(b"[]", items, out, write),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            write_list(b"{}", entries, out, |(key, value), out| {
                write_text(key, out);
                out.push(b':');
                write(value, out);
            });
        }
    }
}

fn write_list<T>(
    brackets: &[u8; 2],
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    each: impl Fn(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(item, out);
    }
    out.push(brackets[1]);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::canonical;

    #[test]
    fn the_form_is_that_of_the_reference_implementation() {
        // securesystemslib 1.6.0, formats.encode_canonical of the same value.
        let value = json!({"b": [1, -2, true, null], "a\"\\": "x\ny", "": {}, "é": "é", "B": []});
        let expected = "{\"\":{},\"B\":[],\"a\\\"\\\\\":\"x\ny\",\"b\":[1,-2,true,null],\"é\":\"é\"}";
        assert_eq!(String::from_utf8(canonical(&value)).unwrap(), expected);
    }
}
