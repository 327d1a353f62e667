//! A daemon from its start to its end: handover, sockets, confinement, service.

use std::future::{Future, poll_fn};
use std::io::{self, BufRead, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bottle_egress::Egress;
use bottle_pipelock::{HopSecret, PipelockSetup};
use bottle_policy::{BundleConfig, Controls, Daemon};
use bottle_wire::{Authority, Recorder};
use secrecy::SecretString;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use crate::handover::{Handover, READY_LINE};
use crate::process::name_of;
use crate::relay::{self, Relay};
use crate::{EXIT_SOFTWARE, EXIT_USAGE, confine};

const NO_HOP_SECRET: &str = "expected the hop's secret in the handover, found none";

type Failure = Box<dyn std::error::Error>;

/// Runs the daemon of this name; its exit status.
pub fn main(name: &str) -> u8 {
    let Some(daemon) = Daemon::ALL.into_iter().find(|&daemon| name_of(daemon) == name) else {
        eprintln!("bottle-bundle: expected the daemon `pipelock`, `egress` or `relay`, found {name:?}");
        return EXIT_USAGE;
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .without_time()
        .init();
    let done = read_handover().and_then(|handover| match daemon {
        Daemon::Pipelock => pipelock(handover),
        Daemon::Egress => egress(handover),
        Daemon::Relay => relay(handover),
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            EXIT_SOFTWARE
        }
    }
}

fn read_handover() -> Result<Handover, Failure> {
    // A buffer of our own: that of `io::stdin()` would keep the secrets.
    let input = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut line = Zeroizing::new(Vec::with_capacity(2 * bottle_policy::MAX_CONFIG_LINE + 4096));
    let mut buffered = io::BufReader::with_capacity(16 * 1024, input);
    buffered.read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(|error| {
        format!(
            "expected a handover from the bundle's init, found an error at column {}",
            error.column()
        )
        .into()
    })
}

fn egress(handover: Handover) -> Result<(), Failure> {
    let Handover {
        config,
        hop_secret,
        tokens,
        ..
    } = handover;
    let tokens = tokens.ok_or("expected the tokens in the handover, found none")?;
    let hop_secret = hop_secret.ok_or(NO_HOP_SECRET)?;
    let listener: TcpListener = bottle_egress::bind()
        .map_err(|error| format!("cannot listen on 127.0.0.1:{}: {error}", bottle_policy::EGRESS_PORT))?;
    confine::confine(Daemon::Egress)?;
    let recorder = Recorder::stdout(&config.bottle, Daemon::Egress)?;
    let egress = Egress::new(&config, tokens, SecretString::from(hop_secret), recorder.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_until_told(async {
        tokio::spawn(recorder.run());
        bottle_egress::serve(listener, Arc::new(egress))
            .await
            .map_err(Failure::from)
    }))
}

fn pipelock(handover: Handover) -> Result<(), Failure> {
    let Handover {
        config,
        hop_secret,
        authority,
        ..
    } = handover;
    let authority = Zeroizing::new(authority.ok_or("expected the authority in the handover, found none")?);
    let hop_secret = hop_secret.ok_or(NO_HOP_SECRET)?;
    let bound = bottle_pipelock::bind(&config)?;
    confine::confine(Daemon::Pipelock)?;
    let authority = Authority::from_secret_pem(&config.bottle, &authority)?;
    #[cfg(feature = "leaky")]
    let authority = if config.removed.contains(&bottle_policy::Control::NarrowAuthority) {
        authority.widened()
    } else {
        authority
    };
    let authority = Arc::new(authority);
    let setup = PipelockSetup {
        hop_secret: HopSecret::new(hop_secret),
        egress: PipelockSetup::egress(),
        controls: controls(&config),
        events: Recorder::stdout(&config.bottle, Daemon::Pipelock)?,
        authority,
        config,
    };
    // One thread: a request goes from process to process, and a second thread only adds a wake-up to each handover
    // (measured with one connection: 111 us a request with one thread, 193 us with two).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_until_told(async {
        bottle_pipelock::serve(bound, setup).await.map_err(Failure::from)
    }))
}

fn relay(handover: Handover) -> Result<(), Failure> {
    let Handover {
        config, relay_secret, ..
    } = handover;
    let secret = relay_secret.map(Zeroizing::new);
    let secret = secret.ok_or("expected the relay's secret in the handover, found none")?;
    let plan = config
        .relay
        .as_ref()
        .ok_or("expected `relay` in the configuration, found none")?;
    let place = std::net::SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, plan.port));
    let listener = TcpListener::bind(place).map_err(|error| format!("cannot listen on {place}: {error}"))?;
    confine::confine(Daemon::Relay)?;
    let recorder = Recorder::stdout(&config.bottle, Daemon::Relay)?;
    let relay = Relay::new(plan, &secret, &config.limits, recorder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_until_told(async {
        relay::serve(listener, Arc::new(relay)).await.map_err(Failure::from)
    }))
}

#[cfg(feature = "leaky")]
fn controls(config: &BundleConfig) -> Controls {
    Controls::without(config.removed.clone())
}

#[cfg(not(feature = "leaky"))]
fn controls(_config: &BundleConfig) -> Controls {
    Controls::all()
}

/// Says that the daemon listens, then serves until init closes our standard input.
async fn serve_until_told(service: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut orders = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut service = pin!(service);
    // Whatever keeps it from serving at all shows at once, and then nobody is told that it listens.
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(service.as_mut().poll(context))).await {
        return done;
    }
    let mut output = io::stdout().lock();
    output.write_all(format!("{READY_LINE}\n").as_bytes())?;
    output.flush()?;
    drop(output);
    let mut ignored = [0; 64];
    tokio::select! {
        done = service => done,
        () = async { while matches!(orders.read(&mut ignored).await, Ok(1..)) {} } => Ok(()),
    }
}
