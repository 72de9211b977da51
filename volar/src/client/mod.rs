//! A typed client of volantd's REST API, over a unix socket or TCP. Prints nothing and reads no setting.
//!
//! It never follows redirects and never goes through a proxy: the API is a host's own, and its token must not leave it unasked.

mod authorities;
mod configs;
mod console;
mod endpoint;
mod error;
mod events;
mod exec;
mod files;
mod guest;
mod lines;
mod logs;
mod plugins;
mod socket;
mod sse;
mod system;
mod vms;

use std::fmt;
use std::time::{Duration, Instant};

use common::api::{API_KEY_HEADER, Problem};
use reqwest::header::HeaderName;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use authorities::Authorities;
pub use configs::names_artifact;
pub use console::{Console, ConsoleInput, ConsoleOutput, Writing};
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use error::{ClientError, Distrust};
pub use events::{EventQuery, EventReader, Told};
pub use exec::{ExecInput, ExecOutput, ExecSession, FromGuest};
pub use files::Tar;
pub use guest::{AgentCall, CallAnswer};
pub use lines::LineReader;
pub use logs::{Follow, Log, LogPiece, LogQuery, RawLog};
pub use vms::{Change, VmFilter};

/// How long a connection may take to be made. volantd is on this host or close to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an ordinary call may take: volantd answers each from memory and its database.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest answer that is read: some ten thousand VMs.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The largest problem document that is read.
const MAX_PROBLEM_BYTES: usize = 256 * 1024;

/// A token of the API. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, without the blanks around it. Nothing if it is empty or cannot be in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        usable.then(|| Self(text.to_owned()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An answer, as a value and as the JSON that it came in.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What this version of volar understands.
    pub value: T,
    /// All that volantd sent.
    pub json: String,
}

/// A call that was answered, for `--verbose`.
#[derive(Debug)]
pub struct Finished<'a> {
    /// Method and path.
    pub call: &'a str,
    /// The HTTP status, or nothing if there was no answer.
    pub status: Option<u16>,
    /// How long it took until the head of the answer was there.
    pub elapsed: Duration,
}

/// Is told of each call.
pub type Observer = fn(&Finished<'_>);

/// A client of one volantd.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<Token>,
    observer: Option<Observer>,
}

impl Client {
    /// A client. Connects at the first call. With `authorities`, only what they vouch for is trusted over TLS, else what the host trusts.
    ///
    /// # Errors
    /// [`ClientError::SetUp`] if the HTTP client cannot be made.
    pub fn new(
        endpoint: Endpoint,
        token: Option<Token>,
        authorities: Option<Authorities>,
        observer: Option<Observer>,
    ) -> Result<Self, ClientError> {
        crate::tls::install_provider();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .http1_only()
            .user_agent(concat!("volar/", env!("CARGO_PKG_VERSION")));
        if !endpoint.is_tls() {
            // Reading the system's certificates would cost each command 20 ms.
            builder = builder.tls_certs_only(std::iter::empty());
        } else if let Some(authorities) = authorities {
            builder = builder.tls_certs_only(authorities.certificates());
        }
        if let Endpoint::Unix(path) = &endpoint {
            builder = builder.unix_socket(path.as_path());
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::SetUp)?,
            endpoint,
            token,
            observer,
        })
    }

    /// Where it connects to.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<Answer<T>, ClientError> {
        self.json(Request::new(Method::GET, path, limit), None::<&()>)
            .await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<Answer<T>, ClientError> {
        let call = request.call();
        let json = self.text(request, body).await?;
        let value =
            serde_json::from_str(&json).map_err(|source| ClientError::Decode { call, source })?;
        Ok(Answer { value, json })
    }

    async fn empty(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<(), ClientError> {
        self.text(request, body).await.map(drop)
    }

    async fn text(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<String, ClientError> {
        let call = request.call();
        let limit = request.limit;
        let mut builder = self.request(request.method, request.path).timeout(limit);
        if let Some((name, value)) = request.header {
            builder = builder.header(name, value);
        }
        if let Some(body) = body {
            builder = builder.json(body);
        }
        let response = self.send(builder, &call, limit).await?;
        let response = check_status(response, &call).await?;
        let (bytes, complete) = read_bounded(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|source| ClientError::call(&self.endpoint, &call, limit, source))?;
        if !complete {
            return Err(ClientError::TooLarge {
                call,
                limit_bytes: MAX_ANSWER_BYTES,
            });
        }
        // JSON is UTF-8 (RFC 8259 §8.1): anything else fails to parse, with a position.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!(
            "{}://{}{}{path}",
            self.endpoint.scheme(),
            self.endpoint.authority(),
            self.endpoint.prefix()
        );
        let builder = self.http.request(method, url);
        match &self.token {
            Some(token) => builder.header(API_KEY_HEADER, token.expose()),
            None => builder,
        }
    }

    async fn send(
        &self,
        builder: RequestBuilder,
        call: &str,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        let begun = Instant::now();
        let result = builder.send().await;
        if let Some(observer) = self.observer {
            observer(&Finished {
                call,
                status: result.as_ref().ok().map(|r| r.status().as_u16()),
                elapsed: begun.elapsed(),
            });
        }
        result.map_err(|source| ClientError::call(&self.endpoint, call, limit, source))
    }
    /// Sends a request whose answer is a stream of any length: only its head has a deadline.
    async fn stream(&self, builder: RequestBuilder, call: &str) -> Result<Response, ClientError> {
        let send = self.send(builder, call, CALL_TIMEOUT);
        let response = tokio::time::timeout(CALL_TIMEOUT, send)
            .await
            .map_err(|_| ClientError::Timeout {
                call: call.to_owned(),
                limit: CALL_TIMEOUT,
            })??;
        check_status(response, call).await
    }
}

/// One call.
struct Request<'a> {
    method: Method,
    path: &'a str,
    limit: Duration,
    header: Option<(HeaderName, String)>,
}

impl<'a> Request<'a> {
    const fn new(method: Method, path: &'a str, limit: Duration) -> Self {
        Self {
            method,
            path,
            limit,
            header: None,
        }
    }

    fn call(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// A query string of these pairs, with its `?`; nothing if there are none.
fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(&escaped(value));
    }
    text
}

/// A value for a query: what is not unreserved (RFC 3986 §2.3) is escaped, but for `/` and `,`, which a query may have.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/,".contains(&byte);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Lets a success through; anything else becomes the error that its body describes.
async fn check_status(response: Response, call: &str) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = match read_bounded(response, MAX_PROBLEM_BYTES).await {
        Ok((bytes, _)) => bytes,
        // The status says enough; a body that breaks off adds nothing.
        Err(_) => Vec::new(),
    };
    Err(refused(status.as_u16(), &body, call))
}

/// The error that a status and its body describe.
fn refused(status: u16, body: &[u8], call: &str) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Refused(Box::new(Problem { status, ..problem })),
        Err(_) => ClientError::Status {
            call: call.to_owned(),
            status,
        },
    }
}

/// Reads at most `limit` bytes; says whether that was all.
async fn read_bounded(
    mut response: Response,
    limit: usize,
) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(query(&[]), "");
        let pairs = [("path", "/a b/é&"), ("type", "A,B")];
        assert_eq!(query(&pairs), "?path=/a%20b/%C3%A9%26&type=A,B");
    }
}
