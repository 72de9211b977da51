//! `cargo xtask openapi`: writes docs/openapi.json, as volantd describes its API. That it is current is a test of volantd's.

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::{printer, workspace};

/// Where the document lies.
const FILE: &str = "docs/openapi.json";

/// Writes the document.
///
/// # Errors
/// When volantd cannot be built or the file not be written.
pub(crate) fn run() -> Result<()> {
    let output = workspace::cargo()
        .args([
            "run", "--quiet", "-p", "volantd", "--bin", "volantd", "--", "openapi",
        ])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("Could not start cargo")?;
    if !output.status.success() {
        bail!("volantd could not describe its API");
    }
    fs::write(workspace::root().join(FILE), output.stdout)?;
    printer::result(FILE);
    Ok(())
}
