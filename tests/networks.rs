//! Networks as institutions have them: firewalls that let one port out, IPv6 alone, a narrow path of which nobody tells.
//! Each is a star of network namespaces on this machine, with three members of one session; without root, `ip` and `nft` a test
//! says so and passes. No test here asserts how long anything takes.

use std::collections::BTreeSet;
use std::time::Duration;

use synod_testnet::processes::{Cluster, End, Namespaces, Plan, ProcessError};

/// Ends a hang; nothing is expected to take nearly as long.
const LIMIT: Duration = Duration::from_secs(200);
/// Members, the hosts `h0`, `h1` and `h2` around the router `core`, whose interface to host n is `ton`.
const HOSTS: usize = 3;

/// The usual ports, of IPv4.
const LISTEN: &str = "--set network.listen=/ip4/0.0.0.0/udp/7600/quic-v1,/ip4/0.0.0.0/tcp/7600 \
                      --set network.bulk_listen=0.0.0.0:7601";
/// A member that firewalls let through to, and that carries the others' traffic where they cannot reach each other.
const RELAY_ON_443: &str = "--set network.listen=/ip4/0.0.0.0/udp/443/quic-v1,/ip4/0.0.0.0/tcp/443 \
                            --set network.external=/ip4/10.77.0.2/udp/443/quic-v1,/ip4/10.77.0.2/tcp/443 \
                            --set network.bulk_listen=0.0.0.0:7601 --set network.relay_server=true";

/// Makes the star; `network` gives the networks of the hosts without their last number: `10.77.0.`, say.
fn star(network: impl Fn(usize) -> String, bits: u8) -> Result<Namespaces, String> {
    let networks = Namespaces::make(&["core", "h0", "h1", "h2"])?;
    networks.route("core")?;
    for host in 0..HOSTS {
        let [router, own] = [1, 2].map(|last| format!("{}{last}", network(host)));
        let core = End {
            space: "core",
            interface: &format!("to{host}"),
            address: &format!("{router}/{bits}"),
        };
        let name = format!("h{host}");
        let leaf = End {
            space: &name,
            interface: "eth",
            address: &format!("{own}/{bits}"),
        };
        networks.wire(core, leaf)?;
        networks.inside(&name, &format!("ip route add default via {router}"))?;
    }
    Ok(networks)
}

fn star_v4() -> Result<Namespaces, String> {
    star(|host| format!("10.77.{host}."), 24)
}

/// The firewall of host 1: what it begins goes out to one port only, and nothing comes in but answers.
fn one_port_out(networks: &Namespaces, port: &str) -> Result<(), String> {
    networks.rules(
        "core",
        &[
            "add table inet guard",
            "add chain inet guard forward { type filter hook forward priority 0 ; policy accept ; }",
            "add rule inet guard forward ct state established,related accept",
            &format!("add rule inet guard forward iifname to1 {port} accept"),
            "add rule inet guard forward iifname to1 drop",
            "add rule inet guard forward oifname to1 drop",
        ],
    )
}

/// In these networks, nodes with these flags settle one model, of updates of them all.
fn check(networks: Result<Namespaces, String>, flags: [&str; HOSTS]) -> Result<(), ProcessError> {
    let networks = match networks {
        Ok(networks) => networks,
        Err(reason) => {
            eprintln!("skipped: network namespaces cannot be made here ({reason})");
            return Ok(());
        }
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut plan = Plan::new(dir.path().join("nodes"), HOSTS).set("network.mdns=false");
    for (host, flags) in flags.into_iter().enumerate() {
        let binary = networks.node_in(&format!("h{host}"), dir.path(), flags)?;
        plan.others.insert(host, binary);
    }
    let mut cluster = Cluster::start(plan)?;
    let file = "name = 'narrow'
        [protocol]
        rounds = 8
        min_members = 3
        quorum_percent = 100
        heartbeat_ms = 500
        lost_after_ms = 8000
        deadline = { floor_ms = 500, cap_ms = 60000, k = 6 }
        [training]
        local_steps = 10
        [training.model.synthetic]
        dimension = 500000
        ";
    let id = cluster.gather(file, &[None; HOSTS])?;
    cluster.wait_until("all finish", LIMIT, |cluster| {
        (0..HOSTS).try_fold(true, |all, node| {
            Ok(all && cluster.node(node).session(&id)?.is_finished())
        })
    })?;
    let mut settled = Vec::new();
    for node in cluster.nodes() {
        let rows = node.rounds(&id)?;
        let used = rows
            .iter()
            .flat_map(|row| &row.participants)
            .filter(|one| one.outcome == "used");
        let members: BTreeSet<&str> = used.map(|one| one.peer.as_str()).collect();
        assert_eq!(
            members.len(),
            HOSTS,
            "{} used updates of {members:?} alone",
            node.name()
        );
        let received = node.status()?.bulk_bytes.received;
        assert!(
            received > 1_000_000,
            "{} received {received} bytes of models and updates",
            node.name()
        );
        settled.push(rows.last().map(|row| row.state.clone()));
        let peers: serde_json::Value = node.ask_json(&["peers", "--json"])?;
        println!("{} sees {peers}", node.name());
    }
    assert!(
        settled.iter().all(|state| state.is_some() && *state == settled[0]),
        "{settled:?}"
    );
    cluster.stop()
}

#[test]
fn one_tcp_port_out_is_enough() -> Result<(), ProcessError> {
    let networks = star_v4().and_then(|networks| one_port_out(&networks, "tcp dport 443").map(|()| networks));
    check(networks, [RELAY_ON_443, LISTEN, LISTEN])
}

#[test]
fn one_udp_port_out_is_enough() -> Result<(), ProcessError> {
    let networks = star_v4().and_then(|networks| one_port_out(&networks, "udp dport 443").map(|()| networks));
    check(networks, [RELAY_ON_443, LISTEN, LISTEN])
}

#[test]
fn ipv6_alone_is_enough() -> Result<(), ProcessError> {
    let listen = "--set network.listen=/ip6/::/udp/7600/quic-v1,/ip6/::/tcp/7600 --set network.bulk_listen=[::]:7601";
    check(star(|host| format!("fd77:{host}::"), 64), [listen; HOSTS])
}

#[test]
fn blobs_pass_a_narrow_path_whose_routers_tell_nobody() -> Result<(), ProcessError> {
    let narrow = |networks: Namespaces| {
        // The hosts' own interfaces take 1500 bytes. What is longer than 1280 the router drops, and its word of it is dropped too.
        for host in 0..HOSTS {
            networks.inside(
                "core",
                &format!("ip route change 10.77.{host}.0/24 dev to{host} mtu lock 1280"),
            )?;
        }
        networks.rules(
            "core",
            &[
                "add table ip guard",
                "add chain ip guard output { type filter hook output priority 0 ; policy accept ; }",
                "add rule ip guard output icmp type destination-unreachable drop",
            ],
        )?;
        Ok(networks)
    };
    let tcp = format!("{LISTEN} --set network.bulk_quic=false");
    check(star_v4().and_then(narrow), [LISTEN, LISTEN, &tcp])
}
