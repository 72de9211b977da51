//! `fledge completions`: what a shell needs to complete commands and flags. Printed only; where it goes is the user's choice.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge completions bash > ~/.local/share/bash-completion/completions/fledge
  fledge completions zsh > ~/.zfunc/_fledge
  fledge completions fish > ~/.config/fish/completions/fledge.fish";

/// Flags of `fledge completions`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the completions of `program`.
pub fn run(args: &CompletionsArgs, mut program: Command, ui: &Ui) {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    ui.document(&String::from_utf8_lossy(&script));
}
