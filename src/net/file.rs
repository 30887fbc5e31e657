//! Files that a configuration names, opened without waiting for anybody.
//!
//! Opening a FIFO waits for its other end, reading a terminal for a person: neither may stop a start
//! or a reload.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// What may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A regular file.
    File,
    /// That, or a character device such as `/dev/null`, or a pipe that somebody reads.
    Sink,
}

impl Wanted {
    fn check(self, found: FileType) -> io::Result<()> {
        let is_sink = found.is_char_device() || found.is_fifo();
        if found.is_file() || (self == Self::Sink && is_sink) {
            return Ok(());
        }
        let what = if found.is_dir() {
            "a directory"
        } else if found.is_fifo() {
            "a FIFO"
        } else if found.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("that is {what}, and no regular file"),
        ))
    }
}

/// Whether what is at `path` may be opened; nothing there is no error.
///
/// # Errors
///
/// When it is something else than is wanted, or cannot be looked at.
pub fn check(path: &Path, wanted: Wanted) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) => wanted.check(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file. Waits for nothing but the disk.
///
/// # Errors
///
/// When it cannot be opened, or is something else than is wanted.
pub fn open(path: &Path, options: &mut OpenOptions, wanted: Wanted) -> io::Result<File> {
    check(path, wanted)?;
    // Between the look and the opening it may have become another one.
    let opened = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::other("nobody reads this pipe: start its reader first"),
        _ => error,
    })?;
    wanted.check(file.metadata()?.file_type())?;
    // Only opening must not wait.
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// The text of a regular file, at most its first `most` bytes.
///
/// # Errors
///
/// When it cannot be opened or read, is no regular file, or is no UTF-8.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let file = open(path, OpenOptions::new().read(true), Wanted::File)?;
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let folder = std::env::temp_dir().join(format!("tidegate-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (fifo, file) = (folder.join("fifo"), folder.join("file"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::write(&file, "text").unwrap();
        assert_eq!(read(&file, 3).unwrap(), "tex");
        for (path, what) in [
            (folder.as_path(), "that is a directory, and no regular file"),
            (&fifo, "that is a FIFO, and no regular file"),
            (Path::new("/dev/null"), "that is a device, and no regular file"),
        ] {
            assert_eq!(read(path, 9).unwrap_err().to_string(), what);
        }
        let append = |path| open(path, OpenOptions::new().append(true), Wanted::Sink);
        assert!(append(&file).is_ok() && append(Path::new("/dev/null")).is_ok());
        assert!(append(&folder).is_err());
        let unread = append(&fifo).unwrap_err().to_string();
        assert_eq!(unread, "nobody reads this pipe: start its reader first");
        let _reader =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        assert!(append(&fifo).is_ok());
        assert_eq!(append(&folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&folder).unwrap();
    }
}
