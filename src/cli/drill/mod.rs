//! `demo --drill`: worker nodes die, freeze and come back while built-in users count what they saw.
//!
//! The nodes are processes of their own (`node.rs`), the signals are real, the configuration is one
//! that a user could write (`settings.rs`). `play.rs` is what happens, `stage.rs` waits and does it,
//! `users.rs` counts, `screen.rs` and `told.rs` say it on one screen.

mod node;
mod play;
mod screen;
mod settings;
mod stage;
mod told;
mod users;

pub(super) use node::{NodeArguments, RestartArguments, restart, serve};

use std::rc::Rc;

use tokio::runtime::{Builder, LocalOptions};

use self::node::{Door, Nodes};
use self::screen::Screen;
use self::stage::{Failure, Stage};
use self::users::Users;
use super::{FAILED, complain, print};
use crate::balance::Registry;
use crate::config::model::{Config, LogLevel};
use crate::process::Server;

/// The place of the dashboard where nobody looks at it.
const ANY: &str = "127.0.0.1:0";

/// What `demo --drill` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Print the configuration of the drill instead
    #[arg(long, requires = "drill")]
    show_config: bool,
    /// The log of the balancer too, on standard error
    #[arg(long, requires = "drill")]
    log: bool,
    /// No time to read: for tests
    #[arg(long, requires = "drill", hide = true)]
    fast: bool,
}

/// Runs the drill. It has succeeded when no user saw a failure.
///
/// # Errors
///
/// The exit code; what went wrong has been said.
pub(super) fn run(options: &Options, registry: &Registry) -> Result<(), u8> {
    if options.show_config {
        return print(&settings::sample());
    }
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| fail(&format!("cannot start: {error}")))?;
    runtime.block_on(drill(options, registry)).map_err(|failure| match failure {
        // Whoever reads has heard enough.
        Failure::Output(code) => code,
        other => fail(&other.to_string()),
    })
}

fn fail(what: &str) -> u8 {
    complain(&format!("tidegate: {what}"));
    FAILED
}

async fn drill(options: &Options, registry: &Registry) -> Result<(), Failure> {
    let interrupt = stage::Interrupt::take_over().map_err(Failure::Start)?;
    let door = Door::open().map_err(Failure::Start)?;
    let nodes = Nodes::start(&settings::NODES).await?;
    let config = configuration(options, registry, &nodes, &door)?;
    let _log = crate::log::start(&config.log);
    let server =
        Server::start(&config, registry).map_err(|error| Failure::Server(error.to_string()))?;
    let users = Rc::new(Users::default());
    let pace = if options.fast { 8 } else { 1 };
    let mut stage = Stage::new(Screen::new(), users, (nodes, door, interrupt), (server, pace))?;
    let played = play::play(&mut stage).await;
    stage.end().await;
    played
}

fn configuration(
    options: &Options,
    registry: &Registry,
    nodes: &Nodes,
    door: &Door,
) -> Result<Config, Failure> {
    let dashboard = if options.fast { ANY.to_owned() } else { super::demo::dashboard_address() };
    let text = settings::text(&nodes.addresses(), door.name(), &dashboard);
    let mut config = crate::config::load(&text, &|_| None, registry).map_err(|problems| {
        Failure::Server(crate::config::render("the drill's configuration", &problems))
    })?;
    if options.log {
        config.log.level = LogLevel::Info;
    }
    Ok(config)
}
