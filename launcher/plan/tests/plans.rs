//! Whole plans, and what holds of every plan.

use std::collections::BTreeMap;

use bottle_plan::{
    BackendKind, HostFacts, Limits, NetworkMode, Plan, PlanError, PrepareOptions, RelayFacts, Topology, parse,
    placeholder, prepare,
};
use bottle_policy::{Controls, Listen, Rules};
use proptest::prelude::*;
use rstest::rstest;

const FULL: &str = include_str!("full.yaml");
const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn facts() -> HostFacts {
    HostFacts {
        relay: None,
        subnets: vec![
            "172.17.0.0/16".to_owned(),
            "198.51.100.0/24".to_owned(),
            "fd00::/64".to_owned(),
        ],
        home: "/home/operator".to_owned(),
        processors: Some(8),
        uid: 1000,
        gid: 1000,
        default_limits: Limits::default(),
        ca_files: BTreeMap::from([("~/private-ca.pem".to_owned(), CA.to_owned())]),
        slug_entropy: [1, 2, 3, 4, 5, 6, 7, 8],
        workspace: Some("/home/operator/app".to_owned()),
    }
}

fn options() -> PrepareOptions {
    PrepareOptions {
        command: vec!["claude".to_owned(), "--help".to_owned()],
        bundle_image: "bottle-bundle:0123456789ab".to_owned(),
        ..PrepareOptions::default()
    }
}

fn plan(facts: &HostFacts, options: &PrepareOptions) -> Result<Plan, PlanError> {
    prepare(&parse("full.yaml", FULL).unwrap(), "dev", facts, options)
}

fn routed() -> PrepareOptions {
    PrepareOptions {
        topology: Some(Topology::Routed),
        ..options()
    }
}

#[test]
fn sealed() {
    let plan = plan(&facts(), &options()).unwrap();
    assert_eq!(plan.guest.network, NetworkMode::None);
    insta::assert_json_snapshot!("sealed", plan);
}

#[test]
fn routed_plan() {
    insta::assert_json_snapshot!("routed", plan(&facts(), &routed()).unwrap());
}

/// The bundle takes every policy that `prepare` makes.
#[test]
fn rules_are_in_normal_form() {
    let config = plan(&facts(), &options()).unwrap().config;
    Rules::new(&config.policy, &config.routes, Controls::default()).unwrap();
    let hosts: Vec<&str> = config.policy.allow.iter().map(|rule| rule.host.as_str()).collect();
    assert_eq!(
        hosts,
        [
            "packages.example.com",
            "*.example.org",
            "example.net",
            "xn--bcher-kva.example",
            "198.51.100.7"
        ]
    );
    assert_eq!(config.policy.allow[0].ports, [443, 80]);
    assert_eq!(config.policy.allow[2].ports, [8443]);
}

#[test]
fn options_win() {
    let given = PrepareOptions {
        outer_network: Some("witness-outer".to_owned()),
        resolver: Some(vec!["203.0.113.53".to_owned()]),
        extra_upstream_roots: vec![CA.to_owned()],
        public_roots: false,
        slug: Some("case-1".to_owned()),
        image: Some("probe:1".to_owned()),
        user: Some("65534:65534".to_owned()),
        extra_env: BTreeMap::from([("A".to_owned(), "b".to_owned()), ("TERM".to_owned(), "dumb".to_owned())]),
        tty: true,
        stdin: true,
        ..options()
    };
    let plan = plan(&facts(), &given).unwrap();
    assert!(plan.networks.is_empty());
    let NetworkMode::Networks(legs) = &plan.bundle.network else {
        panic!("{:?}", plan.bundle.network)
    };
    assert_eq!(legs[0].network, "witness-outer");
    assert_eq!(plan.guest.name, "bottle-case-1-guest");
    assert_eq!(plan.guest.image, "probe:1");
    assert_eq!(plan.guest.user.as_deref(), Some("65534:65534"));
    assert_eq!(plan.guest.env["A"], "b");
    assert_eq!(plan.guest.env["TERM"], "dumb");
    assert!(plan.guest.tty && plan.guest.stdin && !plan.config.public_roots);
    assert_eq!(plan.config.upstream_roots.len(), 2);
    assert_eq!(
        plan.config.resolver,
        bottle_policy::Resolver::Servers(vec!["203.0.113.53:53".parse().unwrap()])
    );
}

/// What is written counts, then what the caller gives, then two processors or all that the engine has.
#[rstest]
#[case("", None, None, 2000)]
#[case("", None, Some(1), 1000)]
#[case("", None, Some(2), 2000)]
#[case("", None, Some(64), 2000)]
#[case("", Some(500), Some(1), 500)]
#[case("limits: { cpus: 0.5 }", None, Some(1), 500)]
#[case("limits: { cpus: 3 }", Some(500), Some(1), 3000)]
fn a_guests_processors(
    #[case] written: &str,
    #[case] given: Option<u64>,
    #[case] processors: Option<u32>,
    #[case] expected: u64,
) {
    let text = format!("version: 1\nbottles:\n  dev:\n    image: x\n    {written}\n");
    let mut facts = facts();
    facts.default_limits.milli_cpus = given;
    facts.processors = processors;
    let plan = prepare(&parse("bottle.yaml", &text).unwrap(), "dev", &facts, &options()).unwrap();
    assert_eq!(plan.guest.limits.milli_cpus, Some(expected));
}

/// A machine's sockets are handed over one by one, its proxy is reached from the host, and it has whole processors.
#[test]
fn a_machine_differs_from_a_container_in_little() {
    let plan_of = |backend, topology| {
        let mut options = options();
        options.backend = Some(backend);
        options.topology = Some(topology);
        let mut facts = facts();
        facts.default_limits.milli_cpus = Some(1500);
        plan(&facts, &options).unwrap()
    };
    let sealed = plan_of(BackendKind::Smolmachines, Topology::Sealed);
    let proxy = "127.0.0.1:8888=/run/bottle-sockets/proxy.sock".to_owned();
    assert!(
        sealed.guest.entrypoint.contains(&proxy),
        "{:?}",
        sealed.guest.entrypoint
    );
    assert!(
        sealed
            .guest
            .entrypoint
            .contains(&"/run/bottle-sockets/lease.sock".to_owned())
    );
    assert_eq!(sealed.guest.limits.milli_cpus.map(|cpus| cpus % 1000), Some(0));
    let mut as_container = sealed.clone();
    let docker = plan_of(BackendKind::Docker, Topology::Sealed);
    as_container.backend = BackendKind::Docker;
    as_container.guest.entrypoint.clone_from(&docker.guest.entrypoint);
    as_container.guest.limits.clone_from(&docker.guest.limits);
    assert_eq!(as_container, docker);
    let inner = |plan: &Plan| {
        plan.networks
            .iter()
            .find(|network| network.role == "inner-network")
            .cloned()
    };
    let routed = plan_of(BackendKind::Smolmachines, Topology::Routed);
    assert!(inner(&routed).is_some_and(|network| network.internal && !network.host_absent));
    let routed = plan_of(BackendKind::Docker, Topology::Routed);
    assert!(inner(&routed).is_some_and(|network| network.internal && network.host_absent));
}

/// Where a machine cannot open the bundle's sockets, the bundle has them to itself and one more port; the guest sees no
/// difference. A container is not concerned.
#[rstest]
#[case(Topology::Sealed, "127.0.0.1")]
#[case(Topology::Routed, "127.0.0.18")]
fn a_machine_with_a_relay_differs_in_its_bundle_alone(#[case] topology: Topology, #[case] address: &str) {
    let plan_of = |backend, relay| {
        let options = PrepareOptions {
            backend: Some(backend),
            topology: Some(topology),
            ..options()
        };
        plan(&HostFacts { relay, ..facts() }, &options)
    };
    let routed = "127.0.0.18".parse().ok();
    let with = Some(RelayFacts { routed });
    let (relayed, direct) = (
        plan_of(BackendKind::Smolmachines, with).unwrap(),
        plan_of(BackendKind::Smolmachines, None).unwrap(),
    );
    assert_eq!(
        relayed.bundle.publish,
        [("9470/tcp".to_owned(), address.parse().unwrap(), 0)]
    );
    let relay = relayed.config.relay.clone().unwrap();
    assert_eq!((relay.port, &*relay.directory), (9470, "/run/bottle-relayed"));
    assert_eq!(relay.services, ["proxy.sock", "lease.sock"]);
    let socket = bottle_policy::Listen::Unix("/run/bottle-relayed/proxy.sock".to_owned());
    assert_eq!(relayed.config.listen.last(), Some(&socket));
    assert_eq!(relayed.config.daemons.last(), Some(&bottle_policy::Daemon::Relay));
    assert_eq!(relayed.bundle.tmpfs.len(), 1);
    assert_eq!(relayed.guest, direct.guest);
    assert_eq!(
        (
            direct.config.relay,
            direct.bundle.publish.len(),
            direct.bundle.tmpfs.len()
        ),
        (None, 0, 0)
    );
    assert_eq!(
        plan_of(BackendKind::Docker, with).unwrap(),
        plan_of(BackendKind::Docker, None).unwrap()
    );
    // All addresses are in use: that concerns routed ones alone.
    let full = plan_of(BackendKind::Smolmachines, Some(RelayFacts { routed: None }));
    assert_eq!(full.is_err(), topology == Topology::Routed, "{full:?}");
}

#[test]
fn bad_options_are_named() {
    let refused = |change: fn(&mut PrepareOptions)| {
        let mut options = options();
        change(&mut options);
        plan(&facts(), &options).unwrap_err().to_string()
    };
    let messages = [
        refused(|options| options.command.clear()),
        refused(|options| options.bundle_image.clear()),
        refused(|options| options.slug = Some("A/B".to_owned())),
        refused(|options| options.image = Some("a b".to_owned())),
        refused(|options| options.user = Some(String::new())),
        refused(|options| options.resolver = Some(vec!["localhost".to_owned()])),
        refused(|options| options.extra_upstream_roots = vec!["-----BEGIN PRIVATE KEY-----".to_owned()]),
        refused(|options| options.extra_env = BTreeMap::from([("GITHUB_TOKEN".to_owned(), "x".to_owned())])),
    ];
    insta::assert_snapshot!("bad_options", messages.join("\n"));
}

#[test]
fn bad_facts_are_named() {
    let mut bad = facts();
    bad.ca_files.insert(
        "~/private-ca.pem".to_owned(),
        format!("{CA}-----BEGIN RSA PRIVATE KEY-----"),
    );
    let error = plan(&bad, &options()).unwrap_err().to_string();
    assert!(error.contains("a private key in it"), "{error}");
    let bad = HostFacts {
        subnets: vec!["10.0.0.0".to_owned()],
        ..facts()
    };
    let error = plan(&bad, &routed()).unwrap_err().to_string();
    assert!(error.contains("found `10.0.0.0`"), "{error}");
    let full = HostFacts {
        subnets: vec!["10.0.0.0/8".to_owned()],
        ..facts()
    };
    assert_eq!(plan(&full, &routed()), Err(PlanError::NoSubnet));
    plan(&full, &options()).expect("a sealed bottle needs no subnet");
}

/// A plan that is moved to another subnet is the plan that would have been made there, but for the candidates' order.
#[test]
fn inner_subnet_is_rewritten_everywhere() {
    let first = plan(&facts(), &routed()).unwrap();
    let candidates = first.networks[1].subnets.clone();
    let taken = HostFacts {
        subnets: vec![candidates[0].cidr.clone()],
        ..facts()
    };
    let second = plan(&taken, &routed()).unwrap();
    let mut moved = first.with_inner_subnet(&candidates[1].cidr).unwrap();
    assert_ne!(moved.config, first.config);
    moved.networks = second.networks.clone();
    assert_eq!(moved, second);
    let text = serde_json::to_string(&moved).unwrap();
    assert!(!text.contains(&candidates[0].cidr.replace(".0/24", ".2")));
    assert_eq!(first.with_inner_subnet(&candidates[0].cidr), Some(first.clone()));
    for bad in ["", "10.0.0.0", "fd00::/64", "10.0.0.0/30", "10.0.0.0/33"] {
        assert_eq!(first.with_inner_subnet(bad), None, "{bad}");
    }
    let sealed = plan(&facts(), &options()).unwrap();
    assert_eq!(sealed.with_inner_subnet("10.9.9.0/24"), Some(sealed.clone()));
}

/// What a user's variable holds is theirs, even when it looks like the proxy.
#[test]
fn only_our_variables_are_rewritten() {
    let mut plan = plan(&facts(), &routed()).unwrap();
    let proxy = plan.guest.env["HTTP_PROXY"].clone();
    plan.guest.env.insert("MINE".to_owned(), proxy.clone());
    let moved = plan.with_inner_subnet("10.9.9.0/24").unwrap();
    assert_eq!(moved.guest.env["MINE"], proxy);
    assert_eq!(moved.guest.env["https_proxy"], "http://10.9.9.2:8888");
}

fn range(cidr: &str) -> (u32, u32) {
    let (address, bits) = cidr.split_once('/').unwrap();
    let address = u32::from(address.parse::<std::net::Ipv4Addr>().unwrap());
    let size = 1u64 << (32 - bits.parse::<u32>().unwrap());
    let low = address & !((size - 1) as u32);
    (low, low + (size - 1) as u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_input_gives_the_same_plan(entropy: [u8; 8], is_routed: bool) {
        let facts = HostFacts { slug_entropy: entropy, ..facts() };
        let options = if is_routed { routed() } else { options() };
        let one = plan(&facts, &options).unwrap();
        prop_assert_eq!(&one, &plan(&facts, &options).unwrap());
        // And it survives being saved.
        let saved = serde_json::to_string(&one).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&saved).unwrap(), one);
    }

    #[test]
    fn slugs_are_valid_and_differ(one: [u8; 8], other: [u8; 8]) {
        let slug = |entropy| plan(&HostFacts { slug_entropy: entropy, ..facts() }, &options()).unwrap().slug;
        let tail = slug(one).strip_prefix("dev-").unwrap().to_owned();
        prop_assert!(tail.len() == 8 && tail.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)));
        prop_assert_eq!(one == other, slug(one) == slug(other));
    }

    #[test]
    fn no_candidate_overlaps_what_is_in_use(
        entropy: [u8; 8],
        in_use in prop::collection::vec((10u8..12, 210u8..=223, any::<u8>(), 9u32..=32), 0..40),
    ) {
        let subnets: Vec<String> = in_use.iter().map(|(a, b, c, bits)| format!("{a}.{b}.{c}.0/{bits}")).collect();
        let facts = HostFacts { subnets: subnets.clone(), slug_entropy: entropy, ..facts() };
        let plan = match plan(&facts, &routed()) {
            Ok(plan) => plan,
            Err(error) => { prop_assert_eq!(error, PlanError::NoSubnet); return Ok(()) }
        };
        let inner = plan.networks.iter().find(|network| network.internal).unwrap();
        let mut taken: Vec<(u32, u32)> = subnets.iter().map(|cidr| range(cidr)).collect();
        for subnet in &inner.subnets {
            let own = range(&subnet.cidr);
            prop_assert!(taken.iter().all(|(low, high)| own.1 < *low || *high < own.0), "{:?} in {:?}", subnet, subnets);
            taken.push(own);
        }
        let Listen::Tcp(listen) = plan.config.listen[0].clone() else { panic!("routed") };
        let own = range(&inner.subnets[0].cidr);
        prop_assert_eq!(listen.ip().to_string(), std::net::Ipv4Addr::from(own.0 + 2).to_string());
    }

    /// Whatever values the operator's tokens have, a plan cannot hold them: it knows names only, and a guest finds placeholders.
    #[test]
    fn plans_name_tokens_and_hold_none(name in "[A-Z][A-Z0-9_]{0,20}") {
        let text = format!(
            "version: 1\nbottles:\n  dev:\n    image: x\n    egress:\n      routes:\n        - host: a.example.com\n          auth: {{ scheme: bearer, token_env: {name:?} }}\n"
        );
        let manifest = parse("bottle.yaml", &text).unwrap();
        let plan = prepare(&manifest, "dev", &HostFacts::default(), &options()).unwrap();
        prop_assert_eq!(&plan.token_env, &vec![name.clone()]);
        prop_assert_eq!(&plan.guest.env[&name], &placeholder(&name));
        prop_assert!(plan.bundle.env.is_empty());
    }
}

/// At least eight subnets are offered when nothing is in the way.
#[test]
fn several_candidates() {
    assert!(plan(&facts(), &routed()).unwrap().networks[1].subnets.len() >= 8);
}

fn of_agent(body: &str, command: &[&str]) -> Plan {
    let text = format!(
        "version: 1\nbottles:\n  dev: {{ image: x, user: \"1000:1000\" }}\nagents:\n  a:\n    bottle: dev\n{body}"
    );
    let options = PrepareOptions {
        agent: Some("a".to_owned()),
        command: command.iter().map(ToString::to_string).collect(),
        bundle_image: "bottle-bundle:0".to_owned(),
        ..PrepareOptions::default()
    };
    prepare(&parse("bottle.yaml", &text).unwrap(), "dev", &facts(), &options).unwrap()
}

#[test]
fn prompts_reach_commands_in_their_own_ways_and_only_when_there_is_one() {
    let prompt = "    prompt: words\n";
    for (body, command, expected) in [
        (
            format!("    command: [claude, -c]\n{prompt}"),
            &[][..],
            &[
                "claude",
                "--append-system-prompt-file",
                "/home/bottle/.bottle/prompt.md",
                "-c",
            ][..],
        ),
        ("    command: [claude]\n".to_owned(), &[], &["claude"]),
        (
            "    command: [claude]\n    prompt: \" \"\n".to_owned(),
            &[],
            &["claude"],
        ),
        (
            format!("    command: [aider, \"--read={{prompt_file}}\"]\n{prompt}"),
            &[],
            &["aider", "--read=/home/bottle/.bottle/prompt.md"],
        ),
        (format!("    command: [codex]\n{prompt}"), &[], &["codex"]),
        (format!("    command: [claude]\n{prompt}"), &["sh"], &["sh"]),
    ] {
        let plan = of_agent(&body, command);
        assert_eq!(plan.guest.command, expected, "{body}");
        assert_eq!(plan.guest.env["BOTTLE_PROMPT_FILE"], "/home/bottle/.bottle/prompt.md");
    }
    let claude = of_agent("    command: [claude]\n    skills: [./skills/review/]\n", &[]);
    let skill = &claude.agent.unwrap().copies[1];
    assert_eq!(
        (skill.source.as_str(), skill.target.as_str()),
        ("/run/bottle/agent/skills/review", "/home/bottle/.claude/skills/review")
    );
    let flags = claude.guest.entrypoint.join(" ");
    assert!(
        flags.contains(" --copy /run/bottle/agent/prompt.md=/home/bottle/.bottle/prompt.md "),
        "{flags}"
    );
}

/// A machine has no volume: the copy lies on its own disk, on which nothing else is writable.
#[test]
fn a_machines_copy_is_on_its_own_disk() {
    let text = "version: 1\nbottles:\n  dev: { image: x, user: \"1000:1000\", backend: smolmachines, workspace: {} }\n";
    let plan = prepare(&parse("bottle.yaml", text).unwrap(), "dev", &facts(), &options()).unwrap();
    assert_eq!(plan.guest.entrypoint[1..3], ["--writable", "/work/app"]);
    assert_eq!(plan.guest.workdir.as_deref(), Some("/work/app"));
    assert!(plan.guest.mounts.iter().all(|mount| mount.target == "/run/bottle"));
    assert!(plan.volumes.iter().all(|volume| volume.role == "shared-volume"));
}

fn of_workspace(workspace: &str) -> Plan {
    let text = format!("version: 1\nbottles:\n  dev: {{ image: x, user: \"1000:1000\", workspace: {workspace} }}\n");
    prepare(&parse("bottle.yaml", &text).unwrap(), "dev", &facts(), &options()).unwrap()
}

#[test]
fn a_workspace_is_a_copy_unless_it_is_said_otherwise() {
    let copy = of_workspace("{}");
    assert_eq!(copy.guest.workdir.as_deref(), Some("/work/app"));
    assert!(!copy.guest.auto_remove, "it is read after its end");
    let mount = copy.guest.mounts.last().unwrap();
    assert_eq!(mount.target, "/work");
    assert_eq!(
        mount.source,
        bottle_plan::MountSource::Volume(copy.volumes[1].name.clone())
    );

    let bind = of_workspace("{ mode: bind, target: /src }");
    let mount = bind.guest.mounts.last().unwrap();
    assert_eq!(
        mount.source,
        bottle_plan::MountSource::Bind("/home/operator/app".to_owned())
    );
    assert_eq!((mount.target.as_str(), mount.read_only), ("/src", false));
    assert_eq!((bind.volumes.len(), bind.guest.auto_remove), (1, true));

    let none = plan(&facts(), &options()).unwrap();
    assert!(none.workspace.is_none() && none.guest.auto_remove);
}

#[test]
fn trust_stores_are_the_bottles_own_when_asked_for() {
    let trusting = PrepareOptions {
        system_trust: true,
        ..routed()
    };
    let plan = plan(&facts(), &trusting).unwrap();
    let stores: Vec<&str> = plan.trust.iter().map(|copy| copy.target.as_str()).collect();
    assert_eq!(
        stores,
        [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
        ]
    );
    assert_eq!(plan.guest.entrypoint.last().map(String::as_str), Some("--"));
    assert!(plan.guest.env["JAVA_TOOL_OPTIONS"].contains("-Dhttps.proxyPort=8888"));
    let moved = plan.with_inner_subnet("10.9.9.0/24").unwrap();
    assert!(moved.guest.env["JAVA_TOOL_OPTIONS"].contains("-Dhttps.proxyHost=10.9.9.2 "));
}
