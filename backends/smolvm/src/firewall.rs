//! The ports of a routed machine's one address.
//!
//! smolvm allows an address with all of its ports. As root every machine runs as a user of its own, so the host's firewall
//! can tell its packets: to the proxy's port they may go, anywhere else they may not. That also shuts whatever else leaves a
//! machine's process, names above all.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bottle_backend::BackendError;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::program::{refused, unexpected};

/// Users that root's machines run as (smolvm 1.32.2). Below this are the host's own, above the range another program's: a rule for
/// them would hit others.
pub const USERS: std::ops::Range<u32> = 2_000_000..3_000_000;
const LIMIT: Duration = Duration::from_secs(10);

/// Whether this process can set rules.
pub(crate) fn can_be_set() -> bool {
    rustix::process::geteuid().is_root() && nft().is_some()
}

fn nft() -> Option<PathBuf> {
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

/// The table of a machine.
pub(crate) fn table(machine: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    machine.chars().map(plain).collect()
}

/// Lets a machine's user reach the proxy and nothing else. What else it connects to is refused at once: smolvm's gateway goes on
/// trying for minutes where nothing answers, and after some thousand of such has no room for the machine's other connections.
pub(crate) async fn install(table: &str, user: u32, proxy: SocketAddrV4) -> Result<(), BackendError> {
    let call = format!("narrow the ports of {table}");
    if !USERS.contains(&user) {
        return Err(refused(
            call,
            format!(
                "expected the machine to run as a user of its own (from {}), found {user}",
                USERS.start
            ),
        ));
    }
    nftables(&call, &rules(table, user, proxy)).await
}

/// Takes away what narrows a machine's ports; no failure where nothing does.
pub async fn remove_rules(machine: &str) -> Result<(), BackendError> {
    remove(&table(machine)).await
}

/// Removes the table; one that is not there is no failure.
pub(crate) async fn remove(table: &str) -> Result<(), BackendError> {
    // Made first, so that its removal cannot fail for want of it.
    let rules = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    nftables(&format!("remove the rules of {table}"), &rules).await
}

/// One transaction: a table left of a machine of this name is replaced.
fn rules(table: &str, user: u32, proxy: SocketAddrV4) -> String {
    format!(
        "table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n  chain out {{\n    \
         type filter hook output priority 0; policy accept;\n    \
         meta skuid {user} ip daddr {} tcp dport {} accept\n    \
         meta skuid {user} meta l4proto tcp counter reject with tcp reset\n    \
         meta skuid {user} counter drop\n  }}\n}}\n",
        proxy.ip(),
        proxy.port()
    )
}

async fn nftables(call: &str, rules: &str) -> Result<(), BackendError> {
    let program = nft().ok_or_else(|| refused(call, "there is no `nft`: install nftables"))?;
    let mut command = Command::new(program);
    command
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let failed = |error: std::io::Error| unexpected(call, error.to_string());
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(rules.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(LIMIT, talk).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => {
            return Err(unexpected(
                call,
                format!("nft did not end within {} s", LIMIT.as_secs()),
            ));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(refused(
        call,
        format!("nft refused ({}): {}", output.status, said.trim()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_one_user_one_address_and_one_port() {
        let rules = rules("bottle_x_guest", 2_000_001, "10.213.4.2:8888".parse().unwrap());
        assert!(rules.contains("meta skuid 2000001 ip daddr 10.213.4.2 tcp dport 8888 accept"));
        assert!(rules.contains("meta skuid 2000001 meta l4proto tcp counter reject with tcp reset"));
        assert!(rules.contains("meta skuid 2000001 counter drop"));
        assert_eq!(table("bottle-x-guest"), "bottle_x_guest");
    }

    #[tokio::test]
    async fn a_user_of_the_host_gets_no_rule() {
        let error = install("t", 1000, "10.0.0.2:1".parse().unwrap()).await.unwrap_err();
        assert!(error.problem.contains("found 1000"), "{error}");
    }
}
