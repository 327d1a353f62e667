//! PX-12: bytes that end a name early.

use super::make::{absolute, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-12",
    title: "bytes that end a name early",
    requirement: "The proxy MUST refuse a host text with anything in it that is not part of a plain name.",
    why: "A matcher that reads the whole text and a resolver that stops at NUL, slash or percent sign mean two different hosts; one widely used proxy was open that way for years.",
    source: "Seen in: Claude Code SOCKS5 NUL (about 130 versions), gh-aw-firewall trailing dots, microsandbox name.rs.",
    does: "Asks for a denied name with an allowed one behind a separator: NUL, space, tab, line ends, slash, backslash, user, query, comma, raw and encoded.",
    on_breach: "Read the decision record of the case: its rule says what let it through. Normalise once, refuse what is left over, and use the result for both matching and dialling.",
    priority: Priority::P0,
    tags: &["proxy", "names", "confusion"],
    cases,
};

fn cases() -> Vec<CaseSpec> {
    let separators = [
        ("nul", "%00"),
        ("space", "%20"),
        ("tab", "%09"),
        ("line-end", "%0d%0a"),
        ("slash-encoded", "%2f"),
        ("backslash-encoded", "%5c"),
        ("fragment-encoded", "%23"),
        ("delete", "%7f"),
        ("percent", "%"),
        ("slash", "/"),
        ("backslash", "\\"),
        ("user", "@"),
        ("query", "?"),
        ("comma", ","),
    ];
    let denied = world::DENIED;
    let text = |separator: &str| format!("{denied}{separator}.{}", world::ALLOWED);
    let by_connect = separators.map(|(name, separator)| {
        unseen(
            format!("connect-{name}"),
            tunnel(&format!("{}:443", text(separator)), Some(denied), denied),
        )
    });
    // In an absolute target a slash or a query ends the authority for everybody.
    let in_target = ["nul", "backslash", "user", "comma"];
    let by_target = separators
        .into_iter()
        .filter(|(name, _)| in_target.contains(name))
        .map(|(name, separator)| unseen(format!("absolute-{name}"), absolute(&text(separator))));
    by_connect
        .into_iter()
        .chain(by_target)
        .map(|case| {
            case.alive(&[Vantage::InternetTcp])
                .denied()
                .controls(&[Leak::PxLaxHost])
        })
        .collect()
}
