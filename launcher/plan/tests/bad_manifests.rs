//! Every message about a bad manifest, as a user sees it.

use bottle_plan::{HostFacts, PrepareOptions, parse, prepare};

/// Text below `bottles: { dev: ... }` in block form.
fn bottle(body: &str) -> String {
    let mut text = "version: 1\nbottles:\n  dev:\n    image: node:22-bookworm\n".to_owned();
    for line in body.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

fn message(text: &str) -> String {
    let manifest = match parse("bottle.yaml", text) {
        Ok(manifest) => manifest,
        Err(error) => return error.to_string(),
    };
    let options = PrepareOptions {
        command: vec!["true".to_owned()],
        bundle_image: "bottle-bundle:test".to_owned(),
        ..PrepareOptions::default()
    };
    let facts = HostFacts {
        workspace: Some("/home/operator/app".to_owned()),
        ..HostFacts::default()
    };
    match prepare(&manifest, "dev", &facts, &options) {
        Ok(_) => "ACCEPTED".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn route(auth: &str) -> String {
    bottle(&format!(
        "egress:\n  routes:\n    - host: api.example.com\n      auth: {auth}"
    ))
}

fn allow(rule: &str) -> String {
    bottle(&format!("egress:\n  allow:\n    - good.example.com\n    - {rule}"))
}

#[test]
fn shape() {
    let table = [
        ("empty", String::new()),
        ("not a mapping", "- a\n- b\n".to_owned()),
        ("no yaml", "version: 1\nbottles:\n  dev: [unclosed\n".to_owned()),
        ("tab as indentation", "version: 1\nbottles:\n\tdev: {}\n".to_owned()),
        ("two documents", "version: 1\nbottles: {}\n---\nversion: 1\n".to_owned()),
        ("unknown alias", "version: 1\nbottles: *nobody\n".to_owned()),
        ("no version", "bottles: {}\n".to_owned()),
        ("version in words", "version: one\nbottles: {}\n".to_owned()),
        ("another version", "version: 2\nbottles: {}\n".to_owned()),
        ("unknown key at the top", "version: 1\nbotles: {}\n".to_owned()),
        ("unknown key, near", bottle("egres: {}")),
        ("unknown key, far", bottle("zzz: {}")),
        ("duplicate key", bottle("env: {}\nimage: other")),
        ("duplicate bottle", format!("{}  dev:\n    image: other\n", bottle(""))),
        ("duplicate variable", bottle("env:\n  A: 1\n  A: 2")),
        (
            "merge key",
            "version: 1\nbottles:\n  a: &a\n    image: x\n  dev:\n    <<: *a\n".to_owned(),
        ),
        ("no image", "version: 1\nbottles:\n  dev:\n    user: root\n".to_owned()),
        (
            "image is nothing",
            "version: 1\nbottles:\n  dev:\n    image:\n".to_owned(),
        ),
        (
            "image is a list",
            "version: 1\nbottles:\n  dev:\n    image: [a]\n".to_owned(),
        ),
        ("unknown backend", bottle("backend: podman")),
        ("unknown topology", bottle("topology: flat")),
        ("boolean in words", bottle("read_only: yes")),
        ("number in words", bottle("limits:\n  pids: many")),
        ("negative number", bottle("limits: { pids: -1 }")),
        ("decimal unit", bottle("limits:\n  memory: 4GB")),
        ("size is a list", bottle("limits:\n  memory: []")),
        ("cpus in words", bottle("limits: { cpus: two }")),
        ("allow is a text", bottle("egress:\n  allow: example.com")),
        ("allow has a mapping", allow("{ host: a }")),
        ("egress is nothing", bottle("egress:")),
        (
            "route without auth",
            bottle("egress:\n  routes:\n    - host: a.example.com"),
        ),
        (
            "unknown key in a route",
            bottle("egress:\n  routes:\n    - hst: a.example.com"),
        ),
        ("unknown scheme", route("{ scheme: digest, token_env: A }")),
        ("environment is a list", bottle("env: [A=1]")),
        ("environment has a mapping", bottle("env:\n  A: { b: c }")),
        ("text in place of a number", bottle("limits: { pids: \"512\" }")),
        ("number in place of a text", bottle("workdir: 22")),
        ("nothing in place of a list", bottle("egress: { allow: }")),
        ("long value", bottle(&format!("read_only: {}", "x".repeat(99)))),
        ("environment has nothing", bottle("env:\n  A:")),
    ];
    snapshot("shape", &table);
}

#[test]
fn meaning() {
    let agent = |line: &str| format!("{}agents:\n  reviewer:\n    {line}\n", bottle(""));
    let table = [
        (
            "no such bottle",
            "version: 1\nbottles:\n  devel: { image: x }\n".to_owned(),
        ),
        ("no bottles", "version: 1\nbottles: {}\n".to_owned()),
        (
            "image reference",
            "version: 1\nbottles: { dev: { image: \"a b\" } }\n".to_owned(),
        ),
        (
            "path as an image of a container",
            "version: 1\nbottles: { dev: { image: ./rootfs } }\n".to_owned(),
        ),
        ("git not built", bottle("git:\n  upstreams: []")),
        ("supervise not built", bottle("supervise: true")),
        ("agent of no bottle", agent("bottle: prod")),
        (
            "bound workspace of a machine",
            bottle("backend: smolmachines\nworkspace: { mode: bind }"),
        ),
        ("git gate not built", bottle("workspace: { mode: git-gate }")),
        ("unknown mode of a workspace", bottle("workspace: { mode: clone }")),
        ("workspace is a text", bottle("workspace: copy")),
        ("workspace at a relative path", bottle("workspace: { target: app }")),
        ("copy at the root", bottle("workspace: { target: /app }")),
        (
            "copy over the shared volume",
            bottle("workspace: { target: /run/bottle/app }"),
        ),
        ("bind over the root", bottle("workspace: { mode: bind, target: / }")),
        (
            "workspace under a tmpfs",
            bottle("tmpfs: { /work: 1MiB }\nworkspace: {}"),
        ),
        ("copy for a user by name", bottle("user: node\nworkspace: {}")),
        ("variable of the agent's files", bottle("env:\n  BOTTLE_PROMPT_FILE: x")),
        ("little memory", bottle("limits: { memory: 1MiB }")),
        ("no cpu", bottle("limits:\n  cpus: 0")),
        ("cpus not a number", bottle("limits:\n  cpus: .nan")),
        ("few pids", bottle("limits:\n  pids: 1")),
        ("many files", bottle("limits:\n  open_files: 99999999")),
        ("relative workdir", bottle("workdir: work")),
        ("workdir upwards", bottle("workdir: /a/../b")),
        ("user", bottle("user: \"a:b:c\"")),
        ("tmpfs over the shared volume", bottle("tmpfs:\n  /run/bottle: 1MiB")),
        ("tmpfs over everything", bottle("tmpfs: { /: 1MiB }")),
        ("tiny tmpfs", bottle("tmpfs:\n  /work: 1")),
        ("variable name", bottle("env:\n  \"A B\": c")),
        ("variable of ours", bottle("env:\n  https_proxy: http://x")),
        ("rule with a scheme", allow("https://example.com")),
        ("rule with a path", allow("example.com/path")),
        ("rule with a bad port", allow("example.com:0")),
        ("rule with a large port", allow("example.com:65536")),
        ("rule for everything", allow("\"*\"")),
        ("rule with an inner star", allow("a.*.example.com")),
        ("rule with a number", allow("0x7f.1")),
        ("rule for loopback", allow("127.0.0.1")),
        ("rule for metadata", allow("169.254.169.254:80")),
        ("rule with a starred address", allow("\"*.198.51.100.7\"")),
        ("rule with an empty label", allow("a..example.com")),
        (
            "route to an address",
            bottle("egress:\n  routes: [{ host: 198.51.100.7, auth: { scheme: bearer, token_env: A } }]"),
        ),
        (
            "route to a pattern",
            bottle("egress:\n  routes: [{ host: \"*.example.com\", auth: { scheme: bearer, token_env: A } }]"),
        ),
        (
            "route twice",
            bottle(
                "egress:\n  routes:\n    - { host: a.example.com, auth: { scheme: bearer, token_env: A } }\n    - { host: A.example.com:443, auth: { scheme: bearer, token_env: B } }",
            ),
        ),
        (
            "header and scheme",
            route("{ header: x-api-key, scheme: bearer, token_env: A }"),
        ),
        ("neither header nor scheme", route("{ token_env: A }")),
        ("basic without user", route("{ scheme: basic, token_env: A }")),
        ("bearer with user", route("{ scheme: bearer, user: me, token_env: A }")),
        ("framing header", route("{ header: Content-Length, token_env: A }")),
        ("header name", route("{ header: \"x y\", token_env: A }")),
        (
            "token in the manifest",
            route("{ scheme: bearer, token_env: \"sk-abc.def\" }"),
        ),
        (
            "token in the environment",
            format!(
                "{}    env: {{ A: secret }}\n",
                route("{ scheme: bearer, token_env: A }")
            ),
        ),
        ("certificate not read", bottle("egress: { ca_certificates: [ca.pem] }")),
        ("loopback resolver", bottle("egress: { resolver: [\"127.0.0.1:53\"] }")),
        ("resolver by name", bottle("egress: { resolver: [dns.example.com] }")),
    ];
    snapshot("meaning", &table);
}

/// What is found only when an agent is asked for.
#[test]
fn agents() {
    let message = |name: &str, body: &str| {
        let text = format!("{}agents:\n  reviewer:\n    bottle: dev\n    {body}\n", bottle(""));
        let manifest = parse("bottle.yaml", &text).unwrap();
        let options = PrepareOptions {
            agent: Some(name.to_owned()),
            bundle_image: "bottle-bundle:test".to_owned(),
            ..PrepareOptions::default()
        };
        match prepare(&manifest, "dev", &HostFacts::default(), &options) {
            Ok(_) => "ACCEPTED".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let messages = [
        message("revewer", "command: [claude]"),
        message("reviewer", "prompt: words"),
        message("reviewer", "command: [\"\"]"),
        message("reviewer", "command: [claude]\n    skills: [./a, ./b/a/]"),
        message("reviewer", "command: [claude]\n    skills: [..]"),
        message("reviewer", "command: [claude]\n    skills: [\"a b\"]"),
    ];
    insta::assert_snapshot!("agents", messages.join("\n"));
}

#[test]
fn names_of_bottles() {
    for name in ["Dev", "-dev", "dev-", "a_b", "a.b", "ä", &"a".repeat(33)] {
        let text = format!("version: 1\nbottles:\n  {name:?}: {{ image: x }}\n");
        let manifest = parse("bottle.yaml", &text).unwrap();
        let error = prepare(&manifest, name, &HostFacts::default(), &PrepareOptions::default()).unwrap_err();
        assert!(error.to_string().contains("at most 32 lower-case"), "{error}");
    }
}

/// No text makes the reader panic or answer without a place.
#[test]
fn hostile_texts() {
    let deep = "[".repeat(100_000);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nversion: 1\nbottles: *c\n";
    for text in [
        &*deep,
        bomb,
        "\0",
        "? [a]\n: b\n",
        "{",
        "&a *a",
        "%YAML 9.9\n---\n",
        "version: !!binary x\nbottles: {}\n",
    ] {
        let error = parse("bottle.yaml", text).unwrap_err();
        assert_eq!(&*error.place.source, "bottle.yaml");
        assert!(error.to_string().len() < 2000, "{}", error.to_string().len());
    }
}

fn snapshot(name: &str, table: &[(&str, String)]) {
    let lines: Vec<String> = table
        .iter()
        .map(|(title, text)| format!("# {title}\n{}\n", message(text)))
        .collect();
    insta::assert_snapshot!(name, lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("ACCEPTED")));
}
