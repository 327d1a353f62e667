//! Where the engine runs on another kernel, a machine cannot be handed the bundle's sockets. It is handed sockets of this
//! process, which leads each connection to the bundle's published port and says there which socket is meant, and the secret that
//! the bundle asks for.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bottle_backend::{BackendError, RelaySecret, patient};
use bottle_plan::PROXY_SOCKET;
use bottle_policy::relay::{PREFACE, preface};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

use crate::program::refused;
use crate::shapes::{MachineSpec, Shapes};
use crate::site::open_to_machines;

/// Connections of a socket at a time; more wait in the system's queue.
const AT_ONCE: usize = 1024;
/// How long the bundle may take to take a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// A machine's sockets, and the way behind them, until it is dropped.
pub(crate) struct Relay {
    sockets: Vec<(PathBuf, JoinHandle<()>)>,
    way: Option<Way>,
}

/// The way to one service of a bundle.
#[derive(Clone)]
pub(crate) struct Way {
    to: SocketAddr,
    preface: Arc<Zeroizing<[u8; PREFACE]>>,
}

impl Relay {
    /// Makes a machine's sockets, which are called as the bundle calls its services. The bundle's address is as far away as its
    /// sockets are, so a routed machine's connections to it need a way too.
    pub(crate) fn open(
        machine: &MachineSpec,
        smolvm: Shapes,
        to: SocketAddr,
        secret: &RelaySecret,
    ) -> Result<Self, BackendError> {
        let mut relay = Self {
            sockets: Vec::new(),
            way: None,
        };
        if machine.allowed.is_some() {
            if !smolvm.mediates() {
                let call = format!("lead the connections of {} to its bundle", machine.name);
                let problem = "smolvm 1.32.2 or later hands them over: update smolvm, or use the topology `sealed`";
                return Err(refused(call, problem));
            }
            relay.way = Way::new(PROXY_SOCKET, to, secret);
        }
        for (path, _) in &machine.sockets {
            let path = Path::new(path);
            let failed = |problem: String| refused(format!("listen on {}", path.display()), problem);
            let service = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let way =
                Way::new(service, to, secret).ok_or_else(|| failed("no service can have this name".to_owned()))?;
            let listener = listen(path).map_err(|error| {
                failed(format!(
                    "{error}; where the path is too long for a socket, name a shorter one with BOTTLE_SMOLVM_STATE_DIR"
                ))
            })?;
            relay
                .sockets
                .push((path.to_owned(), tokio::spawn(serve(listener, way))));
        }
        Ok(relay)
    }

    /// The way to the proxy of a routed machine.
    pub(crate) fn way(&self) -> Option<Way> {
        self.way.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for (path, serving) in &self.sockets {
            // With it end the connections that it leads.
            serving.abort();
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that nobody but the machine's process can connect to, as far as users tell processes apart.
fn listen(path: &Path) -> io::Result<UnixListener> {
    // What others could do before its mode is set is nothing: the directories above are closed to them.
    let listener = UnixListener::bind(path)?;
    if rustix::process::geteuid().is_root() {
        open_to_machines(path, 0o660, 0o666)?;
    } else {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(listener)
}

async fn serve(listener: UnixListener, way: Way) {
    let mut led = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = led.join_next() => {}
            accepted = listener.accept(), if led.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    let way = way.clone();
                    led.spawn(async move {
                        match way.connect().await {
                            Ok(bundle) => lead(stream, bundle).await,
                            Err(error) => tracing::warn!(%error, "a connection of a machine does not reach its bundle"),
                        }
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Way {
    /// `None` when no service can be called so.
    pub(crate) fn new(service: &str, to: SocketAddr, secret: &RelaySecret) -> Option<Self> {
        let preface = preface(service, secret.expose_secret()).map(Zeroizing::new)?;
        Some(Self {
            to,
            preface: Arc::new(preface),
        })
    }

    /// A connection to the service, as far as can be known: a bundle that refuses says nothing and ends it.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let connect = async {
            let mut stream = TcpStream::connect(self.to).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&**self.preface).await?;
            Ok(stream)
        };
        let connected = tokio::time::timeout(patient(CONNECTED_WITHIN), connect).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Copies both ways until both are done; each end is told of the other's.
pub(crate) async fn lead(mut from: impl AsyncRead + AsyncWrite + Unpin, mut bundle: TcpStream) {
    if let Err(error) = copy_bidirectional(&mut from, &mut bundle).await {
        tracing::debug!(%error, "a connection of a machine to its bundle broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Version;
    use bottle_policy::relay::asked;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, UnixStream};

    const SECRET: [u8; 32] = [9; 32];

    fn secret() -> RelaySecret {
        RelaySecret::init_with_mut(|bytes| *bytes = SECRET)
    }

    /// A bundle that says which service was asked for, then says everything again.
    async fn bundle() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut preface = [0; PREFACE];
                    stream.read_exact(&mut preface).await.unwrap();
                    let service = asked(&preface, &SECRET).unwrap();
                    stream.write_all(service.as_bytes()).await.unwrap();
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    stream.write_all(&all).await.unwrap();
                });
            }
        });
        address
    }

    /// The relay of a sealed machine with these sockets.
    fn relay<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, to: SocketAddr) -> Result<Relay, BackendError> {
        let machine = MachineSpec {
            name: "m".to_owned(),
            image: String::new(),
            cpus: 1,
            memory_mib: 1,
            volumes: Vec::new(),
            sockets: paths
                .into_iter()
                .map(|path| (path.display().to_string(), String::new()))
                .collect(),
            allowed: None,
        };
        Relay::open(&machine, Shapes::of(Version(1, 32, 2)).unwrap(), to, &secret())
    }

    async fn said(path: &Path, words: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(path).await.unwrap();
        for byte in words {
            stream.write_all(&[*byte]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn each_socket_leads_to_its_service_and_all_end_with_the_relay() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["proxy.sock", "lease.sock"].map(|name| directory.path().join(name));
        let relay = relay(&paths, bundle().await).unwrap();
        for (path, service) in paths.iter().zip(["proxy.sock", "lease.sock"]) {
            let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            let expected: &[u32] = if rustix::process::geteuid().is_root() {
                &[0o660, 0o666]
            } else {
                &[0o600]
            };
            assert!(expected.contains(&mode), "{mode:o}");
            assert_eq!(said(path, b" hello").await, format!("{service} hello").as_bytes());
        }
        let mut held = UnixStream::connect(&paths[1]).await.unwrap();
        let mut name = [0; 10];
        held.read_exact(&mut name).await.unwrap();
        drop(relay);
        let end = tokio::time::timeout(Duration::from_secs(10), held.read(&mut name)).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[tokio::test]
    async fn a_bundle_that_is_gone_is_an_end_and_no_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.sock");
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let _relay = relay([&path], gone).unwrap();
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    }

    #[tokio::test]
    async fn a_path_that_no_socket_can_have_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x".repeat(100)).join("proxy.sock");
        let error = relay([&path], "127.0.0.1:1".parse().unwrap()).err().unwrap();
        assert!(error.problem.contains("BOTTLE_SMOLVM_STATE_DIR"), "{error}");
    }
}
