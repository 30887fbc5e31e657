//! `check` and `schema`.

use super::{ConfigFile, print};
use crate::balance::Registry;
use crate::config;

/// What `schema` prints.
#[derive(Debug, clap::Args)]
pub(super) struct SchemaArguments {
    /// Print the reference page (Markdown) instead
    #[arg(long)]
    reference: bool,
}

pub(super) fn check(file: &ConfigFile, registry: &Registry) -> Result<(), u8> {
    let (path, config) = file.load(registry)?;
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
