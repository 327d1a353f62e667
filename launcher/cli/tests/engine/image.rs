//! `bottle image build`, with stand-ins of the programs that make the root.

use std::os::unix::fs::PermissionsExt;

use crate::site::{Site, code, on_engine, text};

/// A root of one file; how it ends is in the file `status` beside it.
const MMDEBSTRAP: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo called >> "$here/calls"
mkdir -p "$here/root" && echo x > "$here/root/file"
tar -C "$here/root" -cf - .
exit "$(cat "$here/status")"
"#;

#[test]
fn an_image_is_made_once_and_half_a_root_never_becomes_one() {
    let Some(site) = Site::new() else { return };
    let room = site.directory.path().join("stand-ins");
    std::fs::create_dir(&room).unwrap();
    for (name, script) in [
        ("mmdebstrap", MMDEBSTRAP),
        ("npm", "#!/bin/sh\ntest -s package-lock.json\n"),
    ] {
        std::fs::write(room.join(name), script).unwrap();
        std::fs::set_permissions(room.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let package = format!("x{}", std::process::id());
    let name = format!("bottle-test-image:{}", std::process::id());
    let build = |status: &str| {
        std::fs::write(room.join("status"), status).unwrap();
        let mut command = site.bottle(&["image", "build", "--package", &package, "--tag", &name]);
        let path = format!("{}:{}", room.display(), std::env::var("PATH").unwrap());
        command
            .env("PATH", path)
            .env("TMPDIR", site.directory.path())
            .output()
            .unwrap()
    };
    let is_there = |reference: &str| on_engine(async |docker| docker.image_settings(reference).await.is_ok());

    let half = build("1");
    assert_eq!(code(&half), 70);
    assert!(
        text(&half.stderr).contains("mmdebstrap ended with exit status: 1"),
        "{}",
        text(&half.stderr)
    );
    assert!(!is_there(&name));

    let whole = build("0");
    assert_eq!(code(&whole), 0, "{}", text(&whole.stderr));
    let reference = text(&whole.stdout).trim().to_owned();
    assert!(reference.starts_with("bottle-agent:"), "{reference}");
    let settings = on_engine(async |docker| docker.image_settings(&name).await).unwrap();
    assert_eq!(settings.user.as_deref(), Some("1000:1000"));

    let again = build("1");
    assert_eq!((code(&again), text(&again.stdout)), (0, text(&whole.stdout)));
    let calls = std::fs::read_to_string(room.join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 2);

    on_engine(async |docker| {
        for reference in [&name, &reference] {
            docker.remove_image(reference).await.unwrap();
        }
    });
    let left: Vec<_> = std::fs::read_dir(site.directory.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("bottle-image-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
