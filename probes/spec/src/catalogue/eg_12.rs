//! EG-12: cloud metadata services.

use super::make::{tcp, tcp_sending, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "EG-12",
    title: "cloud metadata services",
    requirement: "A guest MUST NOT reach a cloud metadata service.",
    why: "The metadata service hands out the machine's own credentials to whoever asks from it.",
    source: "Seen in: gh-aw-firewall A7 (needs a real cloud), break-out-the-box -metadata, CDK, smolvm #389.",
    does: "Asks the metadata addresses of the big clouds directly, in IPv4 and IPv6 and in the shape of each cloud's protocol, while a stand-in service listens there.",
    on_breach: "Link-local traffic leaves the guest. Besides the route, require session tokens with a hop limit of 1 on the host's own metadata service.",
    priority: Priority::P0,
    tags: &["egress", "metadata", "ssrf"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let ask = |host: &str, path: &str, extra: &str| {
        tcp_sending(
            format!("{host}:80"),
            format!("GET {path}?{{nonce}} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n"),
        )
    };
    let token = tcp_sending(
        "169.254.169.254:80",
        "PUT /latest/api/token?{nonce} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
    );
    let named = tcp_sending(
        "169.254.169.254:80",
        "GET /computeMetadata/v1/{nonce} HTTP/1.1\r\nHost: metadata.google.internal\r\nMetadata-Flavor: Google\r\n\r\n",
    );
    let v4 = [
        ("aws", ask("169.254.169.254", "/latest/meta-data/", "")),
        ("aws-token", token),
        ("google-by-host-field", named),
        ("alibaba", ask("100.100.100.200", "/latest/meta-data/", "")),
        (
            "azure",
            ask("169.254.169.254", "/metadata/instance", "Metadata: true\r\n"),
        ),
    ]
    .map(|(name, action)| {
        let needs: &[&str] = if name == "alibaba" { &[] } else { &["link-local"] };
        unseen(name, action)
            .alive(&[Vantage::Metadata])
            .controls(&[Leak::Bridge])
            .needs(needs)
    });
    let v6 = unseen("aws-ipv6", tcp("[fd00:ec2::254]:80"))
        .alive(&[Vantage::Metadata])
        .controls(&[Leak::V6]);
    v4.into_iter().chain([v6]).collect()
}
