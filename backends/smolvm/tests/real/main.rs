//! Bottles on the real smolvm. They need an engine, smolvm, a machine that it can boot guests on, root, and the parts of
//! `cargo xtask build`; BOTTLE_TEST_SMOLVM=1 says that all of that is there.

mod fixture;

use bottle_backend::Backend;
use bottle_launch::{Bottle, SweepScope, sweep, tree};
use bottle_plan::{LABEL_OWNER_START, Topology};
use fixture::{Site, run, shell_spec, talk};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_machine_is_confined_and_reaches_its_bundle_alone() {
    let Some(site) = Site::new("a sealed machine").await else {
        return;
    };
    let bottle = site.launch(Topology::Sealed, "cat; echo oops >&2; exit 7").await;
    let slug = bottle.slug().to_owned();

    let (code, status, _) = run(&bottle, "cat /proc/self/status").await;
    assert_eq!(code, 0);
    for line in [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Uid:\t1000\t1000\t1000\t1000",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    // The same of the main command's init.
    let (_, status, _) = run(&bottle, "cat /proc/$(cat /run/bottle-guest.pid)/status").await;
    for line in [
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Uid:\t1000",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }

    let script = "ls /sys/class/net; mount -t tmpfs x /tmp && echo mounted; echo x > /x && echo written; \
                  echo x > /tmp/x && echo scratch; hostname; cat /etc/resolv.conf; cat /run/bottle/ca.pem; ulimit -n";
    let (_, out, err) = run(&bottle, script).await;
    assert!(!out.contains("eth0"), "{out}");
    assert!(!out.contains("mounted") && !out.contains("written"), "{out}");
    for words in [
        "scratch",
        "\ndev\n",
        "nameserver 127.0.0.1\n",
        "BEGIN CERTIFICATE",
        "\n256\n",
    ] {
        assert!(out.contains(words), "{words} is not in {out}; {err}");
    }

    // The proxy answers, by a decision of its own; nothing else does. (Without -T: a static busybox of Debian's crashes on it.)
    let (code, out, err) = run(&bottle, "wget -O - http://denied.test/").await;
    assert!(code != 0 && err.contains("403"), "exit code {code}: {out}; {err}");
    let direct = "unset http_proxy HTTP_PROXY; wget -O - http://10.0.2.2/";
    let (code, out, err) = run(&bottle, direct).await;
    assert!(
        code != 0 && err.contains("nreachable"),
        "exit code {code}: {out}; {err}"
    );

    let (out, err) = talk(bottle.guest_streams().unwrap(), b"hello").await;
    assert_eq!((out.as_slice(), err.as_str()), (&b"hello"[..], "oops\n"));
    assert_eq!(bottle.wait_guest().await, Ok(7));
    close(bottle).await;
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_in_a_machine_have_their_input_status_and_files() {
    let Some(site) = Site::new("exit codes, input, files, signals").await else {
        return;
    };
    let bottle = site.launch(Topology::Sealed, "exec sleep 600").await;
    assert_eq!(run(&bottle, "exit 42").await.0, 42);
    assert_eq!(run(&bottle, "kill -9 $$").await.0, 137);
    assert_eq!(run(&bottle, "exit 1").await.0, 1);
    let mut missing = shell_spec("");
    missing.command = vec!["/nonexistent".to_owned()];
    let exec = bottle.exec(&missing).await.unwrap();
    talk(exec.streams, b"").await;
    assert_eq!(exec.exit.await, Ok(127));

    let bytes: Vec<u8> = (0..200_000u32).map(|number| (number * 7 % 251) as u8).collect();
    let exec = bottle.exec(&shell_spec("cat")).await.unwrap();
    let (out, _) = talk(exec.streams, &bytes).await;
    assert!(out == bytes, "{} bytes came back", out.len());
    assert_eq!(exec.exit.await, Ok(0));

    let mut spec = shell_spec("id; echo $A; pwd");
    spec.env.insert("A".to_owned(), "b c".to_owned());
    spec.user = Some("65534:65534".to_owned());
    spec.workdir = Some("/tmp".to_owned());
    let exec = bottle.exec(&spec).await.unwrap();
    let (out, _) = talk(exec.streams, b"").await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("uid=65534") && out.contains("\nb c\n/tmp\n"), "{out}");

    // As busy as a machine can be: smolvm calls it unreachable, and says of it that it is not running.
    let process = Pid::from_raw(bottle.guest().pid.unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let exec = bottle.exec(&shell_spec("cat")).await.unwrap();
    let goes_on = async {
        tokio::time::sleep(bottle_backend::patient(std::time::Duration::from_secs(1))).await;
        kill_process(process, Signal::CONT).unwrap();
    };
    let (_, (out, err)) = tokio::join!(goes_on, talk(exec.streams, b"input"));
    assert_eq!((out.as_slice(), err.as_str()), (&b"input"[..], ""));
    assert_eq!(exec.exit.await, Ok(0));

    bottle.signal_guest("TERM").await.unwrap();
    assert_eq!(bottle.wait_guest().await, Ok(143));
    close(bottle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size() {
    let Some(site) = Site::new("a terminal").await else {
        return;
    };
    let plan = site
        .plan(Topology::Sealed, true, "echo begun; read -r line; stty size; exit 5")
        .await;
    let bottle = site.launch_plan(plan).await;
    let streams = bottle.guest_streams().unwrap();
    let id = bottle.id(bottle_backend::Role::Guest).to_owned();
    bottle
        .backend()
        .resize(bottle_backend::Role::Guest, &id, None, 101, 33)
        .await
        .unwrap();
    let (mut stdin, mut stdout) = (streams.stdin, streams.stdout);
    let mut seen = Vec::new();
    let mut part = [0; 512];
    let mut is_told = false;
    // The end of a terminal is an error of its reader.
    while let Ok(count @ 1..) = stdout.read(&mut part).await {
        seen.extend_from_slice(&part[..count]);
        // What is typed before smolvm has made its terminal ready is thrown away.
        if !is_told && String::from_utf8_lossy(&seen).contains("begun") {
            stdin.write_all(b"go\r").await.unwrap();
            is_told = true;
        }
    }
    assert_eq!(bottle.wait_guest().await, Ok(5));
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains("33 101"), "{seen}");
    close(bottle).await;
}

/// Nothing may be left, and where anything is, the test says what.
async fn close(bottle: Bottle) {
    let report = bottle.close().await;
    assert!(report.is_clean(), "{report:?}");
}

/// Asks for everything that a routed machine is not to reach, and for the one place that it is.
async fn reaches_one_port(bottle: &Bottle) {
    let slug = bottle.slug();
    let bundle = bottle.subnets()[&format!("bottle-{slug}-inner")].replace("0/24", "2");
    let gateway = bottle.subnets()[&format!("bottle-{slug}-inner")].replace("0/24", "1");
    let (code, out, err) = run(bottle, "wget -O - http://denied.test/").await;
    assert!(code != 0 && err.contains("403"), "exit code {code}: {out}; {err}");
    // A gateway completes every handshake by itself, so only what comes back counts.
    let listener = tokio::net::TcpListener::bind((gateway.as_str(), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"PAYLOAD\n").await;
        }
    });
    let (mut control, mut said) = (
        tokio::net::TcpStream::connect((gateway.as_str(), port)).await.unwrap(),
        [0; 7],
    );
    control.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"PAYLOAD");
    for place in [
        format!("{gateway} {port}"),
        format!("100.96.0.1 {port}"),
        format!("{bundle} 9099"),
    ] {
        // nc's own limit ends with the handshake; smolvm's gateway goes on dialling for two minutes. 143: ended by `timeout`.
        let (code, out, err) = run(bottle, &format!("timeout 10 nc -w 5 {place} </dev/null")).await;
        assert_eq!(out, "", "{place} answered");
        assert!(
            code < 128 || code == 143,
            "{place} was not tried to the end: exit code {code}; {err}"
        );
    }
    let (code, out, _) = run(bottle, "nslookup example.test 8.8.8.8").await;
    assert!(code != 0 && !out.contains("Name:"), "{out}");
    serve.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routed_machine_without_a_firewall_reaches_one_port_too() {
    let Some(site) = Site::with("a routed machine by mediation", |settings| settings.firewall = false).await else {
        return;
    };
    let bottle = site.launch(Topology::Routed, "exec sleep 600").await;
    let slug = bottle.slug().to_owned();
    reaches_one_port(&bottle).await;
    close(bottle).await;
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}

/// As where the engine is on another kernel: by the launcher's relay alone, which ends with the bottle.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reaches_its_bundle_by_a_relay_too() {
    let Some(site) = Site::with("machines behind a relay", |settings| settings.always_relay = true).await else {
        return;
    };
    for topology in [Topology::Sealed, Topology::Routed] {
        let bottle = site.launch(topology, "exec sleep 600").await;
        let slug = bottle.slug().to_owned();
        assert!(bottle.plan().config.relay.is_some());
        match topology {
            Topology::Routed => reaches_one_port(&bottle).await,
            Topology::Sealed => {
                let (code, out, err) = run(&bottle, "wget -O - http://denied.test/").await;
                assert!(code != 0 && err.contains("403"), "exit code {code}: {out}; {err}");
            }
        }
        close(bottle).await;
        assert_eq!(site.left(&slug).await, Vec::<String>::new());
    }
}

/// On the machine's own disk, as its user's; another process looks at it, and it comes out when the command has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_project_goes_in_and_comes_out_of_an_archives_machine() {
    let Some(site) = Site::new("a copied project, an archive as an image, another process").await else {
        return;
    };
    let project = site.project();
    std::fs::create_dir(project.join("read-only")).unwrap();
    std::fs::write(project.join("read-only/one"), "1\n").unwrap();
    std::fs::set_permissions(
        project.join("read-only"),
        std::os::unix::fs::PermissionsExt::from_mode(0o555),
    )
    .unwrap();
    let script = "cat read-only/one && echo 2 >two && id -u && read -r line";
    let plan = site
        .plan_of(&site.archive(), ", workspace: {}", Topology::Sealed, false, script)
        .await;
    let bottle = site.launch_plan(plan).await;
    let slug = bottle.slug().to_owned();
    let other = site.another().await;
    let id = bottle.id(bottle_backend::Role::Guest).to_owned();
    let spec = shell_spec("id -u; pwd; echo x >/work/x || echo refused");
    let exec = other.exec(bottle_backend::Role::Guest, &id, &spec).await.unwrap();
    let (out, err) = talk(exec.streams, b"").await;
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "1000\n/work/project\nrefused\n", "{err}");
    let (out, err) = talk(bottle.guest_streams().unwrap(), b"go\n").await;
    assert_eq!(String::from_utf8(out).unwrap(), "1\n1000\n", "{err}");
    assert_eq!(bottle.wait_guest().await, Ok(0));
    let mut archive = Vec::new();
    bottle
        .workspace_archive()
        .await
        .unwrap()
        .read_to_end(&mut archive)
        .await
        .unwrap();
    let after = tree::list(&*archive).unwrap();
    let changed: Vec<_> = tree::changes(bottle.workspace_before().unwrap(), &after)
        .into_keys()
        .collect();
    assert_eq!(changed, [std::path::Path::new("two")]);
    close(bottle).await;
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}

/// The command is confined as in every machine, and nothing that the pack says is started.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_of_a_pack_is_a_machines() {
    let Some(site) = Site::new("a pack as an image").await else {
        return;
    };
    let script = "cat /packed && id -u && exec cat /proc/self/status";
    let plan = site
        .plan_of(&site.pack().await, "", Topology::Sealed, false, script)
        .await;
    let bottle = site.launch_plan(plan).await;
    let slug = bottle.slug().to_owned();
    let (out, err) = talk(bottle.guest_streams().unwrap(), b"").await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("packed\n1000\n"), "{out}{err}");
    assert!(out.contains("CapBnd:\t0000000000000000\n"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1\n"), "{out}");
    assert_eq!(bottle.wait_guest().await, Ok(0));
    close(bottle).await;
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routed_machine_reaches_one_port_of_one_address() {
    let Some(site) = Site::with("a routed machine", |settings| settings.firewall = true).await else {
        return;
    };
    let bottle = site.launch(Topology::Routed, "exec sleep 600").await;
    let slug = bottle.slug().to_owned();
    reaches_one_port(&bottle).await;

    let table = format!("bottle_{}_guest", slug.replace('-', "_"));
    let rules = || {
        let output = std::process::Command::new("/usr/sbin/nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(rules().contains(&table), "{}", rules());
    close(bottle).await;
    assert!(!rules().contains(&table), "{}", rules());
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_launcher_left_is_swept() {
    let Some(site) = Site::new("leftovers").await else {
        return;
    };
    let bottle = site.launch(Topology::Sealed, "exec sleep 600").await;
    let slug = bottle.slug().to_owned();
    // Its owner dies, as far as the journal knows: the machine and its directory are the backend's to find.
    for entry in std::fs::read_dir(site.settings.state.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let start: u64 = entry["labels"][LABEL_OWNER_START].as_str().unwrap().parse().unwrap();
        entry["labels"][LABEL_OWNER_START] = (start + 1).to_string().into();
        std::fs::write(&path, entry.to_string()).unwrap();
    }
    let swept = sweep(&*site.backend, &SweepScope::default()).await.unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    assert_eq!(swept.removed.len(), 2, "{swept:?}");
    assert_eq!(
        fixture::boot_processes(&site.settings.state.display().to_string()),
        Vec::<String>::new()
    );
    close(bottle).await;
    assert_eq!(site.left(&slug).await, Vec::<String>::new());
}
