//! `completions` and `man`: made from the grammar itself.

use clap::CommandFactory;

use super::client::Failure;
use super::show::safe;

/// What `completions` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell that is to complete, for example: source <(tidegate completions bash)
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// What `man` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The page of this command [default: that of tidegate itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl Completions {
    pub(super) fn run(&self) -> String {
        let mut script = Vec::new();
        let mut grammar = super::Arguments::command();
        clap_complete::generate(self.shell, &mut grammar, "tidegate", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

impl Man {
    pub(super) fn run(&self) -> Result<String, Failure> {
        let mut grammar = super::Arguments::command();
        grammar.build();
        let command = match &self.command {
            None => grammar,
            Some(name) => grammar.find_subcommand(name).cloned().ok_or_else(|| {
                Failure::wrong(format!("no command is called {}; see tidegate --help", safe(name)))
            })?,
        };
        let title = command.get_display_name().unwrap_or("tidegate").replace(' ', "-");
        let mut page = Vec::new();
        // A vector takes whatever it is given.
        let _ = clap_mangen::Man::new(command).title(title).render(&mut page);
        Ok(String::from_utf8_lossy(&page).into_owned())
    }
}
