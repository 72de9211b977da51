//! Whether the description is current, and whether it says enough for programs that are made from it.

use std::collections::BTreeSet;

use super::*;

/// Where the document is checked in.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

fn parsed() -> Value {
    serde_json::from_str(&document()).unwrap()
}

/// Method, path and operation of each route.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        })
        .collect()
}

#[test]
fn the_document_is_current() {
    assert!(
        fs_err::read_to_string(FILE).unwrap_or_default() == document(),
        "docs/openapi.json is not current: run `cargo xtask openapi`"
    );
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_what_it_is() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        assert!(operation["summary"].is_string(), "{method} {path}");
        assert!(operation["tags"].is_array(), "{method} {path}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(
                parameter["description"].is_string(),
                "{method} {path}: {parameter}"
            );
        }
    }
    assert!(names.len() >= 20, "{names:?}");
}

#[test]
fn every_refusal_is_a_problem() {
    let document = parsed();
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("500"), "{method} {path}");
        assert!(
            responses
                .keys()
                .any(|status| status.starts_with(['1', '2', '3']))
                || responses.contains_key("501"),
            "{method} {path}"
        );
        for (status, response) in responses {
            if status.starts_with(['4', '5']) {
                assert!(
                    response["content"][PROBLEM_CONTENT_TYPE].is_object(),
                    "{method} {path}: {status}"
                );
            }
        }
    }
}

#[test]
fn the_parameters_of_a_path_are_described() {
    let document = parsed();
    for (method, path, operation) in operations(&document) {
        let named: BTreeSet<&str> = path
            .split('{')
            .skip(1)
            .filter_map(|part| part.split('}').next())
            .collect();
        let described: BTreeSet<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(named, described, "{method} {path}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                members.values().for_each(|value| walk(document, value));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(document, value)),
            _ => {}
        }
    }
    let document = parsed();
    walk(&document, &document);
}

#[test]
fn defaults_that_say_nothing_are_taken_out() {
    let mut value = json!({"a": {"default": {"b": [], "c": ""}}, "d": {"default": 7}});
    without_idle_defaults(&mut value);
    assert_eq!(value, json!({"a": {}, "d": {"default": 7}}));
}

#[test]
fn links_of_rust_are_taken_out() {
    let text = "See [`Vm::x`](Self::x), [`Name`] and [a page](https://x).";
    assert_eq!(
        without_links(text),
        "See `Vm::x`, `Name` and [a page](https://x)."
    );
    assert_eq!(without_links("[`broken"), "[`broken");
}

#[test]
fn the_page_has_what_it_needs_and_nothing_else_is_served() {
    for file in DOCS_FILES {
        let response = page(file);
        assert_eq!(response.status(), StatusCode::OK, "{file}");
        assert_eq!(
            response.headers()[header::CONTENT_SECURITY_POLICY],
            DOCS_POLICY
        );
    }
    for file in ["oauth2-redirect.html", "../openapi", "swagger-ui.js"] {
        assert_eq!(page(file).status(), StatusCode::NOT_FOUND, "{file}");
    }
}
