//! JSON Schemas of the files that users write, made from the types that read them; for editors, and for the repository's own checks.
//!
//! A schema says which keys there are, of which types and with which values. What keys mean together only `fledge check` knows.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::build_spec::{GuestPath, RawSpec};
use crate::manifest::{RawManifest, StopSignal};

/// A published schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The name of its file in `docs/schemas`.
    pub file: &'static str,
    /// The schema.
    pub schema: Value,
}

/// All schemas: of `fledge.toml`, of `manifest.toml` and of the manifest in JSON.
pub fn all() -> [Published; 3] {
    [fledge_toml(), manifest_toml(), plugin_manifest()]
}

fn fledge_toml() -> Published {
    let mut schema = generate::<RawSpec>("fledge.toml: what goes into a plugin's image");
    require(&mut schema, "", &["version", "strategy"]);
    require(&mut schema, "/definitions/Agent", &["source_strategy"]);
    require(&mut schema, "/definitions/Fetch", &["sha256", "path"]);
    // They are known only to be refused in a sentence.
    if let Some(Value::Array(kinds)) = schema.pointer_mut("/definitions/FilesystemType/oneOf") {
        kinds.retain(|kind| !matches!(kind["const"].as_str(), Some("xfs" | "btrfs")));
    }
    Published {
        file: "fledge-toml-v1.json",
        schema,
    }
}

fn manifest_toml() -> Published {
    let mut schema = generate::<RawManifest>("manifest.toml: what a plugin is and how it runs");
    without(
        &mut schema,
        "",
        &["initramfs", "disks", "cloud_init", "devices"],
    );
    let artifact = "/definitions/Artifact";
    without(&mut schema, artifact, &["url", "checksum", "format"]);
    Published {
        file: "manifest-toml-v1.json",
        schema,
    }
}

fn plugin_manifest() -> Published {
    let mut schema = generate::<RawManifest>("The manifest of a plugin");
    require(&mut schema, "", &["name", "version", "workload"]);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let reference =
            json!({"description": "The schema of this file, for editors.", "type": "string"});
        properties.insert("$schema".to_owned(), reference);
        // The Go system wrote them; they are read over.
        for key in ["image", "image_digest"] {
            let information = json!({"description": "Information only.", "type": "string"});
            properties.insert(key.to_owned(), information);
        }
    }
    schema["anyOf"] = json!([{"required": ["initramfs"]}, {"required": ["rootfs"]}]);
    Published {
        file: "plugin-manifest-v1.json",
        schema,
    }
}

/// Draft 7 is what editors understand best.
fn generate<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft07()
        .with_transform(RecursiveTransform(closed))
        .with_transform(RecursiveTransform(plain));
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    schema["title"] = title.into();
    if let Some(Value::Object(definitions)) = schema.get_mut("definitions") {
        *definitions = std::mem::take(definitions)
            .into_iter()
            .map(|(name, definition)| (public(&name), definition))
            .collect();
    }
    schema
}

/// Some types of ours are the raw form of another; outside, there is one form.
fn public(name: &str) -> String {
    name.replace("Raw", "")
}

/// A misspelt key is a mistake everywhere.
fn closed(schema: &mut Schema) {
    if schema.get("properties").is_some() {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
}

/// Takes out what Rust alone knows: the absent value, which neither format can write, defaults that say nothing, and names of integers.
fn plain(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            schema.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice != &json!({"type": "null"}));
        if let [Value::Object(only)] = choices.as_slice() {
            let only: Map<String, Value> = only.clone();
            schema.remove("anyOf");
            if only.contains_key("$ref") && schema.get("description").is_some() {
                // In draft 7 nothing beside a reference counts.
                schema.insert("allOf".to_owned(), json!([only]));
            } else {
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(Value::is_null),
        Value::Bool(_) | Value::Number(_) => false,
    };
    if schema.get("default").is_some_and(says_nothing) {
        schema.remove("default");
    }
    schema.remove("format");
    if let Some(Value::String(reference)) = schema.get_mut("$ref") {
        *reference = public(reference);
    }
}

fn require(schema: &mut Value, pointer: &str, keys: &[&str]) {
    if let Some(place) = schema.pointer_mut(pointer) {
        place["required"] = json!(keys);
    }
}

fn without(schema: &mut Value, pointer: &str, keys: &[&str]) {
    let properties = schema.pointer_mut(&format!("{pointer}/properties"));
    if let Some(Value::Object(properties)) = properties {
        for key in keys {
            properties.remove(*key);
        }
    }
}

impl JsonSchema for GuestPath {
    fn schema_name() -> Cow<'static, str> {
        "GuestPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An absolute path in the guest, without `..`.",
            "type": "string",
            "pattern": "^/",
        })
    }
}

impl JsonSchema for StopSignal {
    fn schema_name() -> Cow<'static, str> {
        "StopSignal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A signal's name, such as `SIGQUIT`, or its number.",
            "type": ["string", "integer"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(schema: &Value, pointer: &str) -> Vec<String> {
        let properties = schema.pointer(&format!("{pointer}/properties"));
        let properties = properties.and_then(Value::as_object);
        properties.unwrap().keys().cloned().collect()
    }

    #[test]
    fn keys_are_those_that_are_read() {
        let [fledge, template, manifest] = all();
        assert_eq!(
            keys(&fledge.schema, ""),
            [
                "agent",
                "compression",
                "fetch",
                "filesystem",
                "init",
                "mappings",
                "source",
                "strategy",
                "version"
            ]
        );
        assert!(!keys(&template.schema, "").contains(&"initramfs".to_owned()));
        assert_eq!(
            keys(&template.schema, "/definitions/Artifact"),
            ["ephemeral", "writable_mb"]
        );
        assert!(keys(&manifest.schema, "").contains(&"$schema".to_owned()));
        assert_eq!(manifest.schema["additionalProperties"], false);
    }

    #[test]
    fn every_key_is_described_and_none_can_be_null() {
        fn walk(place: &str, value: &Value) {
            if let Some(Value::Object(properties)) = value.get("properties") {
                for (key, property) in properties {
                    assert!(property.get("description").is_some(), "{place}/{key}");
                }
            }
            assert_ne!(
                value.get("type").map(|kind| kind == "null"),
                Some(true),
                "{place}"
            );
            match value {
                Value::Object(members) => {
                    for (key, value) in members {
                        walk(&format!("{place}/{key}"), value);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(place, item)),
                _ => {}
            }
        }
        for published in all() {
            walk(published.file, &published.schema);
            assert!(
                !published.schema.to_string().contains("null"),
                "{}",
                published.file
            );
        }
    }
}
