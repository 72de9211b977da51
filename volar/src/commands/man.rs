//! `volar man`: writes the manual pages, made of the same words as the help.

use std::io;

use clap::CommandFactory as _;

use super::{CommandError, Context};
use crate::cli::{Cli, ManArgs};

/// Pages that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the manual pages")]
pub struct ManError(#[source] io::Error);

pub(super) fn run(context: &Context, args: &ManArgs) -> Result<(), CommandError> {
    let write = || {
        fs_err::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(Cli::command(), &args.dir)?;
        let mut pages = 0_usize;
        for entry in fs_err::read_dir(&args.dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            pages += usize::from(name.starts_with("volar") && name.ends_with(".1"));
        }
        Ok(pages)
    };
    let pages = write().map_err(ManError)?;
    let text = format!("{pages} pages are in {}", args.dir.display());
    Ok(context.output.done(&args.dir.to_string_lossy(), &text)?)
}
