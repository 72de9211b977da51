//! The software bill of materials of an image, as `CycloneDX` 1.6 JSON (<https://cyclonedx.org/docs/1.6/json/>): every file with its
//! digest, and the packages that databases and programs in the image name. Looks nothing up: what the image does not say stays out.
//!
//! Contents are hostile: sizes and counts are bounded, and a database that cannot be understood is a warning, never a failure.

mod document;

mod files;
mod golang;
mod licence;
mod os_packages;
mod os_release;
mod purl;
mod rust;
mod sections;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use common::digest::Digest;

use crate::tree::{Kind, Tree, shown};

/// What is appended to the artifact's name.
pub const SUFFIX: &str = ".sbom.json";

/// The largest package database that is read, in bytes; a full Debian desktop has 5 MB.
const MAX_DATABASE_BYTES: u64 = 64 << 20;

/// The most packages that are listed; a full Debian desktop has 5000.
const MAX_PACKAGES: usize = 100_000;

/// The longest name or version of a package, in bytes. Longer ones are no package's.
const MAX_FIELD_BYTES: usize = 512;

/// What the bill is of.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The plugin's name, or the artifact's.
    pub name: &'a str,
    /// The plugin's version.
    pub version: Option<&'a str>,
    /// The artifact's digest.
    pub digest: Option<Digest>,
    /// `SOURCE_DATE_EPOCH`, if it is set: seconds since 1970.
    pub timestamp_s: Option<u32>,
}

/// A bill, and what could not be understood on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// The JSON document; the same for the same tree and subject.
    pub json: Vec<u8>,
    /// Sentences about databases that are broken, in a fixed order.
    pub warnings: Vec<String>,
}

/// A bill that cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum SbomError {
    /// A file's content cannot be read.
    #[error("Cannot read the file behind `{path}`")]
    Read {
        /// Its path in the image.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file changed while it was read.
    #[error("The file behind `{path}` changed its size while it was read")]
    Changed {
        /// Its path in the image.
        path: String,
    },
    /// Whoever asked for the bill does not want it any more.
    #[error("Interrupted")]
    Interrupted,
    /// The document cannot be written as JSON.
    #[error("Cannot write the bill of materials")]
    Json(#[source] serde_json::Error),
}

/// A package that the image says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    /// Names it in all the world.
    purl: String,
    name: String,
    version: Option<String>,
    licence: Option<String>,
}

/// A package, and the programs that say they hold it: databases name none.
#[derive(Debug)]
struct Found {
    package: Package,
    programs: BTreeSet<String>,
}

/// All packages, by their purls.
#[derive(Debug, Default)]
struct Packages {
    found: BTreeMap<String, Found>,
    warnings: Vec<String>,
    is_full: bool,
}

impl Packages {
    /// Adds `package`, which `program` is said to hold.
    fn add(&mut self, package: Package, program: Option<&[u8]>) {
        if self.found.len() >= MAX_PACKAGES && !self.found.contains_key(&package.purl) {
            if !self.is_full {
                self.is_full = true;
                self.warn(format!(
                    "The bill of materials lists {MAX_PACKAGES} packages, and leaves the rest out"
                ));
            }
            return;
        }
        let found = self
            .found
            .entry(package.purl.clone())
            .or_insert_with(|| Found {
                package,
                programs: BTreeSet::new(),
            });
        found.programs.extend(program.map(shown));
    }

    fn warn(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }
}

/// Composes the bill of `tree`. Files are read on all processors, until `is_unwanted`.
///
/// # Errors
/// Where a file cannot be read, and [`SbomError::Interrupted`].
pub fn compose(
    tree: &Tree,
    subject: &Subject<'_>,
    is_unwanted: &(dyn Fn() -> bool + Sync),
) -> Result<Sbom, SbomError> {
    let mut packages = Packages::default();
    let system = os_release::read(tree, &mut packages)?;
    os_packages::read(tree, system.as_ref(), &mut packages)?;
    let files = files::read(tree, &mut packages, is_unwanted)?;
    let warnings = std::mem::take(&mut packages.warnings);
    let json =
        document::write(subject, system.as_ref(), &packages, &files).map_err(SbomError::Json)?;
    Ok(Sbom { json, warnings })
}

/// The text of the file at `path`, links followed, if there is one that is not too large. What is no UTF-8 in it is replaced.
fn text(tree: &Tree, path: &str, packages: &mut Packages) -> Result<Option<String>, SbomError> {
    let Some((at, node)) = tree.resolve(path.as_bytes()) else {
        return Ok(None);
    };
    let Kind::File(content) = &node.kind else {
        return Ok(None);
    };
    if content.size_bytes() > MAX_DATABASE_BYTES {
        packages.warn(format!(
            "The packages in `/{path}` are left out: it has more than {MAX_DATABASE_BYTES} bytes"
        ));
        return Ok(None);
    }
    let mut bytes = Vec::new();
    content
        .open()
        .and_then(|reader| reader.take(MAX_DATABASE_BYTES).read_to_end(&mut bytes))
        .map_err(|source| SbomError::Read {
            path: shown(&at),
            source,
        })?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether `field` may be the name or version of a package.
fn is_plausible(field: &str) -> bool {
    !field.is_empty() && field.len() <= MAX_FIELD_BYTES && !field.chars().any(char::is_control)
}
