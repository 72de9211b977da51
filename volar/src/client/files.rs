//! Files of a guest as tar archives, streamed both ways. What is in the archives is `crate::copy`'s.

use std::time::Duration;

use common::agent::stats::{FILE_STAT_HEADER, FileStat};
use common::name::Name;
use futures_util::Stream;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Response};

use super::{CALL_TIMEOUT, Client, ClientError, Endpoint, check_status, query};

/// How long a transfer may stand still: the guest may be busy, but not for ever.
const MAX_SILENCE: Duration = Duration::from_mins(2);

/// A tar archive that arrives in pieces.
#[derive(Debug)]
pub struct Tar {
    response: Response,
    endpoint: Endpoint,
    call: String,
}

impl Tar {
    /// The next piece; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match tokio::time::timeout(MAX_SILENCE, self.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes.map(|bytes| bytes.to_vec())),
            Ok(Err(source)) => Err(ClientError::call(
                &self.endpoint,
                &self.call,
                MAX_SILENCE,
                source,
            )),
            Err(_) => Err(ClientError::Timeout {
                call: self.call.clone(),
                limit: MAX_SILENCE,
            }),
        }
    }
}

impl Client {
    /// What is at `path` in the guest; nothing if there is nothing.
    pub async fn stat_file(
        &self,
        name: &Name,
        path: &str,
    ) -> Result<Option<FileStat>, ClientError> {
        let url = files_path(name, path);
        let call = format!("HEAD /api/v1/vms/{name}/files");
        let builder = self.request(Method::HEAD, &url).timeout(CALL_TIMEOUT);
        let response = self.send(builder, &call, CALL_TIMEOUT).await?;
        // An answer to HEAD has no body that could tell a missing file from a missing VM: the VM is asked for by the caller.
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        let response = check_status(response, &call).await?;
        let stat = response.headers().get(FILE_STAT_HEADER);
        let json = stat.map(HeaderValue::as_bytes).unwrap_or_default();
        serde_json::from_slice(json)
            .map(Some)
            .map_err(|source| ClientError::Decode { call, source })
    }

    /// What is at `path` in the guest, as a tar archive.
    pub async fn read_files(&self, name: &Name, path: &str) -> Result<Tar, ClientError> {
        let call = format!("GET /api/v1/vms/{name}/files");
        let builder = self.request(Method::GET, &files_path(name, path));
        let response = self.stream(builder, &call).await?;
        Ok(Tar {
            response,
            endpoint: self.endpoint.clone(),
            call,
        })
    }

    /// Unpacks a tar archive into the directory at `path` in the guest.
    pub async fn write_files<S>(&self, name: &Name, path: &str, tar: S) -> Result<(), ClientError>
    where
        S: Stream<Item = Result<Vec<u8>, std::io::Error>> + Send + 'static,
    {
        let call = format!("PUT /api/v1/vms/{name}/files");
        let builder = self
            .request(Method::PUT, &files_path(name, path))
            .header(CONTENT_TYPE, "application/x-tar")
            .body(Body::wrap_stream(tar));
        // No limit for the body: the caller gives up when nothing moves any more.
        let response = self.send(builder, &call, Duration::MAX).await?;
        check_status(response, &call).await.map(drop)
    }
}

fn files_path(name: &Name, path: &str) -> String {
    format!("/api/v1/vms/{name}/files{}", query(&[("path", path)]))
}
