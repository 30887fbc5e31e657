//! What the kernel tells about a process, read from `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// State of a TCP socket that waits for the answer to its SYN.
pub(crate) const SYN_SENT: u8 = 2;
/// State of a TCP socket that is closed and whose port stays taken for a minute.
pub(crate) const TIME_WAIT: u8 = 6;
/// State of a TCP socket whose peer has ended and which is not closed.
pub(crate) const CLOSE_WAIT: u8 = 8;
/// State of a TCP socket that listens.
pub(crate) const LISTEN: u8 = 10;

/// A TCP socket, a row of `/proc/net/tcp`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: u8,
    /// Bytes not yet acknowledged by the other side.
    pub(crate) unsent: u64,
    inode: u64,
}

/// The open descriptors of a process: number and what it is.
pub(crate) fn descriptors(pid: u32) -> HashMap<u32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashMap::new() };
    let entries = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
    });
    entries.collect()
}

/// Whether a process runs: one that has ended and that nobody has asked about does not.
pub(crate) fn runs(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which is in parentheses.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// How many descriptors of a process are sockets.
pub(crate) fn socket_count(pid: u32) -> usize {
    descriptors(pid).values().filter(|what| what.starts_with("socket:")).count()
}

/// The TCP sockets of a process that are in this state; all when none is given.
pub(crate) fn tcp_sockets(pid: u32, state: Option<u8>) -> Vec<Tcp> {
    let of = |what: &String| what.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let inodes: HashSet<u64> = descriptors(pid).values().filter_map(of).collect();
    // Sockets in TIME_WAIT, tens of thousands after many tests, are no process's any more.
    let column = state.map(|state| format!(" {state:02X} "));
    let is_meant = |line: &str| match &column {
        Some(column) => line.contains(column),
        None => !line.contains(" 06 "),
    };
    let mut rows = rows(&format!("/proc/{pid}/net/tcp"), is_meant);
    rows.extend(self::rows(&format!("/proc/{pid}/net/tcp6"), is_meant));
    rows.retain(|row| inodes.contains(&row.inode) && state.is_none_or(|state| row.state == state));
    rows
}

/// The TCP sockets of the whole network namespace that are in this state.
pub(crate) fn all_tcp(state: u8) -> Vec<Tcp> {
    let column = format!(" {state:02X} ");
    let mut rows = rows("/proc/self/net/tcp", |line| line.contains(&column));
    rows.retain(|row| row.state == state);
    rows
}

/// Bytes of this connection that the other side's kernel has not yet taken.
pub(crate) fn unsent(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let ports = format!(":{:04X} ", local.port());
    let rows = rows("/proc/self/net/tcp", |line| line.contains(&ports)).into_iter();
    rows.filter(|row| row.local == local && row.remote == remote).map(|row| row.unsent).next()
}

/// Processor time used so far by each thread of a process.
pub(crate) fn thread_times(pid: u32) -> HashMap<u32, Duration> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    let times = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        Some((id, Duration::from_nanos(nanoseconds)))
    });
    times.collect()
}

/// Processor time used so far by all threads of a process that still run.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    thread_times(pid).values().sum()
}

/// The soft and the hard limit of open descriptors of a process.
pub(crate) fn descriptor_limits(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The rows of a table that are meant. There are thousands when tests ran before, of connections that
/// are long closed: most must be passed over without a closer look.
fn rows(path: &str, is_meant: impl Fn(&str) -> bool) -> Vec<Tcp> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().skip(1).filter(|line| is_meant(line)).filter_map(row).collect()
}

fn row(line: &str) -> Option<Tcp> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let unsent = u64::from_str_radix(fields.get(4)?.split(':').next()?, 16).ok()?;
    Some(Tcp {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        unsent,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Reads `0100007F:1F90`: words of the address in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = ip.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}
