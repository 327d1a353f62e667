//! The cache under concurrency, interruption and a full disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bottle_backend::BoxFuture;
use bytes::Bytes;

use super::*;
use crate::image::Pieces;

const ID: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Exports one file of this size; the first `cut` exports end in the middle.
struct Engine {
    size: usize,
    cut: Mutex<usize>,
    exports: AtomicUsize,
}

impl Engine {
    fn new(size: usize, cut: usize) -> (Arc<Self>, Arc<dyn Source>) {
        let engine = Arc::new(Self {
            size,
            cut: Mutex::new(cut),
            exports: AtomicUsize::new(0),
        });
        (engine.clone(), engine)
    }

    fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(self.size as u64);
        header.set_mode(0o644);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        builder
            .append_data(&mut header, "etc/note", vec![b'x'; self.size].as_slice())
            .unwrap();
        builder.into_inner().unwrap()
    }
}

impl Source for Engine {
    fn settings<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Settings, BackendError>> {
        Box::pin(async {
            Ok(Settings {
                user: Some("node".to_owned()),
                ..Settings::default()
            })
        })
    }

    fn export<'a>(&'a self, _: &'a str, _: &'a Labels, pieces: Pieces) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            self.exports.fetch_add(1, Ordering::SeqCst);
            let archive = self.archive();
            let is_cut = {
                let mut cut = self.cut.lock().unwrap();
                let is_cut = *cut > 0;
                *cut = cut.saturating_sub(1);
                is_cut
            };
            for piece in archive.chunks(1000).take(if is_cut { 1 } else { usize::MAX }) {
                tokio::task::yield_now().await;
                if pieces.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                    return Ok(());
                }
            }
            if is_cut {
                let _ = pieces.send(Err("the engine went away".to_owned())).await;
                return Err(unexpected("export", "the engine went away"));
            }
            Ok(())
        })
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_ask_at_once_share_one_export() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().to_owned());
    let (engine, source) = Engine::new(100_000, 0);
    let asking = (0..8).map(|_| {
        let (cache, source) = (cache.clone(), source.clone());
        tokio::spawn(async move { cache.take(&source, ID, &Labels::new(), &[]).await })
    });
    let images: Vec<Image> = futures_util::future::join_all(asking)
        .await
        .into_iter()
        .map(|image| image.unwrap().unwrap())
        .collect();
    assert_eq!(engine.exports.load(Ordering::SeqCst), 1);
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(images[0].settings.user.as_deref(), Some("node"));
    assert_eq!(fs::read(images[0].directory.join("etc/note")).unwrap().len(), 100_000);
}

#[tokio::test]
async fn an_interrupted_export_is_never_used() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().to_owned());
    let (engine, source) = Engine::new(100_000, 1);
    let error = cache.take(&source, ID, &Labels::new(), &[]).await.unwrap_err();
    assert!(error.problem.contains("the engine went away"), "{error}");
    assert_eq!(names(directory.path()), Vec::<String>::new());
    // One that was killed leaves its part.
    let part = directory.path().join(format!("{UNFINISHED}{}/{FILES}/etc", &ID[7..]));
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("other"), "of another time").unwrap();
    let image = cache.take(&source, ID, &Labels::new(), &[]).await.unwrap();
    assert_eq!(engine.exports.load(Ordering::SeqCst), 2);
    assert_eq!(names(&image.directory.join("etc")), ["note"]);
    assert_eq!(names(directory.path()), [&ID[7..]]);
}

#[tokio::test]
async fn a_full_disk_is_named_and_what_was_written_is_removed() {
    if !rustix::process::geteuid().is_root() {
        println!("left out, not root: a cache on a full file system");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let small = Small::mount(directory.path());
    let cache = Cache::new(directory.path().to_owned());
    let (_, source) = Engine::new(1_000_000, 0);
    let error = cache.take(&source, ID, &Labels::new(), &[]).await.unwrap_err();
    assert!(error.problem.contains("No space left on device"), "{error}");
    assert!(error.problem.contains("BOTTLE_CACHE_DIR"), "{error}");
    assert_eq!(names(directory.path()), Vec::<String>::new());
    drop(small);
}

/// A file system of 64 KiB.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(c"size=65536")).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn images_that_nobody_used_for_long_go_unless_a_machine_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().to_owned());
    let (_, source) = Engine::new(10, 0);
    let long_ago = SystemTime::now() - KEPT_FOR - Duration::from_secs(60);
    for (digit, time) in [('a', long_ago), ('b', long_ago), ('c', SystemTime::now())] {
        let image = directory.path().join(digit.to_string().repeat(64));
        fs::create_dir_all(image.join(FILES)).unwrap();
        let used = File::create(image.join(USED)).unwrap();
        used.set_modified(time).unwrap();
    }
    let in_use = [directory.path().join("b".repeat(64)).join(FILES)];
    cache.take(&source, ID, &Labels::new(), &in_use).await.unwrap();
    assert_eq!(names(directory.path()), [&ID[7..], &"b".repeat(64), &"c".repeat(64)]);
}
