//! The steps of a launch that make something in the engine, each with its undo.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bottle_backend::{Backend, BackendError, Input, Labels, Resource, ResourceKind, Role, Streams};
use bottle_plan::{ContainerPlan, LABEL_SLUG};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::bottle::Exit;
use crate::error::LaunchFailure;
use crate::events::{Heard, Phase};
use crate::launch::Site;
use crate::owner::{Owner, labels};
use crate::secrets::Secrets;
use crate::teardown::StepKind;

/// A container that was made.
pub(crate) struct Half {
    pub(crate) id: String,
    pub(crate) exit: Exit,
    streams: Mutex<Option<Streams>>,
}

impl Half {
    pub(crate) fn take_streams(&self) -> Option<Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A bundle that was started and has been sent its configuration.
pub(crate) struct RunningBundle {
    pub(crate) half: Half,
    /// Behind a lock because a stream cannot be shared between threads, and a launch must be able to run on several.
    input: Mutex<Option<Input>>,
    pub(crate) heard: Arc<Heard>,
    ready: OnceLock<(String, u64)>,
}

impl RunningBundle {
    /// Its standard input, which is its lease.
    pub(crate) fn take_input(&self) -> Option<Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What its `ready` event said.
    pub(crate) fn ready(&self) -> (String, u64) {
        self.ready.get().cloned().unwrap_or_default()
    }

    /// The failure to report when it is found to have ended.
    pub(crate) async fn ended(&self) -> LaunchFailure {
        // The exit code and the last words may come a moment after the end of the stream.
        let mut exit = self.half.exit.clone();
        let limit = std::time::Duration::from_secs(2);
        let ended = async { exit.wait_for(Option::is_some).await.ok().and_then(|code| code.clone()) };
        let status = match tokio::time::timeout(limit, ended).await.ok().flatten() {
            Some(Ok(code)) => format!("exit code {code}"),
            Some(Err(error)) => format!("exit code unknown: {error}"),
            None => "exit code unknown".to_owned(),
        };
        if let Phase::Failed { reason } = &*self.heard.phase().borrow() {
            return LaunchFailure::BundleFailed {
                reason: reason.clone(),
                stderr: last(&self.heard),
            };
        }
        LaunchFailure::BundleEnded {
            status,
            stderr: last(&self.heard),
        }
    }
}

/// The last lines of the bundle's standard error that an error message can bear.
fn last(heard: &Heard) -> Vec<String> {
    let mut lines = heard.stderr();
    let first = lines.len().saturating_sub(10);
    lines.split_off(first)
}

pub(crate) fn backend_failed(step: impl Into<String>) -> impl FnOnce(BackendError) -> LaunchFailure {
    let step = step.into();
    move |source| LaunchFailure::Backend { step, source }
}

/// What is known about something that is being made.
type Made = Arc<OnceLock<Resource>>;

impl Site {
    fn labels(&self, role: &str) -> Labels {
        labels(&self.plan.slug, &self.options.run, role)
    }

    /// Notes the undo of an engine object before it is made. When no answer says that it was made, the undo looks for it
    /// by its labels: a name alone could be someone else's.
    fn will_make(&self, step: StepKind, kind: ResourceKind, name: &str) -> Made {
        let made = Made::default();
        let (known, backend, name, slug) = (
            made.clone(),
            self.backend.clone(),
            name.to_owned(),
            self.plan.slug.clone(),
        );
        self.teardown.push(step, name.clone(), async move {
            let remove = async |resource: &Resource| backend.remove(resource).await.map_err(|error| error.to_string());
            if let Some(resource) = known.get() {
                return remove(resource).await;
            }
            let mine = Some(Owner::current());
            let found = backend
                .inventory(LABEL_SLUG, Some(&slug))
                .await
                .map_err(|error| error.to_string())?;
            for resource in found {
                if resource.kind == kind && resource.name == name && Owner::of(&resource.labels) == mine {
                    remove(&resource).await?;
                }
            }
            Ok(())
        });
        made
    }

    /// Loads the bundle's image when it is missing, and sees that both are there.
    pub(crate) async fn images(&self) -> Result<(), LaunchFailure> {
        let find = async |reference: &str| {
            self.backend
                .find_image(reference)
                .await
                .map_err(backend_failed(format!("looking for image {reference}")))
        };
        if let Some((reference, archive)) = &self.options.bundle_archive
            && find(reference).await?.is_none()
        {
            self.say("loading the bundle's image");
            let loading = self.backend.load_image(reference, archive.clone()).await;
            loading.map_err(backend_failed("loading the bundle's image"))?;
        }
        for (role, image) in [("bundle", &self.plan.bundle.image), ("guest", &self.plan.guest.image)] {
            if find(image).await?.is_none() {
                return Err(LaunchFailure::ImageMissing {
                    role,
                    image: image.clone(),
                });
            }
        }
        Ok(())
    }

    /// Makes the networks in order; their subnets by name.
    pub(crate) async fn networks(&self) -> Result<BTreeMap<String, String>, LaunchFailure> {
        let mut subnets = BTreeMap::new();
        for network in &self.plan.networks {
            let made = self.will_make(StepKind::Network, ResourceKind::Network, &network.name);
            let labels = self.labels(&network.role);
            let given = self.backend.create_network(network, &labels).await;
            let given = given.map_err(backend_failed(format!("making network {}", network.name)))?;
            let name = network.name.clone();
            let _ = made.set(Resource {
                kind: ResourceKind::Network,
                name: name.clone(),
                id: given.id,
                labels,
            });
            subnets.insert(name, given.subnet);
        }
        Ok(subnets)
    }

    /// Makes the volumes.
    pub(crate) async fn volumes(&self) -> Result<(), LaunchFailure> {
        for volume in &self.plan.volumes {
            let made = self.will_make(StepKind::Volume, ResourceKind::Volume, &volume.name);
            let labels = self.labels(&volume.role);
            let outcome = self.backend.create_volume(volume, &labels).await;
            outcome.map_err(backend_failed(format!("making volume {}", volume.name)))?;
            let name = volume.name.clone();
            let _ = made.set(Resource {
                kind: ResourceKind::Volume,
                id: name.clone(),
                name,
                labels,
            });
        }
        Ok(())
    }

    fn half(&self, role: Role) -> (&ContainerPlan, StepKind) {
        match role {
            Role::Guest => (&self.plan.guest, StepKind::Guest),
            Role::Bundle => (&self.plan.bundle, StepKind::Bundle),
        }
    }

    /// Creates a half, watches for its end and attaches to it as asked.
    pub(crate) async fn create_half(
        &self,
        role: Role,
        subnets: &BTreeMap<String, String>,
    ) -> Result<Half, LaunchFailure> {
        let (plan, step) = self.half(role);
        let what = step.name();
        self.say(&format!("creating the {what}"));
        let made = self.will_make(step, ResourceKind::Container, &plan.name);
        let labels = self.labels(what);
        let id = self.backend.create(role, plan, &labels, subnets).await;
        let id = id.map_err(backend_failed(format!("creating the {what}")))?;
        let _ = made.set(Resource {
            kind: ResourceKind::Container,
            name: plan.name.clone(),
            id: id.clone(),
            labels,
        });
        let exit = self.watch_exit(role, &id);
        let attach = role == Role::Bundle || self.options.guest_stdio;
        let streams = if attach {
            let streams = self.backend.attach(role, &id, plan.tty).await;
            Some(streams.map_err(backend_failed(format!("attaching to the {what}")))?)
        } else {
            None
        };
        Ok(Half {
            id,
            exit,
            streams: Mutex::new(streams),
        })
    }

    /// The watch begins between creation and start, several round trips before an end can come: an engine forgets the exit
    /// code of a container that it removes by itself.
    fn watch_exit(&self, role: Role, id: &str) -> Exit {
        let (sender, exit) = watch::channel(None);
        let (backend, id): (Arc<dyn Backend>, String) = (self.backend.clone(), id.to_owned());
        let task = tokio::spawn(async move {
            sender.send_replace(Some(backend.wait(role, &id).await));
        });
        self.keep_task(task);
        exit
    }

    fn keep_task(&self, task: tokio::task::JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    pub(crate) async fn start_half(&self, role: Role, half: &Half) -> Result<(), LaunchFailure> {
        let (_, step) = self.half(role);
        let outcome = self.backend.start(role, &half.id).await;
        outcome.map_err(backend_failed(format!("starting the {}", step.name())))
    }

    /// Creates and starts the bundle and sends it its configuration and tokens.
    pub(crate) async fn start_bundle(
        &self,
        secrets: Secrets,
        subnets: &BTreeMap<String, String>,
    ) -> Result<RunningBundle, LaunchFailure> {
        let half = self.create_half(Role::Bundle, subnets).await?;
        let heard = Heard::new();
        let Some(streams) = half.take_streams() else {
            let problem = std::io::Error::other("no streams");
            return Err(LaunchFailure::BundleInput {
                source: problem,
                stderr: Vec::new(),
            });
        };
        self.keep_task(tokio::spawn(heard.clone().read_stdout(streams.stdout)));
        self.keep_task(tokio::spawn(heard.clone().read_stderr(streams.stderr)));
        self.start_half(Role::Bundle, &half).await?;
        let mut input = streams.stdin;
        if let Err(source) = self.send_configuration(&mut input, &secrets).await {
            return Err(LaunchFailure::BundleInput {
                source,
                stderr: last(&heard),
            });
        }
        Ok(RunningBundle {
            half,
            input: Mutex::new(Some(input)),
            heard,
            ready: OnceLock::new(),
        })
    }

    async fn send_configuration(&self, input: &mut Input, secrets: &Secrets) -> std::io::Result<()> {
        let mut config = serde_json::to_vec(&self.plan.config)?;
        config.push(b'\n');
        let tokens = secrets.line(&self.plan.token_env)?;
        let send = async {
            input.write_all(&config).await?;
            input.write_all(&tokens).await?;
            input.flush().await
        };
        match tokio::time::timeout(self.options.ready_within, send).await {
            Ok(outcome) => outcome,
            Err(_) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "the bundle does not read",
            )),
        }
    }

    /// Waits until the bundle says that it is ready.
    pub(crate) async fn await_ready(&self, bundle: &RunningBundle) -> Result<(), LaunchFailure> {
        let mut phase = bundle.heard.phase();
        let limit = self.options.ready_within;
        // The clone is made inside: what `wait_for` lends cannot be held over an await.
        let found = async {
            phase
                .wait_for(|phase| *phase != Phase::Starting)
                .await
                .map_or(Phase::Ended, |phase| phase.clone())
        };
        let Ok(found) = tokio::time::timeout(limit, found).await else {
            return Err(LaunchFailure::BundleLate {
                limit,
                stderr: last(&bundle.heard),
            });
        };
        match found {
            Phase::Ready { ca_pem, after_ms } => {
                let _ = bundle.ready.set((ca_pem, after_ms));
                Ok(())
            }
            Phase::Starting | Phase::Failed { .. } | Phase::Ended => Err(bundle.ended().await),
        }
    }
}
