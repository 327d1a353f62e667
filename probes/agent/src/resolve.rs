//! From the text of a target to addresses, the way programs do it: any literal spelling that `inet_aton` knows, then
//! `/etc/hosts`, then the servers of `/etc/resolv.conf`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::dns;
use crate::notes::{NotIssued, Run};

/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// What glibc asks when `resolv.conf` names no server (resolv.conf(5)).
const DEFAULT_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The addresses that `to` (filled in already) stands for. Empty when the name has none or cannot be looked up: the look-up
/// was made then, and the trace says how it ended.
pub fn addresses(run: &Run, to: &str) -> Result<Vec<SocketAddr>, NotIssued> {
    let (host, port) = split(to)?;
    if let Some(inside) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Ok(zoned(run, inside, port)?.into_iter().collect());
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if let Some(address) = inet_aton(host) {
        run.trace(format!("{host} is {address}"));
        return Ok(vec![SocketAddr::new(address.into(), port)]);
    }
    let mut found = look_up(run, host);
    found.truncate(ADDRESSES);
    Ok(found
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect())
}

/// Host and port of `host:port`.
fn split(to: &str) -> Result<(&str, u16), NotIssued> {
    let unfit = || {
        NotIssued::Unfit(format!(
            "expected `address:port`, `[v6%zone]:port` or `name:port`, found `{to}`"
        ))
    };
    let (host, port) = to.rsplit_once(':').ok_or_else(unfit)?;
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err(unfit());
    }
    Ok((host, port.parse().map_err(|_| unfit())?))
}

/// An IPv6 address with an optional zone. None when the guest has no such interface: nothing can be sent there.
fn zoned(run: &Run, text: &str, port: u16) -> Result<Option<SocketAddr>, NotIssued> {
    let (address, zone) = text
        .split_once('%')
        .map_or((text, None), |(address, zone)| (address, Some(zone)));
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| NotIssued::Unfit(format!("expected an IPv6 address in brackets, found `{text}`")))?;
    let index = match zone {
        None => 0,
        Some(zone) => match zone.parse().ok().or_else(|| interface_index(zone)) {
            Some(index) => index,
            None => {
                run.trace(format!("zone {zone}: no such interface"));
                return Ok(None);
            }
        },
    };
    Ok(Some(SocketAddrV6::new(address, port, 0, index).into()))
}

/// Index of an interface of the guest.
pub fn interface_index(name: &str) -> Option<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, name).ok()
}

/// The classic spellings: one to four numbers, decimal, octal (`0`) or hexadecimal (`0x`), the last filling what is left.
pub fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|part| *part > 255) {
        return None;
    }
    let free_bits = 32 - 8 * leading.len() as u32;
    if free_bits < 32 && *last >> free_bits != 0 {
        return None;
    }
    let high = leading
        .iter()
        .enumerate()
        .fold(0u32, |value, (at, part)| value | part << (24 - 8 * at));
    Some(Ipv4Addr::from(high | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` allows a sign, which no spelling of an address has.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// The guest's name servers and search domains.
pub struct ResolvConf {
    /// Servers, at port 53.
    pub servers: Vec<SocketAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// As `/etc/resolv.conf` says now.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.split('%').next()?.parse().ok());
                    conf.servers
                        .extend(server.map(|address: IpAddr| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        // glibc reads three servers and six domains at most.
        conf.servers.truncate(3);
        conf.search.truncate(6);
        if conf.servers.is_empty() {
            conf.servers.push(DEFAULT_SERVER);
        }
        conf
    }
}

/// Addresses of a name: hosts file, then name servers.
fn look_up(run: &Run, name: &str) -> Vec<IpAddr> {
    let plain = name.trim_end_matches('.');
    let listed = in_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), plain);
    if !listed.is_empty() {
        run.trace(format!("{name}: /etc/hosts says {listed:?}"));
        return listed;
    }
    let conf = ResolvConf::read();
    let mut names = vec![plain.to_owned()];
    if !name.ends_with('.') {
        let searched = conf
            .search
            .iter()
            .map(|domain| format!("{plain}.{}", domain.trim_end_matches('.')));
        // Names with a dot are tried as they are first (ndots:1), others last.
        let at = if plain.contains('.') { 1 } else { 0 };
        names.splice(at..at, searched);
    }
    for name in names {
        let found = dns::addresses(run, &conf.servers, &name);
        if !found.is_empty() {
            return found;
        }
    }
    if plain.eq_ignore_ascii_case("localhost") {
        // RFC 6761: known without asking.
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    run.trace(format!("{name}: no address found"));
    Vec::new()
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("127.1", "127.0.0.1")]
    #[case("0", "0.0.0.0")]
    #[case("2130706433", "127.0.0.1")]
    #[case("0x7f.1", "127.0.0.1")]
    #[case("0177.0.0.01", "127.0.0.1")]
    #[case("0x7f000001", "127.0.0.1")]
    #[case("10.258", "10.0.1.2")]
    #[case("256.1", "")]
    #[case("1.2.3.4.5", "")]
    #[case("1.2.3.256", "")]
    #[case("4294967296", "")]
    #[case("+1", "")]
    #[case("host", "")]
    #[case("", "")]
    fn spellings(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(
            inet_aton(text).map(|address| address.to_string()).unwrap_or_default(),
            expected
        );
    }

    #[test]
    fn targets() {
        let run = crate::notes::tests::run(1000);
        let one = |to: &str| addresses(&run, to).map(|found| found.first().map(ToString::to_string));
        assert_eq!(one("1.2.3.4:80").expect("fits").as_deref(), Some("1.2.3.4:80"));
        assert_eq!(one("[::1%lo]:80").expect("fits").as_deref(), Some("[::1%1]:80"));
        assert_eq!(one("[fe80::1%none0]:80").expect("fits"), None);
        for unfit in ["", "host", "::1:80x", "fe80::1:80", "h:65536", ":80", "[x]:1"] {
            assert!(one(unfit).is_err(), "{unfit}");
        }
    }

    #[test]
    fn configuration() {
        let conf = ResolvConf::parse("# c\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.test b.test\n");
        assert_eq!(conf.servers.len(), 2);
        assert_eq!(conf.search, ["a.test", "b.test"]);
        assert_eq!(ResolvConf::parse("").servers, [DEFAULT_SERVER]);
        assert_eq!(in_hosts("127.0.0.1 a b # c\n::1 A\n", "a").len(), 2);
        assert!(in_hosts("127.0.0.1 a # c", "c").is_empty());
    }
}
