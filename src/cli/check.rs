//! `check` and `schema`.

use super::{ConfigFile, complain, print};
use crate::balance::Registry;
use crate::config::{self, Problem};
use crate::process;

/// What `schema` prints.
#[derive(Debug, clap::Args)]
pub(super) struct SchemaArguments {
    /// Print the reference page (Markdown) instead
    #[arg(long)]
    reference: bool,
}

pub(super) fn check(file: &ConfigFile, registry: &Registry) -> Result<(), u8> {
    let (path, loaded) = file.load_with_places(registry)?;
    let config = &loaded.config;
    for warning in process::warnings(&loaded) {
        let warning = Problem { message: format!("warning: {}", warning.message), ..warning };
        complain(&warning.in_file(&path.display().to_string()));
    }
    let backends: usize = config.pools.values().map(|pool| pool.backends.len()).sum();
    print(&format!(
        "{}: valid: {}, {}, {}\n",
        path.display(),
        count(config.listeners.len(), "listener"),
        count(config.pools.len(), "pool"),
        count(backends, "backend"),
    ))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn schema(arguments: &SchemaArguments, registry: &Registry) -> Result<(), u8> {
    if arguments.reference {
        print(&config::reference(registry))
    } else {
        print(&format!("{:#}\n", config::schema(registry)))
    }
}
