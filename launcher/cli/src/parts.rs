//! What is embedded.

use std::sync::Arc;

use bottle_docker::program_image;
use bottle_launch::BundleImage;

use crate::failure::Failure;

/// The static bundle with the reference of its image, made at build time: to find that an engine has the image, not a page of the
/// program has to be read. `None` where it was not there then.
struct Embedded {
    reference: &'static str,
    program: &'static [u8],
}

const BUNDLE: Option<Embedded> = include!(concat!(env!("OUT_DIR"), "/bundle.rs"));

/// The bundle's image: one file on an empty root. Its tag is its content's digest, so an engine that has the reference has
/// the right bundle.
pub fn bundle_image() -> Result<BundleImage, Failure> {
    let Embedded { reference, program } = BUNDLE.ok_or(Failure::NoBundle)?;
    Ok(BundleImage {
        reference: reference.to_owned(),
        archive: Arc::new(move || {
            let image = program_image("bottle-bundle", "/bottle-bundle", program, None)?;
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
    fn the_reference_made_at_build_time_is_the_embedded_bundles() {
        if BUNDLE.is_some() {
            let image = bundle_image().unwrap();
            (image.archive)().unwrap();
        }
    }
}
