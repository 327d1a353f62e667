//! Streams, exit codes, terminals, signals, the lease.

use std::time::Duration;

use bottle_backend::{Exec, ExecSpec, Role};
use bottle_launch::{Bottle, launch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::FOREVER;
use crate::fixture::{engine, left, options, outcome, sealed, secrets, shell};

async fn read_all(output: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_guests_streams_and_exit_code() {
    let Some(engine) = engine("attach to a guest").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let plan = sealed("/bin/busybox cat; echo done >&2; exit 5");
    let mut options = options(state.path());
    options.guest_stdio = true;
    let bottle = launch(plan, secrets(), engine.clone(), options).await.unwrap();
    let mut streams = bottle.guest_streams().unwrap();
    assert!(bottle.guest_streams().is_none());
    streams.stdin.write_all(b"to the guest and back").await.unwrap();
    // Only the end of input lets `cat` end; the output must still come.
    streams.stdin.shutdown().await.unwrap();
    assert_eq!(read_all(&mut streams.stdout).await, "to the guest and back");
    assert_eq!(read_all(&mut streams.stderr).await, "done\n");
    assert_eq!(bottle.wait_guest().await, Ok(5));
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn execs_end_with_their_input_and_say_their_code() {
    let Some(engine) = engine("exec").await else { return };
    let state = tempfile::tempdir().unwrap();
    let bottle = launch(sealed(FOREVER), secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    let (code, said, problem) = outcome(bottle.exec(&shell("echo out; echo err >&2; exit 7")).await.unwrap()).await;
    assert_eq!((code, said.as_str(), problem.as_str()), (7, "out\n", "err\n"));

    // Input larger than every buffer on the way, through and back.
    let Exec { streams, exit, .. } = bottle.exec(&shell("exec /bin/busybox cat")).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin, streams.stdout);
    let sent = vec![b'x'; 3 << 20];
    let send = async {
        stdin.write_all(&sent).await.unwrap();
        drop(stdin);
    };
    let ((), received, code) = tokio::join!(send, read_all(&mut stdout), exit);
    assert_eq!((received.len(), code), (sent.len(), Ok(0)));

    let missing = ExecSpec {
        command: vec!["/bin/no-such-program".to_owned()],
        ..Default::default()
    };
    let (code, _, _) = outcome(bottle.exec(&missing).await.unwrap()).await;
    assert!((126..=127).contains(&code), "{code}");

    let spec = ExecSpec {
        user: Some("65534:65534".to_owned()),
        workdir: Some("/tmp".to_owned()),
        env: [("NAME".to_owned(), "value".to_owned())].into(),
        ..shell("/bin/busybox id -u; pwd; echo $NAME")
    };
    let (_, said, _) = outcome(bottle.exec(&spec).await.unwrap()).await;
    assert_eq!(said, "65534\n/tmp\nvalue\n");

    // A child that holds the output does not hold the exit code.
    let exec = bottle.exec(&shell("/bin/busybox sleep 300 & exit 3")).await.unwrap();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), exec.exit).await.unwrap(),
        Ok(3)
    );
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn a_terminal_has_the_size_it_is_told() {
    let Some(engine) = engine("a terminal").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let bottle = launch(sealed(FOREVER), secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    let spec = ExecSpec {
        tty: true,
        ..shell("read -r go; /bin/busybox stty size; printf '\\001\\0\\0\\0\\0\\0\\0\\005raw'")
    };
    let Exec { id, streams, exit } = bottle.exec(&spec).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin, streams.stdout);
    bottle
        .backend()
        .resize(Role::Guest, bottle.id(Role::Guest), Some(&id), 123, 40)
        .await
        .unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).await.unwrap();
    let said = String::from_utf8_lossy(&bytes);
    assert!(said.contains("40 123"), "{said:?}");
    // What looks like a frame comes through as it is.
    assert!(bytes.ends_with(b"\x01\0\0\0\0\0\0\x05raw"), "{said:?}");
    assert_eq!(exit.await, Ok(0));
    assert!(bottle.close().await.is_clean());
}

#[tokio::test]
async fn a_signal_reaches_the_guest() {
    let Some(engine) = engine("a signal").await else { return };
    let state = tempfile::tempdir().unwrap();
    let plan = sealed("trap 'exit 9' TERM; while :; do /bin/busybox sleep 0.1; done");
    let bottle = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    // The shell may not have come to its trap yet; a signal before that is ignored by a first process.
    let again = async {
        loop {
            let _ = bottle.signal_guest("TERM").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let code = tokio::select! {
        code = bottle.wait_guest() => code,
        () = again => unreachable!("the loop has no end"),
    };
    assert_eq!(code, Ok(9));
    assert!(bottle.close().await.is_clean());
}

async fn gone(bottle_slug: &str, engine: &bottle_docker::Docker, name: &str) -> bool {
    for _ in 0..100 {
        if !left(engine, bottle_slug).await.iter().any(|left| left == name) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

#[tokio::test]
async fn the_bundle_ends_with_its_launcher() {
    let Some(engine) = engine("the lease").await else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let plan = sealed(FOREVER);
    let (slug, bundle) = (plan.slug.clone(), plan.bundle.name.clone());
    let bottle: Bottle = launch(plan, secrets(), engine.clone(), options(state.path()))
        .await
        .unwrap();
    let remains = engine_resources(&engine, &slug).await;
    // As when the launcher dies: the streams go, nothing is undone.
    drop(bottle);
    assert!(gone(&slug, &engine, &bundle).await);
    for resource in remains {
        bottle_backend::Backend::remove(&*engine, &resource).await.unwrap();
    }
    assert_eq!(left(&*engine, &slug).await, Vec::<String>::new());
}

async fn engine_resources(engine: &bottle_docker::Docker, slug: &str) -> Vec<bottle_backend::Resource> {
    bottle_backend::Backend::inventory(engine, bottle_plan::LABEL_SLUG, Some(slug))
        .await
        .unwrap()
}
