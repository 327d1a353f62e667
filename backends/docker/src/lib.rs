//! Bottles on the Docker Engine.
//!
//! Tried on engine 20.10 (API 1.41); see [`Docker::connect`].
#![warn(missing_docs)]

mod backend;
mod call;
mod connect;
mod containers;
mod export;
mod facts;
mod hijack;
mod image;
mod import;
mod networks;
mod observe;
mod removal;
mod request;
mod subnet;

use std::path::PathBuf;

pub use export::ProgramSettings;
pub use image::{BuiltImage, ImageFile, ImageSettings, build_image, program_image};

/// A connection to a Docker Engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Docker {
    client: bollard::Docker,
    socket: PathBuf,
    /// Whether the engine's default seccomp profile confines.
    seccomp: bool,
}
