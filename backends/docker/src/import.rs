//! Images made from the files of a root, as `docker import` makes them.

use std::time::Duration;

use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
};
use bottle_backend::{BackendError, BackendErrorKind};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use crate::Docker;
use crate::call::{QUICK, call, failed};

/// Limit of an import: whoever makes the archive may take its time.
const IMPORT: Duration = Duration::from_secs(1800);

impl Docker {
    /// Makes an image of one layer from an archive (tar) of a root; its id. It has no name yet: an archive that breaks off can
    /// look whole to the engine, so the caller names it when it knows the archive to be complete, and removes it otherwise.
    ///
    /// `changes` are lines of a Dockerfile, such as `USER 1000:1000`.
    ///
    /// # Errors
    /// The engine's.
    pub async fn import_root(
        &self,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        changes: &[String],
    ) -> Result<String, BackendError> {
        let name = "import a root";
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .changes(changes.to_vec())
            .build();
        let answers = self
            .client
            .create_image(Some(options), Some(bollard::body_try_stream(archive)), None);
        let answers = call(name, IMPORT, answers.try_collect::<Vec<_>>()).await?;
        let id = answers.into_iter().filter_map(|answer| answer.status).next_back();
        id.filter(|id| id.starts_with("sha256:")).ok_or_else(|| {
            let problem = "the engine took the archive, but did not say which image it made";
            failed(name, BackendErrorKind::Unexpected, problem)
        })
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// The engine's.
    pub async fn name_image(&self, id: &str, repository: &str, tag: &str) -> Result<(), BackendError> {
        let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
        let name = format!("tag image {repository}:{tag}");
        call(name, QUICK, self.client.tag_image(id, Some(options))).await
    }

    /// Removes a name of an image, or the image itself with the last one or by its id.
    ///
    /// # Errors
    /// The engine's; a container that still uses the image is one.
    pub async fn remove_image(&self, reference: &str) -> Result<(), BackendError> {
        let name = format!("remove image {reference}");
        let removal = self.client.remove_image(reference, None::<RemoveImageOptions>, None);
        call(name, QUICK, removal).await.map(|_| ())
    }

    /// The names of all images of a repository, those made last first.
    ///
    /// # Errors
    /// The engine's.
    pub async fn images_of(&self, repository: &str) -> Result<Vec<String>, BackendError> {
        let filters = std::collections::HashMap::from([("reference", vec![repository])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let name = format!("list images {repository}");
        let mut found = call(name, QUICK, self.client.list_images(Some(options))).await?;
        found.sort_by_key(|image| std::cmp::Reverse(image.created));
        Ok(found.into_iter().flat_map(|image| image.repo_tags).collect())
    }
}
