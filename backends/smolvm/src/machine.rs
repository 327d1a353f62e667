//! One machine: made, started, entered, removed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bottle_backend::{BackendError, BackendErrorKind, Input, Observed, RelaySecret, Streams};
use bottle_plan::{ContainerPlan, MACHINE_SOCKETS, MountSource};
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::firewall;
use crate::image::Image;
use crate::inside::{CALLED_WRONGLY, Inside};
use crate::journal::{Entry, Journal};
use crate::listing::{self, Listed};
use crate::mediation::Decider;
use crate::processes::Process;
use crate::program::{Limits, Program, error, refused, unexpected};
use crate::programs::EXEC;
use crate::relay::{Relay, Way};
use crate::routing::{Narrowing, Route};
use crate::shapes::MachineSpec;
use crate::shared::Shared;
use crate::wire::{self, Ends, Terminal, Wires};

/// How soon an agent is asked again that did not answer.
pub(crate) const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// How a machine's command ended.
pub(crate) type End = Option<Result<i64, BackendError>>;

/// A machine of this process.
pub(crate) struct Machine {
    spec: MachineSpec,
    plan: ContainerPlan,
    /// Where alone a routed one may connect to.
    route: Option<Route>,
    inside: Inside,
    exit: watch::Sender<End>,
    held: Mutex<Held>,
}

/// What is kept between the calls of a launch.
#[derive(Default)]
struct Held {
    entry: Option<Entry>,
    /// The streams of the command, before it is started.
    ends: Option<Ends>,
    /// Standard input of a command that nobody attached to.
    stdin: Option<Input>,
    /// What was seen right after the start, until someone asks.
    seen: Option<Listed>,
    /// Whether the machine runs.
    is_up: bool,
    /// The command's, when it was started. Dropping it ends the client.
    client: Option<oneshot::Sender<()>>,
    terminal: Option<Terminal>,
    /// Who decides about its connections, as long as it is there.
    decider: Option<Decider>,
    /// Who leads its sockets to the bundle, where it cannot be handed the bundle's own.
    relay: Option<Relay>,
}

/// What machines are made with.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) program: Program,
    pub(crate) limits: Limits,
    pub(crate) journal: Journal,
    pub(crate) shared: Shared,
    /// How often a machine that does not come up in time is started in all.
    pub(crate) start_tries: usize,
}

impl Maker {
    /// Makes a machine, not started.
    pub(crate) async fn create(
        &self,
        plan: &ContainerPlan,
        image: &Image,
        route: Option<Route>,
        mut entry: Entry,
    ) -> Result<Machine, BackendError> {
        let inside = Inside::of(plan, &image.settings)?;
        let spec = self.spec(plan, &image.directory, route)?;
        entry.plan = Some(plan.clone());
        entry.program = Some(self.program.path().to_owned());
        entry.image = Some(image.directory.clone());
        entry.settings = image.settings.clone();
        entry.firewall = route
            .filter(|route| route.by == Narrowing::Firewall)
            .map(|_| firewall::table(&plan.name));
        self.journal.write(&entry)?;
        self.program
            .call(self.program.shapes().create(&spec), self.limits.create)
            .await?;
        let (exit, _) = watch::channel(None);
        let held = Held {
            entry: Some(entry),
            ..Held::default()
        };
        Ok(Machine {
            spec,
            plan: plan.clone(),
            route,
            inside,
            exit,
            held: Mutex::new(held),
        })
    }

    fn spec(&self, plan: &ContainerPlan, image: &Path, route: Option<Route>) -> Result<MachineSpec, BackendError> {
        let call = format!("plan the machine {}", plan.name);
        let mut volumes = Vec::new();
        let mut shared = None;
        for mount in &plan.mounts {
            let host = match &mount.source {
                MountSource::Volume(volume) => {
                    let path = self.shared.of(volume);
                    shared.get_or_insert_with(|| path.clone());
                    path.display().to_string()
                }
                MountSource::Bind(path) => path.clone(),
            };
            volumes.push((host, mount.target.clone(), mount.read_only));
        }
        let sockets = plan.entrypoint.iter().filter_map(|word| {
            // `ADDRESS=SOCKET` of a forwarder, or a socket alone.
            let path = word.rsplit_once('=').map_or(word.as_str(), |(_, path)| path);
            let name = path.strip_prefix(MACHINE_SOCKETS)?.strip_prefix('/')?;
            Some((name, path))
        });
        let sockets = sockets
            .map(|(name, guest)| {
                let host = shared.as_ref().map(|directory| directory.join(name));
                let host = host.ok_or_else(|| refused(&*call, "it has sockets of its bundle, but shares no volume"))?;
                Ok((host.display().to_string(), guest.to_owned()))
            })
            .collect::<Result<_, BackendError>>()?;
        Ok(MachineSpec {
            name: plan.name.clone(),
            image: image.display().to_string(),
            cpus: plan.limits.milli_cpus.unwrap_or(2000).div_ceil(1000).max(1),
            memory_mib: plan.limits.memory.unwrap_or(4 << 30).div_ceil(1 << 20),
            volumes,
            sockets,
            allowed: route.map(|route| *route.proxy.ip()),
        })
    }

    /// Starts a machine and its command.
    ///
    /// The first program of a machine makes the container that all others join. Of two at once one would get a container of its
    /// own, apart from the other, so nobody is let in before the command's init has announced itself. On a terminal it cannot,
    /// and another program comes first.
    pub(crate) async fn start(&self, machine: &Machine, starts: &Semaphore) -> Result<(), BackendError> {
        self.bring_up(machine, starts).await?;
        if machine.plan.tty {
            self.open_up(machine).await?;
        }
        let Some(begun) = self.start_command(machine)? else {
            return Ok(());
        };
        match tokio::time::timeout(self.limits.create, begun).await {
            Ok(Ok(())) => Ok(()),
            // It was dropped: the client has ended.
            Ok(Err(_)) => match machine.ended().await {
                Err(error) => Err(error),
                Ok(code) => Err(unexpected(EXEC, format!("it ended with {code} and began nothing"))),
            },
            Err(_) => {
                let limit = self.limits.create.as_secs_f32();
                let what = format!("not done within {limit} s: no program began in the machine");
                Err(error(EXEC, BackendErrorKind::TimedOut, what))
            }
        }
    }

    /// Starts a machine without its command, once, and sees that it is what was asked for.
    pub(crate) async fn bring_up(&self, machine: &Machine, starts: &Semaphore) -> Result<(), BackendError> {
        if machine.held().is_up {
            return Ok(());
        }
        let name = &machine.spec.name;
        {
            let _place = starts
                .acquire()
                .await
                .map_err(|error| unexpected("start", error.to_string()))?;
            let decider = self.decider(machine).await?;
            self.boot(&machine.spec, decider.as_ref()).await?;
            machine.held().decider = decider;
        }
        let mut listed = listing::see(&self.program, name, self.limits.look).await?;
        self.note_process(machine, &listed)?;
        // smolvm waits a few milliseconds for its agent's answer and calls it unreachable else: a busy one is asked again.
        let until = tokio::time::Instant::now() + self.limits.look;
        while listed.is_unreachable() && tokio::time::Instant::now() < until {
            tokio::time::sleep(ASK_AGAIN).await;
            listed = listing::see(&self.program, name, self.limits.look).await?;
        }
        listed.check(&machine.spec)?;
        if !listed.is_running() {
            return Err(refused(
                format!("start {name}"),
                format!(
                    "the machine is `{}` right after its start; `smolvm machine logs --name {name} --state-dir {}` may tell why",
                    listed.state,
                    self.program.state().display()
                ),
            ));
        }
        self.narrow(machine).await?;
        let mut held = machine.held();
        held.seen = Some(listed);
        held.is_up = true;
        Ok(())
    }

    /// Runs a first program that does nothing, which also shows that `bottle-guest` is there and runs.
    async fn open_up(&self, machine: &Machine) -> Result<(), BackendError> {
        let shapes = self.program.shapes();
        let name = &machine.spec.name;
        let words = shapes.exec_short(name, &machine.inside.alone(), self.program.state());
        self.ask(name, &words, CALLED_WRONGLY, self.limits.create).await
    }

    /// Leads a machine's sockets to its bundle's published port.
    pub(crate) fn relay(&self, machine: &Machine, to: SocketAddr, secret: &RelaySecret) -> Result<(), BackendError> {
        let relay = Relay::open(&machine.spec, self.program.shapes(), to, secret)?;
        machine.held().relay = Some(relay);
        Ok(())
    }

    /// Who decides about the connections of a routed machine that smolvm keeps to its port.
    async fn decider(&self, machine: &Machine) -> Result<Option<Decider>, BackendError> {
        let way = machine.way();
        let mediated = |route: &Route| way.is_some() || route.by == Narrowing::Mediation;
        let Some(route) = machine.route.filter(mediated) else {
            return Ok(None);
        };
        let opened = Decider::open(route.proxy, way).await;
        opened.map(Some).map_err(|error| {
            let call = format!("listen for the connections of {}", machine.spec.name);
            unexpected(call, error.to_string())
        })
    }

    /// Sets the rules of a routed machine, of which nothing but smolvm's own agent has run so far.
    async fn narrow(&self, machine: &Machine) -> Result<(), BackendError> {
        let Some(Route {
            proxy,
            by: Narrowing::Firewall,
        }) = machine.route.filter(|_| machine.way().is_none())
        else {
            return Ok(());
        };
        let entry = machine.held().entry.clone();
        let process = entry.as_ref().and_then(|entry| entry.process);
        let table = entry.and_then(|entry| entry.firewall);
        let (Some(user), Some(table)) = (process.and_then(Process::user), table) else {
            return Err(refused(
                format!("narrow the ports of {}", machine.spec.name),
                "the user that its process runs as cannot be found out, so nothing runs in it",
            ));
        };
        firewall::install(&table, user, proxy).await
    }

    /// Before anything is checked: what is refused is removed by what is noted here.
    fn note_process(&self, machine: &Machine, listed: &Listed) -> Result<(), BackendError> {
        let entry = {
            let mut held = machine.held();
            let Some(entry) = held.entry.as_mut() else {
                return Ok(());
            };
            entry.process = listed.pid.and_then(Process::of_machine);
            entry.clone()
        };
        self.journal.write(&entry)
    }

    /// Starts the command; who is told when it begins, where that is announced.
    fn start_command(&self, machine: &Machine) -> Result<Option<oneshot::Receiver<()>>, BackendError> {
        let call = format!("start the command in {}", machine.spec.name);
        let failed = |error: std::io::Error| unexpected(&*call, error.to_string());
        let ends = match machine.held().ends.take() {
            Some(ends) => ends,
            None => {
                let Wires { streams, ends } = wire::wires(false).map_err(failed)?;
                machine.unattended(streams);
                ends
            }
        };
        let command = machine.inside.main();
        let env = machine.inside.env(&Default::default());
        let started = self.begin(&machine.spec.name, ends, machine.plan.tty, &env, &command);
        let started = started.map_err(failed)?;
        let mut held = machine.held();
        held.terminal = started.terminal;
        held.client = Some(started.stop);
        drop(held);
        let (maker, name, exit) = (self.clone(), machine.spec.name.clone(), machine.exit.clone());
        tokio::spawn(async move {
            let code = maker.code(&name, started.ended).await;
            exit.send_replace(Some(code));
        });
        Ok(started.begun)
    }

    /// What a machine was given. Before its start that is what it is to be given: smolvm applies nothing until then, and
    /// [`Self::bring_up`] lets nothing run in a machine that it has not looked at.
    pub(crate) async fn observe(&self, machine: &Machine) -> Result<Observed, BackendError> {
        let (seen, is_up, labels) = {
            let mut held = machine.held();
            let labels = held.entry.as_ref().map(|entry| entry.labels.clone());
            (held.seen.take(), held.is_up, labels.unwrap_or_default())
        };
        let listed = match seen {
            None if is_up => Some(listing::see(&self.program, &machine.spec.name, self.limits.look).await?),
            seen => seen,
        };
        if let Some(listed) = &listed {
            listed.check(&machine.spec)?;
        }
        let name = &machine.spec.name;
        Ok(listing::observed(
            name,
            listed.as_ref(),
            &machine.plan,
            &machine.inside,
            labels,
        ))
    }
}

impl Machine {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the proxy of a routed one whose sockets are led.
    fn way(&self) -> Option<Way> {
        self.held().relay.as_ref().and_then(Relay::way)
    }

    /// Attaches to the command, before it is started.
    pub(crate) fn attach(&self, tty: bool) -> Result<Streams, BackendError> {
        let call = format!("attach to {}", self.spec.name);
        let Wires { streams, ends } = wire::wires(tty).map_err(|error| unexpected(call, error.to_string()))?;
        self.held().ends = Some(ends);
        Ok(streams)
    }

    /// Nobody reads the command's output; its input stays open, as a container's does.
    fn unattended(&self, streams: Streams) {
        if self.plan.stdin {
            self.held().stdin = Some(streams.stdin);
        }
        for mut output in [streams.stdout, streams.stderr] {
            tokio::spawn(async move {
                let mut part = [0; 4096];
                while matches!(output.read(&mut part).await, Ok(1..)) {}
            });
        }
    }

    /// Waits for the command's end: its exit code. It does not keep the machine.
    pub(crate) fn ended(&self) -> impl Future<Output = Result<i64, BackendError>> + use<> {
        let (mut end, name) = (self.exit.subscribe(), self.spec.name.clone());
        async move {
            let end = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            end.unwrap_or_else(|| {
                let problem = "it was removed before its end was seen";
                Err(unexpected(format!("wait for {name}"), problem))
            })
        }
    }

    /// Terminal of the command.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        self.held().terminal.clone()
    }

    /// What runs in it.
    pub(crate) fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Whether its command was started.
    pub(crate) fn has_begun(&self) -> bool {
        self.held().client.is_some()
    }

    /// Ends the client that is left when the machine is gone.
    pub(crate) fn release(&self) {
        let mut held = self.held();
        held.client = None;
        held.decider = None;
        held.relay = None;
        held.stdin = None;
    }
}
