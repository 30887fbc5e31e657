//! PostgreSQL behind it: pgbench, and its books balance.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Server, program, run};
use crate::support::Setup;
use crate::support::setup::Scratch;

const CLIENTS: u32 = 8;
const TRANSACTIONS: u32 = 50;

/// A cluster in `folder`, owned by someone it accepts: it refuses to be run by root.
fn cluster(initdb: &Path, folder: &Scratch) -> PathBuf {
    let data = folder.path().join("data");
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").args(["-R", "postgres"]).arg(folder.path()));
    }
    let mut command = as_owner(initdb);
    command.arg("-D").arg(&data).args(["-U", "bench", "-A", "trust", "--no-sync"]);
    command.args(["--no-locale", "--encoding=UTF8"]);
    run(command.current_dir(folder.path()));
    data
}

fn as_owner(binary: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(binary);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(binary);
    command
}

#[test]
fn pgbench_runs_through_it_and_its_books_balance() {
    let Some(initdb) = program("initdb", "postgresql") else { return };
    let Some(postgres) = program("postgres", "postgresql") else { return };
    let Some(pgbench) = program("pgbench", "postgresql") else { return };
    let Some(psql) = program("psql", "postgresql") else { return };
    let folder = Scratch::new();
    let data = cluster(&initdb, &folder);
    let server = Server::start(|address| {
        let mut command = as_owner(&postgres);
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        command.arg("-D").arg(&data).args(["-h", &host, "-p", &port]);
        command.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
        command.current_dir(folder.path());
        command
    });
    let proxy = Setup::to([server.address()]).start();
    let (host, port) = proxy.address().rsplit_once(':').unwrap();
    let client = |binary: &Path| {
        let mut command = Command::new(binary);
        command.args(["-h", host, "-p", port, "-U", "bench"]);
        command
    };

    run(client(&pgbench).args(["-i", "-q", "postgres"]));
    // -C: a connection for each transaction; then long-lived ones.
    for connections in [&["-C"][..], &[]] {
        let mut command = client(&pgbench);
        command.args(["-n", "-c", &CLIENTS.to_string(), "-t", &TRANSACTIONS.to_string()]);
        let report = run(command.args(connections).arg("postgres"));
        let done = format!("processed: {0}/{0}", CLIENTS * TRANSACTIONS);
        assert!(report.contains(&done), "{report}");
    }
    let sums = "select (select count(*) from pgbench_history), \
                (select sum(abalance) from pgbench_accounts) = \
                (select sum(delta) from pgbench_history)";
    let books = run(client(&psql).args(["-At", "-c", sums, "postgres"]));
    assert_eq!(books.trim(), format!("{}|t", 2 * CLIENTS * TRANSACTIONS));
}
