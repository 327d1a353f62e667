//! Action `Fetch`: an URL, as a program would fetch it that honours proxy variables (the rules are curl's, which most follow).

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::http::{self, Asked};
use crate::notes::{Done, NotIssued, Run, errno};
use crate::tls::{self, Hello};
use crate::wire::{self, Stream};
use crate::{resolve, talk};

/// Parts of an URL.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    is_https: bool,
    /// Without brackets.
    host: String,
    /// As written, for `Host`.
    authority: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let default = if is_https { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(inside) => {
                let (host, rest) = inside.split_once(']')?;
                (
                    host,
                    rest.strip_prefix(':').map_or(Some(default), |port| port.parse().ok())?,
                )
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (authority, default),
            },
        };
        let (host, authority) = (host.to_owned(), authority.to_owned());
        (!host.is_empty()).then_some(Self {
            is_https,
            host,
            authority,
            port,
            path,
        })
    }

    /// `host:port` for `CONNECT` and for looking up.
    fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Fetches `url` with the pretended environment `env`.
pub fn fetch(
    run: &Run,
    url: &str,
    env: &[(String, String)],
    connect_to: Option<&str>,
    fields: &[(String, String)],
) -> Done {
    let text = run.words.text(url)?;
    let url =
        Url::parse(&text).ok_or_else(|| NotIssued::Unfit(format!("expected an http or https URL, found `{text}`")))?;
    let fields = run.words.pairs(fields)?;
    let env = environment(run, env)?;
    let connect_to = connect_to.map(|to| run.words.text(to)).transpose()?;
    // With a port, or at the URL's.
    let target = match connect_to {
        Some(to) if to.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => format!("[{to}]:{}", url.port),
        Some(to) if to.parse::<SocketAddr>().is_ok() || to.contains(':') => to,
        Some(to) => format!("{to}:{}", url.port),
        None => url.target(),
    };
    let proxy = proxy_for(&env, &url);
    run.trace(match &proxy {
        Some(proxy) => format!("by the proxy {}", talk::authority_of(proxy)),
        None => format!("directly, {target}"),
    });
    match proxy {
        Some(proxy) if proxy.starts_with("socks") => {
            Err(NotIssued::Unfit("the agent fetches by HTTP proxies only".to_owned()))
        }
        Some(proxy) => by_proxy(run, &url, talk::authority_of(&proxy), &target, &fields),
        None => match talk::connect(run, &target)? {
            Some(stream) => over(run, &url, stream, &url.path, &fields),
            None => Ok(()),
        },
    }
}

fn by_proxy(run: &Run, url: &Url, proxy: &str, target: &str, fields: &[(String, String)]) -> Done {
    let proxy = if proxy.contains(':') {
        proxy.to_owned()
    } else {
        format!("{proxy}:1080")
    };
    let Some(mut stream) = talk::connect(run, &proxy)? else {
        return Ok(());
    };
    if !url.is_https {
        return over(
            run,
            url,
            stream,
            &format!("http://{}{}", url.authority, url.path),
            fields,
        );
    }
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    match exchange(run, &mut *stream, request.as_bytes()) {
        Ok(response) if response.is_success() => over(run, url, stream, &url.path, fields),
        Ok(_) => Ok(()),
        Err(error) => {
            run.trace(format!("CONNECT: {}", errno(&error)));
            if wire::is_silence(&error) {
                Err(NotIssued::Silent("CONNECT"))
            } else {
                Ok(())
            }
        }
    }
}

/// The request itself, inside TLS where the URL says so.
fn over(run: &Run, url: &Url, stream: Box<dyn Stream>, target: &str, fields: &[(String, String)]) -> Done {
    let mut stream = stream;
    if url.is_https {
        let sni = (url.host.parse::<IpAddr>().is_err() && resolve::inet_aton(&url.host).is_none())
            .then_some(url.host.as_str());
        let hello = Hello {
            sni,
            alpn: &["http/1.1".to_owned()],
            split: None,
        };
        stream = match tls::start(run, stream, &hello)? {
            Ok(stream) => stream,
            Err(error) => {
                run.trace(format!("tls: {}", errno(&error)));
                return if wire::is_silence(&error) {
                    Err(NotIssued::Silent("the TLS handshake"))
                } else {
                    Ok(())
                };
            }
        };
    }
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bottle-probe\r\nAccept: */*\r\n",
        url.authority
    );
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    // Sent: issued, however it ends.
    if let Err(error) = exchange(run, &mut *stream, request.as_bytes()) {
        run.trace(format!("GET: {}", errno(&error)));
    }
    Ok(())
}

fn exchange(run: &Run, stream: &mut dyn Stream, request: &[u8]) -> io::Result<http::Response> {
    stream.write_all(request)?;
    stream.flush()?;
    let response = http::read_response(run, stream, &mut Vec::new(), Asked::by(request))?;
    run.trace(format!(
        "{}; body {}",
        response.head.lines().next().unwrap_or_default(),
        wire::excerpt(&response.body)
    ));
    Ok(response)
}

/// The pretended environment; `inherit:NAME` copies the guest's own variable, if it is set.
fn environment(run: &Run, env: &[(String, String)]) -> Result<Vec<(String, String)>, NotIssued> {
    let mut out = Vec::new();
    for (name, value) in env {
        match value.strip_prefix("inherit:") {
            Some(inherited) => out.extend(std::env::var(inherited).ok().map(|value| (name.clone(), value))),
            None => out.push((name.clone(), run.words.text(value)?)),
        }
    }
    Ok(out)
}

/// The proxy to use: lower case first, then upper case, then `ALL_PROXY`, unless `NO_PROXY` has the host.
fn proxy_for(env: &[(String, String)], url: &Url) -> Option<String> {
    let value = |name: &str| {
        env.iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let either = |name: &str| {
        value(&name.to_ascii_lowercase())
            .or_else(|| value(name))
            .filter(|value| !value.is_empty())
    };
    if either("NO_PROXY").is_some_and(|list| list.split([',', ' ']).any(|entry| is_excepted(entry.trim(), &url.host))) {
        return None;
    }
    either(if url.is_https { "HTTPS_PROXY" } else { "HTTP_PROXY" }).or_else(|| either("ALL_PROXY"))
}

/// Whether an entry of `NO_PROXY` covers a host: `*`, the name, a parent of it (with or without a dot), an address, a network.
fn is_excepted(entry: &str, host: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Some((network, bits)), Ok(address)) = (entry.split_once('/'), host.parse::<IpAddr>()) {
        return matches!((network.parse(), bits.parse()), (Ok(network), Ok(bits)) if is_in(address, network, bits));
    }
    let entry = entry.trim_start_matches('.').to_ascii_lowercase();
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    !entry.is_empty() && (host == entry || host.strip_suffix(&entry).is_some_and(|rest| rest.ends_with('.')))
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (address ^ network).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::tests::run;
    use rstest::rstest;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Answers one request with 204 and gives back its head.
    fn serving() -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address").to_string();
        let serve = move || {
            let (mut peer, _) = listener.accept().expect("accepts");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && peer.read(&mut byte).expect("reads") > 0 {
                head.push(byte[0]);
            }
            peer.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
                .expect("answers");
            String::from_utf8(head).expect("is text")
        };
        (address, std::thread::spawn(serve))
    }

    #[rstest]
    #[case("http://allowed.test/{nonce}", &[], "GET http://allowed.test/bn")]
    #[case("https://allowed.test/{nonce}", &[], "CONNECT allowed.test:443 ")]
    #[case("https://[::1]:8443", &[], "CONNECT [::1]:8443 ")]
    #[case("http://allowed.test/{nonce}", &[("NO_PROXY", "allowed.test")], "GET /bn")]
    #[case("http://a.allowed.test?x", &[("no_proxy", "x, .allowed.test")], "GET /?x ")]
    #[case("http://198.51.100.7/", &[("NO_PROXY", "198.51.100.0/24")], "GET / ")]
    #[case("http://allowed.test/", &[("NO_PROXY", "*")], "GET / ")]
    #[case("http://unallowed.test/", &[("NO_PROXY", "allowed.test")], "GET http://unallowed.test/ ")]
    fn the_environment_decides(#[case] url: &str, #[case] more: &[(&str, &str)], #[case] expected: &str) {
        let (address, served) = serving();
        let mut env = vec![("ALL_PROXY".to_owned(), format!("http://{address}/"))];
        env.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let direct = (!more.is_empty() && !expected.contains("http:")).then_some(address.as_str());
        let run = run(5000);
        fetch(&run, url, &env, direct, &[("X-A".to_owned(), "{ok}".to_owned())]).expect("is issued");
        let head = served.join().expect("serves");
        assert!(head.starts_with(expected), "{head}");
        assert!(head.starts_with("CONNECT") || head.contains(&format!("X-A: {}", run.words.ok)));
    }

    #[test]
    fn urls() {
        assert!(
            Url::parse("ftp://x/").is_none()
                && Url::parse("http:///x").is_none()
                && Url::parse("http://h:x/").is_none()
        );
        let url = Url::parse("HTTPS://user@Host:8443/p?q#f").expect("parses");
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str(), url.is_https),
            ("Host", 8443, "/p?q", true)
        );
        assert!(is_in("2001:db8::1".parse().expect("v6"), "::".parse().expect("v6"), 0));
    }
}
