//! `volar completions` and `volar man` as types.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
The shell asks volar at each Tab, and volar asks volantd for the names of VMs
and plugins, for half a second at most.

Examples:
  volar completions bash | sudo tee /etc/bash_completion.d/volar
  volar completions fish > ~/.config/fish/completions/volar.fish
  source <(volar completions zsh)";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  volar man --dir /tmp/man
  sudo volar man --dir /usr/local/share/man/man1";

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Elvish
    Elvish,
    /// Fish
    Fish,
    /// `PowerShell`
    #[value(name = "powershell", help = "PowerShell")]
    PowerShell,
    /// Zsh
    Zsh,
}

impl Shell {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::PowerShell => "powershell",
            Self::Zsh => "zsh",
        }
    }
}

/// Where the manual goes.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory to write the pages to; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}
