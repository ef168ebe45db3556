//! Two institutions behind NATs of their own, and one with a public address that also relays, as network namespaces on this
//! machine: every voter of their session fetches every update from its owner, and they finish with one model.
//! Without root, `ip` and `nft` it says so and passes. No test here asserts how long anything takes.

use std::time::Duration;

use synod_testnet::processes::{Cluster, End, Namespaces, Plan, ProcessError};

/// Ends a hang; nothing is expected to take nearly as long.
const LIMIT: Duration = Duration::from_secs(300);
const PUBLIC: &str = "203.0.113.1";

fn end<'a>(space: &'a str, interface: &'a str, address: &'a str) -> End<'a> {
    End {
        space,
        interface,
        address,
    }
}

/// A public host that routes between two NAT routers, and a host behind each: `pub`, `na` and `ha`, `nb` and `hb`. Or why
/// that cannot be made here.
fn two_sites() -> Result<Namespaces, String> {
    let networks = Namespaces::make(&["pub", "na", "nb", "ha", "hb"])?;
    networks.route("pub")?;
    for (router, host, port, wan, lan) in [
        (
            "na",
            "ha",
            "toa",
            ["203.0.113.1", "203.0.113.2"],
            ["10.1.0.1", "10.1.0.2"],
        ),
        (
            "nb",
            "hb",
            "tob",
            ["203.0.113.5", "203.0.113.6"],
            ["10.2.0.1", "10.2.0.2"],
        ),
    ] {
        let [outer, inner] = wan.map(|address| format!("{address}/30"));
        networks.wire(end("pub", port, &outer), end(router, "wan", &inner))?;
        let [outer, inner] = lan.map(|address| format!("{address}/24"));
        networks.wire(end(router, "lan", &outer), end(host, "eth", &inner))?;
        networks.inside(router, &format!("ip route add default via {}", wan[0]))?;
        networks.inside(host, &format!("ip route add default via {}", lan[0]))?;
        networks.route(router)?;
        // What comes from outside enters only as an answer; the router itself takes nothing, or it would hold the port against
        // the host behind it.
        let rules = [
            "add table ip nat",
            "add chain ip nat post { type nat hook postrouting priority 100 ; }",
            "add rule ip nat post oifname wan masquerade",
            "add table ip guard",
            "add chain ip guard forward { type filter hook forward priority 0 ; policy drop ; }",
            "add rule ip guard forward ct state established,related accept",
            "add rule ip guard forward iifname lan accept",
            "add chain ip guard input { type filter hook input priority 0 ; policy accept ; }",
            "add rule ip guard input iifname wan ct state new drop",
        ];
        networks.rules(router, &rules)?;
    }
    Ok(networks)
}

#[test]
fn two_behind_nats_and_one_public_relay_hold_one_model() -> Result<(), ProcessError> {
    let networks = match two_sites() {
        Ok(networks) => networks,
        Err(reason) => {
            eprintln!("skipped: network namespaces with NAT cannot be made here ({reason})");
            return Ok(());
        }
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let listen = "--set network.listen=/ip4/0.0.0.0/udp/7600/quic-v1,/ip4/0.0.0.0/tcp/7600 \
                  --set network.bulk_listen=0.0.0.0:7601";
    let external = format!(
        "{listen} --set network.external=/ip4/{PUBLIC}/udp/7600/quic-v1,/ip4/{PUBLIC}/tcp/7600 \
         --set network.relay_server=true"
    );
    let mut plan = Plan::new(dir.path().join("nodes"), 3).set("network.mdns=false");
    plan.others.insert(0, networks.node_in("pub", dir.path(), &external)?);
    plan.others.insert(1, networks.node_in("ha", dir.path(), listen)?);
    plan.others.insert(2, networks.node_in("hb", dir.path(), listen)?);
    let mut cluster = Cluster::start(plan)?;
    // Every voter fetches every update from its owner, so that the two behind NATs need a way to each other.
    let file = "name = 'hidden'
        [protocol]
        rounds = 100
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
    let id = cluster.gather(file, &[None; 3])?;
    cluster.wait_until("all finish", LIMIT, |cluster| {
        (0..3).try_fold(true, |all, node| {
            Ok(all && cluster.node(node).session(&id)?.is_finished())
        })
    })?;
    let states = |node: usize| -> Result<Vec<_>, ProcessError> {
        let rows = cluster.node(node).rounds(&id)?;
        Ok(rows.into_iter().map(|row| (row.round, row.state)).collect())
    };
    let first = states(0)?;
    assert_eq!(first.len(), 101);
    assert_eq!((states(1)?, states(2)?), (first.clone(), first));
    // The two have a way to each other, through the relay or a hole in the NATs, and their updates took it.
    let other = cluster.node(2).status()?.peer;
    let peers: serde_json::Value = cluster.node(1).ask_json(&["peers", "--json"])?;
    let to_other = peers
        .as_array()
        .into_iter()
        .flatten()
        .find(|peer| peer["peer"] == other);
    println!("one behind a NAT sees the other so: {to_other:?}");
    let received = to_other.and_then(|peer| peer["bulk_bytes"]["received"].as_u64());
    assert!(received.is_some_and(|bytes| bytes > 1_000_000), "{peers}");
    cluster.stop()
}
