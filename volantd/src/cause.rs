//! Whose request work is done for: carried from the API to the task that does it, so that each log line and each call to a guest names the
//! request. Decides nothing, and is empty for what the daemon does by itself.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName};
use tracing::{Instrument as _, Span};

/// The header that names a request: in the API's answers, and in calls to guests on its behalf.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The headers that say which trace a request belongs to (W3C Trace Context, section 3).
pub const TRACEPARENT_HEADER: HeaderName = HeaderName::from_static("traceparent");
/// See [`TRACEPARENT_HEADER`].
pub const TRACESTATE_HEADER: HeaderName = HeaderName::from_static("tracestate");

tokio::task_local! {
    static CURRENT: Cause;
}

/// The request that caused something, or none.
#[derive(Debug, Clone)]
pub struct Cause {
    span: Span,
    marks: Arc<HeaderMap>,
}

impl Default for Cause {
    fn default() -> Self {
        Self {
            span: Span::none(),
            marks: Arc::default(),
        }
    }
}

impl Cause {
    /// A request: the span that its log lines are in, and the headers by which whoever is asked on its behalf knows it.
    pub fn request(span: Span, marks: HeaderMap) -> Self {
        Self {
            span,
            marks: Arc::new(marks),
        }
    }

    /// Whose work the present task does.
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Says in the headers of a request whose it is. Nothing may depend on what they say: the id and the trace may be a client's.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if self.marks.contains_key(TRACEPARENT_HEADER) {
            // It belongs to the parent that is replaced.
            headers.remove(TRACESTATE_HEADER);
        }
        for (name, value) in self.marks.iter() {
            headers.insert(name, value.clone());
        }
    }

    /// Does `work` for this cause. Without one, it is done as it is.
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        if self.marks.is_empty() {
            return work.await;
        }
        let span = self.span.clone();
        CURRENT.scope(self, work.instrument(span)).await
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn marks(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    fn named(cause: &Cause) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        cause.mark(&mut headers);
        headers.remove(REQUEST_ID_HEADER)
    }

    #[tokio::test]
    async fn work_knows_its_cause_and_a_task_of_its_own_only_if_told() {
        assert_eq!(named(&Cause::current()), None);
        let cause = Cause::request(Span::none(), marks(&[(REQUEST_ID_HEADER, "r1")]));
        let seen = cause.scope(async {
            let told = tokio::spawn(Cause::current().scope(async { Cause::current() }));
            let untold = tokio::spawn(async { Cause::current() });
            (Cause::current(), told.await.unwrap(), untold.await.unwrap())
        });
        let (here, told, untold) = seen.await;
        assert_eq!(named(&here).unwrap(), "r1");
        assert_eq!(named(&told).unwrap(), "r1");
        assert_eq!(named(&untold), None);
        let nobody = Cause::default().scope(async { Cause::current() }).await;
        assert_eq!(named(&nobody), None);
    }

    #[test]
    fn a_mark_replaces_what_a_client_said_about_the_same() {
        let said = [
            (REQUEST_ID_HEADER, "odd one"),
            (TRACEPARENT_HEADER, "theirs"),
            (TRACESTATE_HEADER, "of=theirs"),
        ];
        let mut headers = marks(&said);
        Cause::request(Span::none(), marks(&[(REQUEST_ID_HEADER, "r1")])).mark(&mut headers);
        assert_eq!(headers[REQUEST_ID_HEADER], "r1");
        assert_eq!(headers[TRACESTATE_HEADER], "of=theirs");
        let traced = marks(&[(REQUEST_ID_HEADER, "r1"), (TRACEPARENT_HEADER, "ours")]);
        Cause::request(Span::none(), traced).mark(&mut headers);
        assert_eq!(headers[TRACEPARENT_HEADER], "ours");
        assert!(!headers.contains_key(TRACESTATE_HEADER));
    }
}
