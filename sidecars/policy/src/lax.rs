//! What the known-leaky bottles do instead of the strict decision. Each function gives `None` where its control is in
//! force, and the strict path goes on.

use crate::address::lax_address;
use crate::authority::{host_authority, plain_port, split};
use crate::decide::{Allowed, Decision, Dial, Rules};
use crate::name::{Host, Name};
use crate::{Control, Controls};

impl Rules {
    /// Rules that let everything through: what follows the first request of a connection in K-PX-ONCE.
    pub fn open() -> Self {
        let removed = vec![
            Control::AllowList,
            Control::Binding,
            Control::AbsoluteForm,
            Control::Ports,
        ];
        Self::bare(Controls::without(removed))
    }

    /// K-PX-LAXIP, K-PX-LAXHOST and the port reading of K-PX-ANYPORT, on an authority text.
    pub(crate) fn lax_destination(&self, authority: &[u8], default_port: Option<u16>) -> Option<Allowed> {
        let (host, port) = split(authority);
        let strict_port = || port.map_or(default_port, plain_port);
        if !self.controls.has(Control::StrictAddress)
            && let Some(address) = lax_address(host)
        {
            return self.to_address(address, strict_port()?);
        }
        // An unbracketed or zoned IPv6 text has colons of its own.
        if !self.controls.has(Control::StrictName)
            && let Some(name) = self.lax_name(host)
        {
            return Some(Allowed {
                rule: "lax-name",
                host: name,
                port: strict_port()?,
                dial: Dial::Public,
            });
        }
        if !self.controls.has(Control::Ports) {
            let host = Host::from_wire(host).ok()?;
            return self
                .destination(host, lax_port(port, default_port.unwrap_or(443))?)
                .ok();
        }
        None
    }

    fn to_address(&self, address: std::net::IpAddr, port: u16) -> Option<Allowed> {
        Some(Allowed {
            rule: "lax-address",
            host: Host::Addr(address),
            port,
            dial: Dial::To(address),
        })
    }

    /// An unanchored, byte-wise match on the allowed names, then the text up to the first byte that ends a C string, a
    /// line or a URL's host.
    fn lax_name(&self, host: &[u8]) -> Option<Host> {
        let text = String::from_utf8_lossy(host);
        let folded = idna::domain_to_ascii(&text).unwrap_or_default();
        let is_match = |name: &str| text.contains(name) || folded.contains(name);
        if !self.names().any(is_match) {
            return None;
        }
        let cut = |c: char| c.is_control() || matches!(c, ' ' | '/' | '\\' | '#' | '?' | '%' | '@' | ',');
        let text = text.split(cut).find(|part| !part.is_empty())?;
        let name = idna::domain_to_ascii(text).unwrap_or_else(|_| text.to_owned());
        Some(Host::Name(Name::unchecked(name.trim_matches('.'))))
    }

    /// K-PX-NOBIND: the tunnel's authority was decided on; the request goes where its `Host` (or the SNI) says.
    pub(crate) fn lax_inner(&self, tunnel: &Allowed, sni: Option<&str>, named: &[&[u8]]) -> Option<Decision> {
        let lax_text = !self.controls.has(Control::StrictName) || !self.controls.has(Control::StrictAddress);
        if lax_text {
            // The name was cut or parsed at CONNECT; what the request repeats is the uncut text.
            return Some(Decision::Allow(tunnel.clone()));
        }
        if self.controls.has(Control::Binding) {
            return None;
        }
        let sent = named
            .iter()
            .rev()
            .find_map(|text| host_authority(strip_user(text)).ok());
        let sni = || {
            sni.and_then(|name| Host::from_wire(name.as_bytes()).ok())
                .map(|host| (host, None))
        };
        let (host, port) = sent.or_else(sni).unwrap_or((tunnel.host.clone(), None));
        if host == tunnel.host && port.is_none_or(|p| p == tunnel.port) {
            return Some(Decision::Allow(tunnel.clone()));
        }
        Some(Decision::Allow(self.unbound(
            host,
            port.unwrap_or(tunnel.port),
            tunnel.dial,
        )))
    }

    /// A destination that nothing was decided on. Address rules stay, except where the tunnel had none.
    fn unbound(&self, host: Host, port: u16, dial: Dial) -> Allowed {
        let dial = match (&host, dial) {
            (_, Dial::Anything) => Dial::Anything,
            (Host::Addr(_), _) => Dial::Listed,
            (Host::Name(_), _) => Dial::Public,
        };
        Allowed {
            rule: "unbound",
            host,
            port,
            dial,
        }
    }

    /// K-PX-HTTPFREE, K-PX-NOBIND and the lax texts, on an absolute-form request.
    pub(crate) fn lax_absolute(&self, scheme: &[u8], authority: &[u8], host: Option<&[u8]>) -> Option<Allowed> {
        if !self.controls.has(Control::AbsoluteForm) {
            let default = if scheme.eq_ignore_ascii_case(b"https") { 443 } else { 80 };
            let (host, port) = host_authority(strip_user(authority)).ok()?;
            return Some(Allowed {
                rule: "unfiltered",
                host,
                port: port.unwrap_or(default),
                dial: Dial::Anything,
            });
        }
        if !self.controls.has(Control::Binding) {
            let Decision::Allow(target) = self.absolute_target(scheme, strip_user(authority)) else {
                return None;
            };
            let named: Vec<&[u8]> = host.into_iter().collect();
            return match self.lax_inner(&target, None, &named)? {
                Decision::Allow(allowed) => Some(allowed),
                Decision::Deny(_) => None,
            };
        }
        if scheme.eq_ignore_ascii_case(b"http") {
            self.lax_destination(authority, Some(80))
        } else {
            None
        }
    }

    fn absolute_target(&self, scheme: &[u8], authority: &[u8]) -> Decision {
        let parsed = host_authority(authority)
            .ok()
            .filter(|_| scheme.eq_ignore_ascii_case(b"http"));
        match parsed {
            Some((host, port)) => self.destination(host, port.unwrap_or(80)).into(),
            None => Decision::Deny(crate::DenyReason::Target),
        }
    }
}

fn strip_user(authority: &[u8]) -> &[u8] {
    authority
        .iter()
        .rposition(|&b| b == b'@')
        .map_or(authority, |at| &authority[at + 1..])
}

/// A port as lenient parsers read it: missing means the default, padding is skipped, the rest wraps at 16 bits.
fn lax_port(port: Option<&[u8]>, default: u16) -> Option<u16> {
    let Some(port) = port else {
        return Some(default);
    };
    let text = std::str::from_utf8(port).ok()?.trim().trim_start_matches('+');
    if text.is_empty() {
        return Some(default);
    }
    let number: u64 = text.parse().ok()?;
    // Port 0 cannot be dialled; lenient programs take it for "unset".
    Some(if number as u16 == 0 { default } else { number as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AllowRule, Policy};
    use rstest::rstest;

    fn rules(control: Control) -> Rules {
        let policy = Policy {
            allow: vec![AllowRule {
                host: "allowed.test".into(),
                ports: vec![443, 80],
            }],
        };
        Rules::new(&policy, &[], Controls::without(vec![control])).unwrap()
    }

    fn goes_to(decision: Decision) -> String {
        match decision {
            Decision::Allow(a) => format!("{}:{}", a.host, a.port),
            Decision::Deny(reason) => reason.name().to_owned(),
        }
    }

    #[rstest]
    #[case(Control::AllowList, "127.0.0.1:9099", "127.0.0.1:9099")]
    #[case(Control::AllowList, "evil.test:22", "evil.test:22")]
    #[case(Control::StrictName, "evil.test\0.allowed.test:443", "evil.test:443")]
    #[case(Control::StrictName, "evil-allowed.test:443", "evil-allowed.test:443")]
    #[case(Control::StrictName, "allowed.test.evil.test:443", "allowed.test.evil.test:443")]
    #[case(Control::StrictName, "other.test:443", "host-not-allowed")]
    #[case(Control::StrictAddress, "0x7f.1:443", "127.0.0.1:443")]
    #[case(Control::StrictAddress, "[::ffff:198.51.100.7]:443", "198.51.100.7:443")]
    #[case(Control::StrictAddress, "１９８.51.100.7:443", "198.51.100.7:443")]
    #[case(Control::StrictAddress, "evil.test:443", "host-not-allowed")]
    #[case(Control::Ports, "allowed.test:22", "allowed.test:22")]
    #[case(Control::Ports, "allowed.test", "allowed.test:443")]
    #[case(Control::Ports, "allowed.test:00443", "allowed.test:443")]
    #[case(Control::Ports, "evil.test:443", "host-not-allowed")]
    #[case(Control::AbsoluteForm, "evil.test:443", "host-not-allowed")]
    fn connect(#[case] removed: Control, #[case] text: &str, #[case] expected: &str) {
        assert_eq!(goes_to(rules(removed).connect(text.as_bytes(), None)), expected);
    }

    #[test]
    fn unbound_requests_go_where_they_say() {
        let rules = rules(Control::Binding);
        let Decision::Allow(tunnel) = rules.connect(b"allowed.test:443", None) else {
            panic!()
        };
        assert_eq!(
            goes_to(rules.inner(&tunnel, None, &[b"fronted.test"])),
            "fronted.test:443"
        );
        assert_eq!(
            goes_to(rules.inner(&tunnel, Some("fronted.test"), &[])),
            "fronted.test:443"
        );
        assert_eq!(
            goes_to(rules.absolute(b"http", b"allowed.test", Some(b"fronted.test:81"))),
            "fronted.test:81"
        );
        assert_eq!(
            goes_to(rules.absolute(b"http", b"evil.test", Some(b"allowed.test"))),
            "authority-mismatch"
        );
    }

    #[test]
    fn unfiltered_absolute_form() {
        let rules = rules(Control::AbsoluteForm);
        assert_eq!(goes_to(rules.absolute(b"http", b"evil.test:81", None)), "evil.test:81");
        assert_eq!(goes_to(rules.absolute(b"https", b"evil.test", None)), "evil.test:443");
    }
}
