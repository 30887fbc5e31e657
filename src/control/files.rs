//! What a configuration names on this host: whether it is there, and what it should be.
//!
//! Looked at whenever a file is read, so that `check`, a start and a reload say the same of it, at its
//! place. It can be gone a moment later: whoever uses it looks again.

use std::fs;
use std::io;
use std::path::Path;

use crate::config::Step::{Item, Key};
use crate::config::model::{AccessLog, Config};
use crate::config::{Loaded, Places, Problem, Step, token_in};
use crate::net::addr::Address;
use crate::net::file::{self, Wanted};

/// Bytes of a token's file that are read.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// What is not as it should be.
enum Wrong {
    /// It cannot work.
    Bad(String),
    /// Folders that are not there, as on a machine where the file is only looked at.
    Absent(String),
}

/// What is wrong with the files and folders that a configuration names. Blocks.
pub(super) fn problems(loaded: &Loaded) -> Vec<Problem> {
    let bad = |wrong| match wrong {
        Wrong::Bad(message) => Some(message),
        Wrong::Absent(_) => None,
    };
    looked_at(loaded, bad)
}

/// The folders that a configuration names and that are not there: whoever starts with it needs them.
/// Blocks.
#[must_use]
pub fn absent(loaded: &Loaded) -> Vec<Problem> {
    let absent = |wrong| match wrong {
        Wrong::Absent(message) => Some(message),
        Wrong::Bad(_) => None,
    };
    looked_at(loaded, absent)
}

fn looked_at(loaded: &Loaded, wanted: impl Fn(Wrong) -> Option<String>) -> Vec<Problem> {
    let Loaded { config, places } = loaded;
    let mut told = Vec::new();
    let mut look = |steps: &[Step<'_>], found: Result<(), Wrong>| {
        let message = found.err().and_then(&wanted);
        told.extend(message.map(|message| places.problem(steps, message)));
    };
    if let Some(path) = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref()) {
        look(&[Key("admin"), Key("token_file")], token(path).map_err(Wrong::Bad));
    }
    if let Some(path) = &config.state_file {
        look(&[Key("state_file")], written(path, Wanted::File));
    }
    if let Some(AccessLog::File(path)) = &config.log.access {
        look(&[Key("log"), Key("access")], written(path, Wanted::Sink));
    }
    if let Some(Address::Unix(path)) = config.admin.as_ref().map(|admin| &admin.bind) {
        look(&[Key("admin"), Key("bind")], bound(path));
    }
    sockets(config, places, &mut look);
    told.sort();
    told
}

/// The unix sockets of listeners.
fn sockets(
    config: &Config,
    places: &Places,
    look: &mut impl FnMut(&[Step<'_>], Result<(), Wrong>),
) {
    for (name, listener) in &config.listeners {
        for address in &listener.bind {
            let Address::Unix(path) = address else { continue };
            let bind = [Key("listeners"), Key(name), Key("bind")];
            let found = bound(path);
            // Ranges stand for many addresses, so the place is found by what is written.
            let written = address.to_string();
            let item = |index: &usize| places.text(&[&bind[..], &[Item(*index)]].concat());
            let is_it = |index: &usize| item(index).is_some_and(|text| text == written);
            match (0..listener.bind.len()).find(is_it).filter(|_| places.text(&bind).is_none()) {
                Some(index) => look(&[&bind[..], &[Item(index)]].concat(), found),
                None => look(&bind, found),
            }
        }
    }
}

/// A file that is read for its token.
fn token(path: &Path) -> Result<(), String> {
    let advice =
        "write a long random one into it, for example the output of `openssl rand -hex 32`";
    let content = file::read(path, MAX_TOKEN_BYTES).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file {path:?}; {advice}"),
        io::ErrorKind::PermissionDenied => format!("this user may not read {path:?}"),
        _ => format!("cannot read {path:?}: {error}"),
    })?;
    token_in(&content).map(|_| ()).map_err(|problem| format!("{path:?}: {problem}"))
}

/// A file that is written, and made where there is none.
fn written(path: &Path, wanted: Wanted) -> Result<(), Wrong> {
    folder_of(path)?;
    match file::check(path, wanted) {
        // Whoever looks may be another user than the one who writes.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        found => found.map_err(|error| Wrong::Bad(format!("cannot write to {path:?}: {error}"))),
    }
}

/// A socket that is made, in the place of one that was left behind.
fn bound(path: &Path) -> Result<(), Wrong> {
    folder_of(path)?;
    match path.is_dir() {
        true => Err(Wrong::Bad(format!("{path:?} is a directory; name a file in it"))),
        false => Ok(()),
    }
}

fn folder_of(path: &Path) -> Result<(), Wrong> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let none = || Wrong::Bad(format!("{folder:?} is no directory, so there can be no {path:?}"));
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Wrong::Absent(format!(
            "there is no directory {folder:?}; make it before the start"
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(none()),
        Err(_) => Ok(()),
    }
}
