//! Actions `UnixSockets` and `EngineApi`: every UNIX socket that can be found, and every place by TCP that is named, asked
//! whether it speaks a protocol.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::time::Duration;

use probe_spec::SocketProtocol;

use crate::notes::{Done, NotIssued, Run, errno};
use crate::{resolve, walk, wire};

/// How long an answer is waited for.
const ANSWER_TIME: Duration = Duration::from_millis(200);
const ANSWER_BYTES: usize = 4096;

/// Asks all sockets but the declared ones.
pub fn unix_sockets(run: &Run, protocol: SocketProtocol, paths: &[String], declared: &[String]) -> Done {
    let mut all: BTreeSet<String> = paths
        .iter()
        .map(|path| run.words.text(path))
        .collect::<Result<_, _>>()?;
    let declared = declared
        .iter()
        .map(|path| run.words.text(path))
        .collect::<Result<Vec<_>, _>>()?;
    for name in [
        "SSH_AUTH_SOCK",
        "DOCKER_HOST",
        "DBUS_SESSION_BUS_ADDRESS",
        "CONTAINERD_ADDRESS",
    ] {
        let value = std::env::var(name).unwrap_or_default();
        all.extend(
            value
                .find('/')
                .map(|at| value[at..].split(',').next().unwrap_or_default().to_owned()),
        );
    }
    all.extend(listening(&fs::read_to_string("/proc/net/unix").unwrap_or_default()));
    let complete = walk::walk(run, &[PathBuf::from("/")], |path, metadata| {
        if metadata.file_type().is_socket() {
            all.insert(path.to_string_lossy().into_owned());
        }
    });
    run.trace(format!("{} sockets", all.len()));
    for path in all.iter().filter(|path| !declared.contains(path)) {
        if run.is_over() {
            return Err(NotIssued::CutOff("the last socket"));
        }
        match answer_of(run, path, protocol) {
            Ok(answer) if speaks(protocol, &answer) => {
                run.notes
                    .finding(format!("{path} speaks {protocol:?}: {}", wire::excerpt(&answer)));
            }
            Ok(answer) => run.trace(format!("{path}: {}", wire::excerpt(&answer))),
            Err(error) => run.trace(format!("{path}: {}", errno(&error))),
        }
    }
    if complete {
        Ok(())
    } else {
        Err(NotIssued::CutOff("the end of the walk"))
    }
}

/// Asks every place that can be connected to. A place that refuses or stays silent has been tried.
pub fn engine_api(run: &Run, to: &[String], send: &str) -> Done {
    let question = run.words.bytes(send)?;
    for place in to {
        let place = run.words.text(place)?;
        let place = match place.strip_prefix("env:") {
            None => place,
            Some(name) => match configured(&std::env::var(name).unwrap_or_default()) {
                Some(place) => place,
                None => {
                    run.trace(format!("{name} names no place"));
                    continue;
                }
            },
        };
        for address in resolve::addresses(run, &place)? {
            if run.is_over() {
                return Err(NotIssued::CutOff("the last place"));
            }
            match answer_at(run, address, &question) {
                Ok(answer) if is_engine(&answer) => run
                    .notes
                    .finding(format!("an engine serves at {address}: {}", wire::excerpt(&answer))),
                Ok(answer) => run.trace(format!("{address}: {}", wire::excerpt(&answer))),
                Err(error) => run.trace(format!("{address}: {}", errno(&error))),
            }
        }
    }
    Ok(())
}

/// `host:port` of `tcp://host:port`, as engine clients read it.
fn configured(value: &str) -> Option<String> {
    let place = value.strip_prefix("tcp://")?.trim_end_matches('/');
    (!place.is_empty()).then(|| place.to_owned())
}

fn answer_at(run: &Run, address: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut stream = wire::connect(run, address, None)?;
    stream.write_all(question)?;
    wire::read_for(run, &mut *stream, ANSWER_TIME, ANSWER_BYTES)
}

/// Also an engine that wants TLS is one: this is what its library says to a plain request.
fn is_engine(answer: &[u8]) -> bool {
    const WANTS_TLS: &[u8] = b"Client sent an HTTP request to an HTTPS server";
    speaks(SocketProtocol::Docker, answer)
        || speaks(SocketProtocol::Podman, answer)
        || answer.windows(WANTS_TLS.len()).any(|window| window == WANTS_TLS)
}

/// Listening sockets of this network namespace: paths, and `@name` for abstract ones (proc_net(5): flags, type, state, inode,
/// path).
fn listening(table: &str) -> Vec<String> {
    const ACCEPTS: &str = "00010000";
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(3) == Some(&ACCEPTS)).then(|| words.get(7).map(|path| (*path).to_owned()))?
        })
        .collect()
}

fn answer_of(run: &Run, path: &str, protocol: SocketProtocol) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut stream = wire::connect_unix(path)?;
    stream.write_all(&question(run, protocol))?;
    wire::read_for(run, &mut stream, ANSWER_TIME, ANSWER_BYTES)
}

fn question(run: &Run, protocol: SocketProtocol) -> Vec<u8> {
    let ping =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: d\r\nX-Nonce: {}\r\n\r\n", run.words.nonce).into_bytes();
    match protocol {
        SocketProtocol::Docker => ping("/_ping"),
        SocketProtocol::Podman => ping("/libpod/_ping"),
        // Preface and empty settings (RFC 9113, 3.4).
        SocketProtocol::Containerd => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        // A credentials byte, then SASL; 30 is "0" in hexadecimal (D-Bus specification, authentication protocol).
        SocketProtocol::Dbus => b"\0AUTH EXTERNAL 30\r\n".to_vec(),
        // Length 1, SSH_AGENTC_REQUEST_IDENTITIES = 11.
        SocketProtocol::SshAgent => vec![0, 0, 0, 1, 11],
        // It greets by itself; an empty comment does no harm (Assuan).
        SocketProtocol::GpgAgent => b"#\n".to_vec(),
    }
}

/// Whether an answer is one of the protocol.
fn speaks(protocol: SocketProtocol, answer: &[u8]) -> bool {
    let has = |text: &str| {
        answer
            .windows(text.len())
            .any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
    };
    match protocol {
        SocketProtocol::Docker => answer.starts_with(b"HTTP/1.") && (has("api-version:") || has("server: docker/")),
        SocketProtocol::Podman => answer.starts_with(b"HTTP/1.") && has("libpod-api-version:"),
        // A settings frame on stream 0.
        SocketProtocol::Containerd => matches!(answer, [0, _, length, 4, _, 0, 0, 0, 0, ..] if length % 6 == 0),
        SocketProtocol::Dbus => ["OK ", "REJECTED", "DATA"]
            .iter()
            .any(|word| answer.starts_with(word.as_bytes())),
        // SSH_AGENT_IDENTITIES_ANSWER = 12, SSH_AGENT_FAILURE = 5.
        SocketProtocol::SshAgent => matches!(answer, [0, _, _, _, 12 | 5, ..]),
        SocketProtocol::GpgAgent => answer.starts_with(b"OK "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    #[test]
    fn tables_are_read() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
                     0: 2 0 00010000 0001 01 1 /run/x.sock\n0: 2 0 00010000 0001 01 2 @abstract\n0: 3 0 00000000 0001 03 3 /run/y\n\
                     0: 2 0 00010000 0001 01 4\n";
        assert_eq!(listening(table), ["/run/x.sock", "@abstract"]);
    }

    #[test]
    fn a_socket_that_speaks_is_found_unless_declared() {
        let directory = tempfile::tempdir().expect("makes one");
        let path = directory.path().join("agent.sock").to_string_lossy().into_owned();
        let listener = UnixListener::bind(&path).expect("binds");
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let mut peer = peer.expect("accepts");
                let mut question = [0; 5];
                if peer.read_exact(&mut question).is_ok() {
                    // The agent may have left.
                    let _ = peer.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, 0]);
                }
            }
        });
        let run = crate::notes::tests::run(5000);
        let answer = answer_of(&run, &path, SocketProtocol::SshAgent).expect("answers");
        assert!(speaks(SocketProtocol::SshAgent, &answer) && !speaks(SocketProtocol::Docker, &answer));
        assert!(answer_of(&run, "/nonexistent", SocketProtocol::Docker).is_err());
    }

    #[test]
    fn an_engine_by_tcp_is_found_and_another_service_is_not() {
        use std::net::TcpListener;
        let serve = |answer: &'static [u8]| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
            let place = listener.local_addr().expect("has one").to_string();
            std::thread::spawn(move || {
                for peer in listener.incoming() {
                    let mut peer = peer.expect("accepts");
                    let mut question = [0; 256];
                    if peer.read(&mut question).is_ok_and(|length| length > 0) {
                        // The agent may have left.
                        let _ = peer.write_all(answer);
                    }
                }
            });
            place
        };
        for (answer, expected) in [
            (
                &b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"[..],
                1,
            ),
            (
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
                1,
            ),
            (b"HTTP/1.1 404 Not Found\r\nServer: other\r\n\r\n", 0),
        ] {
            let run = crate::notes::tests::run(5000);
            let places = [serve(answer), "env:BOTTLE_PROBE_NO_SUCH_VARIABLE".to_owned()];
            engine_api(&run, &places, "GET /_ping HTTP/1.1\r\n\r\n").expect("is carried out");
            assert_eq!(
                run.notes.content().findings.len(),
                expected,
                "{}",
                answer.escape_ascii()
            );
        }
        assert_eq!(configured("tcp://10.0.0.1:2375/").as_deref(), Some("10.0.0.1:2375"));
        assert_eq!(configured("unix:///run/docker.sock"), None);
    }
}
