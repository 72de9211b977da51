//! Sends traces to a collector (OTLP 1.x over HTTP, binary protobuf). It never holds the daemon up: spans wait in a bounded queue, what does not
//! fit is dropped, and a collector that fails is complained of once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Where a collector takes traces (OTLP specification, "OTLP/HTTP Request").
const TRACES_PATH: &str = "v1/traces";

/// Spans that wait to be sent: some seconds of a very busy API, in a few MiB. More are dropped.
const MAX_QUEUED_SPANS: usize = 4096;

/// Spans of one request to the collector.
const MAX_BATCH_SPANS: usize = 512;

/// How long spans wait for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_secs(2);

/// How long the collector may take to answer.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of the daemon waits for the last spans to be sent; well within the unit's `TimeoutStopSec`.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The HTTP client cannot be made.
    #[error("The client for the collector `{collector}` cannot be made")]
    Client {
        /// Its address.
        collector: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The exporter refuses its settings.
    #[error("Traces cannot be sent to `{collector}`")]
    Exporter {
        /// Its address.
        collector: String,
        /// The cause.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// A running export.
#[derive(Debug)]
pub struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Begins to export to the collector at this address. Whether it is there is found out with the first spans.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn begin(collector: &reqwest::Url, runtime: &Handle) -> Result<Self, ExportError> {
        // reqwest is built without a TLS provider of its own; a second installation would mean that there is one already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let address = collector.as_str().to_owned();
        let client = reqwest::Client::builder()
            .timeout(EXPORT_LIMIT)
            // A collector is the operator's own: a proxy for downloads does not lead there.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| ExportError::Client {
                collector: address.clone(),
                source,
            })?;
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(traces_url(collector))
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_LIMIT)
            // The next batch is the next try.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|source| ExportError::Exporter {
                collector: address.clone(),
                source,
            })?;
        let exporter = Patient {
            exporter: Arc::new(exporter),
            runtime: runtime.clone(),
            collector: address,
            has_failed: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED_SPANS)
            .with_max_export_batch_size(MAX_BATCH_SPANS)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let resource = Resource::builder()
            .with_service_name(env!("CARGO_PKG_NAME"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// What makes spans of this export.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends the last spans, or gives up after a moment.
    pub async fn end(self) {
        // It blocks, and the sending needs this runtime.
        let ended =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_LIMIT));
        // Twice: the batch that is under way may use up the first.
        drop(timeout(FLUSH_LIMIT * 2, ended).await);
    }
}

/// The address with the path that OTLP appends to it, unless it is there.
fn traces_url(collector: &reqwest::Url) -> String {
    let address = collector.as_str().trim_end_matches('/');
    if address.ends_with(TRACES_PATH) {
        address.to_owned()
    } else {
        format!("{address}/{TRACES_PATH}")
    }
}

/// Sends on the daemon's runtime, because spans are batched on a thread that has none, and says once that it fails.
struct Patient<E> {
    exporter: Arc<E>,
    runtime: Handle,
    collector: String,
    has_failed: AtomicBool,
}

impl<E> fmt::Debug for Patient<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient")
            .field("collector", &self.collector)
            .finish_non_exhaustive()
    }
}

impl<E: SpanExporter + 'static> SpanExporter for Patient<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        // Not through `crate::task`: its span would be exported in turn.
        let sending = self.runtime.spawn(async move {
            let sent = timeout(EXPORT_LIMIT, exporter.export(batch)).await;
            sent.unwrap_or(Err(OTelSdkError::Timeout(EXPORT_LIMIT)))
        });
        let sent = sending
            .await
            .unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        if let Err(error) = &sent {
            if self.has_failed.swap(true, Ordering::Relaxed) {
                tracing::debug!(collector = self.collector, %error, "traces not exported");
            } else {
                tracing::warn!(collector = self.collector, %error, "traces not exported; later failures are not logged");
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is being sent yet, so nobody shares it.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::logging::trace;

    /// Takes one request and answers it; gives head and body.
    fn collector(answer: &'static str) -> (reqwest::Url, mpsc::Receiver<(String, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut read = Vec::new();
                let request = loop {
                    let mut piece = [0; 4096];
                    let length = stream.read(&mut piece).unwrap();
                    read.extend_from_slice(&piece[..length]);
                    if let Some(request) = whole(&read) {
                        break request;
                    }
                    assert!(length > 0, "the request breaks off");
                };
                stream.write_all(answer.as_bytes()).unwrap();
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        (url.parse().unwrap(), seen)
    }

    fn whole(read: &[u8]) -> Option<(String, Vec<u8>)> {
        let end = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(read[..end].to_vec())
            .unwrap()
            .to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?;
        let body = read.get(end..end + length.parse::<usize>().unwrap())?;
        Some((head, body.to_vec()))
    }

    const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const BROKEN: &str =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    /// Makes the spans of one request while `export` runs.
    fn one_request(export: &Export) {
        let subscriber = tracing_subscriber::registry().with(vec![crate::logging::traces(export)]);
        tracing::subscriber::with_default(subscriber, || {
            let mut headers = axum::http::HeaderMap::new();
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            headers.insert("traceparent", parent.parse().unwrap());
            let span = tracing::info_span!("request", request_id = "req-17");
            trace::begin(&span, trace::Remote::of(&headers));
            span.in_scope(|| tracing::info_span!("task", task = "never exported").in_scope(|| {}));
            trace::end(&span, "GET /api/v1/vms/{name}", 200);
        });
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack
            .windows(needle.len())
            .any(|window| window == needle)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_span_arrives_at_the_collector_as_part_of_its_callers_trace() {
        let (url, seen) = collector(TAKEN);
        let export = Export::begin(&url, &Handle::current()).unwrap();
        one_request(&export);
        export.end().await;
        let (head, body) = seen.recv().unwrap();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(
            head.contains("content-type: application/x-protobuf\r\n"),
            "{head}"
        );
        let trace_id = hex::decode("0af7651916cd43dd8448eb211c80319c").unwrap();
        for part in [
            &trace_id[..],
            b"GET /api/v1/vms/{name}",
            b"req-17",
            b"service.name",
            b"volantd",
        ] {
            assert!(contains(&body, part), "{} is missing", part.escape_ascii());
        }
        assert!(!contains(&body, b"never exported"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_fails_is_complained_of_once_and_holds_nobody_up() {
        let (url, seen) = collector(BROKEN);
        let export = Export::begin(&url, &Handle::current()).unwrap();
        one_request(&export);
        assert!(export.provider.force_flush().is_err());
        seen.recv().unwrap();
        one_request(&export);
        assert!(export.provider.force_flush().is_err());
        seen.recv().unwrap();
        export.end().await;
        // A queue that is full drops: nothing listens there, and the spans are many more than fit.
        let silent: reqwest::Url = "http://127.0.0.1:9".parse().unwrap();
        let export = Export::begin(&silent, &Handle::current()).unwrap();
        for _ in 0..MAX_QUEUED_SPANS * 2 {
            one_request(&export);
        }
        export.end().await;
    }

    #[test]
    fn the_path_of_otlp_is_appended_once() {
        for address in [
            "http://h:4318",
            "http://h:4318/",
            "http://h:4318/v1/traces",
            "http://h:4318/v1/traces/",
        ] {
            assert_eq!(
                traces_url(&address.parse().unwrap()),
                "http://h:4318/v1/traces"
            );
        }
    }
}
