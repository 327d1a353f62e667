//! What `bottle` says and with which code it exits, without an engine.

use std::path::Path;
use std::process::{Command, Stdio};

const MANIFEST: &str = "\
version: 1
bottles:
  dev:
    image: node:22
    egress:
      allow: [example.com, \"*.example.org:8443\"]
      routes:
        - host: api.example.net
          auth: { scheme: bearer, token_env: EXAMPLE_TOKEN }
  other:
    image: node:22
    git:
      upstreams:
        - { name: app, url: \"ssh://git@git.example.com/app.git\" }
  asking:
    image: node:22
    supervise: true
agents:
  reviewer: { bottle: dev }
  writer: { bottle: other, command: [claude] }
";

fn bottle(directory: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bottle"))
        .args(args)
        .current_dir(directory)
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .env("BOTTLE_STATE_DIR", directory.join("state"))
        .env("EXAMPLE_TOKEN", "canary-of-a-token")
        .env_remove("BOTTLE_BACKEND")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap();
    format!(
        "$ bottle {}\n{}{}=> {code}\n",
        args.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    )
}

#[test]
fn errors() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("bottle.yaml", MANIFEST);
    write("typo.yaml", "version: 1\nbottles:\n  dev:\n    imaje: node:22\n");
    write(
        "port.yaml",
        "version: 1\nbottles:\n  dev:\n    image: a\n    egress:\n      allow:\n        - example.com:99999\n",
    );
    write(
        "ca.yaml",
        "version: 1\nbottles:\n  dev:\n    image: a\n    egress: { ca_certificates: [missing.pem] }\n",
    );
    let calls: &[&[&str]] = &[
        &["run"],
        &["run", "--bottle", "dev"],
        &["run", "nobody"],
        &["run", "reviewer", "--yes"],
        &["run", "--bottle", "dev", "--", "true"],
        &["run", "--bottle", "dev", "--topology", "flat", "--", "true"],
        &["run", "--bottle", "dev", "--backend", "podman", "--", "true"],
        &["run", "--bottle", "dve", "--", "true"],
        &["run", "--bottle", "dev", "--manifest", "absent.yaml", "--", "true"],
        &["run", "--bottle", "dev", "--manifest", "typo.yaml", "--", "true"],
        &["run", "--bottle", "dev", "--manifest", "port.yaml", "--", "true"],
        &["run", "--bottle", "dev", "--manifest", "ca.yaml", "--", "true"],
        &["run", "--bottle", "dev", "--yes", "--", "true"],
        &["plan", "--bottle", "dev", "--manifest", "port.yaml"],
        &["run", "writer", "--yes"],
        &["run", "--bottle", "asking", "--yes", "--", "true"],
        &["cleanup"],
        &["frobnicate"],
    ];
    let said: Vec<String> = calls.iter().map(|args| bottle(directory.path(), args)).collect();
    insta::assert_snapshot!(
        said.join("\n")
            .replace(&directory.path().display().to_string(), "[DIRECTORY]")
    );
    assert!(!directory.path().join("state").exists(), "a refused run leaves nothing");
}

#[test]
fn help() {
    let directory = tempfile::tempdir().unwrap();
    let said = bottle(directory.path(), &["--help"]) + &bottle(directory.path(), &["run", "--help"]);
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    insta::assert_snapshot!("help", lines.join("\n"));
}

#[test]
fn an_unknown_backend_in_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bottle.yaml"), MANIFEST).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bottle"))
        .args(["plan", "--bottle", "dev"])
        .current_dir(directory.path())
        .env("BOTTLE_BACKEND", "podman")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("BOTTLE_BACKEND: expected `docker` or `smolmachines`, found `podman`"),
        "{said}"
    );
}

#[test]
fn an_image_that_cannot_be_made_is_refused_before_the_engine_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (["--package", "a b"], "--package: expected the name of a Debian package"),
        (["--package", "--tag"], "a value is required"),
        (["--tag", "a@sha256:0"], "--tag: expected a name such as"),
    ] {
        let said = bottle(directory.path(), &["image", "build", args[0], args[1]]);
        assert!(said.contains(expected) && said.ends_with("=> 64\n"), "{said}");
    }
    let said = bottle(directory.path(), &["image", "build"]);
    assert!(said.ends_with("=> 69\n"), "{said}");
}

#[test]
fn plan_shows_names_of_tokens_only() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bottle.yaml"), MANIFEST).unwrap();
    let summary = bottle(directory.path(), &["plan", "--bottle", "dev", "--topology", "routed"]);
    for line in [
        "allowed   *.example.org on 8443",
        "token     $EXAMPLE_TOKEN to api.example.net:443",
        "subnets in use are not known",
    ] {
        assert!(summary.contains(line), "{line} in {summary}");
    }
    let json = bottle(directory.path(), &["plan", "--bottle", "dev", "--json"]);
    assert!(json.contains("\"token_env\""), "{json}");
    assert!(!(summary + &json).contains("canary-of-a-token"));
}

#[test]
fn schema_is_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_bottle"))
        .arg("schema")
        .output()
        .unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema, bottle_plan::schema());
}
