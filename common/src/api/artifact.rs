//! Artifacts as clients see them: by plugin and version, as in the Go system, and by digest.
//!
//! A plugin's artifact has the Go system's member names, and ours behind them. Go reads members whatever their case, so a client of that
//! system finds all of its own; both `source_url` and `SourceURL` are accepted in a request.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::Name;

/// An artifact of a plugin's version; `GET /api/v1/plugins/{plugin}/artifacts` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginArtifact {
    /// Its number; 0 for the artifact that the installed manifest names.
    #[serde(rename = "ID")]
    pub id: i64,
    /// The plugin.
    #[serde(rename = "PluginName")]
    pub plugin: Name,
    /// The plugin's version.
    #[serde(rename = "Version")]
    pub version: String,
    /// Its name among the artifacts of the version.
    #[serde(rename = "ArtifactName")]
    pub name: String,
    /// What it is to the plugin: `initramfs` or `rootfs`.
    #[serde(rename = "Kind")]
    pub kind: String,
    /// Where it came from.
    #[serde(rename = "SourceURL")]
    pub source_url: String,
    /// Its digest, as `sha256:` and 64 hexadecimal digits.
    #[serde(rename = "Checksum")]
    pub checksum: Digest,
    /// The format's name as it was given; empty where none was.
    #[serde(rename = "Format")]
    pub format: String,
    /// Where it is on the host.
    #[serde(rename = "LocalPath")]
    pub local_path: String,
    /// Its size in bytes.
    #[serde(rename = "SizeBytes")]
    pub size_bytes: u64,
    /// When it was added, RFC 3339.
    #[serde(rename = "CreatedAt")]
    pub created_at: String,
    /// When it was added or replaced last, RFC 3339.
    #[serde(rename = "UpdatedAt")]
    pub updated_at: String,
    /// The digest again, under the name that it has everywhere else.
    pub digest: Digest,
    /// Whether the digest was named beforehand. If not, it is `unpinned`: whatever the source gave.
    pub pinned: bool,
    /// Who signed it.
    pub signature: SignatureState,
    /// Who needs it.
    pub used_by: ArtifactUsers,
}

/// Body of `POST /api/v1/plugins/{plugin}/artifacts`: an artifact to keep for a version of a plugin, in the place of one of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PutArtifact {
    /// The plugin's version; it must be there, under this name or the Go system's.
    #[serde(default, alias = "Version")]
    pub version: String,
    /// Its name among the artifacts of the version; it must be there, under this name or the Go system's.
    #[serde(default, alias = "ArtifactName")]
    pub artifact_name: String,
    /// What it must be able to boot as: `initramfs`, which is also meant by nothing, or `rootfs`. Unlike in the Go system nothing else is
    /// kept: the artifact is read and checked as what it is.
    #[serde(default, alias = "Kind")]
    pub kind: String,
    /// Where it is: `http(s)://`, `file://` or an absolute path. It is fetched before the answer, so it must be reachable now.
    #[serde(default, alias = "SourceURL")]
    pub source_url: String,
    /// The SHA-256 that it must have. Nothing is fetched that is stored already.
    #[serde(default, alias = "Checksum")]
    pub checksum: String,
    /// The format's name; of a root file system `erofs`, `ext4` or `squashfs`. The content decides if it is empty or `raw`.
    #[serde(default, alias = "Format")]
    pub format: String,
    /// Where it is on the host, if there is no `source_url`.
    #[serde(default, alias = "LocalPath")]
    pub local_path: String,
    /// The size in bytes that it must have; 0 for any.
    #[serde(default, alias = "SizeBytes")]
    pub size_bytes: u64,
}

/// An artifact in the store; `GET /api/v1/artifacts` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredArtifact {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was stored first, RFC 3339.
    pub added_at: String,
    /// Whether somebody who needs it names its digest. If not, it is `unpinned`: whatever the source gave.
    #[serde(default)]
    pub pinned: bool,
    /// Who signed it.
    pub signature: SignatureState,
    /// Who needs it. What nobody needs is removed by the next prune.
    pub used_by: ArtifactUsers,
}

/// Whether a trusted key has signed an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SignatureState {
    /// No signature is kept: where none is required, none is looked for.
    None,
    /// One was checked when the artifact arrived, and is kept. It is checked again before each boot where signatures are required.
    Verified,
}

impl SignatureState {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Verified => "verified",
        }
    }
}

/// Who needs an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArtifactUsers {
    /// Plugins that boot it, or keep it for one of their versions.
    pub plugins: Vec<Name>,
    /// VMs that boot it, or can go back to it.
    pub vms: Vec<Name>,
}

impl ArtifactUsers {
    /// Whether nobody needs it.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty() && self.vms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_have_the_names_of_either_system() {
        let ours = r#"{"version": "1", "artifact_name": "a", "source_url": "/x", "size_bytes": 7}"#;
        let go = r#"{"Version": "1", "ArtifactName": "a", "SourceURL": "/x", "SizeBytes": 7}"#;
        let [ours, go] = [ours, go].map(|text| serde_json::from_str::<PutArtifact>(text).unwrap());
        assert_eq!(ours, go);
    }
}
