//! What smolvm says of a machine, and how it differs from what was asked for.

use bottle_backend::{BackendError, Labels, Observed};
use bottle_plan::ContainerPlan;
use serde::Deserialize;

use crate::inside::Inside;
use crate::journal::{Kind, id};
use crate::program::{Program, error, refused, unexpected};
use crate::shapes::MachineSpec;

/// A machine as `ls --json` has it. Fields that are not read here may come and go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) network: bool,
    #[serde(default)]
    pub(crate) allowed_cidrs: Vec<String>,
    #[serde(default)]
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) image: Option<String>,
    pub(crate) cpus: u64,
    pub(crate) memory_mib: u64,
    pub(crate) mounts: u64,
    pub(crate) ports: u64,
    pub(crate) pid: Option<i32>,
}

/// Directories are listed with this before their path.
const LOCAL: &str = "local-dir:";

impl Listed {
    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Whether its process is there and its agent did not answer in time.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.state == "unreachable"
    }

    /// Directory of its image.
    pub(crate) fn image_directory(&self) -> &str {
        let image = self.image.as_deref().unwrap_or_default();
        image.strip_prefix(LOCAL).unwrap_or(image)
    }

    /// Every difference from what was asked for.
    pub(crate) fn differences(&self, spec: &MachineSpec) -> Vec<String> {
        let hosts: Vec<String> = spec.allowed.iter().map(ToString::to_string).collect();
        let ranges: Vec<String> = hosts.iter().map(|host| format!("{host}/32")).collect();
        let mut differences = Vec::new();
        let mut compare = |field: &str, asked: String, found: String| {
            if asked != found {
                differences.push(format!("{field}: asked for {asked}, found {found}"));
            }
        };
        compare("network", spec.allowed.is_some().to_string(), self.network.to_string());
        compare(
            "allowed_hosts",
            format!("{hosts:?}"),
            format!("{:?}", self.allowed_hosts),
        );
        compare(
            "allowed_cidrs",
            format!("{ranges:?}"),
            format!("{:?}", self.allowed_cidrs),
        );
        compare("image", spec.image.clone(), self.image_directory().to_owned());
        compare("cpus", spec.cpus.to_string(), self.cpus.to_string());
        compare("memory_mib", spec.memory_mib.to_string(), self.memory_mib.to_string());
        compare("mounts", spec.volumes.len().to_string(), self.mounts.to_string());
        compare("ports", "0".to_owned(), self.ports.to_string());
        differences
    }

    /// Refuses a machine that is not what was asked for.
    pub(crate) fn check(&self, spec: &MachineSpec) -> Result<(), BackendError> {
        let differences = self.differences(spec);
        if differences.is_empty() {
            return Ok(());
        }
        Err(refused(
            format!("read back machine {}", spec.name),
            format!(
                "smolvm did not make what was asked for, so nothing runs in it: {}",
                differences.join("; ")
            ),
        ))
    }
}

/// What is listed of a machine, if anything, as an engine would say it.
pub(crate) fn observed(
    name: &str,
    listed: Option<&Listed>,
    plan: &ContainerPlan,
    inside: &Inside,
    labels: Labels,
) -> Observed {
    Observed {
        id: id(Kind::Machine, name),
        applied: ContainerPlan {
            user: Some(inside.user.clone()),
            ..plan.clone()
        },
        labels,
        addresses: Default::default(),
        published: Default::default(),
        pid: listed.and_then(|listed| listed.pid),
        running: listed.is_some_and(Listed::is_running),
    }
}

/// Looks at a machine; `None` when there is none of that name.
pub(crate) async fn find(
    program: &Program,
    name: &str,
    limit: std::time::Duration,
) -> Result<Option<Listed>, BackendError> {
    const CALL: &str = "smolvm machine ls";
    let text = program.call(program.shapes().list(), limit).await?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|problem| {
        let begin: String = text.chars().take(120).collect();
        unexpected(
            CALL,
            format!("expected a JSON list of machines, found `{begin}`: {problem}"),
        )
    })?;
    let Some(found) = all.into_iter().find(|machine| machine["name"] == name) else {
        return Ok(None);
    };
    serde_json::from_value(found)
        .map(Some)
        .map_err(|problem| unexpected(CALL, format!("the entry of {name} is not understood: {problem}")))
}

/// Looks at a machine that must be there.
pub(crate) async fn see(program: &Program, name: &str, limit: std::time::Duration) -> Result<Listed, BackendError> {
    find(program, name, limit).await?.ok_or_else(|| {
        error(
            "smolvm machine ls",
            bottle_backend::BackendErrorKind::NotFound,
            format!("there is no machine {name} (any more)"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as 1.32.2 prints it, shortened.
    const LISTED: &str = r#"{
        "allowed_cidrs": ["10.213.4.2/32"], "allowed_hosts": ["10.213.4.2"], "block_io": "sync", "cpus": 1,
        "image": "local-dir:/c/rootfs", "labels": {}, "memory_mib": 256, "mounts": 1, "name": "m", "network": true,
        "pid": 77, "ports": 0, "state": "running", "state_reason": null, "storage_gb": null }"#;

    fn spec() -> MachineSpec {
        MachineSpec {
            name: "m".to_owned(),
            image: "/c/rootfs".to_owned(),
            cpus: 1,
            memory_mib: 256,
            volumes: vec![("/s".to_owned(), "/run/bottle".to_owned(), true)],
            sockets: Vec::new(),
            allowed: Some([10, 213, 4, 2].into()),
        }
    }

    #[test]
    fn what_was_asked_for_has_no_difference_and_anything_else_has() {
        let listed: Listed = serde_json::from_str(LISTED).unwrap();
        assert_eq!(listed.check(&spec()), Ok(()));
        let mut sealed = spec();
        sealed.allowed = None;
        let error = listed.check(&sealed).unwrap_err();
        assert!(
            error.problem.contains("network: asked for false, found true"),
            "{error}"
        );
        let wider = Listed {
            allowed_cidrs: vec!["0.0.0.0/0".to_owned()],
            ..listed.clone()
        };
        assert!(wider.check(&spec()).is_err());
        for change in [
            |listed: &mut Listed| listed.ports = 1,
            |listed: &mut Listed| listed.mounts = 2,
            |listed: &mut Listed| listed.memory_mib = 8192,
            |listed: &mut Listed| listed.cpus = 4,
            |listed: &mut Listed| listed.image = Some("alpine".to_owned()),
            |listed: &mut Listed| listed.allowed_hosts.push("x.test".to_owned()),
        ] {
            let mut changed = listed.clone();
            change(&mut changed);
            assert_eq!(changed.differences(&spec()).len(), 1);
        }
    }
}
