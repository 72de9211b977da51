//! What the description of the API says of manifests where deriving does not suffice. Reads and checks nothing.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{RawManifest, StopSignal};

/// A manifest as it may be written, in either dialect; what is answered is a [`Manifest`](super::Manifest).
#[derive(Debug, Clone, Copy)]
pub struct ManifestInput;

impl PartialSchema for ManifestInput {
    fn schema() -> RefOr<Schema> {
        RawManifest::schema()
    }
}

impl ToSchema for ManifestInput {
    fn name() -> Cow<'static, str> {
        RawManifest::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        RawManifest::schemas(schemas);
    }
}

impl PartialSchema for StopSignal {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Integer]))
            .description(Some("A signal's name, such as `SIGQUIT`, or its number."))
            .into()
    }
}

impl ToSchema for StopSignal {}
