//! The commands of the binary: what is typed, what is printed, the exit code.

mod check;
mod client;
mod demo;
mod drill;
mod pages;
mod remote;
mod run;
mod show;
mod top;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::balance::Registry;
use crate::config::Loaded;
use crate::config::model::Config;
use crate::process::{LoadError, Source};

/// A command that failed while it ran, or that a running instance refused.
const FAILED: u8 = 1;
/// Wrong usage, or a configuration with problems.
const WRONG: u8 = 2;

/// Where a configuration is looked for when none is named.
const PLACES: [&str; 2] = ["conf/tidegate.yaml", "/etc/tidegate/tidegate.yaml"];

/// A layer-4 TCP load balancer with hot backup and automatic recovery.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, in the foreground
    Run(run::Arguments),
    /// Three built-in worker nodes and a listener on 127.0.0.1:9501; needs no file
    Demo(demo::Arguments),
    /// Validate a configuration: exit 0 if it is valid, 2 with every problem printed if not
    Check(ConfigFile),
    /// Print the JSON Schema of the configuration, for editors
    Schema(check::SchemaArguments),
    /// A worker node of the drill
    #[command(hide = true)]
    DemoNode(drill::NodeArguments),
    /// The recovery action of the drill
    #[command(hide = true)]
    DemoRestart(drill::RestartArguments),
    /// Pools and backends of a running instance, as a table
    Status(remote::Status),
    /// The same, live, in the terminal
    Top(top::Arguments),
    /// Take a backend out of rotation; its open connections go on
    ///
    /// The active one of a hot standby gives its role to the next, and its connections are closed as the
    /// pool's `demotion` says: after 2s unless it is told otherwise.
    Drain(remote::Backend),
    /// Put a backend back into use
    Enable(remote::Backend),
    /// Take a backend out of use and close its connections
    Disable(remote::Backend),
    /// Give a backend another share of new connections
    Weight(remote::Weight),
    /// Move the active role of a hot-standby pool now
    Failover(remote::Failover),
    /// Close the connections of a backend
    Kill(remote::Kill),
    /// Evictions, reinstatements, takeovers, reloads, with their reasons
    Events(remote::Events),
    /// What would be chosen now, and why
    Explain(remote::Explain),
    /// Ask a running instance to read its file again
    Reload(remote::Common),
    /// Print a script that completes commands, for a shell
    Completions(pages::Completions),
    /// Print the manual page
    Man(pages::Man),
}

/// Which configuration.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration [default: ./conf/tidegate.yaml, then /etc/tidegate/tidegate.yaml]
    ///
    /// TIDEGATE_CONFIG names one too.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints what a command was asked for.
///
/// # Errors
///
/// The exit code when it cannot be printed. Whoever has heard enough, as `head` has, is told nothing.
fn print(text: &str) -> Result<(), u8> {
    let mut out = std::io::stdout();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(&format!("tidegate: cannot print: {error}"));
        }
        FAILED
    })
}

/// Says on standard error what is wrong. Where nobody can hear it, the exit code has to do.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs the command that the process's arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let registry = Registry::default();
    let code = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments, &registry),
        Command::Demo(arguments) => demo::run(&arguments, &registry),
        Command::Check(file) => check::check(&file, &registry),
        Command::Schema(arguments) => check::schema(&arguments, &registry),
        Command::DemoNode(arguments) => drill::serve(arguments),
        Command::DemoRestart(arguments) => drill::restart(&arguments),
        Command::Status(arguments) => remote::finish(arguments.run()),
        Command::Top(arguments) => remote::finish(arguments.run()),
        Command::Drain(arguments) => remote::finish(arguments.run("drain")),
        Command::Enable(arguments) => remote::finish(arguments.run("enable")),
        Command::Disable(arguments) => remote::finish(arguments.run("disable")),
        Command::Weight(arguments) => remote::finish(arguments.run()),
        Command::Failover(arguments) => remote::finish(arguments.run()),
        Command::Kill(arguments) => remote::finish(arguments.run()),
        Command::Events(arguments) => arguments.run(),
        Command::Explain(arguments) => remote::finish(arguments.run()),
        Command::Reload(arguments) => remote::finish(remote::reload(&arguments)),
        Command::Completions(arguments) => print(&arguments.run()),
        Command::Man(arguments) => remote::finish(arguments.run()),
    };
    code.map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

impl ConfigFile {
    /// Reads and validates the file. Problems are printed, each with its place.
    fn load(&self, registry: &Registry) -> Result<(PathBuf, Config), u8> {
        self.load_with_places(registry).map(|(path, loaded)| (path, loaded.config))
    }

    /// The same, with the places of its values.
    fn load_with_places(&self, registry: &Registry) -> Result<(PathBuf, Loaded), u8> {
        let path = self.find()?;
        let source = Source { path: Some(path.clone()), registry: registry.clone() };
        match source.load() {
            Ok(loaded) => Ok((path, loaded)),
            Err(error @ LoadError::Problems { .. }) => {
                complain(&error.to_string());
                Err(WRONG)
            }
            Err(error) => {
                complain(&format!("tidegate: {error}"));
                Err(WRONG)
            }
        }
    }

    fn find(&self) -> Result<PathBuf, u8> {
        let named = std::env::var_os("TIDEGATE_CONFIG").filter(|path| !path.is_empty());
        if let Some(path) = self.config.clone().or_else(|| named.map(PathBuf::from)) {
            return Ok(path);
        }
        PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            complain(&format!(
                "tidegate: no configuration: neither ./{} nor {} is there; name one with -c FILE \
                 or TIDEGATE_CONFIG, or try `tidegate demo`",
                PLACES[0], PLACES[1]
            ));
            WRONG
        })
    }
}
