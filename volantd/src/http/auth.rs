//! The token that callers over TCP must present. It is never read from a URL, where logs and histories would keep it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::api::API_KEY_HEADER;
use common::guest_config::Secret;

use super::problem::HttpError;

/// Checks what a caller presents.
#[derive(Debug)]
pub struct TokenCheck(pub Secret);

impl TokenCheck {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let key = headers
            .get(API_KEY_HEADER)
            .and_then(|value| value.to_str().ok());
        key.or(bearer(headers))
            .is_some_and(|presented| self.0.matches(presented.trim()))
    }

    /// Takes the token out of a request: nothing behind this needs it, and some requests are passed on to guests.
    fn take_out(&self, headers: &mut HeaderMap) {
        headers.remove(API_KEY_HEADER);
        if bearer(headers).is_some_and(|presented| self.0.matches(presented.trim())) {
            headers.remove(header::AUTHORIZATION);
        }
    }
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
        check.take_out(request.headers_mut());
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
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    response
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

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
        ];
        for (key, authorization, is_kept) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in [(API_KEY_HEADER, key), ("authorization", authorization)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            check.take_out(&mut headers);
            assert_eq!(headers.get(API_KEY_HEADER), None);
            assert_eq!(
                headers.contains_key(header::AUTHORIZATION),
                is_kept,
                "{authorization:?}"
            );
        }
    }
}
