//! `erw man DIR`: the man pages, one for the program and one for each subcommand, made from the
//! same definition as `--help`. Packages carry what it writes.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use erw_base::error::{Error, Result};
use std::path::{Path, PathBuf};

const SECTION: &str = "1";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for them, as in MANPATH; the pages go to its subfolder `man1`
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// Writes the pages; `command` is clap's definition of the command line.
pub fn run(args: &Args, command: Command) -> Result<()> {
    let folder = args.dir.join(format!("man{SECTION}"));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
    // The commit and features, of which the long version tells, are those of one build.
    let mut command = command.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    // Gives subcommands their names and the options that all share.
    command.build();
    write(&command, None, &folder)
}

/// Writes the page of this command and those of its subcommands. `parent` is the page above.
fn write(command: &Command, parent: Option<&str>, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.{SECTION}"));
    let page = page(command, name, parent).map_err(|e| Error::io("make", &path, e))?;
    std::fs::write(&path, page).map_err(|e| Error::io("write", &path, e))?;
    let mut subcommands = command.get_subcommands().filter(|c| !c.is_hide_set());
    subcommands.try_for_each(|subcommand| write(subcommand, Some(name), folder))
}

fn page(command: &Command, name: &str, parent: Option<&str>) -> std::io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).section(SECTION);
    // Not by `render_title`, which loses an empty date, so that the version would be taken for one.
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH \"{name}\" \"{SECTION}\" \"\" \"erw {version}\" \"Manual of erw\"\n").into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|c| !c.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if let Some(help) = command.get_after_long_help().or(command.get_after_help()) {
        sections(&help.to_string(), &mut rest);
    }
    if let Some(parent) = parent {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold(parent), roman(format!("({SECTION})"))]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// What stands below a help text, whose columns and line ends mean something. A line like `Exit
/// codes:` begins a section.
fn sections(help: &str, page: &mut Roff) {
    let heading = |line: &str| Some(line.strip_suffix(':')?.to_uppercase()).filter(|_| !line.starts_with(' '));
    if help.lines().next().is_some_and(|line| heading(line).is_none()) {
        page.control("SH", ["NOTES"]);
        page.control("nf", []);
    }
    for line in help.lines() {
        match heading(line) {
            Some(heading) => {
                page.control("fi", []);
                page.control("SH", [heading.as_str()]);
                page.control("nf", []);
            }
            None => drop(page.text([roman(line)])),
        }
    }
    page.control("fi", []);
}
