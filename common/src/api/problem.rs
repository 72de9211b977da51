//! Errors of the API as clients read them (RFC 9457). Which error becomes which status is volantd's `http/problem.rs`.

use serde::{Deserialize, Serialize};

use crate::manifest::FieldProblem;

/// Media type of an error (RFC 9457 §3).
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// What `type` begins with; the stable code follows.
pub const PROBLEM_TYPE_BASE: &str = "https://github.com/volantvm/volant/blob/main/docs/errors.md#";

/// An error of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Documentation of the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A plain sentence for people.
    pub detail: String,
    /// The same sentence, where clients of the Go system read it.
    pub error: String,
    /// The path of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// A stable code for programs, such as `vm-not-found`.
    pub code: String,
    /// Names the request in the daemon's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// What to try.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Every wrong member of the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

impl Problem {
    /// A problem of which nothing more is known than this; `title` is the status in words.
    pub fn new(status: u16, title: &str, code: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            kind: format!("{PROBLEM_TYPE_BASE}{code}"),
            title: title.to_owned(),
            status,
            error: detail.clone(),
            detail,
            instance: String::new(),
            code: code.to_owned(),
            request_id: String::new(),
            hints: Vec::new(),
            errors: Vec::new(),
        }
    }
}
