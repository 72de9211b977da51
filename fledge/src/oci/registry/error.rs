//! Why a registry does not give an image. No URL of a redirect and no answer of a token server is in it: they may hold secrets.

use std::path::PathBuf;

use common::digest::Digest;
use oci_client::errors::OciDistributionError;
use reqwest::StatusCode;

use crate::fetch::{ConnectionError, FetchError};
use crate::oci::descriptor::DescriptorError;

/// An image that a registry does not give.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection breaks.
    #[error("Cannot reach the registry `{registry}`")]
    Unreachable {
        /// Its host and port.
        registry: String,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// It does not answer in time.
    #[error("The registry `{registry}` does not answer")]
    Silent {
        /// Its host and port.
        registry: String,
    },
    /// It does not let this user have the image.
    #[error("The registry `{registry}` does not allow to read `{image}`")]
    Unauthorized {
        /// Its host and port.
        registry: String,
        /// The image.
        image: String,
    },
    /// It has no such image.
    #[error("The registry `{registry}` has no `{image}`")]
    NotFound {
        /// Its host and port.
        registry: String,
        /// The image, or the blob of it.
        image: String,
    },
    /// It answers something else.
    #[error("The registry `{registry}` answered {status} for `{image}`")]
    Status {
        /// Its host and port.
        registry: String,
        /// The image.
        image: String,
        /// The status.
        status: StatusCode,
    },
    /// It answers with what is no manifest.
    #[error(
        "The registry `{registry}` answered with `{media_type}` for `{image}`, not with a manifest or index of OCI's or docker's"
    )]
    MediaType {
        /// Its host and port.
        registry: String,
        /// The image.
        image: String,
        /// What it says the answer is.
        media_type: String,
    },
    /// Its answer to a login cannot be understood.
    #[error("The registry `{registry}` asks for a login in a way that is not supported")]
    Login {
        /// Its host and port.
        registry: String,
    },
    /// The reference is pinned by another kind of digest.
    #[error("`{digest}` is not supported: images are pinned by `sha256:` digests")]
    Pin {
        /// The digest as written.
        digest: String,
    },
    /// What arrives is not what was asked for.
    #[error("`{what}` of `{image}` is not what it should be: expected {expected}, got {found}")]
    Digest {
        /// `manifest` or `blob`.
        what: &'static str,
        /// The image.
        image: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// What arrives has another size.
    #[error("`{digest}` of `{image}` does not have the {size_bytes} bytes that the image names")]
    Size {
        /// The image.
        image: String,
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
    },
    /// The manifest or config is larger than any real one.
    #[error("The manifest or config of `{image}` has more than {limit_bytes} bytes")]
    TooLarge {
        /// The image.
        image: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The manifest cannot be used.
    #[error("`{image}` cannot be used")]
    Descriptor {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: DescriptorError,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] FetchError),
    /// A blob in the cache cannot be written or removed.
    #[error("Cannot keep the layer `{}`", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error("Cannot set up the connection to the registry")]
    Setup(#[source] Box<OciDistributionError>),
    /// The program ends.
    #[error("Interrupted")]
    Interrupted,
}
