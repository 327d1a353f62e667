//! The loopback address on which a routed bottle's bundle publishes its port: one for each, so that whatever judges by addresses
//! alone can tell bottles from each other and from the host's own services.
//!
//! Linux has all of 127.0.0.0/8. macOS has those that were added to `lo0`, which is root's to do and holds until its next start.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use bottle_backend::{Backend, BackendError, BackendErrorKind, Role};
use bottle_plan::{ContainerPlan, LABEL_ROLE};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::program::refused;

/// How long a command may take; somebody may have to find a password.
const LIMIT: Duration = Duration::from_secs(120);

/// Most that is read of what a command says, in bytes.
const MOST: u64 = 64 << 10;

/// 127.0.0.16 to 127.0.0.31.
fn pool() -> impl Iterator<Item = Ipv4Addr> {
    (16..=31).map(|last| Ipv4Addr::new(127, 0, 0, last))
}

/// The lowest address of the pool that is not among these, on which running bundles publish; `None` when all are.
pub(crate) fn lowest_free(published: &BTreeSet<IpAddr>) -> Option<Ipv4Addr> {
    pool().find(|address| !published.contains(&IpAddr::V4(*address)))
}

/// Addresses on which the bundles that run publish: the engine's own word, so that nothing can be out of date.
pub(crate) async fn published(engine: &dyn Backend) -> Result<BTreeSet<IpAddr>, BackendError> {
    let mut published = BTreeSet::new();
    for bundle in engine.inventory(LABEL_ROLE, Some("bundle")).await? {
        match engine.observe(Role::Bundle, &bundle.id).await {
            // Bottles end meanwhile.
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            seen => published.extend(seen?.published.into_values().flatten().map(|(address, _)| address)),
        }
    }
    Ok(published)
}

/// Sees to it that this host has the addresses of the pool on which a bundle is to publish.
pub(crate) async fn provide_for(plan: &ContainerPlan) -> Result<(), BackendError> {
    // Linux has all of them.
    if !cfg!(target_os = "macos") {
        return Ok(());
    }
    for address in pool().filter(|pooled| plan.publish.iter().any(|(_, address, _)| address == pooled)) {
        let provided = provide(address, run).await;
        provided.map_err(|problem| {
            let problem = format!("{problem}; or use the topology `sealed`, which needs no address of its own");
            refused(format!("give {address} to this machine's loopback"), problem)
        })?;
    }
    Ok(())
}

/// Addresses of the pool that `lo0` lacks, by what `ifconfig lo0` says.
fn missing(ifconfig: &str) -> Vec<Ipv4Addr> {
    let there: BTreeSet<Ipv4Addr> = ifconfig
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("inet")).then(|| words.next()?.parse().ok())?
        })
        .collect();
    pool().filter(|address| !there.contains(address)).collect()
}

/// Shows what `lo0` has.
fn look() -> Vec<String> {
    ["/sbin/ifconfig", "lo0"].map(str::to_owned).to_vec()
}

/// Adds addresses, however many: sudo asks once.
fn add(missing: &[Ipv4Addr]) -> Vec<String> {
    let one = |address: &Ipv4Addr| format!("/sbin/ifconfig lo0 alias {address} netmask 255.255.255.255");
    let all: Vec<String> = missing.iter().map(one).collect();
    let prompt = "Password of %u, to add the loopback addresses of routed bottles (once until the next start): ";
    ["/usr/bin/sudo", "-p", prompt, "/bin/sh", "-c", &all.join(" && ")]
        .map(str::to_owned)
        .to_vec()
}

/// Sees to it that `lo0` has this address. When it lacks it, all that are missing of the pool are added, so that the next bottle
/// need not ask.
async fn provide(
    address: Ipv4Addr,
    mut run: impl AsyncFnMut(Vec<String>) -> Result<String, String>,
) -> Result<(), String> {
    let lacked = missing(&run(look()).await?);
    if !lacked.contains(&address) {
        return Ok(());
    }
    run(add(&lacked)).await?;
    if missing(&run(look()).await?).contains(&address) {
        return Err(format!("{address} is not on lo0 after it was added"));
    }
    Ok(())
}

/// What a command says. Its standard input and terminal are ours, for sudo's question.
async fn run(words: Vec<String>) -> Result<String, String> {
    let [program, arguments @ ..] = &words[..] else {
        return Err("there is no command".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let talk = async {
        let mut child = command.spawn()?;
        let mut said = String::new();
        if let Some(output) = child.stdout.take() {
            output.take(MOST).read_to_string(&mut said).await?;
        }
        Ok((child.wait().await?, said))
    };
    let ended = tokio::time::timeout(LIMIT, talk).await;
    let ended: std::io::Result<_> = ended.map_err(|_| format!("{program} did not end within {} s", LIMIT.as_secs()))?;
    match ended.map_err(|error| format!("{program}: {error}"))? {
        (status, said) if status.success() => Ok(said),
        (status, _) => Err(format!("{program} ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// As macOS 14 writes it.
    const LO0: &str = "lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384\n\
        \toptions=1203<RXCSUM,TXCSUM,TXSTATUS,SW_TIMESTAMP>\n\
        \tinet 127.0.0.1 netmask 0xff000000\n\
        \tinet6 ::1 prefixlen 128 \n\
        \tinet6 fe80::1%lo0 prefixlen 64 scopeid 0x1 \n\
        \tnd6 options=201<PERFORMNUD,DAD>\n";

    fn with(addresses: impl IntoIterator<Item = u8>) -> String {
        let lines = addresses
            .into_iter()
            .map(|last| format!("\tinet 127.0.0.{last} netmask 0xffffffff\n"));
        lines.fold(LO0.to_owned(), |all, line| all + &line)
    }

    #[rstest]
    #[case(LO0, (16..=31).collect())]
    #[case("", (16..=31).collect())]
    #[case("ifconfig: interface lo0 does not exist\n", (16..=31).collect())]
    #[case(&with([16, 18]), [17].into_iter().chain(19..=31).collect())]
    #[case(&with(16..=31), Vec::new())]
    #[case("\tinet6 127.0.0.16\n\tinet 127.0.0.160\n\tinet 127.0.0.16x\n\tinet\n", (16..=31).collect())]
    fn what_lo0_lacks(#[case] ifconfig: &str, #[case] expected: Vec<u8>) {
        let lacked: Vec<u8> = missing(ifconfig).iter().map(|address| address.octets()[3]).collect();
        assert_eq!(lacked, expected);
    }

    #[rstest]
    #[case(&[], Some(16))]
    #[case(&["127.0.0.1", "0.0.0.0", "::1"], Some(16))]
    #[case(&["127.0.0.16", "127.0.0.18"], Some(17))]
    #[case(&["127.0.0.17"], Some(16))]
    fn the_lowest_on_which_nobody_publishes(#[case] published: &[&str], #[case] expected: Option<u8>) {
        let published = published.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(lowest_free(&published).map(|address| address.octets()[3]), expected);
        assert_eq!(lowest_free(&pool().map(IpAddr::V4).collect()), None);
    }

    /// Answers in turn; what was run.
    async fn provided(address: u8, answers: &[Result<&str, &str>]) -> (Result<(), String>, Vec<Vec<String>>) {
        let (mut answers, mut ran) = (answers.iter(), Vec::new());
        let outcome = provide(Ipv4Addr::new(127, 0, 0, address), async |words| {
            ran.push(words);
            let answer = answers.next().expect("no more commands");
            answer.map(str::to_owned).map_err(str::to_owned)
        });
        let outcome = outcome.await;
        assert!(answers.next().is_none(), "{ran:?}");
        (outcome, ran)
    }

    #[tokio::test]
    async fn who_has_it_is_not_asked() {
        let (outcome, ran) = provided(17, &[Ok(&with([17]))]).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(ran, [["/sbin/ifconfig", "lo0"]]);
    }

    #[tokio::test]
    async fn all_that_are_missing_are_added_with_one_question() {
        let (outcome, ran) = provided(18, &[Ok(&with(16..=17)), Ok(""), Ok(&with(16..=31))]).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(ran.iter().filter(|words| words[0] == "/usr/bin/sudo").count(), 1);
        let all = ran[1].last().unwrap();
        assert!(
            all.starts_with("/sbin/ifconfig lo0 alias 127.0.0.18 netmask 255.255.255.255 && "),
            "{all}"
        );
        assert_eq!(all.matches(" alias ").count(), 14);
        assert!(!all.contains("127.0.0.17 "), "{all}");
    }

    #[tokio::test]
    async fn what_does_not_come_to_be_is_an_error() {
        let (outcome, _) = provided(18, &[Ok(LO0), Err("/usr/bin/sudo ended with exit status: 1")]).await;
        assert!(outcome.unwrap_err().contains("sudo"));
        let (outcome, _) = provided(18, &[Ok(LO0), Ok(""), Ok(&with([16]))]).await;
        assert!(outcome.unwrap_err().contains("127.0.0.18 is not on lo0"));
        let (outcome, _) = provided(18, &[Err("/sbin/ifconfig: No such file or directory")]).await;
        assert!(outcome.is_err());
    }

    #[tokio::test]
    async fn commands_say_what_they_say_or_why_not() {
        let shell = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        assert_eq!(run(shell("echo lo0")).await.as_deref(), Ok("lo0\n"));
        assert!(run(shell("exit 3")).await.unwrap_err().contains("exit status: 3"));
        assert!(
            run(vec!["/nonexistent".to_owned()])
                .await
                .unwrap_err()
                .contains("/nonexistent")
        );
    }
}
