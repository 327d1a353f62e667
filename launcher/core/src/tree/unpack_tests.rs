//! What comes out of a guest is hostile.

use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// Path, kind and link target or content of an entry.
type Written = (&'static str, tar::EntryType, &'static str);

/// An archive with raw names, which the library would refuse to write.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, value) in entries {
        let is_file = *kind == tar::EntryType::Regular;
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if !is_file {
            header.as_old_mut().linkname[..value.len()].copy_from_slice(value.as_bytes());
        }
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_size(if is_file { value.len() as u64 } else { 0 });
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if is_file {
            bytes.extend_from_slice(value.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const SYMLINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

fn try_unpack(entries: &[(&str, tar::EntryType, &str)], target: &Path) -> Result<Unpacked, TreeError> {
    unpack(Cursor::new(archive(entries)), target, UnpackOptions::default())
}

#[test]
fn hostile_entries_are_refused_and_nothing_is_written() {
    let table: &[(&str, &[Written])] = &[
        ("absolute", &[("/etc/x", FILE, "x")]),
        ("parent", &[("app/../../x", FILE, "x")]),
        ("parent as the first", &[("../x", FILE, "x")]),
        ("link to an absolute path", &[("app/l", SYMLINK, "/etc/passwd")]),
        ("link out of the tree", &[("app/a/l", SYMLINK, "../../x")]),
        ("link to the parent", &[("app/l", SYMLINK, "..")]),
        ("through a link", &[("app/l", SYMLINK, "d"), ("app/l/x", FILE, "x")]),
        ("through a file", &[("app/f", FILE, "x"), ("app/f/x", FILE, "x")]),
        (
            "a link, then a file of its name",
            &[("app/l", SYMLINK, "d"), ("app/l", FILE, "x")],
        ),
        (
            "a file, then a link of its name",
            &[("app/l", FILE, "x"), ("app/l", SYMLINK, "d")],
        ),
        ("hard link out of the tree", &[("app/h", HARD, "/etc/passwd")]),
        ("hard link to nothing", &[("app/h", HARD, "app/absent")]),
        (
            "hard link to a link",
            &[("app/l", SYMLINK, "d"), ("app/h", HARD, "app/l")],
        ),
        ("character device", &[("app/c", tar::EntryType::Char, "")]),
        ("block device", &[("app/b", tar::EntryType::Block, "")]),
        ("pipe", &[("app/p", tar::EntryType::Fifo, "")]),
    ];
    for (what, entries) in table {
        let room = tempfile::tempdir().unwrap();
        // Something good comes first: it must not be written either.
        let all = [&[("app/good", FILE, "x")], *entries].concat();
        let outcome = try_unpack(&all, room.path());
        assert!(matches!(outcome, Err(TreeError::Refused { .. })), "{what}: {outcome:?}");
        assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn links_that_are_there_already_are_replaced_and_never_followed() {
    let room = tempfile::tempdir().unwrap();
    let (inner, outside) = (room.path().join("inner"), room.path().join("outside"));
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("file"), "before").unwrap();
    symlink(outside.join("file"), inner.join("file")).unwrap();
    symlink(&outside, inner.join("dir")).unwrap();
    try_unpack(&[("app/file", FILE, "after")], &inner).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "before");
    assert_eq!(std::fs::read_to_string(inner.join("file")).unwrap(), "after");
    try_unpack(&[("app/dir", DIR, ""), ("app/dir/new", FILE, "x")], &inner).unwrap_err();
    assert!(!outside.join("new").exists());
}

#[test]
fn modes_are_kept_without_the_dangerous_bits() {
    let room = tempfile::tempdir().unwrap();
    let entries = [
        ("app/", DIR, ""),
        ("app/a/b/run", FILE, "#!"),
        ("app/a/again", HARD, "app/a/b/run"),
        ("app/link", SYMLINK, "a/b/run"),
    ];
    let done = try_unpack(&entries, room.path()).unwrap();
    assert_eq!(done, Unpacked { files: 3, left_out: 0 });
    for name in ["a/b/run", "a/again"] {
        let found = std::fs::metadata(room.path().join(name)).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.len()), (0o755, 2), "{name}");
    }
    assert_eq!(
        std::fs::read_link(room.path().join("link")).unwrap(),
        Path::new("a/b/run")
    );
}

#[test]
fn hooks_of_a_repository_stay_behind_unless_asked_for() {
    let room = tempfile::tempdir().unwrap();
    let entries = [
        ("app/.git/hooks/post-checkout", FILE, "#!"),
        ("app/sub/.GIT/config", FILE, "x"),
        ("app/.gitignore", FILE, "x"),
    ];
    let done = try_unpack(&entries, room.path()).unwrap();
    assert_eq!(done, Unpacked { files: 1, left_out: 2 });
    assert!(!room.path().join(".git").exists());
    let all = UnpackOptions {
        with_git: true,
        ..UnpackOptions::default()
    };
    assert_eq!(
        unpack(Cursor::new(archive(&entries)), room.path(), all).unwrap().files,
        3
    );
}

#[test]
fn a_part_of_a_tree_and_a_single_file() {
    let room = tempfile::tempdir().unwrap();
    let entries = [
        ("app/a/one", FILE, "1"),
        ("app/a/two", FILE, "2"),
        ("app/b/three", FILE, "3"),
    ];
    let options = UnpackOptions {
        below: "a".into(),
        only: Some([PathBuf::from("a/two"), PathBuf::from("b/three")].into()),
        ..UnpackOptions::default()
    };
    let done = unpack(Cursor::new(archive(&entries)), room.path(), options).unwrap();
    assert_eq!(done.files, 1);
    assert_eq!(std::fs::read_to_string(room.path().join("two")).unwrap(), "2");

    let target = room.path().join("single");
    unpack_file(Cursor::new(archive(&[("file/x", FILE, "new")])), &target).unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    unpack_file(Cursor::new(archive(&entries)), &target).unwrap_err();
    unpack_file(Cursor::new(archive(&[("file/x", SYMLINK, "y")])), &target).unwrap_err();
}

#[test]
fn what_was_packed_is_listed_the_same() {
    let room = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(room.path().join("d/empty")).unwrap();
    std::fs::write(room.path().join("d/file"), "content").unwrap();
    symlink("d/file", room.path().join("link")).unwrap();
    let mut bytes = Vec::new();
    let packed = super::super::pack(room.path(), "app", &[], None, &mut |archive| {
        bytes.extend_from_slice(&archive);
        Ok(())
    });
    let packed = packed.unwrap();
    assert_eq!(list(&*bytes).unwrap(), packed);
    // Two archives one after another are one tree.
    let other = archive(&[("app/", DIR, ""), ("app/more", FILE, "x")]);
    bytes.extend(other);
    assert_eq!(list(&*bytes).unwrap().len(), packed.len() + 1);
}
