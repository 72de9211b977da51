//! The traces of callers: a request that says which trace it belongs to (W3C Trace Context) is a part of that. Exports nothing.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::cause::{TRACEPARENT_HEADER, TRACESTATE_HEADER};

/// The longest `tracestate` that is passed on, in bytes (W3C Trace Context, section 3.3.1.5, "Limits").
const MAX_TRACESTATE_BYTES: usize = 512;

/// The span of a caller.
#[derive(Debug, Clone)]
pub struct Remote(Context);

impl Remote {
    /// What the headers say, if it is valid and said once.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let only = |name: HeaderName| {
            let mut values = headers.get_all(&name).iter();
            let value = values.next().filter(|_| values.next().is_none())?;
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let state = only(TRACESTATE_HEADER).filter(|(_, text)| text.len() <= MAX_TRACESTATE_BYTES);
        let carried: HashMap<_, _> = [only(TRACEPARENT_HEADER)?]
            .into_iter()
            .chain(state)
            .collect();
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carried);
        let is_valid = context.span().span_context().is_valid();
        is_valid.then_some(Self(context))
    }
}

/// Makes `span` a part of its caller's trace, says which one in the log, and gives the headers by which whoever is asked on its behalf
/// becomes a part of it too. Where traces are not exported, that is the caller's own trace, if there is one.
pub fn begin(span: &Span, remote: Option<Remote>) -> HeaderMap {
    if let Some(Remote(caller)) = remote.clone() {
        // It fails where traces are not exported, and where the span is not logged.
        drop(span.set_parent(caller));
    }
    let own = Some(span.context()).filter(|own| own.span().span_context().is_valid());
    let Some(context) = own.or(remote.map(|Remote(caller)| caller)) else {
        return HeaderMap::new();
    };
    let trace_id = context.span().span_context().trace_id();
    span.record("trace_id", tracing::field::display(trace_id));
    let mut carried: HashMap<String, String> = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carried);
    let headers = carried.iter().filter_map(|(name, value)| {
        // A caller without a state has an empty one.
        let value = Some(value).filter(|value| !value.is_empty())?;
        Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?))
    });
    headers
        .collect::<Vec<(HeaderName, HeaderValue)>>()
        .into_iter()
        .collect()
}

/// Ends the exported half of a request's span now, whatever else is logged in it later.
pub fn end(span: &Span, name: &str, status: u16) {
    let context = span.context();
    let exported = context.span();
    exported.update_name(name.to_owned());
    if status >= 500 {
        exported.set_status(Status::error(format!("HTTP status {status}")));
    }
    exported.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_parent_is_taken_over() {
        const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT_HEADER, value.parse().unwrap());
            }
            let onward = begin(&Span::none(), Remote::of(&headers));
            assert!(!onward.contains_key(TRACESTATE_HEADER));
            let parent = onward.get(TRACEPARENT_HEADER)?;
            Some(parent.to_str().unwrap().to_owned())
        };
        assert_eq!(of(&[VALID]).as_deref(), Some(VALID), "passed on as it is");
        for odd in [
            &[][..],
            &[""],
            &[VALID, VALID],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-xyz-b7ad6b7169203331-01"],
        ] {
            assert_eq!(of(odd), None, "{odd:?}");
        }
    }
}
