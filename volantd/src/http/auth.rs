//! The token that callers over TCP must present. It is never read from a URL, where logs and histories would keep it.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::api::API_KEY_HEADER;
use common::guest_config::Secret;

use super::problem::HttpError;

/// What stands between the words of a header: `Bearer …`, `name=…; name="…"`.
const BETWEEN_WORDS: [char; 4] = [' ', '\t', ',', ';'];

/// Marks a request that came with a token in [`API_KEY_HEADER`], which clients take along wherever they are redirected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyInOwnHeader;

/// Checks what a caller presents.
#[derive(Debug, Clone)]
pub struct TokenCheck(pub Secret);

impl TokenCheck {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let key = headers
            .get(API_KEY_HEADER)
            .and_then(|value| value.to_str().ok());
        key.or(bearer(headers))
            .is_some_and(|presented| self.0.matches(presented.trim()))
    }

    /// Takes the token out of a request: nothing behind this needs it, and some requests are passed on to guests. Whatever header it is a
    /// word of goes as a whole; the workload's own credentials and cookies stay.
    fn take_out(&self, request: &mut Request) {
        if request.headers_mut().remove(API_KEY_HEADER).is_some() {
            request.extensions_mut().insert(KeyInOwnHeader);
        }
        let headers = request.headers_mut();
        let holds_token = |value: &HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes());
            let after_scheme = text.split_once(' ').map(|(_, rest)| rest.trim());
            let words = text.split(BETWEEN_WORDS).flat_map(|word| {
                let value = word
                    .split_once('=')
                    .map(|(_, value)| value.trim_matches('"'));
                [Some(word), value].into_iter().flatten()
            });
            let found = [text.trim()].into_iter().chain(after_scheme).chain(words);
            found.into_iter().any(|word| self.0.matches(word))
        };
        let told: HashSet<HeaderName> = headers
            .iter()
            .filter(|(_, value)| holds_token(value))
            .map(|(name, _)| name.clone())
            .collect();
        for name in told {
            headers.remove(name);
        }
    }
}

/// Lets everybody in, and keeps the token from going any further: on the unix socket it is not needed, and sent all the same by clients
/// that have it.
pub(super) async fn take_out(
    State(check): State<Arc<TokenCheck>>,
    mut request: Request,
    next: Next,
) -> Response {
    check.take_out(&mut request);
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
}

pub(super) async fn require(
    State(check): State<Arc<TokenCheck>>,
    mut request: Request,
    next: Next,
) -> Response {
    if check.admits(request.headers()) {
        check.take_out(&mut request);
        return next.run(request).await;
    }
    let mut problem = HttpError::plain(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "The API token is missing or wrong",
    );
    problem.0.hints = vec![
        "Members of the group `volant` can read the token file; volar does so by itself".to_owned(),
        "On this host the unix socket needs no token".to_owned(),
    ];
    let mut response = problem.into_response();
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_from_either_header() {
        let check = TokenCheck(Secret::from_stored("abc".to_owned()));
        let table = [
            ("x-volant-api-key", "abc", true),
            ("authorization", "Bearer abc", true),
            ("authorization", "abc", false),
            ("x-volant-api-key", "abd", false),
            ("x-volant-api-key", "", false),
            ("cookie", "abc", false),
        ];
        for (name, value, admitted) in table {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(check.admits(&headers), admitted, "{name}: {value}");
        }
    }

    #[test]
    fn the_token_goes_no_further_and_what_is_not_ours_does() {
        let check = TokenCheck(Secret::from_stored("abc".to_owned()));
        let table = [
            (Some("abc"), Some("Bearer of-the-workload"), true),
            (None, Some("Bearer abc"), false),
            (Some("abc"), Some("Bearer abc"), false),
            (Some("abc"), Some("Basic YTpi"), true),
            (Some("abc"), None, false),
            (None, Some("bearer abc"), false),
            (None, Some("abc"), false),
            (None, Some("Digest a=b, key=\"abc\""), false),
            (None, Some("Bearer abcd"), true),
        ];
        for (key, authorization, is_kept) in table {
            let mut request = Request::new(axum::body::Body::empty());
            let headers = request.headers_mut();
            for (name, value) in [(API_KEY_HEADER, key), ("authorization", authorization)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            headers.append("cookie", HeaderValue::from_static("a=b"));
            headers.append("x-other", HeaderValue::from_static("1"));
            headers.append("x-other", HeaderValue::from_static("key=abc"));
            check.take_out(&mut request);
            let travels = request.extensions().get::<KeyInOwnHeader>().is_some();
            assert_eq!(travels, key.is_some());
            let headers = request.headers();
            assert!(headers.contains_key("cookie") && !headers.contains_key("x-other"));
            assert_eq!(headers.get(API_KEY_HEADER), None);
            assert_eq!(
                headers.contains_key(header::AUTHORIZATION),
                is_kept,
                "{authorization:?}"
            );
        }
    }
}
