//! Invite keys at the real binary, over real nodes on loopback: what a dry run says, what a join spends, where keys are
//! read from, and what their issuer knows of them. What each wrong key is told is in `operator`.

// The helpers of a test fail it by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used)]

mod operating;

use std::path::PathBuf;

use serde_json::Value;

use operating::{Node, check_refusal};

/// A model so small that its session asks for about a thousand bytes of text.
const SESSION: &str = "name = 'first'\n[training]\nlocal_steps = 1\n[training.model.decoder]\nlayers = 1\nheads = 2\nwidth = 16\ncontext = 16\n";

/// A file of so many bytes of text beside the node's folder.
fn text(node: &Node, name: &str, bytes: usize) -> PathBuf {
    let path = node.home.path().join(name);
    std::fs::write(&path, "All work and no play. ".repeat(bytes / 22 + 1).split_at(bytes).0).unwrap();
    path
}

/// A running node with a session that trains on text.
fn issuer() -> Node {
    let node = Node::running();
    let file = node.home.path().join("first.toml");
    std::fs::write(&file, SESSION).unwrap();
    let data = text(&node, "data.txt", 20_000);
    node.ok(&format!("session create {} --data {}", file.display(), data.display()));
    node
}

fn mint(node: &Node, line: &str) -> (String, String) {
    let minted = node.json(&format!("{line} --json"));
    let of = |key: &str| minted[key].as_str().unwrap().to_owned();
    (of("key"), of("block"))
}

fn need<'a>(preview: &'a Value, what: &str) -> &'a Value {
    let needs = preview["needs"].as_array().unwrap();
    let found = needs.iter().find(|need| need["what"] == what);
    found.unwrap_or_else(|| panic!("nothing is said of {what}: {preview}"))
}

fn listed(node: &Node, block: &str) -> Value {
    let list = node.json("invite list first --json");
    let found = list
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["block"] == block)
        .cloned();
    found.unwrap_or_else(|| panic!("{block} is not listed: {list}"))
}

#[test]
fn a_dry_run_asks_the_issuer_and_says_have_and_need() {
    let (issuer, joiner) = (issuer(), Node::running());
    let (key, block) = mint(&issuer, "invite first --uses 2");
    let (good, short) = (text(&joiner, "good.txt", 5_000), text(&joiner, "short.txt", 500));

    let said = joiner.say(&format!("join {key} --dry-run --json --data {}", good.display()));
    let preview: Value = serde_json::from_str(&said.out).unwrap();
    for what in ["key", "issuer", "session", "model", "data", "memory", "disk", "device"] {
        assert!(!need(&preview, what)["finding"].as_str().unwrap().is_empty());
    }
    assert!(
        need(&preview, "key")["finding"]
            .as_str()
            .unwrap()
            .contains("2 of 2 uses left"),
        "{preview}"
    );
    assert_eq!(need(&preview, "data")["have"], "5000 B");
    assert_eq!(need(&preview, "data")["need"], "1088 B");
    assert_eq!(need(&preview, "session")["have"], "1", "members");
    assert_eq!(preview["config"]["training"]["model"]["decoder"]["width"], 16);

    let dry = format!("join {key} --dry-run --data {}", short.display());
    joiner.refused(&dry, 1, &["data", "no use of the key was spent"]);
    assert!(joiner.say(&dry).out.contains("MISSING data"));
    joiner.refused(&format!("join {key} --dry-run"), 1, &["data"]);
    assert_eq!(listed(&issuer, &block)["spent"], 0, "looking spends nothing");
    assert_eq!(joiner.json("session list --json"), Value::Array(Vec::new()));
}

#[test]
fn a_dry_run_tells_a_refused_key_from_an_issuer_that_cannot_be_reached() {
    let (issuer, joiner) = (issuer(), Node::running());
    let data = text(&joiner, "data.txt", 5_000);
    let dry = |key: &str| {
        let said = joiner.say(&format!(
            "join {key} --dry-run --json --timeout 3 --data {}",
            data.display()
        ));
        assert_eq!(said.code, 1, "{}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap()
    };
    let (nowhere, _) = mint(&issuer, "invite first --address /ip4/127.0.0.1/tcp/1");
    let preview = dry(&nowhere);
    assert_eq!(
        (&need(&preview, "issuer")["good"], &need(&preview, "key")["good"]),
        (&false.into(), &true.into())
    );
    assert!(
        need(&preview, "issuer")["finding"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    assert_eq!(
        need(&preview, "data")["good"],
        true,
        "what is here is looked at all the same"
    );

    let (revoked, block) = mint(&issuer, "invite first");
    issuer.ok(&format!("invite revoke first {block}"));
    let preview = dry(&revoked);
    assert_eq!(
        (&need(&preview, "issuer")["good"], &need(&preview, "key")["good"]),
        (&true.into(), &false.into())
    );
    assert!(need(&preview, "key")["finding"].as_str().unwrap().contains("revoked"));

    let preview = dry("synod1nonsense");
    assert_eq!(need(&preview, "key")["good"], false);

    let stopped = Node::new();
    let said = stopped.say(&format!("join {nowhere} --dry-run --data {}", data.display()));
    check_refusal("join", &said, 1, &["node"]);
    assert!(
        said.out.contains("no node is running") && said.out.contains("ok      data"),
        "{}",
        said.out
    );
}

#[test]
fn a_join_that_cannot_be_spends_no_use() {
    let (issuer, joiner) = (issuer(), Node::running());
    let (key, block) = mint(&issuer, "invite first");
    let (good, short) = (text(&joiner, "good.txt", 5_000), text(&joiner, "short.txt", 500));
    let join = |data: &PathBuf| format!("join {key} --timeout 30 --data {}", data.display());
    joiner.refused(&join(&short), 1, &["short.txt", "at least 1088"]);
    joiner.refused(&format!("join {key} --timeout 30"), 1, &["needs --data PATH", "1088"]);
    assert_eq!(listed(&issuer, &block)["spent"], 0);
    assert_eq!(joiner.json("session list --json"), Value::Array(Vec::new()));
    joiner.ok(&join(&good));
    let after = listed(&issuer, &block);
    assert_eq!(
        (&after["spent"], &after["left"], &after["standing"]),
        (&1.into(), &0.into(), &"used_up".into())
    );
}

#[test]
fn a_key_is_read_from_standard_input_and_from_a_file() {
    let (issuer, joiner) = (Node::running(), Node::running());
    issuer.ok("session create --preset synthetic --name first");
    issuer.refused("verify first", 1, &["`first`", "settled nothing yet"]);
    let (key, block) = mint(&issuer, "invite first");
    let file = joiner.home.path().join("key.txt");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let at = format!("@{}", file.display());

    let explained = joiner.json(&format!("invite explain {at} --json"));
    assert_eq!(explained["block"], block.as_str());
    let said = joiner.say_with_input("invite explain - --json", &key);
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), explained);
    let narrowed = joiner.json(&format!("invite narrow {at} --role trainer --json"));
    assert_eq!(narrowed["expires_unix_s"], explained["expires_unix_s"]);

    check_refusal(
        "join -",
        &joiner.say_with_input("join -", ""),
        1,
        &["standard input", "empty"],
    );
    joiner.refused("join @/no/such", 1, &["/no/such", "cannot read the key"]);
    joiner.refused("join @/", 1, &["cannot read the key", "directory"]);
    let said = joiner.say_with_input("join - --timeout 30 --json", &format!("  {key}\n"));
    assert_eq!(said.code, 0, "{}", said.err);
    let shared = Node::running();
    shared.refused(&format!("join {at} --timeout 30"), 1, &["used up"]);
    issuer.ok(&format!("invite revoke first {at}"));
}

#[test]
fn an_issuer_lists_its_keys_and_refuses_to_revoke_what_it_does_not_know() {
    let (issuer, joiner) = (Node::running(), Node::running());
    issuer.ok("session create --preset synthetic --name first");
    assert_eq!(issuer.json("invite list first --json"), Value::Array(Vec::new()));
    let (key, block) = mint(&issuer, "invite first --role trainer --uses 3 --expires 1h");
    let one = listed(&issuer, &block);
    assert_eq!(
        (&one["roles"], &one["left"], &one["standing"]),
        (&"trainer".into(), &3.into(), &"open".into())
    );
    assert!(
        !issuer.ok("invite list first --json").contains("synod1"),
        "no secret is shown"
    );

    let unknown = "0123456789abcdef0123456789abcdef";
    issuer.refused(
        &format!("invite revoke first {unknown}"),
        1,
        &["nothing was revoked", unknown, "invite list first"],
    );
    issuer.refused("invite revoke first abc", 1, &["does not name an invite"]);
    issuer.refused(
        "invite first --address 1.2.3.4",
        1,
        &["--address", "1.2.3.4", "multiaddr"],
    );
    issuer.refused("invite first --expires 99999d", 1, &["--expires 99999d", "3650 days"]);
    issuer.refused("invite revoke second abcd", 1, &["no session `second`"]);

    // A narrowed key that nobody has shown yet: its name says nothing, the key itself does.
    let narrowed = joiner.json(&format!("invite narrow {key} --uses 1 --json"));
    let (lesser, name) = (narrowed["key"].as_str().unwrap(), narrowed["block"].as_str().unwrap());
    issuer.refused(
        &format!("invite revoke first {name}"),
        1,
        &["nothing was revoked", "narrowed"],
    );
    let revoked = issuer.json(&format!("invite revoke first {lesser} --json"));
    assert_eq!((&revoked["block"], &revoked["already"]), (&name.into(), &false.into()));
    assert_eq!(listed(&issuer, name)["standing"], "revoked");
    joiner.refused(&format!("join {lesser} --timeout 30"), 1, &["revoked"]);

    joiner.ok(&format!("join {key} --timeout 30"));
    joiner.refused(
        &format!("invite revoke first {key}"),
        1,
        &["only that node can revoke it"],
    );
    assert_eq!(listed(&issuer, &block)["spent"], 1);
    let revoked = issuer.json(&format!("invite revoke first {} --json", &block[..6]));
    assert_eq!(
        (&revoked["block"], &revoked["spent"]),
        (&block.as_str().into(), &1.into())
    );
    let again = issuer.json(&format!("invite revoke first {block} --json"));
    assert_eq!(again["already"], true);
}

#[test]
fn a_stopped_node_is_read_by_several_at_once() {
    let node = Node::running();
    node.ok("session create --preset synthetic --name first");
    node.ok("stop");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut command = node.command("log first --json");
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for reader in readers {
        let output = reader.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap().is_array());
    }
    node.refused("export first ./model", 1, &["settled nothing yet"]);
    node.refused("generate first", 1, &["settled nothing yet"]);
}
