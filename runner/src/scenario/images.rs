//! Images that an engine keeps of a bottle.

use bollard::models::ContainerConfig;
use bollard::query_parameters::{CommitContainerOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions};
use bottle_backend::Role;
use bottle_docker::{ImageFile, ImageSettings, build_image};
use bottle_launch::Bottle;
use bottle_plan::{BackendKind, LABEL_SLUG};
use probe_spec::Nonce;

use super::secrets::engine;
use crate::images::{MARKER, MARKER_FILE};

/// Ids of all images that bear a bottle's label, as one that is made of its containers does, or its name.
pub async fn of_bottle(slug: &str) -> Result<Vec<String>, String> {
    let all = engine()?.list_images(None::<ListImagesOptions>).await;
    let all = all.map_err(|error| error.to_string())?.into_iter();
    let is_its = |tags: &[String], label: Option<&String>| {
        label.is_some_and(|label| label == slug) || tags.iter().any(|tag| tag.contains(slug))
    };
    Ok(all
        .filter(|image| is_its(&image.repo_tags, image.labels.get(LABEL_SLUG)))
        .map(|image| image.id)
        .collect())
}

/// Keeps a guest as an image, with the token in its environment, as a launcher does that saves guests for later; its id or name.
/// A container is made into one; of a machine the engine has nothing, so one is made in its name.
pub async fn keep(bottle: &Bottle, token: &Nonce) -> Result<String, String> {
    let plan = bottle.plan();
    if plan.backend == BackendKind::Smolmachines {
        let settings = ImageSettings {
            env: [("TOKEN".to_owned(), token.to_string())].into(),
            labels: [(LABEL_SLUG.to_owned(), plan.slug.clone())].into(),
            ..ImageSettings::default()
        };
        let file = ImageFile {
            path: MARKER_FILE,
            mode: 0o644,
            bytes: MARKER.as_bytes(),
        };
        let image = build_image("bottle-conform/kept", &[file], &settings).map_err(|error| error.to_string())?;
        let loaded = bottle.backend().load_image(&image.reference, image.archive).await;
        return loaded.map(|()| image.reference).map_err(|error| error.to_string());
    }
    let options = CommitContainerOptions {
        container: Some(bottle.id(Role::Guest).to_owned()),
        pause: false,
        ..CommitContainerOptions::default()
    };
    let config = ContainerConfig {
        env: Some(vec![format!("TOKEN={token}")]),
        ..ContainerConfig::default()
    };
    let made = engine()?.commit_container(options, config).await;
    Ok(made.map_err(|error| error.to_string())?.id)
}

/// Shows that an image with a bottle's name would be found: names one so, looks, and takes the name away again.
pub async fn are_found(image: &str, slug: &str) -> Result<bool, String> {
    let said = |error: bollard::errors::Error| error.to_string();
    let options = TagImageOptions {
        repo: Some("bottle-conform/kept".to_owned()),
        tag: Some(slug.to_owned()),
    };
    engine()?.tag_image(image, Some(options)).await.map_err(said)?;
    let found = of_bottle(slug).await;
    remove(&format!("bottle-conform/kept:{slug}")).await?;
    Ok(!found?.is_empty())
}

/// Removes an image by its id, or a name of one.
pub async fn remove(image: &str) -> Result<(), String> {
    let options = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    let removed = engine()?.remove_image(image, Some(options), None).await;
    removed.map(drop).map_err(|error| error.to_string())
}
