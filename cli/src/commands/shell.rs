//! `catena completions` and `catena man`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap_complete::Shell;

use crate::command::definition;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::json::Object;
use crate::output;

/// Print a shell's completions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena completions bash > /etc/bash_completion.d/catena
  catena completions zsh > ~/.zfunc/_catena
  catena completions fish > ~/.config/fish/completions/catena.fish")]
pub(crate) struct Completions {
    /// Whose completions
    shell: Shell,
}

/// Write the manual pages, one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena man | man -l -
  catena man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write catena.1, catena-put.1 … into this directory; without it the main page is printed
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Print the help of a command, as its --help does
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  catena help put
  catena help volume create")]
pub(crate) struct Help {
    /// Whose help; without it the overview
    #[arg(value_name = "COMMAND")]
    words: Vec<OsString>,
}

impl Help {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let line = ["catena".into()].into_iter().chain(self.words).chain(["--help".into()]);
        match definition().try_get_matches_from(line) {
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                let text = output::painted(&error.render(), context.output.is_terminal());
                context.output.bytes(text.as_bytes())
            }
            Err(error) => Err(crate::command::usage(&error)),
            Ok(_) => Ok(()),
        }
    }
}

impl Completions {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "catena", &mut text);
        context.output.bytes(&text)
    }
}

impl Man {
    pub(crate) fn run(self, context: &mut Context) -> Result<()> {
        // Pages about `help` would only repeat the others.
        let mut root = definition().disable_help_subcommand(true);
        let Some(directory) = &self.dir else {
            return context.output.bytes(&page(root, "catena")?);
        };
        std::fs::create_dir_all(directory).map_err(|error| Failure::path(directory, &error))?;
        root.build();
        let mut pages = vec![("catena".to_owned(), root)];
        // Breadth first; commands are two levels deep.
        let mut index = 0;
        while index < pages.len() {
            let (name, command) = pages[index].clone();
            write(directory, &name, page(command.clone(), &name)?)?;
            pages.extend(
                command
                    .get_subcommands()
                    .map(|inner| (format!("{name}-{}", inner.get_name()), inner.clone())),
            );
            index += 1;
        }
        let (count, shown) = (pages.len() as u64, directory.display());
        context.output.note(
            || Object::new().with("directory", shown.to_string()).with("pages", count),
            || format!("wrote {} into {shown}", crate::text::count(count, "page")),
        )
    }
}

fn page(command: clap::Command, name: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let named = command.bin_name(name.replace('-', " "));
    let source = concat!("catena ", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(named).title(name.to_owned()).source(source).manual("Catena");
    page.render(&mut text).map_err(|error| Failure::io("a manual page", &error))?;
    Ok(with_examples(&String::from_utf8_lossy(&text)).into_bytes())
}

/// The page with the section of examples named so and kept line by line; its maker calls it EXTRA and fills the lines.
fn with_examples(page: &str) -> String {
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let end = extra.find("\n.SH ").map_or(extra.len(), |at| at + 1);
    let (body, after) = extra.split_at(end);
    let (heading, body) = match body.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", body),
    };
    format!("{before}.SH {heading}\n.nf\n{}\n.fi\n{after}", body.trim_end())
}

fn write(directory: &Path, name: &str, text: Vec<u8>) -> Result<()> {
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, text).map_err(|error| Failure::path(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_kept_line_by_line() {
        let page = "x\n.SH EXTRA\nExamples:\n  a\n  b\n.SH VERSION\n1\n";
        assert_eq!(with_examples(page), "x\n.SH EXAMPLES\n.nf\n  a\n  b\n.fi\n.SH VERSION\n1\n");
        assert_eq!(with_examples("x\n.SH EXTRA\nRemote\n"), "x\n.SH NOTES\n.nf\nRemote\n.fi\n");
        assert_eq!(with_examples("x\n"), "x\n");
    }
}
