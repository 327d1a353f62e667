//! What `prepare` needs to know of this machine, and where things are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bottle_plan::{BackendKind, HostFacts, Limits, Manifest, PrepareOptions, is_path};

use crate::args::Chosen;
use crate::failure::{Excerpt, Failure};

/// Which agent and which bottle are meant.
pub struct Choice {
    /// Agent.
    pub agent: Option<String>,
    /// Bottle.
    pub bottle: String,
}

/// A manifest with its text, for excerpts.
pub struct Loaded {
    /// The manifest.
    pub manifest: Manifest,
    text: String,
    path: PathBuf,
}

impl Loaded {
    /// Reads and parses a manifest.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|source| Failure::Unreadable {
            path: path.to_owned(),
            source,
            hint: "; give the manifest's path with --manifest",
        })?;
        let manifest = bottle_plan::parse(&path.display().to_string(), &text).map_err(|error| Failure::Manifest {
            excerpt: Excerpt::of(&text, Some(&error.place)),
            error,
        })?;
        Ok(Self {
            manifest,
            text,
            path: path.to_owned(),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which agent and which bottle are meant.
    pub fn choose(&self, chosen: &Chosen) -> Result<Choice, Failure> {
        let document = self.manifest.document();
        let agent = match (&chosen.agent, &chosen.bottle) {
            (Some(agent), _) => Some(agent),
            (None, Some(_)) => None,
            (None, None) if document.agents.len() == 1 => document.agents.keys().next(),
            (None, None) => None,
        };
        let of_agent = agent.map(|name| self.manifest.agent(name)).transpose();
        let of_agent = of_agent.map_err(|error| Failure::Manifest {
            excerpt: Excerpt::of(&self.text, Some(&error.place)),
            error,
        })?;
        let only = || {
            let is_alone = document.agents.is_empty() && document.bottles.len() == 1;
            document.bottles.keys().next().filter(|_| is_alone)
        };
        let bottle = chosen
            .bottle
            .as_ref()
            .or(of_agent.map(|agent| &agent.bottle))
            .or_else(only);
        let Some(bottle) = bottle else {
            let listed = |names: Vec<&String>| {
                let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
                names.join(", ")
            };
            return Err(Failure::Usage(format!(
                "expected the name of an agent ({}) or --bottle with the name of a bottle ({}), found neither",
                listed(document.agents.keys().collect()),
                listed(document.bottles.keys().collect())
            )));
        };
        Ok(Choice {
            agent: agent.cloned(),
            bottle: bottle.clone(),
        })
    }

    /// Prepares a bottle.
    pub fn prepare(
        &self,
        bottle: &str,
        facts: &HostFacts,
        options: &PrepareOptions,
    ) -> Result<bottle_plan::Plan, Failure> {
        let mut options = options.clone();
        // An image in a file is meant from the manifest's directory, as every path of it.
        let written = self.manifest.bottle(bottle).map(|bottle| bottle.image.as_str());
        if let Some(image) = written.filter(|image| is_path(image) && options.image.is_none()) {
            let path = std::path::absolute(self.resolve(image, &facts.home));
            options.image = path.ok().and_then(|path| path.to_str().map(str::to_owned));
        }
        bottle_plan::prepare(&self.manifest, bottle, facts, &options).map_err(|error| Failure::Plan {
            excerpt: Excerpt::of(&self.text, error.place()),
            error,
        })
    }

    /// What this machine is like, with no subnet in use.
    pub fn facts(&self, bottle: &str) -> Result<HostFacts, Failure> {
        let mut slug_entropy = [0; 8];
        getrandom::fill(&mut slug_entropy)
            .map_err(|error| Failure::system("reading randomness")(std::io::Error::other(error.to_string())))?;
        let home = home();
        let mut ca_files = BTreeMap::new();
        for written in self.manifest.ca_files(bottle) {
            let path = self.resolve(written, &home);
            let content = std::fs::read_to_string(&path).map_err(|source| Failure::Unreadable {
                path,
                source,
                hint: "; it is named in `egress.ca_certificates`",
            })?;
            ca_files.insert(written.clone(), content);
        }
        let workspace = self.manifest.workspace(bottle).and_then(|written| {
            let path = std::fs::canonicalize(self.resolve(written, &home)).ok()?;
            path.is_dir().then(|| path.to_str().map(str::to_owned))?
        });
        Ok(HostFacts {
            subnets: Vec::new(),
            processors: None,
            relay: None,
            home,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            default_limits: Limits::default(),
            ca_files,
            workspace,
            slug_entropy,
        })
    }

    /// Paths of a manifest are meant from its own directory, or from the home directory after `~/`.
    pub fn resolve(&self, written: &str, home: &str) -> PathBuf {
        match written.strip_prefix("~/") {
            Some(rest) => Path::new(home).join(rest),
            None => self.path.parent().unwrap_or(Path::new("")).join(written),
        }
    }
}

/// The operator's home directory.
pub fn home() -> String {
    std::env::var("HOME")
        .ok()
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// What was said about the bottle on the command line and in the environment.
pub fn options(chosen: &Chosen, choice: &Choice, command: &[String]) -> Result<PrepareOptions, Failure> {
    let backend = match (chosen.backend, std::env::var("BOTTLE_BACKEND").ok().as_deref()) {
        (Some(name), _) => Some(name.into()),
        (None, None | Some("")) => None,
        (None, Some("docker")) => Some(BackendKind::Docker),
        (None, Some("smolmachines")) => Some(BackendKind::Smolmachines),
        (None, Some(other)) => {
            return Err(Failure::Environment {
                name: "BOTTLE_BACKEND",
                expected: "`docker` or `smolmachines`",
                found: other.to_owned(),
            });
        }
    };
    Ok(PrepareOptions {
        backend,
        topology: chosen.topology.map(Into::into),
        system_trust: true,
        agent: choice.agent.clone(),
        command: command.to_vec(),
        ..PrepareOptions::default()
    })
}

/// `$BOTTLE_STATE_DIR`, or `bottle` below the XDG state directory.
pub fn state_dir() -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("BOTTLE_STATE_DIR").unwrap_or_else(|| {
        // The XDG specification has relative paths ignored.
        let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
        state
            .unwrap_or_else(|| Path::new(&home()).join(".local/state"))
            .join("bottle")
    })
}
