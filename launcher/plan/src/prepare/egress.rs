//! What the guest may reach.

use std::net::{IpAddr, SocketAddr};

use bottle_policy::address::forbidden_listed_class;
use bottle_policy::authority::{plain_port, split};
use bottle_policy::{AllowRule, Auth, Host, HostError, Policy, Resolver, Route};

use crate::document::{RouteAuth, Scheme};
use crate::prepare::{DNS_PORT, Input, PlanError, option};

/// Ports of a rule without one: HTTPS, HTTP.
const DEFAULT_PORTS: [u16; 2] = [443, 80];

/// Fields whose meaning belongs to a connection or to the message's framing (RFC 9110 7.6.1, RFC 9112 6): a token there
/// would change where a request ends or goes.
const NOT_FOR_TOKENS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The allow-list and the routes.
pub(super) fn rules(input: &Input<'_>) -> Result<(Policy, Vec<Route>), PlanError> {
    let egress = &input.bottle.egress;
    let allow = egress.allow.iter().enumerate();
    let allow: Result<Vec<AllowRule>, PlanError> = allow
        .map(|(index, text)| {
            allow_rule(text).map_err(|problem| {
                let expected = format!("a name, `*.name` or an address, each with an optional `:port` ({problem})");
                input.refuse(&format!("egress.allow[{index}]"), expected)
            })
        })
        .collect();
    let mut routes: Vec<Route> = Vec::new();
    for (index, written) in egress.routes.iter().enumerate() {
        let path = format!("egress.routes[{index}]");
        let (host, port) = route_host(&written.host).map_err(|problem| {
            let expected = format!("an exact name with an optional `:port` ({problem})");
            input.refuse(&format!("{path}.host"), expected)
        })?;
        if routes.iter().any(|route| route.host == host && route.port == port) {
            return Err(input.refuse(&format!("{path}.host"), "one route for each host and port"));
        }
        routes.push(Route {
            host,
            port,
            auth: auth(input, &format!("{path}.auth"), &written.auth)?,
            token: written.auth.token_env.clone(),
        });
    }
    Ok((Policy { allow: allow? }, routes))
}

fn allow_rule(text: &str) -> Result<AllowRule, String> {
    let (host, port) = host_and_port(text)?;
    let ports = port.map_or(DEFAULT_PORTS.to_vec(), |port| vec![port]);
    if let Some(name) = host.strip_prefix("*.") {
        return match parsed(name)? {
            Host::Name(name) => Ok(AllowRule {
                host: format!("*.{name}"),
                ports,
            }),
            Host::Addr(_) => Err("`*.` stands before a name, not before an address".to_owned()),
        };
    }
    let host = parsed(host)?;
    if let Host::Addr(address) = host
        && let Some(class) = forbidden_listed_class(address)
    {
        return Err(format!("{} is never reached through a bottle", class.words()));
    }
    Ok(AllowRule {
        host: host.to_string(),
        ports,
    })
}

fn route_host(text: &str) -> Result<(String, u16), String> {
    let (host, port) = host_and_port(text)?;
    match parsed(host)? {
        Host::Name(name) => Ok((name.to_string(), port.unwrap_or(443))),
        Host::Addr(_) => Err("a certificate is verified against a name, so a token goes to no address".to_owned()),
    }
}

fn parsed(host: &str) -> Result<Host, String> {
    if host.contains("://") || host.contains('/') {
        return Err("without a scheme and without a path".to_owned());
    }
    Host::from_manifest(host).map_err(|error: HostError| error.to_string())
}

fn host_and_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.contains("://") {
        return Err("without a scheme and without a path".to_owned());
    }
    let (host, port) = split(text.as_bytes());
    let port = match port {
        None => None,
        Some(digits) => Some(plain_port(digits).ok_or("a port is a number from 1 to 65535")?),
    };
    // `split` cuts at an ASCII byte, so the pieces are text.
    let host = std::str::from_utf8(host).map_err(|_| "not a text".to_owned())?;
    Ok((host, port))
}

fn auth(input: &Input<'_>, path: &str, written: &RouteAuth) -> Result<Auth, PlanError> {
    if !is_variable(&written.token_env) {
        let expected = "the name of an environment variable (letters, digits and `_`, no digit first)";
        return Err(input.refuse(&format!("{path}.token_env"), expected));
    }
    match (&written.header, written.scheme, &written.user) {
        (Some(header), None, None) => {
            if !is_field_name(header) || NOT_FOR_TOKENS.contains(&header.to_ascii_lowercase().as_str()) {
                let expected = "the name of a field that may hold a token, such as `x-api-key`";
                return Err(input.refuse(&format!("{path}.header"), expected));
            }
            Ok(Auth::Header(header.to_ascii_lowercase()))
        }
        (None, Some(Scheme::Bearer), None) => Ok(Auth::Bearer),
        (None, Some(Scheme::Basic), Some(user)) => {
            if user.contains(':') || user.chars().any(char::is_control) {
                return Err(input.refuse(&format!("{path}.user"), "a user name without colon (RFC 7617)"));
            }
            Ok(Auth::Basic { user: user.clone() })
        }
        (None, Some(Scheme::Basic), None) => {
            Err(input.refuse(&format!("{path}.user"), "a user name, which `scheme: basic` needs"))
        }
        (Some(_), Some(_), _) => Err(found(input, path, "either `header` or `scheme`", "both")),
        (None, None, _) => Err(found(input, path, "either `header` or `scheme`", "neither")),
        (_, _, Some(_)) => Err(found(
            input,
            &format!("{path}.user"),
            "a `user` with `scheme: basic` only",
            "another way to add the token",
        )),
    }
}

fn found(input: &Input<'_>, below: &str, expected: &str, found: &str) -> PlanError {
    input.manifest.refuse_found(&input.path(below), expected, found).into()
}

/// A field name (RFC 9110 5.6.2).
fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A portable name of an environment variable (POSIX XBD 8.1, with lower case).
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Who resolves names for the bundle.
pub(super) fn resolver(input: &Input<'_>) -> Result<Resolver, PlanError> {
    const EXPECTED: &str =
        "the address of a name server that the bundle can reach, such as `192.168.1.1` or `192.168.1.1:5353`";
    if let Some(servers) = &input.options.resolver {
        let read = |text: &String| server(text).ok_or_else(|| option("resolver", EXPECTED, format!("`{text}`")));
        return servers
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Resolver::Servers);
    }
    let servers = &input.bottle.egress.resolver;
    if servers.is_empty() {
        return Ok(Resolver::System);
    }
    let read = |(index, text): (usize, &String)| {
        server(text).ok_or_else(|| input.refuse(&format!("egress.resolver[{index}]"), EXPECTED))
    };
    servers
        .iter()
        .enumerate()
        .map(read)
        .collect::<Result<_, _>>()
        .map(Resolver::Servers)
}

/// Loopback would be the bundle's own, where nobody answers.
fn server(text: &str) -> Option<SocketAddr> {
    let server = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, DNS_PORT),
        Err(_) => text.parse().ok()?,
    };
    let address = server.ip();
    let is_usable =
        !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && server.port() != 0;
    is_usable.then_some(server)
}

/// Certificate authorities trusted for upstreams besides the public ones.
pub(super) fn upstream_roots(input: &Input<'_>) -> Result<Vec<String>, PlanError> {
    let mut roots = Vec::new();
    for (index, path) in input.bottle.egress.ca_certificates.iter().enumerate() {
        let below = format!("egress.ca_certificates[{index}]");
        let Some(content) = input.facts.ca_files.get(path) else {
            return Err(found(
                input,
                &below,
                "a file that can be read",
                &format!("`{path}`, which was not read"),
            ));
        };
        check_pem(content).map_err(|problem| found(input, &below, "a file with certificates in PEM form", problem))?;
        roots.push(content.clone());
    }
    for content in &input.options.extra_upstream_roots {
        check_pem(content).map_err(|problem| option("extra_upstream_roots", "certificates in PEM form", problem))?;
        roots.push(content.clone());
    }
    Ok(roots)
}

/// A private key beside the certificate would end in the plan and on the bundle's standard input.
fn check_pem(content: &str) -> Result<(), &'static str> {
    if content.contains("PRIVATE KEY-----") {
        return Err("a private key in it");
    }
    if !content.contains("-----BEGIN CERTIFICATE-----") || !content.contains("-----END CERTIFICATE-----") {
        return Err("no certificate in it");
    }
    Ok(())
}
