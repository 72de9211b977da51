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
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        key.or(bearer)
            .is_some_and(|presented| self.0.matches(presented.trim()))
    }
}

pub(super) async fn require(
    State(check): State<Arc<TokenCheck>>,
    request: Request,
    next: Next,
) -> Response {
    if check.admits(request.headers()) {
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
}
