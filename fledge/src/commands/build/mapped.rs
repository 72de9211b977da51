//! The files that the mappings of a plan bring, as the host has them now. Reads directories, but no file.

use std::path::{Path, PathBuf};

use common::build_spec::{Mark, pointer};

use super::BuildError;
use super::inputs::Input;
use crate::assemble::AssembleError;
use crate::commands::archive_limit;
use crate::plan::{Mapping, Plan, PlannedInit};
use crate::tree::host::{self, HostError};
use crate::tree::{Content, Kind, Tree};

/// Every file that `plan` maps, in the order of its mappings.
///
/// # Errors
/// Where a mapping leads to nothing, or to what does not fit the image; the latter at its line in the build spec.
pub(super) fn files(plan: &Plan, input: &Input) -> Result<Vec<PathBuf>, BuildError> {
    let refused = |path: &Path, size_bytes, place: &str, mark| {
        archive_limit::too_large(&plan.output, path, size_bytes)
            .map_or(Ok(()), |sentence| Err(input.refuse(place, mark, sentence)))
    };
    if let PlannedInit::Custom(path) = &plan.init {
        // What is wrong with it otherwise, whoever reads it says.
        let size_bytes = fs_err::metadata(path).map_or(0, |metadata| metadata.len());
        refused(path, size_bytes, "/init/path", Mark::Value)?;
    }
    let mut files = Vec::new();
    // Both are in the order of the paths as written.
    for (mapping, source) in plan.mappings.iter().zip(input.spec.mappings.keys()) {
        for (path, size_bytes) in sizes(mapping).map_err(AssembleError::from)? {
            refused(
                &path,
                size_bytes,
                &pointer(&["mappings", source]),
                Mark::Key,
            )?;
            files.push(path);
        }
    }
    Ok(files)
}

/// The file of a mapping, or every file of its directory, with its size in bytes.
fn sizes(mapping: &Mapping) -> Result<Vec<(PathBuf, u64)>, HostError> {
    let mut tree = Tree::default();
    match host::look(&mapping.host)? {
        host::Found::File => {
            let metadata = fs_err::metadata(&mapping.host).map_err(|source| HostError::Read {
                path: mapping.host.clone(),
                source,
            })?;
            return Ok(vec![(mapping.host.clone(), metadata.len())]);
        }
        host::Found::Directory => host::add_directory(&mut tree, &mapping.host, &mapping.guest)?,
    }
    let files = tree.iter().filter_map(|item| match &item.node.kind {
        Kind::File(Content::Host { path, size_bytes }) => Some((path.clone(), *size_bytes)),
        _ => None,
    });
    Ok(files.collect())
}
