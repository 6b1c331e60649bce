//! The OpenAPI document as a Postman collection (format v2.1.0,
//! <https://schema.postman.com/collection/json/v2.1.0/draft-07/docs/index.html>).
//!
//! One folder for each tag, one request for each operation, with the examples of the document as
//! values. The address and the key are the collection's variables `base` and `api_key`.

use serde_json::{Map, Value, json};

const SCHEMA: &str = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json";
const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];
/// Examples are nested this deep at most; deeper they are left out.
const MAX_DEPTH: usize = 8;

/// The collection, indented, with a line feed at its end.
pub fn collection() -> String {
    let document = serde_json::to_value(super::document()).unwrap_or_default();
    let mut text = serde_json::to_string_pretty(&converted(&document)).unwrap_or_default();
    text.push('\n');
    text
}

fn converted(document: &Value) -> Value {
    let mut folders: Vec<(String, Vec<Value>)> = Vec::new();
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            let operation = &operations[*method];
            if operation.is_null() {
                continue;
            }
            let tag = operation["tags"][0].as_str().unwrap_or("other").to_owned();
            let request = request(document, path, method, operation);
            match folders.iter_mut().find(|(name, _)| *name == tag) {
                Some((_, requests)) => requests.push(request),
                None => folders.push((tag, vec![request])),
            }
        }
    }
    let folder = |(name, item)| json!({"name": name, "item": Value::Array(item)});
    let info = &document["info"];
    json!({
        "info": {
            "name": info["title"],
            "description": info["description"],
            "version": info["version"],
            "schema": SCHEMA,
        },
        "item": folders.into_iter().map(folder).collect::<Vec<Value>>(),
        "auth": {
            "type": "bearer",
            "bearer": [{"key": "token", "value": "{{api_key}}", "type": "string"}],
        },
        "variable": [
            {"key": "base", "value": "http://127.0.0.1:8000"},
            {"key": "api_key", "value": ""},
        ],
    })
}

fn request(document: &Value, path: &str, method: &str, operation: &Value) -> Value {
    let parameters = operation["parameters"].as_array();
    let parameters = parameters.map(Vec::as_slice).unwrap_or_default();
    let of = |place: &str| -> Vec<Value> {
        let of_place = parameters.iter().filter(|p| p["in"] == place);
        let entry = |parameter: &Value| {
            let required = parameter["required"] == true;
            let mut entry = Map::new();
            entry.insert("key".to_owned(), parameter["name"].clone());
            entry.insert(
                "value".to_owned(),
                text(&example_of(document, parameter)).into(),
            );
            entry.insert("description".to_owned(), parameter["description"].clone());
            if !required {
                entry.insert("disabled".to_owned(), true.into());
            }
            Value::Object(entry)
        };
        of_place.map(entry).collect()
    };
    // Postman writes a variable of the path as `:name`.
    let path = path.replace('{', ":").replace('}', "");
    let mut headers = of("header");
    let content = operation["requestBody"]["content"].as_object();
    let mut body = Value::Null;
    if let Some((media_type, content)) = content.into_iter().flatten().next() {
        let example = example(document, &content["schema"], 0);
        let raw = match media_type.contains("ndjson") {
            true => format!("{example}\n"),
            false => serde_json::to_string_pretty(&example).unwrap_or_default(),
        };
        headers.push(json!({"key": "content-type", "value": media_type}));
        body = json!({"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}});
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let mut request = json!({
        "method": method.to_ascii_uppercase(),
        "header": headers,
        "url": {
            "raw": format!("{{{{base}}}}{path}"),
            "host": ["{{base}}"],
            "path": segments,
            "query": of("query"),
            "variable": of("path"),
        },
        "description": operation["description"],
    });
    if !body.is_null() {
        request["body"] = body;
    }
    json!({"name": operation["summary"], "request": request})
}

fn example_of(document: &Value, parameter: &Value) -> Value {
    match &parameter["example"] {
        Value::Null => example(document, &parameter["schema"], 0),
        given => given.clone(),
    }
}

/// A value that fits a schema: its example, or one made of those of its parts.
fn example(document: &Value, schema: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return target.map_or(Value::Null, |schema| example(document, schema, depth + 1));
    }
    if !schema["example"].is_null() {
        return schema["example"].clone();
    }
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties.iter();
        let part = |(name, schema): (&String, &Value)| {
            (name.clone(), example(document, schema, depth + 1))
        };
        return Value::Object(properties.map(part).collect());
    }
    match kind(schema) {
        "array" => json!([example(document, &schema["items"], depth + 1)]),
        "integer" | "number" => schema["minimum"].as_u64().unwrap_or(1).into(),
        "boolean" => false.into(),
        _ => "".into(),
    }
}

/// The type, where it may be null the other one.
fn kind(schema: &Value) -> &str {
    let named = |kind: &&Value| **kind != "null";
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(named).and_then(Value::as_str),
        kind => kind.as_str(),
    }
    .unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.first().map(text).unwrap_or_default(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
