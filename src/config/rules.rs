//! What no single key can know: dangling names, duplicates, clashes, loops.
//!
//! Rules look at the tree and not at values, so that they are told together with everything else
//! that is wrong. What cannot be read is passed over: it is reported already.

mod admin;
mod connect;
mod health;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::form::{Name, Text as _};
use super::nearest::{nearest, one_of};
use super::problem::{Path, Problems, show};
use super::scalar::integer;
use super::tree::{Entry, Node, Pos};
use crate::balance::Registry;
use crate::net::addr::{Address, Bind, Target};

/// Addresses that all listeners together may bind.
pub const MAX_BOUND: usize = 65_536;

/// Checks what is between keys.
pub(super) fn check_rules(root: &Node<'_>, registry: &Registry, problems: &mut Problems) {
    let listeners = root.get("listeners").map_or(&[][..], Node::entries);
    let pools = root.get("pools").map_or(&[][..], Node::entries);
    let by_name: HashMap<&str, &Node<'_>> =
        pools.iter().rev().map(|entry| (entry.key.as_ref(), &entry.value)).collect();
    let all = Path::Root.key("pools");
    for pool in pools.iter().filter(|pool| !pool.is_double) {
        let path = all.key(&pool.key);
        check_options(&pool.value, registry, &path, problems);
        check_pool(&pool.value, &path, problems);
        health::check(&pool.value, &path, problems);
        connect::check(&pool.value, &path, problems);
        check_sources(&pool.value, &path.key("connect").key("source"), problems);
    }
    for listener in listeners.iter().filter(|listener| !listener.is_double) {
        let path = Path::Root.key("listeners");
        check_unix_options(&listener.value, &path.key(&listener.key), problems);
    }
    if root.get("pools").is_some_and(Node::is_map) {
        // Told even where every listener has a pool of its own.
        if let Some(defaults) = root.get("defaults").and_then(|defaults| defaults.get("listener")) {
            let path = Path::Root.key("defaults");
            each_pool_name(defaults, &path.key("listener"), |node, path| {
                check_pool_name((node, path), pools, &by_name, problems);
            });
        }
        for listener in listeners.iter().filter(|listener| !listener.is_double) {
            let path = Path::Root.key("listeners");
            each_pool_name(&listener.value, &path.key(&listener.key), |node, path| {
                check_pool_name((node, path), pools, &by_name, problems);
            });
        }
    }
    if let Some((bound, taken)) = check_binds(listeners, problems) {
        check_loops(listeners, &by_name, &bound, problems);
        if let Some(node) = root.get("admin") {
            let owner = |at: usize| listeners[bound[at].listener].key.as_ref();
            admin::check(node, &taken, &owner, &Path::Root.key("admin"), problems);
        }
    }
}

/// What a strategy wants of an option beyond its range.
fn check_options(pool: &Node<'_>, registry: &Registry, path: &Path<'_>, problems: &mut Problems) {
    let path = path.key("strategy");
    for choice in pool.get("strategy").map_or(&[][..], Node::entries) {
        let path = path.key(&choice.key);
        let known = registry.find(&choice.key).map_or(&[][..], |entry| entry.options);
        for option in known {
            let Some(node) = choice.value.get(option.name) else { continue };
            let value = node.text().and_then(|text| integer(text, option.min, option.max).ok());
            if let Some(Err(message)) = value.map(|value| option.accept(value)) {
                problems.add(node.pos, &path.key(option.name), || message);
            }
        }
    }
}

/// Where pools are named in a listener: the shorthand and the routes.
fn each_pool_name<'n>(
    listener: &'n Node<'n>,
    path: &Path<'_>,
    mut tell: impl FnMut(&'n Node<'n>, &Path<'_>),
) {
    if let Some(node) = listener.get("pool") {
        tell(node, &path.key("pool"));
    }
    let path = path.key("routes");
    for (index, route) in listener.get("routes").map_or(&[][..], Node::items).iter().enumerate() {
        if let Some(node) = route.get("pool") {
            tell(node, &path.index(index).key("pool"));
        }
    }
}

fn check_pool_name(
    (node, path): (&Node<'_>, &Path<'_>),
    pools: &[Entry<'_>],
    by_name: &HashMap<&str, &Node<'_>>,
    problems: &mut Problems,
) {
    let Some(name) = node.text().filter(|name| !by_name.contains_key(name)) else { return };
    problems.add(node.pos, path, || {
        let names = pools.iter().filter(|entry| !entry.is_double).map(|entry| entry.key.as_ref());
        let pools = match pools {
            [] => "there are no pools".to_owned(),
            _ => format!("the pools are {}", one_of(names.clone()).trim_start_matches("one of ")),
        };
        match nearest(name, names) {
            Some(meant) => {
                format!("unknown pool {}; did you mean {}? {pools}", show(name), show(meant))
            }
            None => format!("unknown pool {}; {pools}", show(name)),
        }
    });
}

/// Names that are taken, and weights that are all zero.
fn check_pool(pool: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let Some(list) = pool.get("backends") else { return };
    let path = path.key("backends");
    let mut taken: HashMap<&str, Pos> = HashMap::new();
    let mut all_zero = !list.items().is_empty();
    for (index, backend) in list.items().iter().enumerate() {
        all_zero &= weight(backend) == Some(0);
        let Some(name) = backend.get("name").or_else(|| address_of(backend)) else { continue };
        let Some(text) = name.text() else { continue };
        // What is neither a name nor an address is reported already, and once is enough.
        if Name::parse(text).is_err() && Target::parse(text).is_err() {
            continue;
        }
        match taken.get(text) {
            Some(first) => problems.add(name.place(), &path.index(index), || {
                format!(
                    "duplicate backend name {}{}; give it a name of its own",
                    show(text),
                    on_line(*first)
                )
            }),
            None => {
                taken.insert(text, name.place());
            }
        }
    }
    if all_zero {
        problems.add(list.pos, &path, || {
            "every backend has weight 0, so none would get a connection; give one of them at least 1"
                .to_owned()
        });
    }
}

/// What only a TCP socket can do, asked of a listener that has none.
fn check_unix_options(listener: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let (Some(bind), Some(tcp)) = (listener.get("bind"), listener.get("tcp")) else { return };
    let binds = if bind.text().is_some() { std::slice::from_ref(bind) } else { bind.items() };
    let is_unix = |node: &Node<'_>| node.text().is_some_and(|text| text.starts_with("unix:"));
    if binds.is_empty() || !binds.iter().all(is_unix) {
        return;
    }
    for key in ["defer_accept", "fast_open"] {
        let is_on = |node: &&Node<'_>| {
            node.text().is_some_and(|text| !matches!(text, "off" | "false" | "no"))
        };
        if let Some(node) = tcp.get(key).filter(is_on) {
            problems.add(node.pos, &path.key("tcp").key(key), || {
                "a unix socket cannot do that, and this listener has no other; leave it out".into()
            });
        }
    }
}

/// A source address serves backends of its own family: one that no backend has would never be used.
fn check_sources(pool: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let Some(source) = pool.get("connect").and_then(|connect| connect.get("source")) else {
        return;
    };
    let backends = pool.get("backends").map_or(&[][..], Node::items);
    let addresses = backends.iter().filter_map(|backend| address_of(backend)?.text());
    // What a name stands for is not known here.
    let families: Option<Vec<_>> =
        addresses.map(|text| family(Address::parse(text).ok()?)).collect();
    if let (Some("client"), Some(families)) = (source.text(), &families)
        && families.iter().all(|family| *family == Family::Unix)
    {
        problems.add(source.pos, path, || {
            "every backend of this pool is a unix socket, which sees no address; leave it out"
                .into()
        });
    }
    let is_list = source.text().is_none();
    let sources = if is_list { source.items() } else { std::slice::from_ref(source) };
    for (index, node) in sources.iter().enumerate() {
        let Some(Ok(ip)) = node.text().map(str::parse::<IpAddr>) else { continue };
        // What cannot be read is reported already.
        let Some(families) = &families else { return };
        if families.contains(&Family::of(ip)) {
            continue;
        }
        let path = if is_list { path.index(index) } else { *path };
        let kind = if ip.is_ipv4() { "an IPv4" } else { "an IPv6" };
        problems.add(node.pos, &path, || {
            format!("no backend of this pool has {kind} address, so {ip} would never be used")
        });
    }
}

/// What a source address has to match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Unix,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

fn family(address: Address) -> Option<Family> {
    Some(match address {
        Address::Tcp(to) => Family::of(to.ip()),
        Address::Unix(_) => Family::Unix,
    })
}

/// The weight of a backend; `None` where it cannot be read.
fn weight(backend: &Node<'_>) -> Option<u64> {
    match backend.get("weight") {
        Some(weight) => integer(weight.text()?, 0, u64::MAX).ok(),
        None => Some(1),
    }
}

/// Where the address of a backend stands, in either form.
fn address_of<'n, 'a>(backend: &'n Node<'a>) -> Option<&'n Node<'a>> {
    if backend.text().is_some() { Some(backend) } else { backend.get("address") }
}

/// One address, or one range, that a listener binds.
struct Bound<'n> {
    listener: usize,
    node: &'n Node<'n>,
    index: Option<usize>,
    bind: Bind,
}

/// Reads what listeners bind and finds clashes; `None` when it is too much to look at.
fn check_binds<'n>(
    listeners: &'n [Entry<'n>],
    problems: &mut Problems,
) -> Option<(Vec<Bound<'n>>, Taken)> {
    let mut bound = Vec::new();
    let mut count: usize = 0;
    for (listener, entry) in listeners.iter().enumerate().filter(|(_, entry)| !entry.is_double) {
        let Some(node) = entry.value.get("bind") else { continue };
        let alone = node.text().map(|_| (None, node));
        let items = node.items().iter().enumerate().map(|(index, node)| (Some(index), node));
        for (index, node) in alone.into_iter().chain(items) {
            let Some(bind) = node.text().and_then(|text| Bind::parse(text).ok()) else { continue };
            count += bind.count();
            let one = Bound { listener, node, index, bind };
            if count > MAX_BOUND {
                report(&one, listeners, problems, || {
                    format!("more than {MAX_BOUND} addresses to listen on, all listeners together")
                });
                return None;
            }
            bound.push(one);
        }
    }
    let mut taken = Taken::default();
    for (index, one) in bound.iter().enumerate() {
        if let Some((other, address)) = taken.add(index, &one.bind) {
            let other = &bound[other];
            report(one, listeners, problems, || {
                let line = on_line(other.node.place());
                if other.listener == one.listener {
                    return format!("{address} is bound twice{line}");
                }
                let name = show(&listeners[other.listener].key);
                format!("{address} is taken by listener {name}{line}")
            });
        }
    }
    Some((bound, taken))
}

/// Where something is already; nothing for what is from no file.
fn on_line(pos: Pos) -> String {
    if pos.line > 0 { format!(" (first on line {})", pos.line) } else { String::new() }
}

#[track_caller]
fn report(
    one: &Bound<'_>,
    listeners: &[Entry<'_>],
    problems: &mut Problems,
    message: impl FnOnce() -> String,
) {
    let all = Path::Root.key("listeners");
    let listener = all.key(&listeners[one.listener].key);
    let bind = listener.key("bind");
    match one.index {
        Some(index) => problems.add(one.node.place(), &bind.index(index), message),
        None => problems.add(one.node.place(), &bind, message),
    }
}

/// Who has which address: every question is one look-up.
#[derive(Default)]
struct Taken {
    exact: HashMap<Address, usize>,
    wildcard: HashMap<(bool, u16), usize>,
    any: HashMap<(bool, u16), usize>,
}

impl Taken {
    /// Takes the addresses of `bind` for `who`; tells the first that another has, and who.
    fn add(&mut self, who: usize, bind: &Bind) -> Option<(usize, Address)> {
        let mut clash = None;
        for address in bind.addresses() {
            let other = self.clash(&address);
            if let Some(other) = other {
                clash.get_or_insert((other, address.clone()));
                continue;
            }
            if let Address::Tcp(tcp) = &address
                && tcp.port() != 0
            {
                let key = (tcp.is_ipv6(), tcp.port());
                self.any.entry(key).or_insert(who);
                if tcp.ip().is_unspecified() {
                    self.wildcard.insert(key, who);
                }
            }
            self.exact.insert(address, who);
        }
        clash
    }

    fn clash(&self, address: &Address) -> Option<usize> {
        let Address::Tcp(tcp) = address else { return self.exact.get(address).copied() };
        if tcp.port() == 0 {
            return None;
        }
        let key = (tcp.is_ipv6(), tcp.port());
        let same = self.exact.get(address).or_else(|| self.wildcard.get(&key));
        let under = || self.any.get(&key).filter(|_| tcp.ip().is_unspecified());
        same.or_else(under).copied()
    }
}

/// The backends of a pool as text: by address, and loopback ones by family and port. What another
/// name than `localhost` resolves to is not known here.
#[derive(Default)]
struct Reach<'n> {
    exact: HashMap<Address, &'n str>,
    loopback: HashMap<(bool, u16), &'n str>,
}

impl<'n> Reach<'n> {
    fn of(pool: &'n Node<'_>) -> Self {
        let mut reach = Self::default();
        let backends = pool.get("backends").map_or(&[][..], Node::items);
        for text in backends.iter().filter_map(|backend| address_of(backend)?.text()) {
            match Target::parse(text) {
                Ok(Target::Address(Address::Tcp(tcp))) => reach.add(tcp, text),
                Ok(Target::Address(unix)) => _ = reach.exact.insert(unix, text),
                // It is loopback, and nothing else (RFC 6761, section 6.3).
                Ok(Target::Host { name, port }) if is_localhost(&name) => {
                    reach.add((Ipv4Addr::LOCALHOST, port).into(), text);
                    reach.add((Ipv6Addr::LOCALHOST, port).into(), text);
                }
                Ok(_) | Err(_) => {}
            }
        }
        reach
    }

    fn add(&mut self, tcp: SocketAddr, text: &'n str) {
        // An unspecified address reaches this host, and an IPv4-mapped one is IPv4.
        let ip = match tcp.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        if ip.is_loopback() {
            self.loopback.insert((ip.is_ipv6(), tcp.port()), text);
        }
        self.exact.insert(Address::Tcp(SocketAddr::new(ip, tcp.port())), text);
    }

    /// The first backend that is at one of these addresses.
    fn hit(&self, bind: &Bind) -> Option<&'n str> {
        let hit = |address: Address| match address {
            Address::Tcp(tcp) if tcp.ip().is_unspecified() => {
                self.loopback.get(&(tcp.is_ipv6(), tcp.port()))
            }
            Address::Tcp(tcp) => {
                self.exact.get(&Address::Tcp(SocketAddr::new(tcp.ip(), tcp.port())))
            }
            Address::Unix(_) => self.exact.get(&address),
        };
        bind.addresses().into_iter().find_map(hit).copied()
    }
}

/// Whether a name in lower case is `localhost` or below it.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

fn check_loops<'n>(
    listeners: &'n [Entry<'n>],
    pools: &HashMap<&str, &'n Node<'n>>,
    bound: &[Bound<'n>],
    problems: &mut Problems,
) {
    let names: Vec<Vec<&str>> =
        listeners.iter().map(|listener| pools_of(&listener.value)).collect();
    let mut reaches: HashMap<&str, Reach<'_>> = HashMap::new();
    let mut looked_at = 0;
    for one in bound {
        for name in &names[one.listener] {
            looked_at += one.bind.count();
            let Some(pool) = pools.get(name).filter(|_| looked_at < MAX_LOOPS) else { continue };
            let reach = reaches.entry(name).or_insert_with(|| Reach::of(pool));
            if let Some(backend) = reach.hit(&one.bind) {
                report(one, listeners, problems, || {
                    let name = show(name);
                    format!(
                        "the listener forwards to itself: {backend} is a backend of pool {name}"
                    )
                });
            }
        }
    }
}

/// Addresses of listeners that are looked up among the backends of pools, each in each.
const MAX_LOOPS: usize = 1 << 22;

/// The pools that a listener forwards to, each once.
fn pools_of<'n>(listener: &'n Node<'n>) -> Vec<&'n str> {
    let mut names = Vec::new();
    each_pool_name(listener, &Path::Root, |node, _| names.extend(node.text()));
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests;
