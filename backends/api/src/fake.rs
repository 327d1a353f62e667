//! A backend in memory, for tests of what is built on [`Backend`].
//!
//! It keeps what it was asked to make, can fail at any call (with or without having done what was asked), and can apply
//! something other than asked. Its bundle reads two lines and then says what it was told to say; its containers end when
//! their standard input does, like the shipped bundle under its lease.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bottle_plan::{BackendKind, ContainerPlan, NetworkMode, NetworkPlan};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::watch;

use crate::{
    BackendError, BackendErrorKind, Exec, ExecSpec, Labels, NetworkMade, Observed, Resource, ResourceKind, Role,
    Streams,
};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine refuses, and has done nothing.
    Refused,
    /// The engine does what was asked, but the answer is lost.
    AnswerLost,
}

/// Applied to a plan before it is made: what a careless engine would do.
pub type Careless = Arc<dyn Fn(Role, &mut ContainerPlan) + Send + Sync>;
/// Answers an exec: exit code, standard output, standard error.
pub type Answer = Arc<dyn Fn(&ExecSpec) -> (i64, Vec<u8>, Vec<u8>) + Send + Sync>;

/// A backend in memory. Clones share everything.
#[derive(Clone)]
pub struct Fake {
    kind: BackendKind,
    state: Arc<Mutex<State>>,
}

struct State {
    calls: Vec<String>,
    fail: Option<(usize, Failure)>,
    careless: Option<Careless>,
    answer: Option<Answer>,
    bundle_says: Vec<String>,
    /// `None`: every image is there.
    images: Option<BTreeSet<String>>,
    containers: BTreeMap<String, Container>,
    networks: BTreeMap<String, (NetworkPlan, Labels)>,
    volumes: BTreeMap<String, Labels>,
    made: usize,
    published: BTreeMap<String, Vec<(IpAddr, u16)>>,
}

struct Container {
    plan: ContainerPlan,
    labels: Labels,
    running: bool,
    exit: watch::Sender<Option<i64>>,
}

impl Fake {
    /// An empty engine with every image, whose bundles are ready at once.
    pub fn new(kind: BackendKind) -> Self {
        let ready = r#"{"event":"ready","bottle":"fake","ca_pem":"FAKE","after_ms":1}"#;
        let state = State {
            calls: Vec::new(),
            fail: None,
            careless: None,
            answer: None,
            bundle_says: vec![ready.to_owned()],
            images: None,
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            made: 0,
            published: BTreeMap::new(),
        };
        Self {
            kind,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the call with this number (from 0, see [`calls`](Self::calls)) fail.
    pub fn fail_at(&self, call: usize, failure: Failure) {
        self.state().fail = Some((call, failure));
    }

    /// Changes plans before they are made.
    pub fn be_careless(&self, careless: Careless) {
        self.state().careless = Some(careless);
    }

    /// What an exec answers; without it, exit code 0 and nothing.
    pub fn answer_exec(&self, answer: Answer) {
        self.state().answer = Some(answer);
    }

    /// The lines that a bundle prints after it has read its two lines. When the last one is a `failed` event, or there is
    /// none, the bundle ends with code 1.
    pub fn bundle_says(&self, lines: Vec<String>) {
        self.state().bundle_says = lines;
    }

    /// From now on every container publishes this port (like `8888/tcp`) there.
    pub fn publishes(&self, port: &str, at: &[(IpAddr, u16)]) {
        self.state().published.insert(port.to_owned(), at.to_vec());
    }

    /// From now on only these images are there.
    pub fn only_images(&self, references: &[&str]) {
        self.state().images = Some(references.iter().map(|reference| (*reference).to_owned()).collect());
    }

    /// Every call so far, in words.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Everything that exists.
    pub fn resources(&self) -> Vec<Resource> {
        let state = self.state();
        let one = |kind, name: &str, id: &str, labels: &Labels| Resource {
            kind,
            name: name.to_owned(),
            id: id.to_owned(),
            labels: labels.clone(),
        };
        let containers = state.containers.iter();
        let containers = containers.map(|(id, it)| one(ResourceKind::Container, &it.plan.name, id, &it.labels));
        let networks = state.networks.iter();
        let networks = networks.map(|(name, (_, labels))| one(ResourceKind::Network, name, name, labels));
        let volumes = state
            .volumes
            .iter()
            .map(|(name, labels)| one(ResourceKind::Volume, name, name, labels));
        containers.chain(networks).chain(volumes).collect()
    }

    /// Makes a container with these labels exist (running or not), as if another launcher had made it.
    pub fn plant(&self, resource: Resource, plan: ContainerPlan, running: bool) {
        let mut state = self.state();
        match resource.kind {
            ResourceKind::Container => {
                let container = Container {
                    plan,
                    labels: resource.labels,
                    running,
                    exit: watch::Sender::new(None),
                };
                state.containers.insert(resource.id, container);
            }
            ResourceKind::Volume => {
                state.volumes.insert(resource.name, resource.labels);
            }
            ResourceKind::Network => {
                let plan = NetworkPlan {
                    name: resource.name.clone(),
                    role: String::new(),
                    internal: true,
                    host_absent: true,
                    masquerade: false,
                    subnets: Vec::new(),
                    ipv6: None,
                };
                state.networks.insert(resource.name, (plan, resource.labels));
            }
        }
    }

    /// Ends a container with this code.
    pub fn end(&self, id: &str, code: i64) {
        let mut state = self.state();
        let Some(container) = state.containers.get_mut(id) else {
            return;
        };
        container.running = false;
        container.exit.send_replace(Some(code));
        if container.plan.auto_remove {
            state.containers.remove(id);
        }
    }

    /// Notes a call and does it, unless it is the one that fails.
    fn call<T>(
        &self,
        call: String,
        work: impl FnOnce(&mut State) -> Result<T, BackendErrorKind>,
    ) -> Result<T, BackendError> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(call.clone());
        let failed = |kind, problem: &str| BackendError {
            call: call.clone(),
            problem: problem.to_owned(),
            kind,
        };
        let failure = state.fail.filter(|(at, _)| *at == number).map(|(_, failure)| failure);
        if failure == Some(Failure::Refused) {
            return Err(failed(BackendErrorKind::Refused, "the fake refuses"));
        }
        let outcome = work(&mut state).map_err(|kind| failed(kind, "the fake engine's state does not allow it"));
        if failure == Some(Failure::AnswerLost) {
            return Err(failed(BackendErrorKind::TimedOut, "the fake's answer is lost"));
        }
        outcome
    }

    fn container<T>(&self, call: &str, id: &str, work: impl FnOnce(&mut Container) -> T) -> Result<T, BackendError> {
        self.call(format!("{call} {id}"), |state| {
            state.containers.get_mut(id).map(work).ok_or(BackendErrorKind::NotFound)
        })
    }

    fn make_container(&self, role: Role, plan: &ContainerPlan, labels: &Labels) -> Result<String, BackendError> {
        self.call(format!("create {}", plan.name), |state| {
            if state.containers.values().any(|other| other.plan.name == plan.name) {
                return Err(BackendErrorKind::Conflict);
            }
            state.made += 1;
            let id = format!("id-{}", state.made);
            let mut plan = plan.clone();
            if let Some(careless) = state.careless.clone() {
                careless(role, &mut plan);
            }
            let container = Container {
                plan,
                labels: labels.clone(),
                running: false,
                exit: watch::Sender::new(None),
            };
            state.containers.insert(id.clone(), container);
            Ok(id)
        })
    }

    fn make_network(&self, plan: &NetworkPlan, labels: &Labels) -> Result<NetworkMade, BackendError> {
        self.call(format!("create network {}", plan.name), |state| {
            if state.networks.contains_key(&plan.name) {
                return Err(BackendErrorKind::Conflict);
            }
            let mut given = plan.clone();
            given.subnets.truncate(1);
            let subnet = given.subnets.first().cloned();
            state.networks.insert(plan.name.clone(), (given, labels.clone()));
            Ok(NetworkMade {
                id: plan.name.clone(),
                subnet: subnet
                    .as_ref()
                    .map_or_else(|| "10.0.0.0/24".to_owned(), |subnet| subnet.cidr.clone()),
                gateway: subnet.and_then(|subnet| subnet.gateway),
            })
        })
    }

    fn open(&self, role: Role, id: &str) -> Streams {
        let (stdin, input) = tokio::io::duplex(1 << 20);
        let (output, stdout) = tokio::io::duplex(1 << 20);
        let (fake, id) = (self.clone(), id.to_owned());
        let says = match role {
            Role::Bundle => self.state().bundle_says.clone(),
            Role::Guest => Vec::new(),
        };
        tokio::spawn(fake.play(role, id, input, output, says));
        Streams {
            stdin: Box::pin(stdin),
            stdout: Box::pin(stdout),
            stderr: Box::pin(tokio::io::empty()),
        }
    }

    /// Plays a container's program.
    async fn play(self, role: Role, id: String, input: DuplexStream, mut output: DuplexStream, says: Vec<String>) {
        let mut input = BufReader::new(input);
        if role == Role::Bundle {
            let mut line = Vec::new();
            for _ in 0..2 {
                // The end of input before the second line ends it as well.
                if input.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                    return self.end(&id, 1);
                }
            }
            for line in &says {
                // A reader that is gone misses it, as with any program.
                let _ = output.write_all(format!("{line}\n").as_bytes()).await;
            }
            if says.last().is_none_or(|last| last.contains(r#""event":"failed""#)) {
                return self.end(&id, 1);
            }
        }
        let mut rest = Vec::new();
        let _ = input.read_to_end(&mut rest).await;
        self.end(&id, 0);
    }

    fn see(&self, id: &str) -> Result<Observed, BackendError> {
        let published = self.state().published.clone();
        self.container("observe", id, |container| Observed {
            id: id.to_owned(),
            applied: container.plan.clone(),
            labels: container.labels.clone(),
            addresses: match &container.plan.network {
                NetworkMode::Networks(attachments) => attachments
                    .iter()
                    .map(|one| {
                        (
                            one.network.clone(),
                            vec![IpAddr::from([10, 0, 0, one.host_number.unwrap_or(9)])],
                        )
                    })
                    .collect(),
                NetworkMode::None | NetworkMode::Host => BTreeMap::new(),
            },
            published: published.clone(),
            pid: container.running.then_some(1),
            running: container.running,
        })
    }

    fn run(&self, id: &str, spec: &ExecSpec) -> Result<Exec, BackendError> {
        self.container("exec", id, |_| ())?;
        let (code, stdout, stderr) = match self.state().answer.clone() {
            Some(answer) => answer(spec),
            None => (0, Vec::new(), Vec::new()),
        };
        let streams = Streams {
            stdin: Box::pin(tokio::io::sink()),
            stdout: Box::pin(std::io::Cursor::new(stdout)),
            stderr: Box::pin(std::io::Cursor::new(stderr)),
        };
        Ok(Exec {
            id: format!("exec-in-{id}"),
            streams,
            exit: Box::pin(std::future::ready(Ok(code))),
        })
    }

    fn take_away(&self, resource: &Resource) -> Result<(), BackendError> {
        self.call(format!("remove {}", resource.name), |state| {
            match resource.kind {
                ResourceKind::Container => {
                    if let Some(container) = state.containers.remove(&resource.id) {
                        container.exit.send_replace(Some(137));
                    }
                }
                ResourceKind::Network => {
                    let held = state.containers.values().any(|it| match &it.plan.network {
                        NetworkMode::Networks(all) => all.iter().any(|one| one.network == resource.name),
                        NetworkMode::None | NetworkMode::Host => false,
                    });
                    if held {
                        return Err(BackendErrorKind::Conflict);
                    }
                    state.networks.remove(&resource.id);
                }
                ResourceKind::Volume => {
                    state.volumes.remove(&resource.id);
                }
            }
            Ok(())
        })
    }
}
