//! Packs as smolvm 1.32.2 writes them (tests/real has it make one), and others.

use proptest::prelude::*;
use rstest::rstest;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use tar::EntryType::{Directory, Regular};

use super::super::archive::tests::{digest, tarred};
use super::*;

/// What a pack is made of. The layers are `layers/NUMBER.tar`.
struct Parts {
    program: Vec<u8>,
    manifest: Value,
    /// (name, content)
    assets: Vec<(String, Vec<u8>)>,
    format: u32,
}

impl Parts {
    fn of(layers: &[Vec<u8>]) -> Self {
        let named = layers.iter().enumerate();
        let named: Vec<(String, Vec<u8>)> = named
            .map(|(number, layer)| (format!("layers/{number}.tar"), layer.clone()))
            .collect();
        let said = named
            .iter()
            .map(|(path, layer)| json!({ "digest": digest(layer), "path": path, "size": layer.len() }));
        let manifest = json!({
            "mode": "container",
            "image": "local-dir:/srv/image",
            "digest": "packed",
            "platform": "linux/amd64",
            "env": ["PATH=/bin", "EMPTY"],
            "workdir": "/work",
            "cpus": 1,
            "mem": 512,
            "assets": {
                "libraries": [],
                "agent_rootfs": { "path": "agent-rootfs.tar", "size": 5 },
                "layers": said.collect::<Vec<_>>(),
                "storage_template": { "path": "storage.ext4", "size": 3 },
            },
        });
        let mut assets = vec![("agent-rootfs.tar".to_owned(), b"agent".to_vec())];
        assets.extend(named);
        assets.push(("storage.ext4".to_owned(), b"ext".to_vec()));
        Self {
            program: Vec::new(),
            manifest,
            assets,
            format: FORMAT,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in &self.assets {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let assets = compress_to_vec(tar.as_slice(), CompressionLevel::Fastest);
        let manifest = self.manifest.to_string().into_bytes();
        let (program, assets_size) = (self.program.len() as u64, assets.len() as u64);
        let mut file = [self.program.clone(), assets, manifest.clone()].concat();
        file.extend(MAGIC);
        file.extend(self.format.to_le_bytes());
        for number in [
            program,
            program,
            assets_size,
            program + assets_size,
            manifest.len() as u64,
        ] {
            file.extend(number.to_le_bytes());
        }
        file.resize(file.len() + 12, 0);
        file
    }
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// Opens and unpacks; the problem where it is refused.
fn take(bytes: &[u8]) -> Result<(Settings, tempfile::TempDir), String> {
    let file = file(bytes);
    let pack = Pack::open(file.path()).map_err(|error| error.to_string())?;
    let pack = pack.ok_or("no pack")?;
    let directory = tempfile::tempdir().unwrap();
    pack.unpack(directory.path()).map_err(|error| error.to_string())?;
    Ok((pack.settings, directory))
}

fn two_layers() -> [Vec<u8>; 2] {
    [
        tarred(&[
            ("etc/", Directory, 0o755, ""),
            ("etc/kept", Regular, 0o644, "kept"),
            ("etc/both", Regular, 0o644, "below"),
            ("etc/gone", Regular, 0o644, "gone"),
        ]),
        tarred(&[
            ("etc/both", Regular, 0o644, "above"),
            ("etc/.wh.gone", Regular, 0o644, ""),
        ]),
    ]
}

#[rstest]
#[case::beside_its_program(|_: &mut Parts| {})]
#[case::one_file(|parts: &mut Parts| parts.program = b"\x7fELF".repeat(1000))]
#[case::layers_in_another_order(|parts: &mut Parts| parts.assets.reverse())]
#[case::without_a_mode(|parts: &mut Parts| drop(parts.manifest.as_object_mut().unwrap().remove("mode")))]
fn the_image_of_a_pack_is_taken_and_nothing_else(#[case] change: impl Fn(&mut Parts)) {
    let mut parts = Parts::of(&two_layers());
    change(&mut parts);
    let (settings, directory) = take(&parts.bytes()).unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).ok();
    assert_eq!(read("etc/kept").as_deref(), Some("kept"));
    assert_eq!(read("etc/both").as_deref(), Some("above"));
    assert_eq!(read("etc/gone"), None);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let env = [("PATH", "/bin"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(
        settings,
        Settings {
            env: env.into(),
            user: None,
            workdir: Some("/work".to_owned()),
        }
    );
}

#[test]
fn another_layer_is_another_image() {
    let id = |layers: &[Vec<u8>]| {
        let file = file(&Parts::of(layers).bytes());
        Pack::open(file.path()).unwrap().unwrap().id
    };
    let [below, above] = two_layers();
    assert_eq!(id(&[below.clone(), above.clone()]), id(&[below.clone(), above.clone()]));
    assert_ne!(id(&[below.clone(), above.clone()]), id(&[above, below]));
}

#[rstest]
#[case::format(|parts: &mut Parts| parts.format = 2, "it has the format 2")]
#[case::of_a_machine(|parts: &mut Parts| parts.manifest["mode"] = "vm".into(), "made without an image")]
#[case::with_a_disk(|parts: &mut Parts| parts.manifest["assets"]["overlay_template"] = json!({}), "made without an image")]
#[case::no_layers(|parts: &mut Parts| parts.manifest["assets"]["layers"] = json!([]), "it has 0 layers")]
#[case::manifest(|parts: &mut Parts| parts.manifest = json!([]), "its manifest is not understood")]
#[case::other_bytes(
    |parts: &mut Parts| parts.manifest["assets"]["layers"][0]["digest"] = "sha256:00".into(),
    "expected a layer sha256:00, found sha256:"
)]
#[case::other_size(|parts: &mut Parts| parts.manifest["assets"]["layers"][0]["size"] = 7.into(), "expected 7 bytes")]
#[case::layer_left_out(|parts: &mut Parts| drop(parts.assets.remove(2)), "its assets have no layers/1.tar")]
#[case::hostile_layer(
    |parts: &mut Parts| *parts = Parts::of(&[tarred(&[("../out", Regular, 0o644, "x")])]),
    "../out"
)]
fn a_pack_that_is_not_understood_is_refused(#[case] change: impl Fn(&mut Parts), #[case] expected: &str) {
    let mut parts = Parts::of(&two_layers());
    change(&mut parts);
    let problem = take(&parts.bytes()).unwrap_err();
    assert!(problem.contains(expected), "`{expected}` is not in `{problem}`");
}

#[rstest]
#[case::empty(b"")]
#[case::short(MAGIC)]
#[case::another_end(&[b'x'; 100])]
fn what_has_no_footer_is_no_pack(#[case] bytes: &[u8]) {
    assert!(Pack::open(file(bytes).path()).unwrap().is_none());
}

proptest! {
    /// Offsets, sizes and all else from anybody: an answer, and never more than the file has.
    #[test]
    fn any_footer_is_answered(numbers in proptest::collection::vec(any::<u64>(), 5), before in 0usize..200) {
        let mut bytes = vec![b'{'; before];
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.resize(bytes.len() + 12, 0);
        prop_assert!(Pack::open(file(&bytes).path()).is_err());
    }

    /// Damage anywhere but in what is left out is found.
    #[test]
    fn a_changed_byte_changes_no_file(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let mut bytes = Parts::of(&two_layers()).bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok((_, directory)) = take(&bytes) {
            prop_assert_eq!(std::fs::read(directory.path().join("etc/both")).unwrap(), b"above");
            prop_assert!(!directory.path().join("etc/gone").exists());
        }
    }
}
