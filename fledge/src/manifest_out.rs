//! The manifest that goes beside an artifact. Composes only: reading the template and writing the file are the command's work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::build_spec::{ManifestTemplate, Output};
use common::digest::Digest;
use common::manifest::{Manifest, ManifestError};

/// What is appended to the artifact's name.
const SUFFIX: &str = ".manifest.json";

/// Where the manifest of the artifact at `output` goes.
pub fn path_beside(output: &Path) -> PathBuf {
    let mut name = output.file_name().map(OsString::from).unwrap_or_default();
    name.push(SUFFIX);
    output.with_file_name(name)
}

/// The manifest of the artifact at `output`. Its URL is relative, so that the two can be moved and published together.
///
/// # Errors
/// Everything that a manifest can be refused for.
pub fn compose(
    template: &ManifestTemplate,
    output: &Path,
    checksum: Option<Digest>,
) -> Result<Manifest, ManifestError> {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    template.manifest(&name, checksum, &Output::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_lies_beside_its_artifact() {
        for (output, expected) in [
            ("plugin.cpio.gz", "plugin.cpio.gz.manifest.json"),
            ("/a/b/x", "/a/b/x.manifest.json"),
        ] {
            assert_eq!(path_beside(Path::new(output)), Path::new(expected));
        }
    }

    #[test]
    fn its_url_is_relative() {
        let template = ManifestTemplate::from_toml(
            "name = \"x\"\nversion = \"1\"\n[workload]\nentrypoint = \"/x\"",
        )
        .unwrap();
        let manifest = compose(
            &template,
            Path::new("/a/b/p.cpio.gz"),
            Some(Digest::of(b"")),
        )
        .unwrap();
        assert_eq!(manifest.artifact().url, "p.cpio.gz");
        assert_eq!(
            Manifest::from_json(manifest.to_json_pretty().as_bytes()).unwrap(),
            manifest
        );
    }
}
