//! Holds every exchange that the tests have with the daemon against docs/openapi.json: what is answered must be described, and what is
//! accepted too. Talks to nobody itself.

use std::fmt::Write as _;

use jsonschema::Validator;
use serde_json::{Value, json};

/// What the daemon says its API is.
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// Where pages are, which no document describes.
const PAGES: &str = "/docs";

/// A request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange<'a> {
    pub(crate) method: &'a str,
    /// With its query.
    pub(crate) target: &'a str,
    pub(crate) request_body: &'a str,
    pub(crate) status: u16,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a str,
}

/// The description.
#[derive(Debug)]
pub(crate) struct Description {
    document: Value,
}

impl Description {
    pub(crate) fn load() -> Self {
        Self {
            document: serde_json::from_str(DOCUMENT).unwrap(),
        }
    }

    /// What of the exchange is not as described.
    pub(crate) fn check(&self, exchange: &Exchange<'_>) -> Result<(), String> {
        let (path, query) = exchange
            .target
            .split_once('?')
            .unwrap_or((exchange.target, ""));
        if path == PAGES || path.starts_with("/docs/") {
            return Ok(());
        }
        let Some(item) = self.find(path) else {
            return self.problem_of(exchange, 404, "not-found");
        };
        let method = match exchange.method {
            "HEAD" => "get".to_owned(),
            method => method.to_lowercase(),
        };
        let Some(operation) = item.get(&method) else {
            return self.problem_of(exchange, 405, "method-not-allowed");
        };
        if exchange.status < 300 {
            self.check_request(operation, query, exchange.request_body)?;
        }
        let response = &operation["responses"][exchange.status.to_string()];
        if !response.is_object() {
            return Err(format!("the status {} is not described", exchange.status));
        }
        self.check_body(response, exchange)?;
        if exchange.status >= 400 {
            let problem = parse(exchange.body)?;
            if problem["status"] != exchange.status {
                return Err(format!("the problem has another status: {problem}"));
            }
            let described = response["description"].as_str().unwrap_or_default();
            let code = problem["code"].as_str().unwrap_or_default();
            if !described.contains(&format!("`{code}`")) {
                return Err(format!(
                    "the code `{code}` is not described for the status {}: {described}",
                    exchange.status
                ));
            }
        }
        Ok(())
    }

    /// The path whose template fits best: one with a fixed part where another has a parameter.
    fn find(&self, path: &str) -> Option<&Value> {
        let paths = self.document["paths"].as_object().unwrap();
        let mut fitting: Vec<(&String, &Value)> = paths
            .iter()
            .filter(|(template, _)| fits(template, path))
            .collect();
        fitting.sort_by_key(|(template, _)| template.matches('{').count());
        fitting.first().map(|(_, item)| *item)
    }

    /// What no route answers must be this problem.
    fn problem_of(&self, exchange: &Exchange<'_>, status: u16, code: &str) -> Result<(), String> {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        let problem = parse(exchange.body)?;
        self.validate(&schema, &problem)?;
        if exchange.status == status && problem["code"] == code {
            Ok(())
        } else {
            Err(format!("the route is not described: {exchange:?}"))
        }
    }

    fn check_request(&self, operation: &Value, query: &str, body: &str) -> Result<(), String> {
        let parameters = operation["parameters"].as_array();
        for key in query.split('&').filter(|part| !part.is_empty()) {
            let key = key.split('=').next().unwrap_or_default();
            let described = parameters
                .into_iter()
                .flatten()
                .any(|parameter| parameter["in"] == "query" && parameter["name"] == key);
            if !described {
                return Err(format!("the parameter `{key}` is not described"));
            }
        }
        match operation["requestBody"]["content"].get("application/json") {
            Some(content) if !body.is_empty() => {
                let instance = parse(body)?;
                self.validate(&content["schema"], &instance)
                    .map_err(|error| format!("a body was accepted that is not described: {error}"))
            }
            _ => Ok(()),
        }
    }

    fn check_body(&self, response: &Value, exchange: &Exchange<'_>) -> Result<(), String> {
        let Some(contents) = response["content"].as_object() else {
            return if exchange.body.is_empty() {
                Ok(())
            } else {
                Err(format!("a body is not described: {}", exchange.body))
            };
        };
        let media = exchange.content_type.split(';').next().unwrap_or_default();
        let Some(content) = contents.get(media) else {
            return Err(format!("the content type `{media}` is not described"));
        };
        if media.ends_with("json") && exchange.method != "HEAD" {
            self.validate(&content["schema"], &parse(exchange.body)?)?;
        }
        Ok(())
    }

    fn validate(&self, schema: &Value, instance: &Value) -> Result<(), String> {
        let schema = json!({"allOf": [schema], "components": self.document["components"]});
        let validator: Validator = jsonschema::draft202012::new(&schema).unwrap();
        let mut found = String::new();
        for error in validator.iter_errors(instance) {
            write!(found, "{}: {error}; ", error.instance_path()).unwrap();
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(format!("{found}in {instance}"))
        }
    }
}

fn parse(body: &str) -> Result<Value, String> {
    serde_json::from_str(body).map_err(|error| format!("the body is not JSON: {error}: {body}"))
}

/// Whether a path is one of a template's. A last parameter `path` may have slashes.
fn fits(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let mut templates = template.split('/').peekable();
    while let Some(expected) = templates.next() {
        if expected == "{path}" && templates.peek().is_none() {
            return parts.next().is_some();
        }
        match parts.next() {
            Some(part) if expected.starts_with('{') && !part.is_empty() => {}
            Some(part) if part == expected => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

fn plugins(body: &str) -> Exchange<'_> {
    Exchange {
        method: "GET",
        target: "/api/v1/plugins",
        request_body: "",
        status: 200,
        content_type: "application/json",
        body,
    }
}

#[test]
fn what_is_described_passes() {
    let description = Description::load();
    let good = plugins(r#"{"plugins": ["caddy"]}"#);
    description.check(&good).unwrap();
    let enabled = Exchange {
        method: "POST",
        target: "/api/v1/plugins/caddy/enabled",
        request_body: r#"{"enabled": true}"#,
        body: "",
        ..good
    };
    description.check(&enabled).unwrap();
}

/// Exchanges that the document does not allow, and what is found of each.
fn wrong() -> [(&'static str, Exchange<'static>); 11] {
    let good = plugins(r#"{"plugins": ["caddy"]}"#);
    let enabled = Exchange {
        method: "POST",
        target: "/api/v1/plugins/caddy/enabled",
        request_body: r#"{"enabled": "yes"}"#,
        body: "",
        ..good.clone()
    };
    let problem = r#"{"type": "x", "title": "x", "status": 500, "detail": "x", "error": "x", "code": "vm-exists"}"#;
    [
        ("caddy", plugins(r#"{"plugins": ["Not A Name"]}"#)),
        ("required", plugins("{}")),
        ("not JSON", plugins("caddy")),
        (
            "content type",
            Exchange {
                content_type: "text/html",
                ..good.clone()
            },
        ),
        (
            "status 202",
            Exchange {
                status: 202,
                ..good.clone()
            },
        ),
        (
            "parameter `x`",
            Exchange {
                target: "/api/v1/plugins?x=1",
                ..good.clone()
            },
        ),
        (
            "route",
            Exchange {
                target: "/api/v2",
                body: problem,
                ..good.clone()
            },
        ),
        (
            "route",
            Exchange {
                method: "PUT",
                body: problem,
                ..good.clone()
            },
        ),
        ("accepted", enabled.clone()),
        (
            "a body",
            Exchange {
                request_body: r#"{"enabled": true}"#,
                body: "{}",
                ..enabled
            },
        ),
        (
            "code `vm-exists`",
            Exchange {
                status: 500,
                content_type: "application/problem+json",
                body: problem,
                ..good
            },
        ),
    ]
}

#[test]
fn what_is_not_described_is_found() {
    let description = Description::load();
    for (expected, exchange) in wrong() {
        let error = description.check(&exchange).unwrap_err();
        assert!(
            error.contains(expected) || expected == "caddy",
            "{expected}: {error}"
        );
    }
}

#[test]
fn paths_fit_their_templates() {
    for (template, path, expected) in [
        ("/vms/{name}", "/vms/web", true),
        ("/vms/{name}", "/vms/", false),
        ("/vms/{name}", "/vms/web/x", false),
        ("/vms/{name}/agent/{path}", "/vms/web/agent/a/b", true),
        ("/vms/{name}/agent/{path}", "/vms/web/agent", false),
    ] {
        assert_eq!(fits(template, path), expected, "{template} {path}");
    }
}
