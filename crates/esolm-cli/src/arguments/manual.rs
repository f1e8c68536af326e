//! Options of what tells a shell and `man` about the command line.

use std::path::PathBuf;

use clap::Args;

/// Prints a script that completes commands, options and their values.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  esolm completions bash > ~/.local/share/bash-completion/completions/esolm
  esolm completions zsh > ~/.zfunc/_esolm          with ~/.zfunc in fpath
  esolm completions fish > ~/.config/fish/completions/esolm.fish
  esolm completions powershell >> $PROFILE")]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Writes a manual page for the program and one for each command, such as esolm-sample.1.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  esolm man ~/.local/share/man/man1 && man esolm-sample")]
pub struct Man {
    /// Folder to write to.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}
