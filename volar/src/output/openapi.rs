//! The operations of a workload's `OpenAPI` document (3.x, Paths Object), and their table. Nothing of it is trusted.

use serde_json::Value;

use super::table;

/// The fixed fields of a Path Item Object that are operations (`OpenAPI` 3.1, 4.8.9.1).
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// The most operations that are read of a document. More is no API for people.
const MAX_OPERATIONS: usize = 10_000;

/// An operation of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// In capitals.
    pub method: String,
    /// Beginning with `/`; parameters stand in braces.
    pub path: String,
    /// Its name, if it has one.
    pub id: Option<String>,
    /// For people.
    pub summary: String,
}

/// All operations, in the order of the document's paths.
pub fn operations(document: &Value) -> Vec<Operation> {
    let Some(paths) = document.get("paths").and_then(Value::as_object) else {
        return Vec::new();
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let all = paths.iter().flat_map(|(path, item)| {
        METHODS.into_iter().filter_map(move |method| {
            let operation = item.get(method)?;
            Some(Operation {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                id: text(operation, "operationId"),
                summary: text(operation, "summary")
                    .or_else(|| text(operation, "description"))
                    .unwrap_or_default(),
            })
        })
    });
    all.take(MAX_OPERATIONS).collect()
}

/// The table of `vms operations`.
pub fn operation_table(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "No operations".to_owned();
    }
    let rows: Vec<Vec<String>> = operations
        .iter()
        .map(|operation| {
            vec![
                operation.method.clone(),
                operation.path.clone(),
                operation.id.clone().unwrap_or_else(|| "-".to_owned()),
                operation.summary.clone(),
            ]
        })
        .collect();
    table::render(&["METHOD", "PATH", "OPERATION", "SUMMARY"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_are_read_of_paths() {
        let document = json!({"openapi": "3.1.0", "paths": {
            "/items": {"get": {"operationId": "listItems", "summary": "Lists"}, "post": {}, "parameters": []},
            "/odd": 7
        }});
        let found = operations(&document);
        insta::assert_snapshot!(operation_table(&found), @r"
        METHOD   PATH     OPERATION   SUMMARY
        GET      /items   listItems   Lists
        POST     /items   -
        ");
        assert_eq!(operation_table(&operations(&json!([]))), "No operations");
    }
}
