//! What a guest answers with, made fit for a client: its headers, and its problems. A guest may send anything.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{
    ALT_SVC, CONNECTION, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, REFRESH, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use common::agent::hop::{HOP_BY_HOP, connection_options, names_upgrade};
use common::api::Problem;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Response, StatusCode};
use tokio::time::timeout;

use super::problem::HttpError;
use crate::agent::GuestBody;

/// The most that is read of a guest's problem, in bytes.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// How long it may take to come.
const PROBLEM_LIMIT: Duration = Duration::from_secs(5);

/// The most characters of a guest's sentence that are passed on.
const MAX_SENTENCE_CHARS: usize = 500;

/// The longest code of a problem.
const MAX_CODE_CHARS: usize = 64;

/// What a browser shows of a guest runs for itself: it has this daemon's address, and must not act in its name.
const SANDBOX: &str = "sandbox allow-downloads allow-forms allow-popups allow-scripts";

/// Fields by which one answer would decide about all that has this daemon's address, or send a browser there. The cookies of one workload
/// would go to all others.
const ABOUT_THE_WHOLE_ORIGIN: [HeaderName; 8] = [
    ALT_SVC,
    REFRESH,
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("service-worker-allowed"),
];

/// Takes out what is for one connection only.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(connection(headers))
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The protocol that a client wants to change to, if `Connection` names `Upgrade` (RFC 9110 §7.8).
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_named = names_upgrade(connection(headers));
    headers.get(UPGRADE).filter(|_| is_named).cloned()
}

fn connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok())
}

/// Announces the change to `protocol`.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes what a guest's own service answers fit for being passed on from this daemon's address.
pub(super) fn contain(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in ABOUT_THE_WHOLE_ORIGIN {
        headers.remove(name);
    }
    // Policies add up: the guest's own can only restrict more.
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The problem in an answer of the agent that is no success, cleaned. One that says nothing sensible is the guest's failure.
pub(super) async fn problem(response: Response<GuestBody>) -> HttpError {
    let status = response.status();
    let read = Limited::new(response.into_body(), MAX_PROBLEM_BYTES).collect();
    let said = match timeout(PROBLEM_LIMIT, read).await {
        Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).ok(),
        _ => None,
    };
    cleaned(status, said)
}

/// The statuses of the agent that mean the same to a client. Anything else is between volantd and the guest.
fn cleaned(status: StatusCode, said: Option<Problem>) -> HttpError {
    let passed = matches!(status.as_u16(), 400 | 404 | 409 | 422 | 503 | 507);
    let said = said.filter(|problem| is_code(&problem.code));
    match said {
        Some(problem) if passed => {
            HttpError::plain(status, &problem.code, sentence(&problem.detail))
        }
        Some(problem) => HttpError::plain(
            StatusCode::BAD_GATEWAY,
            "guest-unreachable",
            format!("The guest failed: {}", sentence(&problem.detail)),
        ),
        // As an answer to HEAD, which has no body.
        None if status == StatusCode::NOT_FOUND => {
            HttpError::plain(status, "not-found", "The guest has nothing at this path")
        }
        None => HttpError::plain(
            StatusCode::BAD_GATEWAY,
            "guest-unreachable",
            format!("The guest answered with HTTP status {}", status.as_u16()),
        ),
    }
}

fn is_code(code: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
    !code.is_empty() && code.len() <= MAX_CODE_CHARS && code.chars().all(is_word)
}

/// A guest's words without what would act on a terminal, and cut.
pub(super) fn sentence(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars()
        .take(MAX_SENTENCE_CHARS)
        .map(printable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn fields_of_one_connection_and_of_the_origin_are_taken_out() {
        let mut found = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("strict-transport-security", "max-age=9"),
            ("clear-site-data", "*"),
            ("set-cookie", "a=b"),
            ("refresh", "0; url=/api/v1/vms"),
            ("content-security-policy", "default-src 'none'"),
            ("x-kept", "1"),
        ]);
        contain(&mut found);
        let mut left: Vec<_> = found.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "content-security-policy",
                "x-content-type-options",
                "x-kept"
            ]
        );
        let policies: Vec<_> = found.get_all(CONTENT_SECURITY_POLICY).iter().collect();
        assert_eq!(policies, ["default-src 'none'", SANDBOX]);
    }

    #[test]
    fn an_upgrade_is_wanted_only_if_connection_names_it() {
        let table = [
            (
                &[
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "websocket"),
                ][..],
                true,
            ),
            (
                &[("connection", "keep-alive"), ("upgrade", "websocket")][..],
                false,
            ),
            (&[("connection", "upgrade")][..], false),
            (&[][..], false),
        ];
        for (fields, expected) in table {
            assert_eq!(
                wanted_upgrade(&headers(fields)).is_some(),
                expected,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn problems_of_guests_are_cleaned() {
        let of = |status: u16, code: &str, detail: &str| {
            let said = Problem::new(status, "", code, detail);
            let status = StatusCode::from_u16(status).unwrap();
            let HttpError(problem) = cleaned(status, Some(said));
            (problem.status, problem.code, problem.detail)
        };
        let found = of(404, "not-found", "There is no \u{1b}[2J `x`");
        assert_eq!(
            found,
            (
                404,
                "not-found".to_owned(),
                "There is no  [2J `x`".to_owned()
            )
        );
        assert_eq!(of(422, "Not A Code", "x").0, 502);
        assert_eq!(of(403, "secret-wrong", "x").1, "guest-unreachable");
        assert_eq!(of(500, "copy-failed", "x").2, "The guest failed: x");
        assert_eq!(
            of(404, "a", &"ä".repeat(1000)).2.chars().count(),
            MAX_SENTENCE_CHARS
        );
        let HttpError(unsaid) = cleaned(StatusCode::IM_A_TEAPOT, None);
        assert_eq!(
            (unsaid.status, unsaid.code.as_str()),
            (502, "guest-unreachable")
        );
    }
}
