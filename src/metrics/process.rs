//! What the kernel says of this process (proc(5)).

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// The figures of `process_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) open_fds: f64,
    pub(super) max_fds: f64,
    pub(super) virtual_bytes: f64,
    pub(super) resident_bytes: f64,
    pub(super) start_time: f64,
    pub(super) threads: f64,
}

impl Process {
    /// Reads them; `None` where `/proc` is not to be read.
    pub(super) fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot =
            boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let mut process = Self::parse(&stat, boot, clock_ticks_per_second() as f64)?;
        process.resident_bytes *= page_size() as f64;
        process.open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count() as f64;
        let limit = getrlimit(Resource::Nofile).current;
        process.max_fds = limit.map_or(f64::INFINITY, |limit| limit as f64);
        Some(process)
    }

    /// From `/proc/self/stat`, the boot time in seconds and the clock's ticks per second; memory in
    /// pages as yet.
    fn parse(stat: &str, boot: f64, ticks: f64) -> Option<Self> {
        // The name of the program may hold anything; it ends with the last parenthesis. What
        // follows begins with field 3.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            start_time: boot + field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 1000 8192 10 0";
        let process = Process::parse(stat, 100.0, 100.0).unwrap();
        assert_eq!((process.cpu_seconds, process.threads), (2.0, 3.0));
        assert_eq!((process.start_time, process.virtual_bytes), (110.0, 8192.0));
        assert_eq!(process.resident_bytes, 10.0);
    }

    #[test]
    fn this_process_has_memory_descriptors_and_a_past() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1e6 && process.open_fds >= 3.0);
        assert!(process.max_fds >= process.open_fds && process.start_time > 1.6e9);
    }
}
