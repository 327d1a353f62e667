//! Requests through the guest's proxy. The agent puts the case's nonce in place of `{nonce}`.

use probe_spec::{Action, Step};

/// A plain request for a host, with the nonce in its path and in its field.
pub fn ask(host: &str) -> Action {
    ask_with(host, "{nonce}")
}

/// As [`ask`], with another nonce in place of the case's.
pub fn ask_with(host: &str, nonce: &str) -> Action {
    let text = format!("GET http://{host}/{nonce} HTTP/1.1\r\nhost: {host}\r\nx-bottle-nonce: {nonce}\r\n\r\n");
    Action::Talk {
        to: "proxy".to_owned(),
        steps: vec![Step::Send { text }, Step::Read { ms: 400 }],
    }
}

/// A request inside TLS, as the host of a route wants it.
pub fn tunnel(host: &str) -> Action {
    let get = format!("GET /{{nonce}} HTTP/1.1\r\nhost: {host}\r\nx-bottle-nonce: {{nonce}}\r\n\r\n");
    inside(host, get, Step::Read { ms: 500 })
}

/// These bytes inside TLS to a host, and how its answer is read.
pub fn inside(host: &str, request: String, answer: Step) -> Action {
    let connect = format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nx-bottle-nonce: {{nonce}}\r\n\r\n");
    Action::Talk {
        to: "proxy".to_owned(),
        steps: vec![
            Step::Send { text: connect },
            Step::Success,
            Step::Tls {
                sni: Some(host.to_owned()),
                alpn: Vec::new(),
                split: None,
            },
            Step::Send { text: request },
            answer,
        ],
    }
}
