//! Networks as values: which of many an address is in. No I/O.
//!
//! An IPv4 address mapped into IPv6 (RFC 4291, section 2.5.5.2) counts as IPv4, in a network as in
//! what is looked up. `::/0` is every IPv6 address and no IPv4 one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Reads `10.0.0.0/8`, `fd00::/8`, or an address alone for a network of just that one. Bits
    /// beyond the prefix are dropped, as nginx and HAProxy do: `10.0.0.1/8` is `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// A hint, when the text is no network.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::from(net));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::from(IpNet::from(ip)));
        }
        Err(hint(text))
    }

    /// Whether `ip` is in it. Costs a few instructions.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether every address of `other` is in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Its first address.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.0.network()
    }
}

impl Cidr {
    /// A network stands behind those that cover it.
    fn order(self) -> (IpAddr, u8) {
        (self.first(), self.0.prefix_len())
    }
}

impl From<IpNet> for Cidr {
    fn from(net: IpNet) -> Self {
        if let IpNet::V6(v6) = net
            && let Some(v4) = v6.addr().to_ipv4_mapped()
            && let Some(length) = v6.prefix_len().checked_sub(96)
            && let Ok(v4) = Ipv4Net::new(v4, length)
        {
            return Self(v4.trunc().into());
        }
        Self(net.trunc())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn hint(text: &str) -> String {
    let (host, length) = text.split_once('/').map_or((text, None), |(h, l)| (h, Some(l)));
    if let (Some(ip), Some(length)) = (bare_ip(host), length) {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if let Ok(mask) = length.parse::<Ipv4Addr>() {
            let bits = mask.to_bits().leading_ones();
            return format!("the number of bits, not a mask: {ip}/{bits}");
        }
        if ip.to_string() == host {
            return format!("after the slash stands a number of bits from 0 to {longest}");
        }
    }
    match (bare_ip(host), length) {
        (Some(ip), Some(length)) => format!("did you mean {ip}/{length}?"),
        (Some(ip), None) => format!("did you mean {ip}?"),
        _ if host.contains('%') => "without a scope".to_owned(),
        _ if text.contains('*') => "write a network such as 10.0.0.0/8".to_owned(),
        _ => String::new(),
    }
}

/// The address in `[::1]`, `10.0.0.1:80` or `[::1]:80`.
fn bare_ip(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let with_port = || host.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    inner.parse().ok().or_else(with_port)
}

/// Where a client comes from, as written: a network, or `unix` for whoever comes over a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// An address in this network.
    Net(Cidr),
    /// A unix socket: no address.
    Unix,
}

impl Origin {
    /// Reads what [`Cidr::parse`] reads, or `unix`.
    ///
    /// # Errors
    ///
    /// A hint, when the text is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        if text.starts_with("unix:") {
            return Err("did you mean \"unix\"? It is every client of a unix socket".to_owned());
        }
        Cidr::parse(text).map(Self::Net)
    }

    /// Whether whoever comes from `other` comes from here.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Net(wide), Self::Net(narrow)) => wide.covers(narrow),
            (Self::Unix, Self::Unix) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(cidr) => cidr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Where clients may come from: networks, and whether unix sockets too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    nets: CidrSet,
    has_unix: bool,
}

impl Origins {
    /// A set of these.
    #[must_use]
    pub fn new(origins: &[Origin]) -> Self {
        let net = |origin: &Origin| match origin {
            Origin::Net(cidr) => Some(*cidr),
            Origin::Unix => None,
        };
        Self {
            nets: origins.iter().filter_map(net).collect(),
            has_unix: origins.contains(&Origin::Unix),
        }
    }

    /// Whether a client of this address is one of them; `None` is a client of a unix socket.
    #[must_use]
    pub fn contains(&self, source: Option<IpAddr>) -> bool {
        source.map_or(self.has_unix, |ip| self.nets.contains(ip))
    }
}

/// A set of networks in which the longest prefix of an address is found by one binary search.
///
/// Networks nest or are apart, so that their first and last addresses cut the line of addresses into
/// at most twice as many stretches as there are networks, each with one longest prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    /// In order, each once: a network stands behind those that cover it.
    cidrs: Vec<Cidr>,
    /// For each network the longest one that covers it.
    parents: Vec<Option<u32>>,
    v4: Stretches<u32>,
    v6: Stretches<u128>,
}

/// Where stretches of addresses begin, and the network that each belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stretches<A> {
    starts: Vec<A>,
    owners: Vec<Option<u32>>,
}

impl CidrSet {
    /// The networks, in order and each once.
    #[must_use]
    pub fn cidrs(&self) -> &[Cidr] {
        &self.cidrs
    }

    /// The place of `cidr` in [`CidrSet::cidrs`], if it is one of them.
    #[must_use]
    pub fn place(&self, cidr: Cidr) -> Option<usize> {
        self.cidrs.binary_search_by_key(&cidr.order(), |own| own.order()).ok()
    }

    /// Whether `ip` is in any of them. Costs a binary search.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.longest(ip).is_some()
    }

    /// The places in [`CidrSet::cidrs`] of those that `ip` is in, the longest prefix first. Costs a
    /// binary search and a step for each.
    pub fn matches(&self, ip: IpAddr) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.longest(ip), |at| self.parents[index(*at)]).map(index)
    }

    /// The same for all addresses of a network.
    pub fn covering(&self, cidr: Cidr) -> impl Iterator<Item = usize> + '_ {
        self.matches(cidr.first()).filter(move |at| self.cidrs[*at].covers(cidr))
    }

    fn longest(&self, ip: IpAddr) -> Option<u32> {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.v4.owner(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.owner(v6.to_bits()),
        }
    }
}

impl FromIterator<Cidr> for CidrSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(cidrs: I) -> Self {
        let mut cidrs: Vec<_> = cidrs.into_iter().collect();
        cidrs.sort_by_key(|cidr| cidr.order());
        cidrs.dedup();
        let mut parents = Vec::new();
        let mut open: Vec<u32> = Vec::new();
        for (at, cidr) in cidrs.iter().enumerate() {
            while open.pop_if(|outer| !cidrs[index(*outer)].covers(*cidr)).is_some() {}
            parents.push(open.last().copied());
            open.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        let bounds = |Cidr(net): &Cidr| match net {
            IpNet::V4(v4) => Some((v4.network().to_bits(), v4.broadcast().to_bits())),
            IpNet::V6(_) => None,
        };
        let v4 = Stretches::new(&parents, &cidrs, bounds, |last| last.checked_add(1));
        let bounds = |Cidr(net): &Cidr| match net {
            IpNet::V6(v6) => Some((v6.network().to_bits(), v6.broadcast().to_bits())),
            IpNet::V4(_) => None,
        };
        let v6 = Stretches::new(&parents, &cidrs, bounds, |last| last.checked_add(1));
        Self { cidrs, parents, v4, v6 }
    }
}

impl<A: Copy + Ord> Stretches<A> {
    /// The stretches of `cidrs`, in order, of which `bounds` gives the first and last address.
    fn new(
        parents: &[Option<u32>],
        cidrs: &[Cidr],
        bounds: impl Fn(&Cidr) -> Option<(A, A)>,
        after: impl Fn(A) -> Option<A>,
    ) -> Self {
        let mut edges = Vec::new();
        for (at, cidr) in cidrs.iter().enumerate() {
            let Some((first, last)) = bounds(cidr) else { continue };
            edges.push((first, true, at));
            if let Some(next) = after(last) {
                edges.push((next, false, at));
            }
        }
        // At one address ends come before beginnings; of those that end the inner one first, of
        // those that begin the outer one, so that the last word is right.
        edges.sort_by_key(|(address, is_start, at)| {
            (*address, *is_start, if *is_start { *at } else { usize::MAX - *at })
        });
        let mut stretches = Self { starts: Vec::new(), owners: Vec::new() };
        for (address, is_start, at) in edges {
            let owner = if is_start { u32::try_from(at).ok() } else { parents[at] };
            if stretches.starts.last() == Some(&address) {
                stretches.owners.pop();
                stretches.starts.pop();
            }
            stretches.starts.push(address);
            stretches.owners.push(owner);
        }
        stretches
    }

    fn owner(&self, address: A) -> Option<u32> {
        let at = self.starts.partition_point(|start| *start <= address);
        self.owners[at.checked_sub(1)?]
    }
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The /64 that an IPv6 address is in: what one host usually has to itself (RFC 6177, section 2).
#[must_use]
pub fn prefix_64(ip: Ipv6Addr) -> u64 {
    u64::try_from(ip.to_bits() >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
