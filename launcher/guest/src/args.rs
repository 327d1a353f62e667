//! The command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::copy::Copy;

/// How to call the program.
pub const USAGE: &str = "usage: bottle-guest [--forward ADDRESS:PORT=SOCKET]... [--copy[-shared] SOURCE=TARGET]... [--lease SOCKET] \
                         [--workdir DIRECTORY] \
                         -- COMMAND [ARGUMENT]...";

/// What the command line asked for.
#[derive(Debug)]
pub struct Args {
    /// Loopback listeners with the UNIX socket that each leads to.
    pub forwards: Vec<Forward>,
    /// What to copy before the command starts.
    pub copies: Vec<Copy>,
    /// Socket of the bundle whose end is the guest's end.
    pub lease: Option<PathBuf>,
    /// Directory to run the command in.
    pub workdir: Option<PathBuf>,
    /// The command; never empty.
    pub command: Vec<OsString>,
}

/// One forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen; always a loopback address.
    pub listen: SocketAddr,
    /// Socket to connect to.
    pub socket: PathBuf,
}

/// Why a command line was not understood.
#[derive(Debug, PartialEq, Eq)]
pub enum ArgsError {
    /// An option without its value.
    MissingValue(&'static str),
    /// Something else than an option before `--`.
    Unknown(OsString),
    /// A forward that is not `ADDRESS:PORT=SOCKET`.
    Forward(OsString),
    /// A copy that is not `SOURCE=TARGET`.
    Copy(OsString),
    /// A forward that would listen where a neighbour can reach it.
    NotLoopback(SocketAddr),
    /// No command after `--`.
    NoCommand,
}

impl Args {
    /// Reads the arguments (without the program's name).
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut args = args.into_iter();
        let mut parsed = Self {
            forwards: Vec::new(),
            copies: Vec::new(),
            lease: None,
            workdir: None,
            command: Vec::new(),
        };
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--forward") => {
                    let value = args.next().ok_or(ArgsError::MissingValue("--forward"))?;
                    parsed.forwards.push(parse_forward(&value)?);
                }
                Some(flag @ ("--copy" | "--copy-shared")) => {
                    let shared = flag == "--copy-shared";
                    let value = args.next().ok_or(ArgsError::MissingValue("--copy"))?;
                    parsed.copies.push(parse_copy(&value, shared)?);
                }
                Some("--lease") => parsed.lease = Some(args.next().ok_or(ArgsError::MissingValue("--lease"))?.into()),
                Some("--workdir") => {
                    parsed.workdir = Some(args.next().ok_or(ArgsError::MissingValue("--workdir"))?.into())
                }
                Some("--") => {
                    parsed.command = args.by_ref().collect();
                    break;
                }
                _ => return Err(ArgsError::Unknown(arg)),
            }
        }
        if parsed.command.is_empty() {
            Err(ArgsError::NoCommand)
        } else {
            Ok(parsed)
        }
    }
}

fn parse_forward(value: &OsStr) -> Result<Forward, ArgsError> {
    let bad = || ArgsError::Forward(value.to_owned());
    let (listen, socket) = value.to_str().and_then(|text| text.split_once('=')).ok_or_else(bad)?;
    let listen: SocketAddr = listen.parse().map_err(|_| bad())?;
    if !socket.starts_with('/') {
        return Err(bad());
    }
    if !listen.ip().is_loopback() {
        return Err(ArgsError::NotLoopback(listen));
    }
    Ok(Forward {
        listen,
        socket: socket.into(),
    })
}

fn parse_copy(value: &OsStr, shared: bool) -> Result<Copy, ArgsError> {
    let parts = value.to_str().and_then(|text| text.split_once('='));
    match parts {
        Some((source, target)) if source.starts_with('/') && target.starts_with('/') => Ok(Copy {
            source: source.into(),
            target: target.into(),
            shared,
        }),
        _ => Err(ArgsError::Copy(value.to_owned())),
    }
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingValue(option) => write!(f, "{option} needs a value, found the end of the command line"),
            Self::Unknown(arg) => write!(f, "expected an option or `--`, found {arg:?}"),
            Self::Forward(value) => write!(f, "--forward expects ADDRESS:PORT=/PATH/OF/SOCKET, found {value:?}"),
            Self::Copy(value) => write!(f, "--copy expects /SOURCE=/TARGET, found {value:?}"),
            Self::NotLoopback(listen) => write!(f, "--forward listens on loopback addresses only, found {listen}"),
            Self::NoCommand => write!(f, "expected `--` and a command, found the end of the command line"),
        }
    }
}

impl std::error::Error for ArgsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn everything_is_read() {
        let args =
            parse("--forward 127.0.0.1:8888=/run/p.sock --forward [::1]:9=/q --lease /l --copy /a=/b=c --workdir /w -- sh -c --")
                .unwrap();
        assert_eq!(args.forwards.len(), 2);
        assert_eq!(
            args.forwards[0],
            Forward {
                listen: "127.0.0.1:8888".parse().unwrap(),
                socket: "/run/p.sock".into()
            }
        );
        assert_eq!(
            args.copies,
            [Copy {
                source: "/a".into(),
                target: "/b=c".into(),
                shared: false,
            }]
        );
        assert_eq!(args.lease, Some("/l".into()));
        assert_eq!(args.workdir, Some("/w".into()));
        assert_eq!(args.command, ["sh", "-c", "--"]);
    }

    #[rstest::rstest]
    #[case("", ArgsError::NoCommand)]
    #[case("--", ArgsError::NoCommand)]
    #[case("--lease", ArgsError::MissingValue("--lease"))]
    #[case("sh", ArgsError::Unknown("sh".into()))]
    #[case("--forward 127.0.0.1=/x -- sh", ArgsError::Forward("127.0.0.1=/x".into()))]
    #[case("--copy a=/b -- sh", ArgsError::Copy("a=/b".into()))]
    #[case("--copy /a -- sh", ArgsError::Copy("/a".into()))]
    #[case("--forward 127.0.0.1:1=x -- sh", ArgsError::Forward("127.0.0.1:1=x".into()))]
    #[case("--forward 0.0.0.0:1=/x -- sh", ArgsError::NotLoopback("0.0.0.0:1".parse().unwrap()))]
    #[case("--forward [::]:1=/x -- sh", ArgsError::NotLoopback("[::]:1".parse().unwrap()))]
    fn refusals(#[case] line: &str, #[case] expected: ArgsError) {
        assert_eq!(parse(line).unwrap_err(), expected);
    }
}
