//! Sessions over tokens of a tokenizer, at the real binary, over real nodes on loopback: how a tokenizer is made, named,
//! passed on and kept, what is said of damaged data, and what each wrong file is told.

// The helpers of a test fail it by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used)]

mod operating;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use operating::Node;

const SESSION: &str = "name = 'first'
[protocol]
rounds = 6
min_members = 2
quorum_percent = 50
heartbeat_ms = 250
lost_after_ms = 5000
deadline = { floor_ms = 2000, cap_ms = 20000, k = 6 }
[training]
local_steps = 2
batch_sequences = 2
[training.model.decoder]
layers = 1
heads = 2
width = 16
context = 16
";

/// Sentences of a small made-up language in an order that the seed decides.
fn sentences(seed: u64, count: usize) -> Vec<String> {
    let words = [
        "lumen", "ora", "veni", "terra", "sol", "mare", "ignis", "aqua", "nox", "dies", "via", "pax",
    ];
    let mut state = seed;
    let mut word = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 33) as usize % words.len()]
    };
    (0..count)
        .map(|_| (0..60).map(|_| word()).collect::<Vec<_>>().join(" "))
        .collect()
}

fn write(node: &Node, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = node.home.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn lines(seed: u64, count: usize) -> String {
    let line = |text: &String| format!("{}\n", serde_json::json!({ "text": text }));
    sentences(seed, count).iter().map(line).collect()
}

/// A tokenizer that was trained on sentences of this seed.
fn trained(node: &Node, name: &str, seed: u64) -> PathBuf {
    let text = write(node, "for-tokenizer.txt", sentences(seed, 40).join("\n"));
    let out = node.home.path().join(name);
    node.ok(&format!(
        "tokenizer train --data {} --size 300 --out {}",
        text.display(),
        out.display()
    ));
    out
}

fn key(node: &Node) -> String {
    node.json("invite first --json")["key"].as_str().unwrap().to_owned()
}

fn need<'a>(preview: &'a Value, what: &str) -> &'a Value {
    let needs = preview["needs"].as_array().unwrap();
    needs.iter().find(|need| need["what"] == what).unwrap()
}

fn wait_until_finished(node: &Node) {
    let began = Instant::now();
    loop {
        let said = node.say("session show first --json");
        let shown: Value = serde_json::from_str(&said.out).unwrap_or_default();
        if shown["session"]["lifecycle"] == "finished" {
            return;
        }
        assert!(
            said.code == 0 && began.elapsed() < Duration::from_secs(120),
            "the session does not finish: {} {} {}",
            said.out,
            said.err,
            node.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The folders of tokens that a node keeps, each with the number of its file.
fn kept_tokens(node: &Node) -> Vec<(PathBuf, u64)> {
    let folder = std::fs::read_dir(node.dir().join("tokens")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .map(|path| {
            let inode = std::fs::metadata(path.join("tokens.bin")).unwrap().ino();
            (path, inode)
        })
        .collect();
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_session_over_a_trained_tokenizer_runs_where_only_its_creator_had_the_file() {
    let (creator, mut joiner) = (Node::running(), Node::running());
    let tokenizer = trained(&creator, "tokenizer.json", 1);
    let tokenizer_bytes = read(&tokenizer);
    let file = write(&creator, "first.toml", SESSION);
    let text = write(&creator, "text.txt", sentences(2, 40).join("\n"));
    let more = write(&creator, "more.jsonl", lines(3, 40));
    let created = creator.json(&format!(
        "session create {} --tokenizer {} --data {} --data {} --json",
        file.display(),
        tokenizer.display(),
        text.display(),
        more.display()
    ));
    let notes = created["notes"].to_string();
    assert!(
        notes.contains("tokens for training") && notes.contains("from 2 files"),
        "{notes}"
    );
    let shown = creator.json("session show first --json");
    let named = &shown["config"]["training"]["model"]["decoder"]["vocabulary"]["tokenizer"];
    assert_eq!(named["blake3"], blake3::hash(&tokenizer_bytes).to_hex().as_str());
    assert_eq!(shown["session"]["data"].as_array().unwrap().len(), 2);
    // The node has its own copy.
    std::fs::remove_file(&tokenizer).unwrap();

    let damaged = format!("{}not JSON\n", lines(4, 80));
    let data = write(&joiner, "data.jsonl", damaged);
    let key = key(&creator);
    let preview = joiner.json(&format!("join {key} --data {} --dry-run --json", data.display()));
    assert_eq!(preview["ready"], true, "{preview}");
    let (tokenizer, found) = (need(&preview, "tokenizer"), need(&preview, "data"));
    assert!(
        tokenizer["finding"].as_str().unwrap().contains("came from"),
        "{tokenizer}"
    );
    assert!(tokenizer["need"].as_str().unwrap().contains("tokens"), "{tokenizer}");
    assert!(found["finding"].as_str().unwrap().contains("data.jsonl:81"), "{found}");
    let joined = joiner.json(&format!("join {key} --data {} --json", data.display()));
    let notes = joined["notes"].to_string();
    assert!(
        notes.contains("1 lines that are no JSON object") && notes.contains("data.jsonl:81"),
        "{notes}"
    );
    let kept = kept_tokens(&joiner);
    assert_eq!(kept.len(), 1);
    joiner.kill();
    joiner.start();
    wait_until_finished(&creator);
    wait_until_finished(&joiner);
    assert_eq!(kept_tokens(&joiner), kept, "tokens are made once");
    assert!(joiner.log().contains("data.jsonl:81"), "{}", joiner.log());

    // The certificates hold at a running node, at a stopped one, and in a file; and a bent file does not.
    let (verified, rounds) = (creator.json("verify first --json"), 6);
    assert_eq!(
        (&verified["rounds"], &verified["fault"]),
        (&Value::from(rounds), &Value::Null),
        "{verified}"
    );
    joiner.ok("stop");
    let chain = joiner.home.path().join("first.chain");
    let line = format!("verify first --write {} --json", chain.display());
    let again = joiner.json(&line);
    assert_eq!(again["state"], verified["state"]);
    let recomputed = again["recomputed"].as_array().unwrap();
    assert!(recomputed.contains(&Value::from(rounds)), "{again}");
    joiner.refused(&line, 1, &["--write", "first.chain"]);
    let in_file = joiner.json(&format!("verify {} --json", chain.display()));
    assert_eq!(
        (&in_file["state"], &in_file["rounds"]),
        (&verified["state"], &verified["rounds"])
    );
    let bytes = read(&chain);
    let mut bent = bytes.clone();
    // The last bytes are of the last signature.
    *bent.last_mut().unwrap() ^= 1;
    let bent = write(&joiner, "bent.chain", bent);
    joiner.refused(
        &format!("verify {}", bent.display()),
        1,
        &["round 6 does not hold", "signature"],
    );
    let cut = write(&joiner, "cut.chain", &bytes[..bytes.len() / 2]);
    joiner.refused(&format!("verify {}", cut.display()), 1, &["cut.chain", "damaged"]);
    let model = joiner.home.path().join("model");
    joiner.ok(&format!("export first {}", model.display()));
    assert_eq!(read(model.join("tokenizer.json")), tokenizer_bytes);
    let about: Value = serde_json::from_slice(&read(model.join("tokenizer_config.json"))).unwrap();
    assert_eq!(about["eos_token"], "<|endoftext|>");
    let file = joiner.home.path().join("model.gguf");
    joiner.ok(&format!("export first {}", file.display()));
    joiner.refused(&format!("export first {}", file.display()), 1, &["model.gguf exists"]);
    let again = joiner.home.path().join("again");
    joiner.refused(
        &format!("export {} {} --precision q8_0", file.display(), again.display()),
        1,
        &["--precision", ".gguf"],
    );
    joiner.ok(&format!("export {} {}", file.display(), again.display()));
    assert_eq!(
        read(again.join("model.safetensors")),
        read(model.join("model.safetensors")),
        "through the file and back"
    );
    let fields = write(
        &joiner,
        "fields.jsonl",
        "{\"body\": \"sol lucet omnibus, et luna\"}\n".repeat(3),
    );
    let line = format!("evaluate {} --data {}", file.display(), fields.display());
    joiner.refused(&line, 1, &["fields.jsonl"]);
    joiner.ok(&format!("{line} --text-field body"));
    let whole_loss = |origin: &Path| {
        let line = format!("evaluate {} --data {} --json", origin.display(), data.display());
        let measured = joiner.json(&line);
        (measured["loss"].to_string(), measured["tokens"].to_string())
    };
    assert_eq!(whole_loss(&file), whole_loss(&model), "the tokenizer came along");
    for origin in ["first".to_owned(), model.display().to_string()] {
        // A model that has learned little may draw bytes that are no text.
        let line = format!("generate {origin} --prompt sol --tokens 5");
        let generated = joiner.command(&line).output().unwrap();
        assert!(
            generated.status.success() && generated.stdout.starts_with(b"sol"),
            "{generated:?}"
        );
        for heldout in ["", "--heldout"] {
            let line = format!("evaluate {origin} --data {} {heldout} --json", data.display());
            let measured = joiner.json(&line);
            assert!(measured["loss"].as_f64().unwrap() > 0.0, "{measured}");
            // Far fewer tokens than bytes.
            let tokens = measured["tokens"].as_f64().unwrap();
            assert!(tokens > 0.0 && tokens < read(&data).len() as f64 / 2.0, "{measured}");
        }
    }
}

#[test]
fn a_tokenizer_that_is_not_the_sessions_is_refused_with_the_reason() {
    let node = Node::running();
    let (right, wrong) = (trained(&node, "right.json", 1), trained(&node, "wrong.json", 9));
    let file = write(&node, "first.toml", SESSION);
    let text = write(&node, "text.txt", sentences(2, 80).join("\n"));
    let create =
        |file: &Path, rest: &str| format!("session create {} --data {} {rest}", file.display(), text.display());
    let shown = node.ok(&format!("tokenizer show {}", right.display()));
    let named = write(&node, "named.toml", format!("{SESSION}{shown}"));
    node.refused(&create(&named, ""), 1, &["BLAKE3", "give --tokenizer FILE"]);
    let with = |path: &Path| format!("--tokenizer {}", path.display());
    node.refused(
        &create(&named, &with(&wrong)),
        1,
        &["named.toml", "wrong.json has BLAKE3", "get the session's file"],
    );
    let small = shown.replace("size = 300", "size = 280");
    assert_ne!(small, shown);
    let small = write(&node, "small.toml", format!("{SESSION}{small}"));
    node.refused(
        &create(&small, &with(&right)),
        1,
        &["has 300 tokens", "vocabulary has only 280"],
    );
    let bytes = read(&right);
    let cut = write(&node, "cut.json", &bytes[..bytes.len() / 2]);
    node.refused(&create(&file, &with(&cut)), 1, &["cut.json is no tokenizer"]);
    let huge = node.home.path().join("huge.json");
    std::fs::File::create(&huge).unwrap().set_len((256 << 20) + 1).unwrap();
    node.refused(
        &create(&file, &with(&huge)),
        1,
        &["huge.json", "more than 268435456 bytes"],
    );
    node.refused(&create(&file, "--tokenizer nowhere.json"), 1, &["nowhere.json"]);
    node.refused(
        &create(&file, &format!("{} --eod [END]", with(&right))),
        1,
        &["it has no token [END]", "--eod"],
    );
    let preset = format!("session create --preset synthetic {}", with(&right));
    node.refused(&preset, 1, &["trains no language model", "leave --tokenizer"]);
    assert_eq!(node.json("session list --json"), Value::Array(Vec::new()));

    node.ok(&create(&named, &with(&right)));
    let joiner = Node::running();
    let data = write(&joiner, "data.jsonl", lines(4, 80));
    let line = format!("join {} --data {} {}", key(&node), data.display(), with(&wrong));
    joiner.refused(&line, 1, &["wrong.json has BLAKE3", "get the session's file"]);
    let preview = joiner.say(&format!("{line} --dry-run"));
    assert_eq!(preview.code, 1);
    assert!(preview.out.contains("MISSING tokenizer"), "{}", preview.out);
    assert_eq!(joiner.json("session list --json"), Value::Array(Vec::new()));
}

#[test]
fn a_session_over_bytes_takes_no_tokenizer_and_training_one_overwrites_nothing() {
    let (node, joiner) = (Node::running(), Node::running());
    let tokenizer = trained(&node, "tokenizer.json", 1);
    let text = write(&node, "text.txt", sentences(2, 80).join("\n"));
    let file = write(&node, "first.toml", SESSION);
    node.ok(&format!("session create {} --data {}", file.display(), text.display()));
    joiner.refused(
        &format!(
            "join {} --data {} --tokenizer {}",
            key(&node),
            text.display(),
            tokenizer.display()
        ),
        1,
        &["has no tokenizer", "leave --tokenizer"],
    );
    let train = |size: &str, out: &Path| {
        format!(
            "tokenizer train --data {} --size {size} --out {}",
            text.display(),
            out.display()
        )
    };
    let before = read(&tokenizer);
    node.refused(&train("300", &tokenizer), 1, &["--out", "choose another name"]);
    assert_eq!(read(&tokenizer), before);
    let other = node.home.path().join("other.json");
    node.refused(&train("10", &other), 1, &["--size 10", "256 bytes"]);
    let empty = write(&node, "empty.txt", "");
    node.refused(
        &format!(
            "tokenizer train --data {} --size 300 --out {}",
            empty.display(),
            other.display()
        ),
        1,
        &["empty.txt", "no text"],
    );
    assert!(!other.exists(), "nothing half-written");
}
