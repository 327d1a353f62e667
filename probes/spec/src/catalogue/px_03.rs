//! PX-03: spellings of an address.

use super::make::{absolute, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-03",
    title: "spellings of an address",
    requirement: "The proxy MUST refuse every spelling of an address that is not canonical, before anything is looked up or dialled.",
    why: "Checks see a name where the dialling library sees an address: octal, hexadecimal, short, encoded, embedded in IPv6.",
    source: "Seen in: agent-egress-bench ssrf-bypass (9), microsandbox normalize_ip_addr, PageSpace metadataHex/Decimal.",
    does: "Asks for one denied address in two dozen spellings, most by CONNECT, some in absolute form.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Recognise spellings before the check, and dial only what was checked.",
    priority: Priority::P0,
    tags: &["proxy", "ssrf", "spelling"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    // All of them are 203.0.113.20 to some parser.
    let spellings = [
        ("octal", "0313.0.0161.024"),
        ("octal-padded", "0000313.0000.00161.0024"),
        ("octal-last", "203.0.113.024"),
        ("octal-whole", "031300070424"),
        ("hex", "0xcb.0x0.0x71.0x14"),
        ("hex-whole", "0xcb007114"),
        ("hex-upper", "0XCB007114"),
        ("decimal", "3405803796"),
        ("three-parts", "203.0.28948"),
        ("two-parts", "203.28948"),
        ("mixed", "0xcb.0.0161.20"),
        ("trailing-dot", "203.0.113.20."),
        ("two-trailing-dots", "203.0.113.20.."),
        ("percent-digits", "%32%30%33.0.113.20"),
        ("percent-dots", "203%2e0%2e113%2e20"),
        ("full-width-digit", "%EF%BC%9203.0.113.20"),
        ("ideographic-dot", "203%E3%80%820.113.20"),
        ("leading-space", "%20203.0.113.20"),
        ("cut-at-nul", "203.0.113.20%00.allowed.test"),
        ("mapped", "[::ffff:203.0.113.20]"),
        ("mapped-hex", "[::ffff:cb00:7114]"),
        ("compatible", "[::203.0.113.20]"),
        ("zone", "[::ffff:203.0.113.20%25eth0]"),
        ("no-brackets", "::ffff:203.0.113.20"),
    ];
    let by_connect = spellings.map(|(name, text)| unseen(name, tunnel(&format!("{text}:443"), None, text)));
    let absolute_too = [
        ("absolute-octal", "0313.0.0161.024"),
        ("absolute-decimal", "3405803796"),
    ];
    let by_target = absolute_too.map(|(name, text)| unseen(name, absolute(text)));
    by_connect
        .into_iter()
        .chain(by_target)
        .map(|case| case.alive(&[Vantage::InternetTcp]).denied().controls(&[Leak::PxLaxIp]))
        .collect()
}
