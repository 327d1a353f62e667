//! Archives as `docker save` writes them, and others.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tar::EntryType::{Directory, Regular, Symlink};

use super::*;

/// (path, kind, mode, content or target)
pub(crate) type Entries<'a> = &'a [(&'a str, tar::EntryType, u32, &'a str)];

pub(crate) fn tarred(entries: Entries<'_>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        let content = if *kind == Symlink {
            header.set_link_name_literal(content).unwrap();
            ""
        } else {
            content
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// The parts of an archive: (name, content).
fn parts(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let config = json!({
        "config": { "Env": ["PATH=/bin", "EMPTY"], "User": "node", "WorkingDir": "" },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
    });
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": names }]);
    let mut parts = vec![
        ("c.json".to_owned(), config.to_string().into_bytes()),
        ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
    ];
    parts.extend(names.into_iter().zip(layers.iter().cloned()));
    parts
}

fn saved(parts: &[(String, Vec<u8>)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.as_file());
    for (name, content) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    drop(builder);
    file
}

fn image(layers: &[Vec<u8>]) -> tempfile::NamedTempFile {
    saved(&parts(layers))
}

#[test]
fn layers_lie_one_over_the_other() {
    let below = tarred(&[
        ("etc/", Directory, 0o555, ""),
        ("etc/kept", Regular, 0o644, "kept"),
        ("etc/gone", Regular, 0o644, "gone"),
        ("was-directory/", Directory, 0o755, ""),
        ("was-directory/file", Regular, 0o644, "x"),
        ("was-file", Regular, 0o644, "x"),
        ("emptied/", Directory, 0o755, ""),
        ("emptied/old", Regular, 0o644, "old"),
        ("emptied/both", Regular, 0o644, "old"),
        ("tree/", Directory, 0o755, ""),
        ("tree/deep/", Directory, 0o755, ""),
    ]);
    let above = tarred(&[
        ("etc/.wh.gone", Regular, 0o644, ""),
        ("etc/new", Regular, 0o600, "new"),
        ("was-directory", Regular, 0o644, "file now"),
        ("was-file/", Directory, 0o711, ""),
        ("emptied/", Directory, 0o755, ""),
        ("emptied/both", Regular, 0o644, "new"),
        ("emptied/.wh..wh..opq", Regular, 0o644, ""),
        (".wh.tree", Regular, 0o644, ""),
        (".wh.never-there", Regular, 0o644, ""),
    ]);
    let file = image(&[below, above]);
    let archive = Archive::open(file.path()).unwrap();
    assert_eq!(archive.settings.env["PATH"], "/bin");
    assert_eq!(archive.settings.env["EMPTY"], "");
    assert_eq!(archive.settings.user.as_deref(), Some("node"));
    assert_eq!(archive.settings.workdir, None);
    let room = tempfile::tempdir().unwrap();
    archive.unpack(room.path()).unwrap();
    let read = |path: &str| std::fs::read_to_string(room.path().join(path)).ok();
    let mode = |path: &str| std::fs::metadata(room.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(read("etc/kept").as_deref(), Some("kept"));
    assert_eq!(read("etc/new").as_deref(), Some("new"));
    assert_eq!(read("was-directory").as_deref(), Some("file now"));
    assert_eq!(read("emptied/both").as_deref(), Some("new"));
    for gone in [
        "etc/gone",
        "etc/.wh.gone",
        "emptied/old",
        "emptied/.wh..wh..opq",
        "tree",
        ".wh.tree",
    ] {
        assert!(std::fs::symlink_metadata(room.path().join(gone)).is_err(), "{gone}");
    }
    // The mode of a directory is the uppermost layer's that names it; others may read.
    assert_eq!((mode("etc"), mode("was-file"), mode("etc/new")), (0o555, 0o715, 0o604));
}

/// What is taken away, or written, through a link is not outside.
#[rstest::rstest]
#[case(&[("out/.wh.kept", Regular, 0o644, "")])]
#[case(&[("out/.wh..wh..opq", Regular, 0o644, "")])]
#[case(&[("out/kept/", Directory, 0o755, "")])]
#[case(&[("out/new", Regular, 0o644, "x")])]
#[case(&[("../.wh.kept", Regular, 0o644, "")])]
#[case(&[(".wh...", Regular, 0o644, "")])]
#[case(&[("out/.wh..", Regular, 0o644, "")])]
fn hostile_layers_are_refused(#[case] above: Entries<'_>) {
    let room = tempfile::tempdir().unwrap();
    let (outside, inside) = (room.path().join("outside"), room.path().join("inside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(outside.join("kept"), "kept").unwrap();
    let link = outside.display().to_string();
    let below = tarred(&[("out", Symlink, 0o777, &link)]);
    let archive = Archive::open(image(&[below, tarred(above)]).path()).map(|archive| archive.layers.len());
    assert_eq!(archive.unwrap(), 2);
    let file = image(&[tarred(&[("out", Symlink, 0o777, &link)]), tarred(above)]);
    let error = Archive::open(file.path()).unwrap().unpack(&inside).unwrap_err();
    assert!(!error.problem.is_empty());
    assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert!(inside.is_dir());
}

#[test]
fn a_file_cannot_pass_for_another_image() {
    let layer = tarred(&[("a", Regular, 0o644, "a")]);
    let mut parts = parts(std::slice::from_ref(&layer));
    let honest = Archive::open(saved(&parts).path()).unwrap().id;
    let other = tarred(&[("a", Regular, 0o644, "b")]);
    parts[2].1.clone_from(&other);
    let file = saved(&parts);
    let archive = Archive::open(file.path()).unwrap();
    assert_eq!(archive.id, honest, "the configuration is the same");
    let error = archive.unpack(tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(
        error.problem.contains(&digest(&layer)) && error.problem.contains(&digest(&other)),
        "{error}"
    );
    // One of another configuration has another id.
    assert_ne!(Archive::open(image(&[other]).path()).unwrap().id, honest);
}

#[test]
fn other_files_are_refused_by_name() {
    let layer = tarred(&[("a", Regular, 0o644, "a")]);
    let whole = parts(std::slice::from_ref(&layer));
    let mut without = whole.clone();
    without.pop();
    let mut twice = whole.clone();
    let manifest = String::from_utf8(whole[1].1.clone()).unwrap();
    twice[1].1 = format!("[{0},{0}]", &manifest[1..manifest.len() - 1]).into_bytes();
    let mut compressed = whole.clone();
    compressed[2].1 = vec![0x1f, 0x8b, 8, 0];
    let mut no_json = whole.clone();
    no_json[1].1 = b"{".to_vec();
    for (parts, expected) in [
        (&without, "it has no layer 0/layer.tar"),
        (&twice, "it has 2 images"),
        (&compressed, "its layer 0/layer.tar is compressed"),
        (&no_json, "manifest.json is not understood"),
        (
            &vec![("index.json".to_owned(), b"{}".to_vec())],
            "it has no manifest.json",
        ),
    ] {
        let error = Archive::open(saved(parts).path()).unwrap_err();
        assert!(error.problem.starts_with(expected), "{expected}: {error}");
        assert!(error.problem.contains("docker save"), "{error}");
    }
    for (content, expected) in [
        (&[0x1f, 0x8b, 8, 0][..], "it is compressed"),
        (&[b'x'; 2000][..], "it is no archive"),
        (&b""[..], "it has no manifest.json"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let error = Archive::open(file.path()).unwrap_err();
        assert!(error.problem.starts_with(expected), "{expected}: {error}");
    }
}
