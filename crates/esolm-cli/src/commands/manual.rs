//! `esolm completions` and `esolm man`: completion scripts and manual pages.

use std::fs;
use std::io::{ErrorKind, Write};

use clap::CommandFactory;
use clap_mangen::Man as Page;

use crate::arguments::{Completions, Esolm, Man};
use crate::failure::Failure;
use crate::files::{self, Pending, check_folder};
use crate::output;

pub fn completions(arguments: &Completions) -> Result<(), Failure> {
    let mut command = Esolm::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "esolm", &mut script);
    output::bytes(&script)
}

/// Writes the manual pages of the program and of its commands.
pub fn pages(arguments: &Man) -> Result<(), Failure> {
    let folder = &arguments.folder;
    check_folder(folder)?;
    fs::create_dir_all(folder).map_err(|error| {
        let remedy = files::remedy(match error.kind() {
            // The obstacle is a file somewhere in the path.
            ErrorKind::AlreadyExists => ErrorKind::NotADirectory,
            kind => kind,
        });
        Failure::failed(format!(
            "cannot create {}: {error}; {remedy}",
            folder.display()
        ))
    })?;
    // Without clap's `help` subcommand; building gives each subcommand a name that starts with the program's.
    let mut program = Esolm::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().cloned();
    let all: Vec<clap::Command> = std::iter::once(program.clone()).chain(commands).collect();
    for command in all {
        let usage = command.clone().render_usage().to_string();
        let page = Page::new(command).source(concat!("esolm ", env!("CARGO_PKG_VERSION")));
        let path = folder.join(page.get_filename());
        let mut file = Pending::create(&path)?;
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = page.render(&mut text);
        let text = with_usage(&String::from_utf8_lossy(&text), &usage);
        file.fill(|file| file.write_all(text.as_bytes()))?;
        file.commit()?;
    }
    Ok(())
}

/// Replaces a page's synopsis by the usage line of the help. The generated synopsis lists every option, but none of
/// their values.
fn with_usage(page: &str, usage: &str) -> String {
    const SYNOPSIS: &str = ".SH SYNOPSIS\n";
    let parts = page
        .split_once(SYNOPSIS)
        .and_then(|(before, rest)| Some((before, &rest[rest.find(".SH ")?..])));
    let Some((before, after)) = parts else {
        return page.into();
    };
    let usage = usage.trim_start_matches("Usage:").trim();
    let usage = usage.replace('\\', "\\e").replace('-', "\\-");
    format!("{before}{SYNOPSIS}{usage}\n{after}")
}
