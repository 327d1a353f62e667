//! What is embedded.

use std::sync::Arc;

use bottle_backend::{Architecture, choose};
use bottle_docker::program_image;
use bottle_launch::BundleImage;

use crate::failure::Failure;

/// A static bundle with the reference of its image, made at build time: to find that an engine has the image, not a page of the
/// program has to be read.
#[derive(Clone, Copy)]
struct Embedded {
    reference: &'static str,
    program: &'static [u8],
}

/// One for each architecture that it was there for at build time.
const BUNDLES: &[(Architecture, Embedded)] = include!(concat!(env!("OUT_DIR"), "/bundle.rs"));

/// Architectures that bottles can have with this program.
pub fn architectures() -> Vec<Architecture> {
    BUNDLES.iter().map(|(architecture, _)| *architecture).collect()
}

/// The bundle's image for an engine's platform: one file on an empty root. Its tag is its content's digest, so an engine that has
/// the reference has the right bundle.
pub fn bundle_image(platform: &str) -> Result<BundleImage, Failure> {
    let architecture = Architecture::of_platform(platform)?;
    let Embedded { reference, program } = choose(architecture, "bottle-bundle", BUNDLES)?;
    Ok(BundleImage {
        reference: reference.to_owned(),
        archive: Arc::new(move || {
            let architecture = architecture.to_string();
            let image = program_image("bottle-bundle", "/bottle-bundle", program, Some(&architecture))?;
            if image.reference == reference {
                return Ok(image.archive);
            }
            Err(std::io::Error::other(format!(
                "expected the embedded bundle to be {reference}, found {}: build `bottle` anew",
                image.reference
            )))
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_made_at_build_time_are_the_embedded_bundles() {
        for architecture in architectures() {
            let image = bundle_image(&format!("linux/{architecture}")).unwrap();
            (image.archive)().unwrap();
        }
    }
}
