//! Finding the engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bottle_backend::{BackendError, BackendErrorKind};

use crate::Docker;
use crate::call::{QUICK, call, failed};

/// Limit of the first call: a socket that nobody serves must not hold up a start.
const FIRST: Duration = Duration::from_secs(10);
/// Limit that the client library puts on a request; the calls here have shorter ones of their own. `wait` is answered at
/// once (headers) and read without a limit.
const LIBRARY_LIMIT: u64 = 600;
/// Oldest engine API: 1.41, engine 20.10, the oldest one tried. An older engine may report options (`inhibit_ipv4`) that its
/// drivers do not know, so reading them back would prove nothing.
const OLDEST_API: (usize, usize) = (1, 41);

impl Docker {
    /// Connects to the engine that `DOCKER_HOST` names, or else to the first socket there is of `/var/run/docker.sock`,
    /// `$XDG_RUNTIME_DIR/docker.sock` (rootless) and `~/.docker/run/docker.sock` (Docker Desktop).
    ///
    /// # Errors
    /// [`BackendErrorKind::Unreachable`] with what to do.
    pub async fn connect() -> Result<Self, BackendError> {
        let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let socket = match host {
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) => PathBuf::from(path),
                None => {
                    let problem = format!(
                        "DOCKER_HOST is `{host}`, but only a local socket is supported (unix:///path): bottles need an engine \
                         whose containers' standard streams end with this program"
                    );
                    return Err(failed("connect to the engine", BackendErrorKind::Unreachable, problem));
                }
            },
            None => default_socket(),
        };
        Self::connect_to(&socket).await
    }

    /// Connects to the engine behind this socket.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_to(socket: &Path) -> Result<Self, BackendError> {
        let explain = |problem: &str| {
            let problem = format!(
                "{problem}. No container engine answers on {}: start Docker, or set DOCKER_HOST=unix:///path/to/docker.sock, \
                 or allow this user to use the socket (group `docker`)",
                socket.display()
            );
            failed("connect to the engine", BackendErrorKind::Unreachable, problem)
        };
        let path = socket
            .to_str()
            .ok_or_else(|| explain("the socket's path is not UTF-8"))?;
        let client = bollard::Docker::connect_with_unix(path, LIBRARY_LIMIT, bollard::API_DEFAULT_VERSION)
            .map_err(|error| explain(&error.to_string()))?;
        let client = call("negotiate version", FIRST, client.negotiate_version())
            .await
            .map_err(|error| explain(&error.problem))?;
        let api = client.client_version();
        recent_enough((api.major_version, api.minor_version))?;
        let info = call("info", QUICK, client.info()).await?;
        let seccomp = confines(info.security_options.as_deref().unwrap_or_default());
        Ok(Self {
            client,
            socket: socket.to_owned(),
            seccomp,
        })
    }
}

fn recent_enough(api: (usize, usize)) -> Result<(), BackendError> {
    if api >= OLDEST_API {
        return Ok(());
    }
    let problem = format!(
        "the engine speaks API {}.{}, but {}.{} (Docker 20.10) or later is needed: update the engine",
        api.0, api.1, OLDEST_API.0, OLDEST_API.1
    );
    Err(failed("connect to the engine", BackendErrorKind::Refused, problem))
}

fn default_socket() -> PathBuf {
    let standard = PathBuf::from("/var/run/docker.sock");
    let below = |variable: &str, path: &str| std::env::var_os(variable).map(|base| Path::new(&base).join(path));
    let others = [
        below("XDG_RUNTIME_DIR", "docker.sock"),
        below("HOME", ".docker/run/docker.sock"),
    ];
    std::iter::once(standard.clone())
        .chain(others.into_iter().flatten())
        .find(|path| path.exists())
        .unwrap_or(standard)
}

/// Whether the engine confines containers by seccomp when not told otherwise. Its words: `name=seccomp,profile=default`
/// (since 23: `builtin`), with `unconfined` when its administrator switched that off.
fn confines(options: &[String]) -> bool {
    options.iter().any(|option| {
        let mut words = option.split(',');
        words.next() == Some("name=seccomp") && !words.any(|word| word == "profile=unconfined")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&["name=seccomp,profile=default"], true)]
    #[case(&["name=apparmor", "name=seccomp,profile=builtin"], true)]
    #[case(&["name=seccomp,profile=unconfined"], false)]
    #[case(&["name=apparmor"], false)]
    fn seccomp_by_default(#[case] options: &[&str], #[case] expected: bool) {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        assert_eq!(confines(&options), expected);
    }

    #[test]
    fn an_old_engine_is_refused() {
        let error = recent_enough((1, 40)).unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Refused);
        assert!(
            error.problem.contains("1.40") && error.problem.contains("1.41"),
            "{error}"
        );
        assert_eq!(recent_enough((1, 41)), Ok(()));
        assert_eq!(recent_enough((2, 0)), Ok(()));
    }

    #[tokio::test]
    async fn an_absent_engine_is_explained() {
        let error = Docker::connect_to(Path::new("/nonexistent/docker.sock"))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind, BackendErrorKind::Unreachable);
        assert!(error.problem.contains("/nonexistent/docker.sock"), "{error}");
        assert!(error.problem.contains("DOCKER_HOST"), "{error}");
    }
}
