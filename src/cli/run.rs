//! `run`: from a file, or from `--listen` and `--backend`, to a serving process.

use super::{ConfigFile, FAILED, WRONG, complain};
use crate::balance::Registry;
use crate::config::model::Config;
use crate::config::one_shot;
use crate::process::{Inheritance, Server, Signals, Source};

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Listen here instead of reading a file; may be repeated
    #[arg(long, value_name = "ADDR", requires = "backend")]
    listen: Vec<String>,
    /// Forward to this backend; may be repeated
    #[arg(long, value_name = "ADDR", requires = "listen")]
    backend: Vec<String>,
    /// Open the admin endpoint here: an address that only this host reaches, or unix:/PATH
    #[arg(long, value_name = "ADDR", requires = "listen")]
    admin_bind: Option<String>,
    /// How a backend is chosen
    #[arg(long, value_name = "NAME", requires = "listen")]
    strategy: Option<String>,
}

pub(super) fn run(arguments: &Arguments, registry: &Registry) -> Result<(), u8> {
    let (path, config) = if arguments.listen.is_empty() {
        let (path, config) = arguments.file.load(registry)?;
        (Some(path), config)
    } else {
        (None, from_arguments(arguments, registry)?)
    };
    serve(&config, Source { path, registry: registry.clone() }, |_| ())
}

fn from_arguments(arguments: &Arguments, registry: &Registry) -> Result<Config, u8> {
    if arguments.file.config.is_some() {
        complain("tidegate: --listen and --backend take the place of a file: leave -c away");
        return Err(WRONG);
    }
    let (strategy, admin) = (arguments.strategy.as_deref(), arguments.admin_bind.as_deref());
    let made = one_shot(&arguments.listen, &arguments.backend, strategy, admin, registry);
    made.map_err(|problems| {
        problems.iter().for_each(|p| complain(&format!("tidegate: {}: {}", p.path, p.message)));
        WRONG
    })
}

/// Serves until told to stop; `started` is called once connections are served.
pub(super) fn serve(
    config: &Config,
    source: Source,
    started: impl FnOnce(&Server),
) -> Result<(), u8> {
    let _log = crate::log::start(&config.log);
    let signals = Signals::take_over().map_err(|error| {
        tracing::error!(%error, "cannot wait for signals");
        FAILED
    })?;
    let inheritance = Inheritance::find().map_err(|error| {
        tracing::error!(%error, "cannot take over from the old process");
        FAILED
    })?;
    let server = Server::start_from(config, source, inheritance).map_err(|error| {
        tracing::error!("{error}");
        FAILED
    })?;
    started(&server);
    if signals.serve(server) { Ok(()) } else { Err(FAILED) }
}
