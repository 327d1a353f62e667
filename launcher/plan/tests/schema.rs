//! The JSON schema takes and refuses what the parser does.

use bottle_plan::{HostFacts, PrepareOptions, parse, prepare, schema};
use serde_json::{Value, json};

const FULL: &str = include_str!("full.yaml");

/// Whether the parser and `prepare` take a document. JSON is YAML.
fn is_taken(document: &Value) -> bool {
    let Ok(manifest) = parse("bottle.yaml", &document.to_string()) else {
        return false;
    };
    let options = PrepareOptions {
        command: vec!["true".to_owned()],
        bundle_image: "bottle-bundle:test".to_owned(),
        ..PrepareOptions::default()
    };
    prepare(&manifest, "dev", &HostFacts::default(), &options).is_ok()
}

fn bottle(more: Value) -> Value {
    let mut dev = json!({ "image": "node:22" });
    if let (Some(dev), Some(more)) = (dev.as_object_mut(), more.as_object()) {
        dev.extend(more.clone());
    }
    json!({ "version": 1, "bottles": { "dev": dev } })
}

#[test]
fn is_a_schema_and_stays_the_same() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    insta::assert_json_snapshot!("schema", schema);
}

#[test]
fn both_take_the_full_example() {
    let manifest = parse("full.yaml", FULL).unwrap();
    let written = serde_json::to_value(manifest.document()).unwrap();
    let schema = jsonschema::validator_for(&schema()).unwrap();
    assert!(
        schema.is_valid(&written),
        "{:?}",
        schema.validate(&written).unwrap_err()
    );
}

#[test]
fn both_agree() {
    let good = [
        json!({}),
        json!({ "env": { "A": "b", "C": 1, "D": true, "E": 1.5 } }),
        json!({ "user": "1000:1000" }),
        json!({ "user": 1000 }),
        json!({ "backend": null, "topology": "routed" }),
        json!({ "limits": { "memory": 1073741824u64, "cpus": 0.5, "pids": 16, "open_files": 64 } }),
        json!({ "limits": { "memory": "512MiB" }, "tmpfs": { "/work": "1GiB" } }),
        json!({ "egress": { "allow": ["a.example.com:8443", "*.example.org", "[2001:db8::1]:443"] } }),
        json!({ "egress": { "routes": [{ "host": "a.example.com", "auth": { "scheme": "basic", "user": "x", "token_env": "T" } }] } }),
        json!({ "egress": { "resolver": ["192.0.2.53", "[2001:db8::53]:53"] } }),
    ];
    let bad = [
        json!({ "image": null }),
        json!({ "image": 22 }),
        json!({ "image": ["a"] }),
        json!({ "backend": "podman" }),
        json!({ "topology": 1 }),
        json!({ "read_only": "true" }),
        json!({ "read_only": null }),
        json!({ "env": ["A=b"] }),
        json!({ "env": { "A": null } }),
        json!({ "env": { "A": [] } }),
        json!({ "limits": { "memory": "4GB" } }),
        json!({ "limits": { "memory": -1 } }),
        json!({ "limits": { "cpus": "2" } }),
        json!({ "limits": { "cpus": 0 } }),
        json!({ "limits": { "pids": 1 } }),
        json!({ "limits": { "pids": 2.5 } }),
        json!({ "limits": { "open_files": 100000000 } }),
        json!({ "limits": { "swap": 1 } }),
        json!({ "limits": null }),
        json!({ "egress": { "allow": "a.example.com" } }),
        json!({ "egress": { "allow": [1] } }),
        json!({ "egress": { "routes": [{}] } }),
        json!({ "egress": { "routes": [{ "host": "a.example.com" }] } }),
        json!({ "egress": { "routes": [{ "host": "a.example.com", "auth": { "scheme": "digest", "token_env": "T" } }] } }),
        json!({ "egress": { "routes": [{ "host": "a.example.com", "auth": { "scheme": "bearer" } }] } }),
        json!({ "git": { "upstreams": [{ "name": "a" }] } }),
        json!({ "supervise": 1 }),
        json!({ "zzz": 1 }),
    ];
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for sample in good.map(bottle) {
        assert!(is_taken(&sample), "parser refuses {sample}");
        assert!(
            schema.is_valid(&sample),
            "schema refuses {sample}: {:?}",
            schema.validate(&sample).unwrap_err()
        );
    }
    for sample in bad.map(bottle) {
        assert!(!is_taken(&sample), "parser takes {sample}");
        assert!(!schema.is_valid(&sample), "schema takes {sample}");
    }
    for sample in [
        json!({}),
        json!([]),
        json!({ "version": 2, "bottles": {} }),
        json!({ "version": 1 }),
    ] {
        assert!(!is_taken(&sample) && !schema.is_valid(&sample), "{sample}");
    }
}
