//! The steps of a launch that make something in the engine, each with its undo.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bottle_backend::{Backend, BackendError, BackendErrorKind, Labels, Resource, ResourceKind, Role, Streams};
use bottle_plan::{ContainerPlan, LABEL_SLUG};
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};

use crate::bottle::Exit;
use crate::error::LaunchFailure;
use crate::launch::{BundleImage, Site};
use crate::owner::{Owner, labels};
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

pub(crate) fn backend_failed(step: impl Into<String>) -> impl FnOnce(BackendError) -> LaunchFailure {
    let step = step.into();
    move |source| LaunchFailure::Backend { step, source }
}

impl Site {
    fn labels(&self, role: &str) -> Labels {
        labels(&self.plan().slug, &self.options.run, role)
    }

    /// Makes an engine object and notes its undo beforehand. `work` gives the object's id and whatever else came back.
    ///
    /// The work runs as a task of its own and the undo waits for its end: a launch that is cancelled in the middle of a call
    /// must not undo before the engine is done. When no answer says that the object was made, the undo looks for it by its
    /// labels: a name alone could be someone else's.
    async fn make<T: Send + 'static>(
        &self,
        step: StepKind,
        name: &str,
        labels: Labels,
        work: impl Future<Output = Result<(String, T), BackendError>> + Send + 'static,
    ) -> Result<(String, T), BackendError> {
        let (sender, made) = oneshot::channel::<Option<String>>();
        let undo = undo(self.backend.clone(), kind(step), name.to_owned(), labels, made);
        if step == StepKind::Guest {
            let gone = self.guest_end.gone();
            self.teardown.push(step, name, async move {
                let _gone = gone;
                undo.await
            });
        } else {
            self.teardown.push(step, name, undo);
        }
        let task = tokio::spawn(async move {
            let outcome = work.await;
            // The undo may be running no more (a launcher that is going down): then no one wants to know.
            let _ = sender.send(outcome.as_ref().ok().map(|(id, _)| id.clone()));
            outcome
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(BackendError {
                call: format!("make {name}"),
                problem: error.to_string(),
                kind: BackendErrorKind::Unexpected,
            }),
        }
    }

    /// Loads the bundle's image when it is missing, and sees that both are there.
    pub(crate) async fn images(&self) -> Result<(), LaunchFailure> {
        let find = async |reference: &str| {
            let found = self.backend.find_image(reference).await;
            found.map_err(backend_failed(format!("looking for image {reference}")))
        };
        if let Some(BundleImage { reference, archive }) = &self.options.bundle_image
            && find(reference).await?.is_none()
        {
            const STEP: &str = "loading the bundle's image";
            self.say(STEP);
            let archive = archive().map_err(|error| LaunchFailure::Backend {
                step: STEP.to_owned(),
                source: BackendError {
                    call: format!("make the archive of {reference}"),
                    problem: error.to_string(),
                    kind: BackendErrorKind::Unexpected,
                },
            })?;
            let loading = self.backend.load_image(reference, archive).await;
            loading.map_err(backend_failed(STEP))?;
        }
        for (role, image) in [
            ("bundle", &self.plan().bundle.image),
            ("guest", &self.plan().guest.image),
        ] {
            if find(image).await?.is_none() {
                let image = image.clone();
                return Err(LaunchFailure::ImageMissing { role, image });
            }
        }
        Ok(())
    }

    /// Makes the networks, all at once; their subnets by name.
    pub(crate) async fn networks(&self) -> Result<BTreeMap<String, String>, LaunchFailure> {
        let making = self.plan().networks.iter().map(async |network| {
            let labels = self.labels(&network.role);
            let (backend, plan, theirs) = (self.backend.clone(), network.clone(), labels.clone());
            let work = async move {
                let made = backend.create_network(&plan, &theirs).await?;
                Ok((made.id, made.subnet))
            };
            let made = self.make(StepKind::Network, &network.name, labels, work).await;
            let (_, subnet) = made.map_err(backend_failed(format!("making network {}", network.name)))?;
            Ok((network.name.clone(), subnet))
        });
        // Every answer is awaited, also after one failed: the first failure in the plan's order is told.
        join_all(making).await.into_iter().collect()
    }

    /// Makes the volumes, all at once.
    pub(crate) async fn volumes(&self) -> Result<(), LaunchFailure> {
        let making = self.plan().volumes.iter().map(async |volume| {
            let labels = self.labels(&volume.role);
            let (backend, plan, theirs) = (self.backend.clone(), volume.clone(), labels.clone());
            let work = async move {
                backend.create_volume(&plan, &theirs).await?;
                Ok((plan.name, ()))
            };
            let made = self.make(StepKind::Volume, &volume.name, labels, work).await;
            made.map_err(backend_failed(format!("making volume {}", volume.name)))?;
            Ok(())
        });
        join_all(making).await.into_iter().collect()
    }

    fn half(&self, role: Role) -> (&ContainerPlan, StepKind) {
        match role {
            Role::Guest => (&self.plan().guest, StepKind::Guest),
            Role::Bundle => (&self.plan().bundle, StepKind::Bundle),
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
        let labels = self.labels(what);
        let (backend, theirs, subnets) = (self.backend.clone(), labels.clone(), subnets.clone());
        let wanted = plan.clone();
        let work = async move { Ok((backend.create(role, &wanted, &theirs, &subnets).await?, ())) };
        let made = self.make(step, &plan.name, labels, work).await;
        let (id, ()) = made.map_err(backend_failed(format!("creating the {what}")))?;
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
        let (backend, id) = (self.backend.clone(), id.to_owned());
        self.keep_task(tokio::spawn(async move {
            sender.send_replace(Some(backend.wait(role, &id).await));
        }));
        exit
    }

    pub(crate) fn keep_task(&self, task: tokio::task::JoinHandle<()>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    pub(crate) async fn start_half(&self, role: Role, half: &Half) -> Result<(), LaunchFailure> {
        let (_, step) = self.half(role);
        if role == Role::Guest {
            // Noted before the call: from here on it may run, whatever the answer.
            self.guest_end.started(half.exit.clone());
        }
        let outcome = self.backend.start(role, &half.id).await;
        outcome.map_err(backend_failed(format!("starting the {}", step.name())))
    }
}

fn kind(step: StepKind) -> ResourceKind {
    match step {
        StepKind::Network => ResourceKind::Network,
        StepKind::Volume => ResourceKind::Volume,
        StepKind::Bundle | StepKind::Guest | StepKind::Lease | StepKind::StateDirectory => ResourceKind::Container,
    }
}

async fn undo(
    backend: Arc<dyn Backend>,
    kind: ResourceKind,
    name: String,
    labels: Labels,
    made: oneshot::Receiver<Option<String>>,
) -> Result<(), String> {
    if let Ok(Some(id)) = made.await {
        let resource = Resource { kind, name, id, labels };
        return backend.remove(&resource).await.map_err(|error| error.to_string());
    }
    let slug = labels.get(LABEL_SLUG).map(String::as_str);
    let mine = Owner::of(&labels);
    let found = backend
        .inventory(LABEL_SLUG, slug)
        .await
        .map_err(|error| error.to_string())?;
    for resource in found {
        if resource.kind == kind && resource.name == name && Owner::of(&resource.labels) == mine {
            backend.remove(&resource).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
