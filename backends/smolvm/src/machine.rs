//! One machine: made, started, entered, removed.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bottle_backend::{BackendError, Exec, ExecSpec, Input, Observed, Streams};
use bottle_plan::{ContainerPlan, MACHINE_SOCKETS, MountSource};
use tokio::io::AsyncReadExt;
use tokio::sync::{oneshot, watch};

use crate::firewall;
use crate::image::Image;
use crate::inside::{CALLED_WRONGLY, Inside};
use crate::journal::{Entry, Journal, Kind, id};
use crate::listing::{self, Listed};
use crate::processes::Process;
use crate::program::{Limits, Program, error, refused, unexpected};
use crate::shapes::{Call, MachineSpec};
use crate::shared::Shared;
use crate::wire::{self, Ended, Ends, Terminal, Wires};

/// How a machine's command ended.
pub(crate) type End = Option<Result<i64, BackendError>>;

/// A machine of this process.
pub(crate) struct Machine {
    spec: MachineSpec,
    plan: ContainerPlan,
    /// Where alone a routed one may connect to.
    proxy: Option<SocketAddrV4>,
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
    /// Dropping them ends the clients.
    clients: Vec<oneshot::Sender<()>>,
    terminal: Option<Terminal>,
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
        proxy: Option<SocketAddrV4>,
        mut entry: Entry,
    ) -> Result<Machine, BackendError> {
        let inside = Inside::of(plan, &image.settings)?;
        let spec = self.spec(plan, &image.directory, proxy)?;
        entry.plan = Some(plan.clone());
        entry.image = Some(image.directory.clone());
        entry.firewall = proxy.map(|_| firewall::table(&plan.name));
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
            proxy,
            inside,
            exit,
            held: Mutex::new(held),
        })
    }

    fn spec(
        &self,
        plan: &ContainerPlan,
        image: &Path,
        proxy: Option<SocketAddrV4>,
    ) -> Result<MachineSpec, BackendError> {
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
            allowed: proxy.map(|proxy| *proxy.ip()),
        })
    }

    /// Starts a machine, sees that it is what was asked for, and starts its command.
    pub(crate) async fn start(&self, machine: &Machine, starts: &tokio::sync::Semaphore) -> Result<(), BackendError> {
        let name = &machine.spec.name;
        {
            let _place = starts
                .acquire()
                .await
                .map_err(|error| unexpected("start", error.to_string()))?;
            self.boot(&machine.spec).await?;
        }
        let listed = listing::see(&self.program, name, self.limits.look).await?;
        self.note_process(machine, &listed)?;
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
        self.open_up(machine).await?;
        machine.held().seen = Some(listed);
        self.start_command(machine)
    }

    /// The first program of a machine makes the container that all others join. Of two at once one would get a container of
    /// its own, apart from the other, so the first one is this, which also shows that `bottle-guest` is there and runs.
    async fn open_up(&self, machine: &Machine) -> Result<(), BackendError> {
        let shapes = self.program.shapes();
        let words = shapes.exec_short(&machine.spec.name, &machine.inside.alone(), self.program.state());
        self.program.call_for(&words, CALLED_WRONGLY, self.limits.create).await
    }

    /// Sets the rules of a routed machine, of which nothing but smolvm's own agent has run so far.
    async fn narrow(&self, machine: &Machine) -> Result<(), BackendError> {
        let Some(proxy) = machine.proxy else {
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

    fn start_command(&self, machine: &Machine) -> Result<(), BackendError> {
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
        let client = self.client(machine, machine.plan.tty, &env, &command);
        let started = wire::start(client, ends).map_err(failed)?;
        let mut held = machine.held();
        held.terminal = started.terminal;
        held.clients.push(started.stop);
        drop(held);
        let (maker, name, exit) = (self.clone(), machine.spec.name.clone(), machine.exit.clone());
        tokio::spawn(async move {
            let code = maker.code(&name, started.ended).await;
            exit.send_replace(Some(code));
        });
        Ok(())
    }

    fn client(&self, machine: &Machine, tty: bool, env: &[String], command: &[String]) -> tokio::process::Command {
        let call = Call {
            name: &machine.spec.name,
            tty,
            env,
            command,
        };
        let words = self.program.shapes().exec(&call, self.program.state());
        self.program.command(&words)
    }

    /// The exit code of a program. A report of smolvm's own counts only when the machine is really not there any more: a
    /// program could print the same.
    async fn code(&self, name: &str, ended: oneshot::Receiver<Ended>) -> Result<i64, BackendError> {
        let call = format!("run in {name}");
        let ended = ended.await.map_err(|error| unexpected(&*call, error.to_string()))?;
        if let Some(own) = ended.own_failure() {
            let seen = listing::find(&self.program, name, self.limits.look).await;
            if !matches!(&seen, Ok(Some(listed)) if listed.is_running()) {
                let state = match seen {
                    Ok(Some(listed)) => format!("the machine is `{}`", listed.state),
                    Ok(None) => "the machine is gone".to_owned(),
                    Err(error) => format!("the machine cannot be looked at ({error})"),
                };
                return Err(error(
                    call,
                    own.kind(),
                    format!("{state}; smolvm says: {}", own.message),
                ));
            }
        }
        ended.of_the_command(&call).await
    }

    /// Runs a further program.
    pub(crate) fn exec(
        &self,
        machine: &Machine,
        spec: &ExecSpec,
        id: String,
    ) -> Result<(Exec, Option<Terminal>), BackendError> {
        let name = machine.spec.name.clone();
        let call = format!("exec in {name}");
        let failed = |error: std::io::Error| unexpected(&*call, error.to_string());
        let Wires { streams, ends } = wire::wires(spec.tty).map_err(failed)?;
        let command = machine.inside.further(spec);
        let env = machine.inside.env(&spec.env);
        let started = wire::start(self.client(machine, spec.tty, &env, &command), ends).map_err(failed)?;
        machine.held().clients.push(started.stop);
        let maker = self.clone();
        // A task of its own: its streams end whether or not anybody waits for its status.
        let code = tokio::spawn(async move { maker.code(&name, started.ended).await });
        let exit = Box::pin(async move {
            let code = code.await;
            code.unwrap_or_else(|error| Err(unexpected("wait for a program", error.to_string())))
        });
        Ok((Exec { id, streams, exit }, started.terminal))
    }

    /// Sends a signal to the command.
    pub(crate) async fn signal(&self, machine: &Machine, signal: &str) -> Result<(), BackendError> {
        let command = machine.inside.signal(signal);
        let shapes = self.program.shapes();
        let words = shapes.exec_short(&machine.spec.name, &command, self.program.state());
        self.program.call_whole(&words, self.limits.look).await.map(drop)
    }

    /// Writes files into a running machine: (path, mode, content).
    pub(crate) async fn put(&self, name: &str, files: &[(String, u32, Vec<u8>)]) -> Result<(), BackendError> {
        for (number, (path, mode, content)) in files.iter().enumerate() {
            let copy = self
                .program
                .state()
                .join(format!("put-{}-{name}-{number}", std::process::id()));
            let written = std::fs::write(&copy, content);
            let copied = match written {
                Ok(()) => {
                    let words = self.program.shapes().copy_in(&copy, name, path, *mode);
                    self.program.call(words, self.limits.create).await.map(drop)
                }
                Err(error) => Err(refused(format!("write {}", copy.display()), error.to_string())),
            };
            // It may not have been made.
            let _ = std::fs::remove_file(&copy);
            copied?;
        }
        Ok(())
    }

    /// What a machine was given.
    pub(crate) async fn observe(&self, machine: &Machine) -> Result<Observed, BackendError> {
        let seen = machine.held().seen.take();
        let listed = match seen {
            Some(listed) => listed,
            None => listing::see(&self.program, &machine.spec.name, self.limits.look).await?,
        };
        listed.check(&machine.spec)?;
        let labels = machine.held().entry.as_ref().map(|entry| entry.labels.clone());
        Ok(observed(&listed, &machine.plan, labels.unwrap_or_default()))
    }
}

/// What is listed, as an engine would say it.
pub(crate) fn observed(listed: &Listed, plan: &ContainerPlan, labels: bottle_backend::Labels) -> Observed {
    Observed {
        id: id(Kind::Machine, &listed.name),
        applied: plan.clone(),
        labels,
        addresses: Default::default(),
        published: Default::default(),
        pid: listed.pid,
        running: listed.is_running(),
    }
}

impl Machine {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Waits for the command's end.
    pub(crate) fn end(&self) -> watch::Receiver<End> {
        self.exit.subscribe()
    }

    /// Terminal of the command.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        self.held().terminal.clone()
    }

    /// Ends the clients that are left when the machine is gone.
    pub(crate) fn release(&self) {
        let mut held = self.held();
        held.clients.clear();
        held.stdin = None;
    }
}
