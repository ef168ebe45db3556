//! `node doctor`: looks at everything that keeps a node from working, and says for each finding what to do.
//! It changes nothing.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;

use serde::Serialize;
use synod_config::NodeConfig;
use synod_config::load::{unknown_variables, variable};
use synod_storage::{keys, lock};

use super::{Terminal, bytes, client, converse, settings, short};
use crate::api::types::{MemberView, NodeView, PeerView, SessionView};
use crate::cli::JsonArgs;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::requirements::available_memory_bytes;
use crate::rounds::RoundRow;

/// Memory that a small session needs at least.
const LEAST_MEMORY_BYTES: u64 = 512 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Warning,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    finding: String,
}

fn good(what: &'static str, finding: impl ToString) -> Finding {
    Finding {
        what,
        verdict: Verdict::Good,
        finding: finding.to_string(),
    }
}

fn warning(what: &'static str, finding: impl ToString) -> Finding {
    Finding {
        what,
        verdict: Verdict::Warning,
        finding: finding.to_string(),
    }
}

fn bad(what: &'static str, finding: impl ToString) -> Finding {
    Finding {
        what,
        verdict: Verdict::Bad,
        finding: finding.to_string(),
    }
}

/// Looks and tells.
pub fn run(dir: &DataDir, args: &JsonArgs, terminal: Terminal) -> Outcome {
    let findings = examine(dir);
    if args.json {
        terminal.print_json(&findings);
    } else {
        for Finding { what, verdict, finding } in &findings {
            let mark = match verdict {
                Verdict::Good => "ok  ",
                Verdict::Warning => "look",
                Verdict::Bad => "BAD ",
            };
            terminal.print(format!("{mark} {what:<10} {finding}"));
        }
    }
    match findings.iter().filter(|one| one.verdict == Verdict::Bad).count() {
        0 => Ok(()),
        count => Err(Failure::environment(format!(
            "{count} of {} findings keep this node from working",
            findings.len()
        ))),
    }
}

fn examine(dir: &DataDir) -> Vec<Finding> {
    let mut findings = vec![folder(dir)];
    if findings[0].verdict == Verdict::Bad {
        return findings;
    }
    findings.push(key(dir));
    let config = match settings(dir, &[]) {
        Ok(config) => {
            findings.push(good(
                "settings",
                format!("{} can be used{}", dir.config().display(), from_environment()),
            ));
            config
        }
        Err(failure) => {
            findings.push(bad("settings", failure));
            return findings;
        }
    };
    findings.extend(mistyped());
    findings.push(disk(dir, &config));
    findings.push(memory());
    findings.extend(mtu());
    findings.push(device(&config));
    let running = lock::holder(dir.root());
    match running {
        Some(pid) => findings.extend(running_node(dir, pid)),
        None => {
            findings.push(warning("node", "not running: start it with `node start`"));
            findings.extend(ports(&config));
        }
    }
    findings
}

fn folder(dir: &DataDir) -> Finding {
    match std::fs::metadata(dir.root()) {
        Err(_) => bad("folder", format!("{dir} is not there: make a node with `node init`")),
        Ok(meta) if !meta.is_dir() => bad("folder", format!("{dir} is not a folder: choose another --data-dir")),
        Ok(meta) => match tempfile_in(dir) {
            Ok(()) if meta.permissions().mode() & 0o077 != 0 => {
                warning("folder", format!("others can look into {dir}: `chmod 700 {dir}`"))
            }
            Ok(()) => good("folder", dir),
            Err(error) => bad(
                "folder",
                format!("nothing can be written in {dir} ({error}): look at its owner and disk"),
            ),
        },
    }
}

fn tempfile_in(dir: &DataDir) -> std::io::Result<()> {
    let path = dir.root().join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&path, b"x")?;
    std::fs::remove_file(&path)
}

fn key(dir: &DataDir) -> Finding {
    if !dir.key().exists() {
        return bad("key", dir.without_key());
    }
    match keys::load(&dir.key()) {
        Ok(secret) => good("key", synod_protocol::identity::Identity::from_secret(secret).peer_id()),
        Err(error) => bad("key", error),
    }
}

/// The names of all variables that are text; others are none of ours.
fn variable_names() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect()
}

/// Variables that are meant as settings and are none.
fn mistyped() -> Option<Finding> {
    let names = variable_names();
    let unknown = unknown_variables(names.iter().map(String::as_str));
    let text = || {
        format!(
            "{} set nothing: there are no such settings; a variable is written as {}",
            unknown.join(", "),
            variable("network.mdns")
        )
    };
    (!unknown.is_empty()).then(|| warning("variables", text()))
}

fn from_environment() -> String {
    let known = [
        "SYNOD_NETWORK_",
        "SYNOD_COMPUTE_",
        "SYNOD_TEXT_",
        "SYNOD_LOG_",
        "SYNOD_RETENTION_",
        "SYNOD_API_",
    ];
    let names = variable_names();
    let unknown = unknown_variables(names.iter().map(String::as_str));
    let set: Vec<_> = names
        .iter()
        .filter(|name| known.iter().any(|k| name.starts_with(k)) && !unknown.contains(&name.as_str()))
        .cloned()
        .collect();
    match set.as_slice() {
        [] => format!(" (no variable as {} is set)", variable("network.mdns")),
        set => format!(" (overruled by {})", set.join(", ")),
    }
}

fn disk(dir: &DataDir, config: &NodeConfig) -> Finding {
    let least = config.retention.min_free_bytes;
    match dir.free_bytes() {
        Err(error) => bad("disk", format!("the free space around {dir} is not known: {error}")),
        Ok(free) if free < least => bad(
            "disk",
            format!("{} free, {} are asked for: free some space", bytes(free), bytes(least)),
        ),
        Ok(free) => good("disk", format!("{} free", bytes(free))),
    }
}

fn memory() -> Finding {
    match available_memory_bytes() {
        None => warning("memory", "how much is available is not known on this system"),
        Some(free) if free < LEAST_MEMORY_BYTES => warning(
            "memory",
            format!(
                "{} available: even small models want {}",
                bytes(free),
                bytes(LEAST_MEMORY_BYTES)
            ),
        ),
        Some(free) => good("memory", format!("{} available", bytes(free))),
    }
}

/// Network interfaces whose packets are too small for QUIC, which asks for 1,200 bytes of payload (RFC 9000, section 14).
fn mtu() -> Option<Finding> {
    const LEAST_MTU: u32 = 1280;
    let interfaces = std::fs::read_dir("/sys/class/net").ok()?;
    let known = interfaces.flatten().filter_map(|entry| {
        let mtu = std::fs::read_to_string(entry.path().join("mtu")).ok()?;
        Some((
            entry.file_name().to_string_lossy().into_owned(),
            mtu.trim().parse().ok()?,
        ))
    });
    let mut known: Vec<(String, u32)> = known.collect();
    known.sort();
    let small: Vec<&(String, u32)> = known.iter().filter(|(_, mtu)| *mtu < LEAST_MTU).collect();
    let list = |all: &[&(String, u32)]| {
        let each = all.iter().map(|(name, mtu)| format!("{name} {mtu}"));
        each.collect::<Vec<_>>().join(", ")
    };
    Some(match small.as_slice() {
        [] => good("mtu", list(&known.iter().collect::<Vec<_>>())),
        small => warning(
            "mtu",
            format!(
                "{} bytes a packet: QUIC needs {LEAST_MTU}; raise it (`ip link set … mtu 1500`), or peers come over TCP",
                list(small)
            ),
        ),
    })
}

fn device(config: &NodeConfig) -> Finding {
    let (device, fallback) = config.device().resolved();
    match (device.open(), fallback) {
        (Ok(_), None) => good("device", device),
        (Ok(_), Some(reason)) => warning("device", reason),
        (Err(error), _) => bad("device", error),
    }
}

fn ports(config: &NodeConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in &config.network.listen {
        let parts: Vec<&str> = address.split('/').collect();
        let [_, "ip4" | "ip6", host, kind, number, ..] = parts.as_slice() else {
            findings.push(warning("port", format!("{address}: not looked at")));
            continue;
        };
        let place = if host.contains(':') {
            format!("[{host}]:{number}")
        } else {
            format!("{host}:{number}")
        };
        findings.push(port(address, *kind == "udp", &place));
    }
    let bulk = config.network.bulk_listen.to_string();
    findings.push(port(&format!("{bulk} (udp, models and updates)"), true, &bulk));
    findings.push(port(&format!("{bulk} (tcp, models and updates)"), false, &bulk));
    findings
}

fn port(name: &str, udp: bool, place: &str) -> Finding {
    let bound = if udp {
        UdpSocket::bind(place).map(drop)
    } else {
        TcpListener::bind(place).map(drop)
    };
    match bound {
        Ok(()) => good("port", format!("{name} is free")),
        Err(error) => bad(
            "port",
            format!("{name}: {error}; stop what uses it, or change [network] in the settings"),
        ),
    }
}

fn running_node(dir: &DataDir, pid: u32) -> Vec<Finding> {
    let view = client(dir).and_then(|client| converse(async { client.get::<NodeView>("/v1/status").await }));
    let view = match view {
        Ok(view) => view,
        Err(failure) => {
            return vec![bad(
                "node",
                format!("process {pid} holds the folder but does not answer: {failure}"),
            )];
        }
    };
    let mut findings = vec![good("node", format!("running, process {pid}, up {} s", view.uptime_s))];
    findings.push(match view.listen.is_empty() {
        true => bad("listen", "on nothing: see its log"),
        false => good("listen", view.listen.join(" ")),
    });
    findings.push(match view.reachability.as_str() {
        "private" => warning(
            "reach",
            "peers say that this machine cannot be reached: forward the ports, or set network.relays",
        ),
        other => good("reach", other),
    });
    let peers = client(dir).and_then(|client| converse(async { client.get::<Vec<PeerView>>("/v1/peers").await }));
    let peers = peers.unwrap_or_default();
    for session in &view.sessions {
        let heard = session
            .members
            .iter()
            .filter(|member| !member.me && member.heard_ms_ago.is_some_and(|ms| ms < 60_000));
        let (heard, others) = (
            heard.count(),
            session.members.iter().filter(|member| !member.me).count(),
        );
        let text = format!(
            "`{}`: {heard} of {others} other members heard in the last minute; {}",
            session.name, session.explanation
        );
        findings.push(match &session.stopped {
            Some(reason) => bad("session", format!("`{}` has stopped here: {reason}", session.name)),
            None if session.trouble.is_some() => {
                let trouble = session.trouble.as_deref().unwrap_or_default();
                bad(
                    "session",
                    format!("`{}`: this node could not do its part: {trouble}", session.name),
                )
            }
            None if heard < others => warning("session", text),
            None => good("session", text),
        });
        if session.stopped.is_none() {
            let others = session.members.iter().filter(|member| !member.me);
            findings.extend(others.map(|member| of_member(member, session, &peers, &view.version)));
            findings.extend(session.last_round.as_ref().and_then(without_whom));
        }
    }
    findings
}

/// Clocks further apart than this are told; less may be the time that the telling took.
const CLOCKS_APART_MS: u64 = 5_000;

/// How another member is reached, and what to do where it is not.
fn of_member(member: &MemberView, session: &SessionView, peers: &[PeerView], version: &str) -> Finding {
    let name = format!("`{}` {}", session.name, short(&member.peer));
    let heard = match member.heard_ms_ago {
        None => "not heard since this node started".to_owned(),
        Some(ms) if ms < 10_000 => "heard now".to_owned(),
        Some(ms) => format!("last heard {} s ago", ms / 1000),
    };
    let Some(peer) = peers.iter().find(|peer| peer.peer == member.peer) else {
        let remedy = "not connected: its node may be down, or neither side reaches the other; ask its operator for `node status`, forward the ports there, or set network.relays here";
        return warning("member", format!("{name}: {heard}, {remedy}"));
    };
    let way = match peer.relayed {
        true => "through a relay",
        false => "directly",
    };
    let trip = peer
        .round_trip_ms
        .map_or_else(String::new, |ms| format!(", {ms:.1} ms there and back"));
    let speed = peer.bytes_per_s.map_or_else(String::new, |speed| {
        format!(", {}/s in the last transfer", bytes(speed))
    });
    let traffic = format!(
        "{} in and {} out within {} s",
        bytes(peer.control_bytes.received + peer.bulk_bytes.received),
        bytes(peer.control_bytes.sent + peer.bulk_bytes.sent),
        peer.connected_s
    );
    let text = format!("{name}: {heard}, connected {way}{trip}{speed}, {traffic}");
    let other = peer
        .agent
        .as_deref()
        .and_then(|agent| agent.rsplit('/').next())
        .filter(|theirs| *theirs != version);
    if let Some(ahead_ms) = peer.clock_ahead_ms.filter(|ms| ms.unsigned_abs() > CLOCKS_APART_MS) {
        let (seconds, side) = (
            ahead_ms.unsigned_abs() / 1000,
            if ahead_ms > 0 { "ahead of" } else { "behind" },
        );
        return warning(
            "clock",
            format!(
                "{text}; its clock is {seconds} s {side} this machine's: set both by NTP, for invites expire by their issuer's clock and logs are compared by time"
            ),
        );
    }
    match (other, member.round) {
        (Some(theirs), _) => warning(
            "member",
            format!("{text}; it runs version {theirs} and this node {version}: one of the two should be upgraded"),
        ),
        (None, Some(round)) if round + 2 < session.round => warning(
            "member",
            format!(
                "{text}; it is in round {round}, and this node in {}: it catches up, or its operator knows why not",
                session.round
            ),
        ),
        (None, _) if member.absent_rounds > 0 => warning(
            "member",
            format!(
                "{text}; the last {} rounds were settled without its update: it is slower than the deadline allows, or trains nothing",
                member.absent_rounds
            ),
        ),
        (None, _) => good("member", text),
    }
}

/// Without whom the last round was settled, and why.
fn without_whom(row: &RoundRow) -> Option<Finding> {
    let missing = row.missing.iter();
    let missing: Vec<String> = missing
        .map(|one| format!("{} ({})", short(&one.peer), format!("{:?}", one.reason).to_lowercase()))
        .collect();
    let text = || {
        format!(
            "round {} was settled without {}: who is late needs fewer local steps or a longer protocol.deadline; who is lost, a look at its node",
            row.round,
            missing.join(", ")
        )
    };
    (!missing.is_empty()).then(|| warning("round", text()))
}
