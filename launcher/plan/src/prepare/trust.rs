//! The bottle's authority where programs look for one that read no variables.
//!
//! Every TLS connection that leaves a guest is made anew by its proxy, so the bottle's own authority is the only one that a
//! guest ever meets: it stands in for the image's, and need not be merged with them.

use bottle_policy::{BundleConfig, Listen, SHARED_DIR};

use crate::plan::{ContainerPlan, CopyPlan};
use crate::prepare::guest::{is_mountable, owner};
use crate::prepare::{GUEST_PROXY, Input};

/// Name of Java's trust store in the shared directory.
pub const JAVA_TRUST_FILE: &str = "trust.jks";

/// Name of what leads Node.js through the proxy, in the shared directory: most versions read no proxy variables.
pub const NODE_LEAD_FILE: &str = "node.cjs";

/// Directory and file of the trust stores of Debian, Ubuntu and Alpine, and of Fedora.
const STORES: [(&str, &str); 2] = [
    ("/etc/ssl/certs", "ca-certificates.crt"),
    ("/etc/pki/ca-trust/extracted/pem", "tls-ca-bundle.pem"),
];
const STORE_BYTES: u64 = 1 << 20;

/// Java reads neither the proxy's variables nor PEM files.
pub(super) const JAVA_VARIABLE: &str = "JAVA_TOOL_OPTIONS";

/// Options of every Node.js, which also reads no proxy variables.
pub(super) const NODE_VARIABLE: &str = "NODE_OPTIONS";

/// Puts the stores into a guest's plan; what its init copies there.
pub(super) fn trust(input: &Input<'_>, config: &BundleConfig, guest: &mut ContainerPlan) -> Vec<CopyPlan> {
    if !input.options.system_trust {
        return Vec::new();
    }
    let mut copies = Vec::new();
    for (directory, file) in STORES {
        if !is_mountable(directory) || guest.tmpfs.iter().any(|(path, _, _)| path == directory) {
            continue;
        }
        let options = match owner(guest.user.as_deref()) {
            Some(owner) => format!("mode=0755,{owner},noexec,nosuid,nodev"),
            None => "mode=1777,noexec,nosuid,nodev".to_owned(),
        };
        guest.tmpfs.push((directory.to_owned(), STORE_BYTES, options));
        copies.push(CopyPlan {
            source: format!("{SHARED_DIR}/ca.pem"),
            target: format!("{directory}/{file}"),
        });
    }
    let end = guest.entrypoint.len().saturating_sub(1);
    let flags = copies
        .iter()
        .flat_map(|copy| ["--copy-shared".to_owned(), format!("{}={}", copy.source, copy.target)]);
    guest.entrypoint.splice(end..end, flags);
    let proxy = match config.listen.first() {
        Some(Listen::Tcp(address)) => address.to_string(),
        _ => GUEST_PROXY.to_owned(),
    };
    // What the user says to Java is theirs.
    guest
        .env
        .entry(JAVA_VARIABLE.to_owned())
        .or_insert_with(|| java_options(&proxy));
    // Options add up here: what the user says comes last and counts.
    let node = guest.env.entry(NODE_VARIABLE.to_owned()).or_default();
    *node = format!("--require={SHARED_DIR}/{NODE_LEAD_FILE} {node}")
        .trim_end()
        .to_owned();
    copies
}

/// Options of every Java machine in the guest, for a proxy at `address:port`.
pub(super) fn java_options(proxy: &str) -> String {
    let (host, port) = proxy.rsplit_once(':').unwrap_or((proxy, ""));
    format!(
        "-Djavax.net.ssl.trustStore={SHARED_DIR}/{JAVA_TRUST_FILE} -Djavax.net.ssl.trustStoreType=JKS \
         -Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"
    )
}
