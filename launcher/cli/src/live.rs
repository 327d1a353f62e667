//! Bottles that run: found by their labels in the engine, and by their directories.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bottle_backend::{Backend, Labels, ResourceKind};
use bottle_launch::{LABEL_MADE, Owner, OwnerState, state_path};
use bottle_plan::{LABEL_OWNER_PID, LABEL_ROLE, LABEL_RUN, LABEL_SLUG, Plan};

use crate::failure::Failure;
use crate::host::state_dir;
use crate::journal::{self, Tail};

/// Label value of a guest.
const GUEST: &str = "guest";
/// What the run label of `bottle run` begins with; conformance runs have others.
pub const RUN_PREFIX: &str = "run-";

/// A bottle.
pub struct Live {
    /// Its unique name.
    pub slug: String,
    /// The engine's id of its guest.
    pub guest: String,
    /// The launcher that holds it.
    pub owner: Owner,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The launcher's directory of it.
    pub directory: PathBuf,
    /// Its plan; `None` when another user or another state directory has it.
    pub plan: Option<Plan>,
}

impl Live {
    /// What it said so far.
    pub fn journal(&self) -> Result<Tail, Failure> {
        Tail::open(&self.directory).map_err(|source| Failure::Unreadable {
            path: self.directory.clone(),
            source,
            hint: "; only the user that launched a bottle can read what it said",
        })
    }

    fn of(id: &str, labels: &Labels) -> Option<Self> {
        let slug = labels.get(LABEL_SLUG)?.clone();
        let directory = state_path(&state_dir(), &slug);
        let plan = journal::open(&directory.join("plan.json"))
            .ok()
            .and_then(|file| serde_json::from_reader(std::io::BufReader::new(file)).ok());
        Some(Self {
            guest: id.to_owned(),
            owner: Owner::of(labels)?,
            made: labels.get(LABEL_MADE).and_then(|made| made.parse().ok()).unwrap_or(0),
            directory,
            plan,
            slug,
        })
    }

    /// Whether its launcher lives; the rest of a dead one is for `cleanup`.
    pub fn state(&self) -> &'static str {
        match self.owner.state() {
            OwnerState::Alive => "running",
            OwnerState::Dead => "left behind",
            OwnerState::Foreign => "elsewhere",
        }
    }

    /// Its name in the manifest.
    pub fn bottle(&self) -> &str {
        match &self.plan {
            Some(plan) => &plan.bottle,
            None => self.slug.rsplit_once('-').map_or(&self.slug, |(bottle, _)| bottle),
        }
    }

    /// Seconds since it was made.
    pub fn age(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs()).saturating_sub(self.made)
    }
}

/// All of them, oldest first.
pub async fn all(backend: &dyn Backend) -> Result<Vec<Live>, Failure> {
    let found = backend.inventory(LABEL_OWNER_PID, None).await?;
    let mut live: Vec<Live> = found
        .iter()
        .filter(|resource| resource.kind == ResourceKind::Container)
        .filter(|resource| resource.labels.get(LABEL_ROLE).is_some_and(|role| role == GUEST))
        .filter(|resource| {
            resource
                .labels
                .get(LABEL_RUN)
                .is_some_and(|run| run.starts_with(RUN_PREFIX))
        })
        .filter_map(|resource| Live::of(&resource.id, &resource.labels))
        .collect();
    live.sort_by(|one, other| (one.made, &one.slug).cmp(&(other.made, &other.slug)));
    Ok(live)
}

/// The one that is meant: by slug, by its beginning, or by the bottle's name; without a name, the only one.
pub async fn one(backend: &dyn Backend, name: Option<&str>) -> Result<Live, Failure> {
    let mut live = all(backend).await?;
    let known: Vec<(String, String)> = live
        .iter()
        .map(|live| (live.slug.clone(), live.bottle().to_owned()))
        .collect();
    let index = pick(&known, name)?;
    Ok(live.swap_remove(index))
}

/// Which of (slug, bottle) is meant.
fn pick(known: &[(String, String)], name: Option<&str>) -> Result<usize, Failure> {
    let slugs = |indices: &[usize]| -> Vec<String> { indices.iter().map(|index| known[*index].0.clone()).collect() };
    let all: Vec<usize> = (0..known.len()).collect();
    let matching = |is_match: &dyn Fn(&(String, String)) -> bool| -> Vec<usize> {
        all.iter().copied().filter(|index| is_match(&known[*index])).collect()
    };
    let found = match name {
        None => all.clone(),
        Some(name) => {
            let exact = matching(&|(slug, _)| slug == name);
            if exact.is_empty() {
                matching(&|(slug, bottle)| bottle == name || (!name.is_empty() && slug.starts_with(name)))
            } else {
                exact
            }
        }
    };
    match found.as_slice() {
        [index] => Ok(*index),
        [] => Err(Failure::NoSuchBottle {
            name: name.map(str::to_owned),
            running: slugs(&all),
        }),
        several => Err(Failure::SeveralBottles(slugs(several))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_one_bottle_or_to_an_error_that_lists_them() {
        let known = |slugs: &[&str]| -> Vec<(String, String)> {
            let bottle = |slug: &str| slug.rsplit_once('-').unwrap().0.to_owned();
            slugs.iter().map(|slug| ((*slug).to_owned(), bottle(slug))).collect()
        };
        let three = known(&["dev-aaaa", "dev-abbb", "web-cccc"]);
        for (name, expected) in [
            (Some("dev-aaaa"), Ok(0)),
            (Some("dev-ab"), Ok(1)),
            (Some("web"), Ok(2)),
            (Some("w"), Ok(2)),
            (Some("dev"), Err("several bottles are meant: dev-aaaa, dev-abbb")),
            (
                Some("x"),
                Err("no bottle `x` runs here; these do: dev-aaaa, dev-abbb, web-cccc"),
            ),
            (None, Err("several bottles are meant: dev-aaaa, dev-abbb, web-cccc")),
        ] {
            let found = pick(&three, name).map_err(|error| error.to_string());
            match (found, expected) {
                (Ok(index), Ok(expected)) => assert_eq!(index, expected, "{name:?}"),
                (Err(text), Err(expected)) => assert!(text.starts_with(expected), "{name:?}: {text}"),
                (found, expected) => panic!("{name:?}: {found:?}, expected {expected:?}"),
            }
        }
        assert_eq!(pick(&known(&["dev-aaaa"]), None).unwrap(), 0);
        assert_eq!(pick(&[], None).unwrap_err().to_string(), "no bottle runs here");
        assert!(pick(&[], Some("")).is_err());
    }
}
