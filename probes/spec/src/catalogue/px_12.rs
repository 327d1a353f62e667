//! PX-12: bytes that end a name early.

use super::make::{NONCE_FIELD, absolute, absolute_to, listen, proxy, send, tunnel, unseen};
use crate::{CaseSpec, Leak, Priority, Probe, Vantage, world};

/// The probe.
pub const PROBE: Probe = Probe {
    id: "PX-12",
    title: "bytes that end a name early",
    requirement: "The proxy MUST refuse a host text with anything in it that is not part of a plain name, and a field whose name has NUL, space or tab in it.",
    why: "A matcher that reads the whole text and a resolver that stops at NUL, slash or percent sign mean two different hosts; one widely used proxy was open that way for years.",
    source: "Seen in: Claude Code SOCKS5 NUL (about 130 versions), gh-aw-firewall trailing dots, microsandbox name.rs.",
    does: "Asks for a denied name with an allowed one behind a separator: NUL, space, tab, line ends, slash, backslash, user, query, comma, raw and encoded. NUL, space and tab also as bytes in the authority of CONNECT, in an absolute target, in `Host` outside and inside a tunnel, and before the colon of a field.",
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
        .map(|case| case.alive(&[Vantage::InternetTcp]))
        .chain(RAW.into_iter().flat_map(by_raw_byte))
        .map(|case| case.denied().controls(&[Leak::PxLaxHost]))
        .collect()
}

/// Bytes that end a text for some readers and not for others.
const RAW: [(&str, &str); 3] = [("nul", "\0"), ("space", " "), ("tab", "\t")];

/// One byte as it is in every place of a head where a name stands.
fn by_raw_byte((name, byte): (&str, &str)) -> Vec<CaseSpec> {
    let (allowed, denied) = (world::ALLOWED, world::DENIED);
    let text = format!("{denied}{byte}.{allowed}");
    let field = format!("GET http://{allowed}/{{nonce}} HTTP/1.1\r\nHost{byte}: {allowed}\r\n{NONCE_FIELD}\r\n");
    let to = format!("{allowed}:443");
    // The first two lead to where nothing may arrive; the others would arrive at an origin that is allowed.
    let (outside, both) = (
        [Vantage::InternetTcp].as_slice(),
        [Vantage::InternetTcp, Vantage::Origin].as_slice(),
    );
    [
        ("connect", tunnel(&format!("{text}:443"), Some(denied), denied), outside),
        ("absolute", absolute(&text), outside),
        ("host", absolute_to(allowed, &text), both),
        ("inside-host", tunnel(&to, Some(allowed), &text), both),
        ("field-name", proxy([send(field), listen()]), both),
    ]
    .map(|(place, action, alive)| unseen(format!("{place}-raw-{name}"), action).alive(alive))
    .into()
}
