//! The world of a run: the names and addresses that every case, the witness and the runner agree on, and the keys that
//! stand in case templates as `${key}`.
//!
//! Names end in `.test` (RFC 6761) and are answered by the witness alone; origins live in documentation ranges (RFC 5737,
//! RFC 3849). 192.0.2.0/24 is left out because machines are found that use it for their own interface.

/// Allowed origin on ports 80 and 443: echoes requests, redirects
/// (`/redirect?code=3xx&to_b64=BASE64`, so that the nonce in the target is not seen before somebody follows), streams slowly.
pub const ALLOWED: &str = "allowed.test";
/// Its address. `fronted.test`, which is not allowed, has the same.
pub const ALLOWED_ADDRESS: &str = "198.51.100.10";
/// Not allowed, at [`ALLOWED_ADDRESS`]: reached only by confusing the proxy.
pub const FRONTED: &str = "fronted.test";
/// Allowed as `*.wild.test` (never `wild.test` itself).
pub const WILDCARD: &str = "wild.test";
/// Address of everything below `wild.test`.
pub const WILDCARD_ADDRESS: &str = "198.51.100.11";
/// Not allowed; serves like [`ALLOWED`].
pub const DENIED: &str = "denied.test";
/// Its address. Every name of the zone that is not listed has it too.
pub const DENIED_ADDRESS: &str = "203.0.113.20";
/// Host of the route that carries the bottle's token (port 443): field `x-api-key`.
pub const ROUTE: &str = "api.route.test";
/// Its address.
pub const ROUTE_ADDRESS: &str = "198.51.100.30";
/// Host of the peer bottle's own route and allow-list; not allowed to the bottle under test.
pub const PEER_ROUTE: &str = "api.peer.test";
/// Its address.
pub const PEER_ROUTE_ADDRESS: &str = "198.51.100.31";
/// Allowed as `*.badcert.test` on 443: `selfsigned`, `expired`, `wrongname`, `untrusted`.
pub const BAD_CERTIFICATES: &str = "badcert.test";
/// Its address.
pub const BAD_CERTIFICATES_ADDRESS: &str = "198.51.100.40";
/// Allowed as `*.rebind.test`: see [`REBIND_NAMES`].
pub const REBIND: &str = "rebind.test";
/// First labels below [`REBIND`]: `loop4` (A 127.0.0.1), `loop6` (AAAA ::1), `host-A-B-C-D` (A A.B.C.D), `flip` (public first,
/// then 127.0.0.1, TTL 0), `mixed` (a public and a private A), `split` (public A, AAAA ::1), `cname` (CNAME to `loop4`), `svcb`
/// (HTTPS record with ipv4hint 127.0.0.1, A public), `meta` (A 169.254.169.254).
pub const REBIND_NAMES: &str = "loop4 loop6 host-A-B-C-D flip mixed split cname svcb meta";
/// Allowed on port 8443 only.
pub const ONE_PORT: &str = "oneport.test:8443";
/// An address of the stand-in internet at which no origin lives: only the packet-level witness answers there.
pub const SINK_ADDRESS: &str = "203.0.113.99";
/// The same in IPv6.
pub const SINK_ADDRESS6: &str = "2001:db8:5::99";
/// The /64 that the stand-in internet's router advertises to whoever asks (RFC 4861, 4.2), in the IPv6 range for documentation.
pub const ADVERTISED6: &str = "2001:db8:ad::";
/// Name servers outside: any address does; this is the one that cases use.
pub const OUTSIDE_RESOLVER: &str = "203.0.113.53";
/// The domain under which cases put nonces into names.
pub const EXFIL: &str = "exfil.test";

/// Below this path, origins have just what they were ordered to ([`Answer`](crate::Answer)): anything else is not found.
pub const SHELF: &str = "/shelf/";

/// Port (TCP and UDP) at which the peer bottle's guest listens for nonces.
pub const PEER_PORT: u16 = 7777;
/// Port at which the listener in the bundle's own network namespace waits on 127.0.0.1 and ::1 (see `bundle.lo.tcp`).
pub const BUNDLE_LOOPBACK_PORT: u16 = 80;

/// What the bottle under test is given as allow-list (host, ports).
pub const ALLOW_LIST: &[(&str, &[u16])] = &[
    (ALLOWED, &[80, 443]),
    ("*.wild.test", &[80, 443]),
    ("*.badcert.test", &[443]),
    ("*.rebind.test", &[80, 443]),
    ("oneport.test", &[8443]),
];

/// The keys of the world, each with what it stands for. The runner fails before the first launch when a case uses a key that
/// is not here.
pub const KEYS: &[(&str, &str)] = &[
    ("sink", SINK_ADDRESS),
    ("sink6", SINK_ADDRESS6),
    ("host.lo4.tcp", "port of the host's TCP listener on 127.0.0.1"),
    (
        "host.lo4.tcp2",
        "port of a second one, opened after the bottle was launched",
    ),
    (
        "host.lo4.low",
        "port below 1024 of one, where one could be bound; else as host.lo4.tcp",
    ),
    ("host.lo6.tcp", "port of the host's TCP listener on ::1"),
    ("host.any.tcp", "port of the host's TCP listener on 0.0.0.0 and ::"),
    ("host.lo4.udp", "port of the host's UDP listener on 127.0.0.1"),
    ("host.any.udp", "port of the host's UDP listener on 0.0.0.0 and ::"),
    (
        "host.published.tcp",
        "port that a container of the run publishes on all host addresses and that leads to a witness",
    ),
    (
        "host.address.1",
        "first non-loopback IPv4 address of the host (of the engine's bridges, where there is none else)",
    ),
    ("host.address.2", "second one (the first again where there is none)"),
    ("host.address.docker0", "address of the engine's default bridge"),
    (
        "host.address.inner",
        "the address that the host would have on the guest's own network (its gateway)",
    ),
    (
        "host.address6.1",
        "first non-loopback IPv6 address of the host (::1 where there is none)",
    ),
    (
        "host.address.1.dashed",
        "host.address.1 with dashes for dots, as in `host-A-B-C-D.rebind.test`",
    ),
    (
        "inner.gateway",
        "gateway of the guest's network by the engine's convention (.1)",
    ),
    ("inner.last", "last usable address of the guest's network (.254)"),
    (
        "bundle.address",
        "address of the bundle on the guest's network (sealed: 127.0.0.1)",
    ),
    (
        "bundle.lo.tcp",
        "port 80: a listener of the runner in the bundle's own network namespace (a container that joins it and runs the agent's `listen`), on 127.0.0.1 and ::1 only; what it hears is seen at own-bundle",
    ),
    ("bundle.outer", "address of the bundle on its outer network"),
    ("guest.address", "address of the guest (sealed: 127.0.0.1)"),
    ("peer.guest", "address of the peer's guest (the peer is always routed)"),
    (
        "peer.bundle",
        "address of the peer's bundle on the peer's inner network",
    ),
    ("peer.bundle.outer", "address of the peer's bundle on its outer network"),
    ("peer.slug", "slug of the peer"),
    ("peer.guest.name", "container name of the peer's guest"),
    ("peer.bundle.name", "container name of the peer's bundle"),
    (
        "peer.published",
        "host port at which a peer publishes its listener (0 where, as it must be, it publishes none)",
    ),
    ("peer.token", "sentinel that is the peer's token"),
    ("token", "sentinel that is the bottle's token"),
    (
        "token.placeholder",
        "what the guest has in its environment instead of the token",
    ),
    (
        "handshakes",
        "`end-to-end`, or `gateway` where smolvm's gateway completes a guest's connections before anybody has accepted them",
    ),
    (
        "marker",
        "text that is planted in the guest's environment, and in the file /bottle-marker",
    ),
    (
        "witness.dns",
        "address:port of the witness's name server on the outer network",
    ),
];
