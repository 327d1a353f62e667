//! `bottle image build`: the recommended image for agents.
//!
//! It is a Debian root with what agents call and, from the Node registry, Claude Code and npm: made by this machine's own
//! mmdebstrap and npm, imported into the engine, and named by the digest of its recipe, so that the same recipe is made once.

mod debian;
mod recipe;

use bottle_backend::{Architecture, Backend};
use bottle_docker::Docker;

use crate::args::{ImageBuildArgs, ImageCommand};
use crate::failure::{Failure, say};
use crate::plan::print;
pub use recipe::REPOSITORY;
use recipe::Recipe;

/// How many images of other recipes stay: the newest, which another project or work tree may use.
const KEPT: usize = 3;

/// Does what was asked for.
pub async fn image(command: &ImageCommand) -> Result<u8, Failure> {
    match command {
        ImageCommand::Build(args) => build(args).await,
    }
}

/// How an image gets into the engine.
pub fn how_to_have(reference: &str) -> String {
    match recipe::name(reference) {
        Ok((REPOSITORY, _)) => format!("bottle image build --tag {reference} (--package NAME adds Debian packages)"),
        _ => format!("docker pull {reference}"),
    }
}

/// Makes the image where the engine does not have it, and prints its name.
async fn build(args: &ImageBuildArgs) -> Result<u8, Failure> {
    let recipe = Recipe::new(&args.package)?;
    let name = args.tag.as_deref().map(recipe::name).transpose()?;
    let tag = recipe.tag();
    let reference = format!("{REPOSITORY}:{tag}");
    let engine = Docker::connect().await?;
    fits(&engine.facts().await?.platform, std::env::consts::ARCH)?;
    let found = engine.find_image(&reference).await?;
    let id = match found.filter(|_| !args.fresh) {
        Some(id) => id,
        None => {
            let id = debian::make(&engine, &recipe).await?;
            engine.name_image(&id, REPOSITORY, &tag).await?;
            id
        }
    };
    if let Some((repository, tag)) = name {
        engine.name_image(&id, repository, tag).await?;
    }
    prune(&engine, &reference).await;
    print(&format!("{reference}\n"))
}

/// mmdebstrap runs what it installs, so it makes roots for this machine only: refuses an engine of another architecture.
fn fits(platform: &str, machine: &str) -> Result<(), Failure> {
    let engine = Architecture::of_platform(platform)?;
    if Architecture::of_machine(machine) == Some(engine) {
        return Ok(());
    }
    Err(Failure::Image(format!(
        "expected an engine on this machine's architecture ({machine}), for which mmdebstrap makes roots, found one on {engine}; \
         run this on a machine of {engine}"
    )))
}

/// Removes images of older recipes. One that a bottle still uses stays, and is tried again the next time.
async fn prune(engine: &Docker, current: &str) {
    let known = match engine.images_of(REPOSITORY).await {
        Ok(known) => known,
        Err(error) => return say(&format!("older images were not looked for: {error}")),
    };
    let digests = known
        .into_iter()
        .filter(|name| recipe::is_digest(name) && name != current);
    for old in digests.skip(KEPT) {
        if let Err(error) = engine.remove_image(&old).await {
            tracing::debug!(%error, old, "stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_for_this_machines_architecture_only() {
        for (platform, machine, fits_it) in [
            ("linux/amd64", "x86_64", true),
            ("linux/arm64", "aarch64", true),
            ("linux/arm64", "x86_64", false),
            ("linux/amd64", "aarch64", false),
            ("linux/riscv64", "x86_64", false),
        ] {
            assert_eq!(fits(platform, machine).is_ok(), fits_it, "{platform} from {machine}");
        }
    }
}
