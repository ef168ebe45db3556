//! The operator's commands, typed at the real binary over real nodes on loopback: right input, and wrong input at every door.
//! Rounds and faults among many nodes are tested in the workspace's `tests`.

// The helpers of a test fail it by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used)]

mod operating;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use operating::{Node, mode};

#[test]
fn init_makes_a_secret_key_and_overwrites_nothing() {
    let node = Node::new();
    let key = node.dir().join("identity.key");
    let before = std::fs::read(&key).unwrap();
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(&node.dir()), 0o700);
    node.refused("init", 1, &["exists already", "nothing is overwritten"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn commands_without_a_node_say_what_to_do() {
    let nowhere = Node::nowhere();
    nowhere.refused("status", 1, &["there is no node in", "`node init`"]);
    nowhere.refused("start", 1, &["there is no node in", "`node init`"]);
    let stopped = Node::new();
    for line in ["status", "peers", "session list", "leave x", "invite x", "stop"] {
        stopped.refused(line, 2, &["no node is running on", "`node start`"]);
    }
    for line in [
        "log x",
        "export x ./model",
        "generate x",
        "evaluate x --data /etc/hostname",
    ] {
        stopped.refused(line, 1, &["no session `x`"]);
    }
    assert!(!stopped.dir().join("db").exists(), "looking makes nothing");
    assert_eq!(stopped.say("no-such-command").code, 1);
    assert_eq!(stopped.say("--help").code, 0);
}

#[test]
fn a_wrong_setting_is_named_with_file_line_key_and_reason() {
    let node = Node::new();
    let file = node.dir().join("config.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let line = good.lines().position(|line| line.starts_with("device")).unwrap() + 1;
    std::fs::write(&file, good.replace("device = \"auto\"", "device = \"gpu\"")).unwrap();
    node.refused(
        "start",
        1,
        &[
            "config.toml",
            &format!("line {line}"),
            "compute.device = \"gpu\"",
            "cuda:N",
        ],
    );
    std::fs::write(&file, good.replace("mdns = false", "mdsn = false")).unwrap();
    node.refused("start", 1, &["config.toml", "line", "mdsn", "unknown field"]);
    std::fs::write(&file, &good).unwrap();
    node.refused(
        "start --set network.nothing=1",
        1,
        &["--set", "network.nothing", "no such setting"],
    );
    node.refused("start --device cuda:x", 1, &["--device", "compute.device"]);
    let key = node.dir().join("identity.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    node.refused("start", 2, &["identity.key", "644", "chmod 600"]);
    let address = "/ip4/256.1.1.1/tcp/1";
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let line = format!("start --log-level error --set network.listen={address}");
    node.refused(&line, 1, &[address, "multiaddr"]);
    std::fs::remove_file(&key).unwrap();
    node.refused("start", 1, &["identity.key", "backup"]);
}

#[test]
fn a_node_starts_once_answers_and_stops() {
    let mut node = Node::running();
    let status = node.json("status --json");
    assert!(status["peer"].as_str().unwrap().starts_with("12D3KooW"));
    assert_eq!(mode(&node.dir().join("node.sock")), 0o600);
    node.refused(
        "start",
        2,
        &["another node is running on the data directory", "stop it first"],
    );

    let address = status["listen"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .find(|a| a.contains("/tcp/"));
    let address = address.unwrap().split("/p2p/").next().unwrap().to_owned();
    let second = Node::new();
    second.refused(
        &format!("start --log-level error --set network.listen={address}"),
        2,
        &["already in use", &address],
    );

    node.ok("stop");
    assert_eq!(node.process.take().unwrap().wait().unwrap().code(), Some(0));
    assert!(!node.dir().join("node.sock").exists());
    node.start();
    node.kill();
    assert!(node.dir().join("node.sock").exists(), "a killed node leaves its socket");
    node.start();
    node.ok("stop");
}

#[test]
fn sessions_are_created_listed_and_shown_and_bad_ones_refused() {
    let node = Node::running();
    assert_eq!(node.json("session list --json"), Value::Array(Vec::new()));
    let id = node.json("session create --preset synthetic --name first --json")["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = node.json("session list --json");
    assert_eq!(
        (listed[0]["name"].as_str(), listed[0]["id"].as_str()),
        (Some("first"), Some(id.as_str()))
    );
    assert_eq!(listed[0]["lifecycle"], "gathering");
    let shown = node.json("session show first --json");
    assert_eq!(shown["config"]["training"]["model"]["synthetic"]["dimension"], 64);
    assert_eq!(node.json(&format!("session show {} --json", &id[..8])), shown);

    node.refused(
        "session create --preset synthetic --name first",
        1,
        &["already", "--name"],
    );
    node.refused(
        "session create --preset huge",
        1,
        &["--preset huge", "tiny, small, synthetic"],
    );
    node.refused("session create nowhere.toml", 1, &["nowhere.toml", "cannot read"]);
    node.refused(
        "session create --preset tiny --name t",
        1,
        &["--data PATH", "text of at least"],
    );
    node.refused(
        "session create --preset tiny --name t --data /no/such",
        1,
        &["--data /no/such"],
    );
    let file = node.home.path().join("s.toml");
    std::fs::write(&file, "name = 'a'\n\n[aggregation.rule.trimmed_mean]\nf = 3\n").unwrap();
    let create = format!("session create {}", file.display());
    node.refused(
        &create,
        1,
        &[
            "s.toml, line 3",
            "aggregation.rule",
            "f = 3",
            "protocol.min_members = 2",
        ],
    );
    node.refused("session show second", 1, &["no session `second`", "node session list"]);
    node.refused("export second ./x", 1, &["no session `second`"]);
    node.refused("export first ./x", 1, &["settled nothing yet"]);
}

#[test]
fn a_schedule_is_drawn_of_a_file_a_preset_or_a_session() {
    let node = Node::running();
    assert!(node.ok("session schedule --preset tiny").starts_with("learning rate"));
    let csv = node.ok("session schedule --preset synthetic --csv");
    let rows = node.json("session schedule --preset synthetic --json");
    assert!(csv.starts_with("step,round,factor,learning_rate,"), "{csv}");
    assert_eq!(csv.lines().count(), rows.as_array().unwrap().len() + 1);
    node.ok("session create --preset synthetic --name first");
    assert_eq!(node.ok("session schedule --session first --csv"), csv);
    let drawing = node.home.path().join("rate.svg");
    let draw = format!("session schedule --preset tiny --svg {}", drawing.display());
    node.ok(&draw);
    assert!(std::fs::read_to_string(&drawing).unwrap().starts_with("<svg"));
    node.refused(&draw, 1, &["--svg", "rate.svg"]);
    node.refused("session schedule --session second", 1, &["no session `second`"]);
    node.refused("session schedule nowhere.toml", 1, &["nowhere.toml", "cannot read"]);
    for line in ["session schedule", "session schedule --preset tiny --csv --json"] {
        assert_eq!(node.say(line).code, 1, "{line}");
    }
}

#[test]
fn every_wrong_key_has_its_own_refusal() {
    let (issuer, joiner, third) = (Node::running(), Node::running(), Node::running());
    issuer.ok("session create --preset synthetic --name first");
    issuer.ok("session create --preset synthetic --name other");
    let mint = |line: &str| issuer.ok(line).trim().to_owned();
    let key = mint("invite first --role trainer --expires 1h --uses 1");

    let explained = joiner.json(&format!("invite explain {key} --json"));
    assert_eq!(explained["session_name"], "first");
    assert_eq!(explained["roles"], "trainer");
    assert_eq!(
        (&explained["uses"], &explained["genuine"]),
        (&Value::from(1), &Value::from(true))
    );

    joiner.refused("join hello", 1, &["not an invite key"]);
    joiner.refused(
        &format!("join {}", &key[..key.len() / 2]),
        1,
        &["cut", "copy the whole line"],
    );
    let last = if key.ends_with('a') { 'b' } else { 'a' };
    joiner.refused(&format!("join {}{last}", &key[..key.len() - 1]), 1, &["mistyped"]);
    joiner.refused(&format!("join {}", forged(&key)), 1, &["forged"]);
    issuer.refused(&format!("join {key}"), 1, &["this node issued that key"]);
    issuer.refused(
        &format!("invite revoke other {key}"),
        1,
        &["for session `first`", "not for the session you named"],
    );
    issuer.refused("invite first --role boss", 1, &["--role", "boss"]);
    issuer.refused("invite first --expires soon", 1, &["--expires soon"]);

    let brief = mint("invite first --expires 1s");
    std::thread::sleep(Duration::from_millis(2_100));
    joiner.refused(&format!("join {brief}"), 1, &["expired", "ask"]);
    let revoked = mint("invite first --uses 5");
    issuer.ok(&format!("invite revoke first {revoked}"));
    joiner.refused(&format!("join {revoked} --timeout 30"), 1, &["refused", "revoked"]);
    joiner.refused(&format!("invite narrow {key} --uses 2"), 1, &["only be narrowed"]);

    let dry = joiner.json(&format!(
        "join {key} --dry-run --json --data {}",
        joiner.dir().join("config.toml").display()
    ));
    assert_eq!(dry["ready"], true, "{dry}");
    assert_eq!(
        joiner.json("session list --json"),
        Value::Array(Vec::new()),
        "a dry run joins nothing"
    );

    joiner.ok(&format!("join {key} --timeout 30"));
    joiner.refused(&format!("join {key}"), 1, &["already"]);
    third.refused(&format!("join {key} --timeout 30"), 1, &["refused", "used up"]);

    let nowhere = mint("invite other --address /ip4/127.0.0.1/tcp/1");
    // A node that has never met the issuer: the others know a way by now.
    let fourth = Node::running();
    fourth.refused(
        &format!("join {nowhere} --timeout 3"),
        2,
        &["cannot be reached", "/ip4/127.0.0.1/tcp/1"],
    );
}

/// The key with one bit of its last signature flipped, and a checksum that fits.
fn forged(key: &str) -> String {
    let code = data_encoding::BASE32_NOPAD;
    let mut bytes = code
        .decode(key["synod1".len()..].to_ascii_uppercase().as_bytes())
        .unwrap();
    let content = bytes.len() - 4;
    // The content ends with the last block's signature and the holder's secret of 32 bytes.
    bytes[content - 33] ^= 1;
    let checksum = blake3::hash(&bytes[..content]);
    bytes[content..].copy_from_slice(&checksum.as_bytes()[..4]);
    format!("synod1{}", code.encode(&bytes).to_ascii_lowercase())
}
