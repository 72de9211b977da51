//! What the sizes of files alone say against an archive, so that it is said before anything is read. Looks at no file itself.

use std::path::Path;

use common::build_spec::Output;

use crate::image::cpio::MAX_FILE_BYTES;

/// What is wrong with the file at `path` in an image of this kind, if it is too large for it.
pub(super) fn too_large(output: &Output, path: &Path, size_bytes: u64) -> Option<String> {
    let is_archive = matches!(output, Output::Initramfs { .. });
    (is_archive && size_bytes > MAX_FILE_BYTES).then(|| {
        format!(
            "`{}` has {size_bytes} bytes, and an initramfs holds files of less than 4 GiB",
            path.display()
        )
    })
}
