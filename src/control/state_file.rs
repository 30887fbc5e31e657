//! The state file: read at start, written whole and at once.
//!
//! It is written beside its place and renamed into it, so that a reader finds the old one or the new
//! one, never a part. Writing happens off the control thread; no more than one write is under way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tracing::{info, warn};

use crate::health::{Saved, Tick};
use crate::net::file;

/// Largest state file that is read, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// The number of the last order to write that was followed.
#[expect(clippy::disallowed_types, reason = "not on the data path; held for a write only")]
type Last = std::sync::Mutex<u64>;

/// A state file.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    written_at: Option<Tick>,
    is_busy: Arc<AtomicBool>,
    /// Whether the last write failed: told once.
    has_failed: Arc<AtomicBool>,
    /// The number of the last order to write.
    serial: u64,
    last: Arc<Last>,
}

impl StateFile {
    /// The file at `path`; nothing is touched yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            written_at: None,
            is_busy: Arc::default(),
            has_failed: Arc::default(),
            serial: 0,
            last: Arc::default(),
        }
    }

    /// What it says, if it is there and to be believed; else why not is logged. `now` is in
    /// milliseconds since the Unix epoch.
    pub(super) fn read(&self, now: u64) -> Option<Saved> {
        let file = self.path.display();
        let text = match file::read(&self.path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                info!(%file, "no state file yet: it will be written");
                return None;
            }
            Err(error) => {
                warn!(%file, %error, "the state file cannot be read: starting without what it knows");
                return None;
            }
        };
        match Saved::read(&text, now) {
            Ok(saved) => {
                let pools = saved.pools.len();
                info!(%file, pools, "state restored");
                Some(saved)
            }
            Err(error) => {
                warn!(%file, %error, "the state file is not believed: starting without what it knows");
                None
            }
        }
    }

    /// Whether no write is under way, and the last one was long enough ago.
    pub(super) fn may_write(&self, now: Tick, gap: Tick) -> bool {
        !self.is_busy.load(Ordering::Acquire) && self.is_old(now, gap)
    }

    /// Whether it was last written so long ago.
    pub(super) fn is_old(&self, now: Tick, age: Tick) -> bool {
        self.written_at.is_none_or(|at| now.saturating_sub(at) >= age)
    }

    /// Writes it on a thread for such things.
    pub(super) fn write(&mut self, saved: Saved, now: Tick) {
        self.written_at = Some(now);
        self.is_busy.store(true, Ordering::Release);
        let (path, is_busy) = (self.path.clone(), Arc::clone(&self.is_busy));
        let has_failed = Arc::clone(&self.has_failed);
        let (serial, last) = (self.next_serial(), Arc::clone(&self.last));
        tokio::task::spawn_blocking(move || {
            in_turn(serial, &last, || note(&path, write(&path, &saved), &has_failed));
            is_busy.store(false, Ordering::Release);
        });
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Writes it before this returns, after what is being written.
    pub(super) fn write_now(&mut self, saved: &Saved) {
        let serial = self.next_serial();
        in_turn(serial, &self.last, || {
            note(&self.path, write(&self.path, saved), &self.has_failed);
        });
    }
}

/// One at a time, and nothing older after what is newer: a thread may begin late.
fn in_turn(serial: u64, last: &Last, work: impl FnOnce()) {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if *last < serial {
        *last = serial;
        work();
    }
}

/// Says that it could not be written, once in a row.
fn note(path: &Path, done: io::Result<()>, has_failed: &AtomicBool) {
    let file = path.display();
    match done {
        Ok(()) => {
            if has_failed.swap(false, Ordering::Relaxed) {
                info!(%file, "the state file is written again");
            }
        }
        Err(error) => {
            if !has_failed.swap(true, Ordering::Relaxed) {
                warn!(%file, %error, "the state file cannot be written: a restart would begin anew");
            }
        }
    }
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let text = saved.to_text().map_err(io::Error::other)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        // A file that a process of the same number left behind is not ours to follow.
        let _ = fs::remove_file(&beside);
        let mut file = File::options().write(true).create_new(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    // So that the new name survives a power failure too; file systems that cannot do it need not.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_left_beside_it() {
        let folder = scratch("state");
        let mut file = StateFile::new(folder.join("state.json"));
        assert!(file.read(1).is_none());
        file.write_now(&Saved::new(1_000));
        file.write_now(&Saved::new(2_000));
        assert_eq!(file.read(2_001).unwrap().saved_at, 2_000);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_not_ours_is_not_believed() {
        let folder = scratch("foreign");
        let path = folder.join("state.json");
        for text in ["", "{", "{\"format\":\"other\"}", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert!(StateFile::new(path.clone()).read(1).is_none(), "{text:?}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn where_it_cannot_be_written_nothing_is_lost() {
        let folder = scratch("unwritable");
        let path = folder.join("state.json");
        // A folder in its place: the rename fails, and the text goes away again.
        fs::create_dir(&path).unwrap();
        let mut file = StateFile::new(path);
        file.write_now(&Saved::new(1_000));
        assert!(file.has_failed.load(Ordering::Relaxed));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
