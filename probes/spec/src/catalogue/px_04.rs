//! PX-04: metadata services through the proxy.

use super::make::{NONCE_FIELD, absolute, listen, proxy, send, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-04",
    title: "metadata services through the proxy",
    requirement: "The proxy MUST refuse cloud metadata and link-local destinations, by literal and by name.",
    why: "The bundle runs on the host's network side: what it dials, the machine dials.",
    source: "Seen in: OpenShell test_ssrf_blocks_metadata, iron-proxy imds, gh-aw-firewall SSRF.",
    does: "Asks the proxy for the metadata addresses of several clouds, in the shape of their protocols, and for an allowed name that points there.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Link-local addresses are never dialled, not even when listed.",
    priority: Priority::P0,
    tags: &["proxy", "metadata", "ssrf"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let token = format!(
        "PUT http://169.254.169.254/latest/api/token?{{nonce}} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n{NONCE_FIELD}\r\n"
    );
    let google = format!(
        "GET http://169.254.169.254/computeMetadata/v1/?{{nonce}} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata-Flavor: Google\r\n{NONCE_FIELD}\r\n"
    );
    let mut cases: Vec<CaseSpec> = vec![
        unseen("aws", absolute("169.254.169.254")),
        unseen("aws-token", proxy([send(token), listen()])),
        unseen("google", proxy([send(google), listen()])),
        unseen("alibaba", absolute("100.100.100.200")),
    ]
    .into_iter()
    .map(|case| case.alive(&[Vantage::Metadata]).denied().controls(&[Leak::PxOpen]))
    .collect();
    // Tasks of a container service, where no stand-in service but the packet witness answers.
    cases.push(
        unseen("aws-tasks", absolute("169.254.170.2"))
            .alive(&[Vantage::InternetTcp])
            .denied()
            .controls(&[Leak::PxOpen]),
    );
    cases.push(
        unseen("allowed-name", absolute("meta.rebind.test"))
            .alive(&[Vantage::Metadata])
            .denied()
            .controls(&[Leak::PxNameOnly]),
    );
    cases
}
