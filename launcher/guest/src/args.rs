//! The command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::confine::Tmpfs;
use crate::copy::Copy;

/// How to call the program.
pub const USAGE: &str =
    "usage: bottle-guest [--announce] [--forward ADDRESS:PORT=SOCKET]... [--copy[-shared] SOURCE=TARGET]... [--lease SOCKET] \
                         [--workdir DIRECTORY] [--confine USER[:GROUP]] [--seccomp] [--hostname NAME] [--no-resolver] \
                         [--tmpfs PATH=BYTES,OPTIONS]... [--writable DIRECTORY]... [--read-only-root] \
                         [--open-files N] [--processes N] [--pid-file FILE] [--exec] -- COMMAND [ARGUMENT]...
       bottle-guest --signal NAME --pid-file FILE";

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
    /// What is done beforehand where no container engine has done it.
    pub confine: Confine,
    /// Whether to become the command instead of staying its init: for a further program in a guest that has one.
    pub exec: bool,
    /// Signal to send to the init whose id is in `confine.pid_file`; then there is no command.
    pub signal: Option<String>,
    /// The command; empty only with `signal`.
    pub command: Vec<OsString>,
}

/// What is done before the command where no container engine has done it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confine {
    /// `user[:group]` to become, without any capability.
    pub user: Option<String>,
    /// Whether dangerous system calls are refused.
    pub seccomp: bool,
    /// Host name.
    pub hostname: Option<String>,
    /// Whether the list of name servers is replaced by one where nobody listens.
    pub no_resolver: bool,
    /// In-memory file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Directories of the user's own, made when they are absent, that stay writable when the root is not.
    pub writable: Vec<PathBuf>,
    /// Whether the root becomes read-only.
    pub read_only_root: bool,
    /// Most open files of a process.
    pub open_files: Option<u64>,
    /// Most processes and threads of the user.
    pub processes: Option<u64>,
    /// File for our process id.
    pub pid_file: Option<PathBuf>,
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
    /// A value of another form.
    Value(&'static str, OsString),
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
            confine: Confine::default(),
            exec: false,
            signal: None,
            command: Vec::new(),
        };
        while let Some(arg) = args.next() {
            let mut value = |option| args.next().ok_or(ArgsError::MissingValue(option));
            match arg.to_str() {
                Some("--forward") => parsed.forwards.push(parse_forward(&value("--forward")?)?),
                Some(flag @ ("--copy" | "--copy-shared")) => {
                    let shared = flag == "--copy-shared";
                    parsed.copies.push(parse_copy(&value("--copy")?, shared)?);
                }
                Some("--lease") => parsed.lease = Some(value("--lease")?.into()),
                Some("--workdir") => parsed.workdir = Some(value("--workdir")?.into()),
                Some("--exec") => parsed.exec = true,
                Some("--signal") => parsed.signal = Some(text("--signal", value("--signal")?)?),
                Some("--") => {
                    parsed.command = args.by_ref().collect();
                    break;
                }
                Some(option) if parsed.confine.read(option, &mut value)? => {}
                _ => return Err(ArgsError::Unknown(arg)),
            }
        }
        if parsed.signal.is_some() {
            return match parsed.confine.pid_file {
                Some(_) => Ok(parsed),
                None => Err(ArgsError::MissingValue("--pid-file")),
            };
        }
        if parsed.command.is_empty() {
            Err(ArgsError::NoCommand)
        } else {
            Ok(parsed)
        }
    }
}

impl Confine {
    /// Reads an option; whether it is one of these.
    fn read(
        &mut self,
        option: &str,
        value: &mut impl FnMut(&'static str) -> Result<OsString, ArgsError>,
    ) -> Result<bool, ArgsError> {
        match option {
            "--confine" => self.user = Some(text("--confine", value("--confine")?)?),
            "--hostname" => self.hostname = Some(text("--hostname", value("--hostname")?)?),
            "--pid-file" => self.pid_file = Some(value("--pid-file")?.into()),
            "--tmpfs" => self.tmpfs.push(parse_tmpfs(value("--tmpfs")?)?),
            "--writable" => self.writable.push(directory("--writable", value("--writable")?)?),
            "--open-files" => self.open_files = Some(number("--open-files", value("--open-files")?)?),
            "--processes" => self.processes = Some(number("--processes", value("--processes")?)?),
            "--seccomp" => self.seccomp = true,
            "--no-resolver" => self.no_resolver = true,
            "--read-only-root" => self.read_only_root = true,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn text(option: &'static str, value: OsString) -> Result<String, ArgsError> {
    value.into_string().map_err(|value| ArgsError::Value(option, value))
}

fn number(option: &'static str, value: OsString) -> Result<u64, ArgsError> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or(ArgsError::Value(option, value))
}

fn directory(option: &'static str, value: OsString) -> Result<PathBuf, ArgsError> {
    let path = PathBuf::from(&value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ArgsError::Value(option, value))
    }
}

fn parse_tmpfs(value: OsString) -> Result<Tmpfs, ArgsError> {
    let read = |text: &str| {
        // Neither paths (the launcher refuses commas in them) nor sizes have a comma; options have equal signs of their own.
        let (head, options) = text.split_once(',').unwrap_or((text, ""));
        let (path, bytes) = head.rsplit_once('=')?;
        let tmpfs = Tmpfs {
            path: path.into(),
            bytes: bytes.parse().ok()?,
            options: options.to_owned(),
        };
        path.starts_with('/').then_some(tmpfs)
    };
    let found = value.to_str().and_then(read);
    found.ok_or(ArgsError::Value("--tmpfs", value))
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
            Self::Value(option, value) => write!(f, "{option} was given {value:?}, which is not of its form"),
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

    #[test]
    fn confinement_is_read() {
        let line = "--confine 1000:1000 --seccomp --hostname dev --no-resolver --tmpfs /tmp=4096,mode=1777,exec \
                    --tmpfs /x=1 --writable /work/app --read-only-root --open-files 64 --processes 16 --pid-file /p --exec -- sh";
        let args = parse(line).unwrap();
        let tmpfs = |path: &str, bytes, options: &str| Tmpfs {
            path: path.into(),
            bytes,
            options: options.into(),
        };
        let expected = Confine {
            user: Some("1000:1000".into()),
            seccomp: true,
            hostname: Some("dev".into()),
            no_resolver: true,
            tmpfs: vec![tmpfs("/tmp", 4096, "mode=1777,exec"), tmpfs("/x", 1, "")],
            writable: vec!["/work/app".into()],
            read_only_root: true,
            open_files: Some(64),
            processes: Some(16),
            pid_file: Some("/p".into()),
        };
        assert_eq!(args.confine, expected);
        assert!(args.exec);
        let args = parse("--signal TERM --pid-file /p").unwrap();
        assert_eq!((args.signal.as_deref(), args.command.len()), (Some("TERM"), 0));
    }

    #[rstest::rstest]
    #[case("--signal TERM", ArgsError::MissingValue("--pid-file"))]
    #[case("--open-files x -- sh", ArgsError::Value("--open-files", "x".into()))]
    #[case("--tmpfs /tmp -- sh", ArgsError::Value("--tmpfs", "/tmp".into()))]
    #[case("--tmpfs tmp=1 -- sh", ArgsError::Value("--tmpfs", "tmp=1".into()))]
    #[case("--writable work -- sh", ArgsError::Value("--writable", "work".into()))]
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
