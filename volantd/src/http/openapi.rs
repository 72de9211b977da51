//! The description of the API (`OpenAPI` 3.1), made from what each room says of its routes, and the page that shows it.
//!
//! `docs/openapi.json` holds the same bytes; a test compares them. Rooms describe their own answers: what is true of every route is
//! added here.

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use common::api::{API_KEY_HEADER, PROBLEM_CONTENT_TYPE, Problem, WaitGoal};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::Config;

use super::problem::HttpError;
use crate::service::Service;

/// What a browser may load for the page: what this daemon embeds, and nothing from elsewhere. The images are in the style sheet.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Where the page is.
const DOCS_PATH: &str = "/docs";

/// The files that the page is made of; of what is embedded with them nothing else is served.
const DOCS_FILES: [&str; 8] = [
    "",
    "favicon-16x16.png",
    "favicon-32x32.png",
    "index.css",
    "swagger-initializer.js",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-ui.css",
];

/// Problems that every route can answer with, besides its own.
const PROBLEMS_OF_ALL: [(&str, &str); 4] = [
    (
        "403",
        "`forbidden`: the client's network, the name in `Host` or the page is not allowed",
    ),
    (
        "429",
        "`too-many-requests`: as much is asked at once as is answered at once",
    ),
    ("400", "`invalid-request`: the request cannot be parsed"),
    ("500", "`internal`: a bug; the daemon's log has the cause"),
];

/// Problems of routes that need a token.
const PROBLEMS_OF_GUARDED: [(&str, &str); 1] =
    [("401", "`unauthorized`: the token is missing or wrong")];

/// Problems of routes that read a body.
const PROBLEMS_OF_BODIES: [(&str, &str); 3] = [
    ("408", "`request-timeout`: the body did not arrive in time"),
    (
        "413",
        "`too-large`: the body is larger than the daemon reads",
    ),
    ("415", "`unsupported-media-type`: the body is not JSON"),
];

/// What routes that look for something can answer besides.
const NOT_FOUND: &str = "; `not-found`: the path holds what cannot be a name";

const DESCRIPTION: &str = "The API of volantd, the daemon of Volant. Errors are `application/problem+json` (RFC 9457) with a stable `code`; \
     docs/errors.md explains each. On the unix socket no token is needed.";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().into());

#[derive(OpenApi)]
#[openapi(
    info(title = "Volant", description = DESCRIPTION),
    servers((url = "/", description = "The daemon that served this document")),
    security(("token" = []), ("bearer" = [])),
    components(schemas(Problem, WaitGoal)),
    tags(
        (name = "system", description = "The daemon itself"),
        (name = "plugins", description = "Manifests and the artifacts that they name"),
        (name = "artifacts", description = "Files in the store: what plugins and VMs boot"),
        (name = "vms", description = "MicroVMs"),
        (name = "events", description = "What happens to all of them"),
        (name = "not yet", description = "Routes of the Go system that this version has not"),
    )
)]
struct Base;

/// What rooms add their routes to.
pub(super) fn base() -> OpenApiRouter<Arc<Service>> {
    let mut base = Base::openapi();
    let key = ApiKey::Header(ApiKeyValue::new(API_KEY_HEADER));
    let components = base.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::ApiKey(key));
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    OpenApiRouter::with_openapi(base)
}

/// Routes that need no token: what they answer is published with every release.
pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(openapi))
        .routes(routes!(openapi_json))
        .route(
            DOCS_PATH,
            get(async || Redirect::permanent(&format!("{DOCS_PATH}/"))),
        )
        .route(&format!("{DOCS_PATH}/"), get(async || page("")))
        .route(
            &format!("{DOCS_PATH}/{{file}}"),
            get(async |Path(file): Path<String>| page(&file)),
        )
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi",
    tag = "system",
    operation_id = "get_openapi",
    security(()),
    responses((status = 200, description = "The description of the API", body = Object))
)]
async fn openapi() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.clone(),
    )
        .into_response()
}

/// This document, under a name that tools expect
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "system",
    operation_id = "get_openapi_json",
    security(()),
    responses((status = 200, description = "The description of the API", body = Object))
)]
async fn openapi_json() -> Response {
    openapi().await
}

/// The page, or a file of it.
fn page(file: &str) -> Response {
    let config = Config::from("/openapi.json").validator_url("none");
    let found = DOCS_FILES
        .contains(&file)
        .then(|| {
            utoipa_swagger_ui::serve(file, Arc::new(config))
                .ok()
                .flatten()
        })
        .flatten();
    let Some(found) = found else {
        return HttpError::plain(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing at this path",
        )
        .into_response();
    };
    let mut response = found.bytes.into_owned().into_response();
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, &found.content_type),
        (header::CONTENT_SECURITY_POLICY, DOCS_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The description of all routes, as `docs/openapi.json` has it.
pub fn document() -> String {
    let (_, described) = super::described().split_for_parts();
    let mut document = serde_json::to_value(&described).unwrap_or_default();
    complete(&mut document);
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// Adds what is true of all routes, and takes out what only the router understands.
fn complete(document: &mut Value) {
    if let Some(Value::Object(paths)) = document.get_mut("paths") {
        // `{*path}` is the router's way to write a parameter that may have slashes.
        *paths = std::mem::take(paths)
            .into_iter()
            .map(|(path, item)| (path.replace("{*", "{"), item))
            .collect();
        for operation in paths
            .values_mut()
            .filter_map(Value::as_object_mut)
            .flat_map(|item| item.values_mut())
            .filter_map(Value::as_object_mut)
        {
            complete_operation(operation);
        }
    }
    for_people(document);
    without_idle_defaults(document);
}

/// Takes out the links that only Rust's documentation follows.
fn for_people(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(description)) = members.get_mut("description") {
                *description = without_links(description);
            }
            members.values_mut().for_each(for_people);
        }
        Value::Array(items) => items.iter_mut().for_each(for_people),
        _ => {}
    }
}

/// ``[`text`](target)`` and ``[`text`]`` become `` `text` ``.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((name, behind)) = after.split_once("`]") else {
            break;
        };
        plain.push_str(&format!("{before}`{name}`"));
        rest = match behind
            .strip_prefix('(')
            .and_then(|target| target.split_once(')'))
        {
            Some((_, behind)) => behind,
            None => behind,
        };
    }
    plain + rest
}

fn complete_operation(operation: &mut Map<String, Value>) {
    let guarded = !operation.contains_key("security");
    let has_body = operation.contains_key("requestBody");
    let Some(Value::Object(responses)) = operation.get_mut("responses") else {
        return;
    };
    if let Some(Value::String(description)) = responses
        .get_mut("404")
        .and_then(|response| response.get_mut("description"))
    {
        description.push_str(NOT_FOUND);
    }
    let general = PROBLEMS_OF_ALL
        .iter()
        .chain(PROBLEMS_OF_GUARDED.iter().filter(|_| guarded))
        .chain(PROBLEMS_OF_BODIES.iter().filter(|_| has_body));
    for (status, description) in general {
        responses
            .entry(*status)
            .or_insert_with(|| json!({"description": description}));
    }
    for (status, response) in responses {
        let is_problem = status.starts_with(['4', '5']);
        if let (true, Some(response)) = (is_problem, response.as_object_mut()) {
            response.entry("content").or_insert_with(
                || json!({PROBLEM_CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}),
            );
        }
    }
}

/// Takes out defaults that say that a member may be left out: its absence from `required` says so already.
fn without_idle_defaults(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.get("default").is_some_and(is_idle) {
                members.remove("default");
            }
            members.values_mut().for_each(without_idle_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(without_idle_defaults),
        _ => {}
    }
}

fn is_idle(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_idle),
        Value::Object(members) => members.values().all(is_idle),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) => false,
    }
}
