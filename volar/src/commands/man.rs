//! `volar man`: writes the manual pages, made of the same words as the help.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::{CommandError, Context};
use crate::cli::{Cli, ManArgs};

/// Pages that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the manual pages")]
pub struct ManError(#[source] io::Error);

pub(super) fn run(context: &Context, args: &ManArgs) -> Result<(), CommandError> {
    let write = || {
        fs_err::create_dir_all(&args.dir)?;
        let mut command = Cli::command();
        // Gives each command its whole name.
        command.build();
        write_pages(&command, &args.dir)
    };
    let pages = write().map_err(ManError)?;
    let text = format!("{pages} pages are in {}", args.dir.display());
    Ok(context.output.done(&args.dir.to_string_lossy(), &text)?)
}

/// Writes the page of a command and of all below it, and counts them. They have no date: the same version is to make the same bytes.
fn write_pages(command: &Command, dir: &Path) -> io::Result<usize> {
    let mut pages = 1;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        pages += write_pages(below, dir)?;
    }
    Man::new(command.clone())
        .source(concat!("volar ", env!("CARGO_PKG_VERSION")))
        .manual("Volant")
        .generate_to(dir)?;
    Ok(pages)
}
