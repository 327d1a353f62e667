//! Which build of a program fits a guest: the one for its machine, whatever machine the launcher runs on.

use std::fmt;

/// Architecture of a guest's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// x86_64.
    Amd64,
    /// aarch64.
    Arm64,
}

impl Architecture {
    /// Reads a machine's name: an engine's word for it, or a kernel's. `None` for one that no guest can have.
    pub fn of_machine(name: &str) -> Option<Self> {
        match name {
            "amd64" | "x86_64" => Some(Self::Amd64),
            "arm64" | "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Reads the platform of an engine, [`EngineFacts::platform`](crate::EngineFacts::platform).
    ///
    /// # Errors
    /// When it is not one on which guests can run.
    pub fn of_platform(platform: &str) -> Result<Self, PartsError> {
        platform
            .strip_prefix("linux/")
            .and_then(Self::of_machine)
            .ok_or_else(|| PartsError::Platform(platform.to_owned()))
    }
}

impl fmt::Display for Architecture {
    /// In the words of engines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// Why there is no program for a guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// Guests cannot run there at all.
    #[error("expected an engine on linux/amd64 or linux/arm64, found {}", named(.0))]
    Platform(String),
    /// They could, but what they need was not built in.
    #[error(
        "the engine's machine is {architecture}, and this program was built without `{part}` for it ({}): `cargo xtask build` \
         builds the parts of its own machine in, `cargo xtask dist` those of x86_64 and aarch64",
        have(.built)
    )]
    NotBuilt {
        /// Which part.
        part: &'static str,
        /// What it has to be for.
        architecture: Architecture,
        /// What it was built for.
        built: Vec<Architecture>,
    },
}

fn named(platform: &str) -> String {
    match platform {
        "" | "/" => "one that does not say what it is".to_owned(),
        platform => format!("`{platform}`"),
    }
}

fn have(built: &[Architecture]) -> String {
    if built.is_empty() {
        return "it has none".to_owned();
    }
    let names: Vec<String> = built.iter().map(ToString::to_string).collect();
    format!("it has the one for {}", names.join(" and "))
}

/// The build of a part for an architecture.
///
/// # Errors
/// When there is none.
pub fn choose<T: Copy>(
    architecture: Architecture,
    part: &'static str,
    built: &[(Architecture, T)],
) -> Result<T, PartsError> {
    let fits = built.iter().find(|(its, _)| *its == architecture);
    fits.map(|(_, build)| *build).ok_or_else(|| PartsError::NotBuilt {
        part,
        architecture,
        built: built.iter().map(|(its, _)| *its).collect(),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const BOTH: &[(Architecture, u8)] = &[(Architecture::Amd64, 1), (Architecture::Arm64, 2)];

    #[rstest]
    #[case::docker("linux/amd64", BOTH, Ok(1))]
    #[case::docker_on_arm("linux/arm64", BOTH, Ok(2))]
    #[case::kernels_words("linux/x86_64", BOTH, Ok(1))]
    #[case::kernels_words_on_arm("linux/aarch64", BOTH, Ok(2))]
    #[case::one_is_enough("linux/arm64", &BOTH[1..], Ok(2))]
    #[case::the_other_is_not("linux/arm64", &BOTH[..1], Err("machine is arm64, and this program was built without `part` for it (it has the one for amd64)"))]
    #[case::nor_the_other_way("linux/amd64", &BOTH[1..], Err("machine is amd64, and this program was built without `part` for it (it has the one for arm64)"))]
    #[case::nothing("linux/amd64", &[], Err("it has none"))]
    #[case::thirty_two_bits("linux/arm", BOTH, Err("found `linux/arm`"))]
    #[case::another("linux/riscv64", BOTH, Err("found `linux/riscv64`"))]
    #[case::windows("windows/amd64", BOTH, Err("found `windows/amd64`"))]
    #[case::silent("/", BOTH, Err("does not say what it is"))]
    #[case::empty("", BOTH, Err("does not say what it is"))]
    fn the_build_follows_the_engine(
        #[case] platform: &str,
        #[case] built: &[(Architecture, u8)],
        #[case] expected: Result<u8, &str>,
    ) {
        let found = Architecture::of_platform(platform).and_then(|its| choose(its, "part", built));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("expected {expected:?}, found {found:?}"),
        }
    }

    #[test]
    fn names_are_read_back() {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            assert_eq!(Architecture::of_machine(&architecture.to_string()), Some(architecture));
        }
    }
}
