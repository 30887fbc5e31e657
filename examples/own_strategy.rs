//! A balancer with a strategy of one's own, built from the library.
//!
//! Run it, then ask it with `curl http://127.0.0.1:9502/` while something answers on the ports
//! named below (`tidegate demo` prints three that do, as long as it runs).

use std::process::ExitCode;

use tidegate::balance::{Candidate, Entry, Options, Registry, Request, Strategy};
use tidegate::process::{Server, Signals};

/// Sends every client to the backend whose turn it is in the reverse order of the list.
#[derive(Debug)]
struct Backwards;

impl Strategy for Backwards {
    fn pick(&self, candidates: &[Candidate], request: &Request<'_>) -> Option<usize> {
        let count = candidates.len();
        let turn = usize::try_from(request.turn).unwrap_or(0);
        (0..count)
            .map(|step| (count - 1) - (turn + step) % count)
            .find(|index| !request.tried.contains(candidates[*index].id))
    }
}

/// Its row in the table of strategies: the name is what the configuration says.
const BACKWARDS: Entry = Entry {
    name: "backwards",
    summary: "in turn, from the last to the first",
    options: &[],
    build: |_: &[Candidate], _: &Options| Box::new(Backwards),
};

fn main() -> ExitCode {
    let mut registry = Registry::default();
    registry.register(BACKWARDS);
    let text = "
listeners:
  web: { bind: '127.0.0.1:9502', pool: app }
pools:
  app: { strategy: backwards, backends: ['127.0.0.1:9601', '127.0.0.1:9602', '127.0.0.1:9603'] }
";
    let config = match tidegate::config::load(text, &|_| None, &registry) {
        Ok(config) => config,
        Err(problems) => {
            eprint!("{}", tidegate::config::render("own_strategy", &problems));
            return ExitCode::from(2);
        }
    };
    let _log = tidegate::log::start(&config.log);
    let signals = match Signals::take_over() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("own_strategy: {error}");
            return ExitCode::FAILURE;
        }
    };
    match Server::start(&config, &registry) {
        Ok(server) => {
            let is_told = signals.serve(server);
            if is_told { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("own_strategy: {error}");
            ExitCode::FAILURE
        }
    }
}
