//! The plan of the house, held by a test: who imports whom, which package has which door, and what is absent where.
//! It reads sources and manifests as text; docs/ARCHITECTURE.md says why each rule is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates by level; a crate imports only from lower levels.
const LEVELS: &[(&str, u8)] = &[
    ("protocol", 0),
    ("aggregation", 0),
    ("storage", 1),
    ("training", 1),
    ("config", 2),
    ("node", 3),
    ("testnet", 3),
    ("tests", 4),
];

/// Heavy packages and the one place where each may be named.
const DOORS: &[(&str, &[&str])] = &[
    ("burn::", &["training/src/"]),
    ("rocksdb::", &["storage/src/rocks_store.rs"]),
    ("libp2p::", &["node/src/network/"]),
    ("libp2p_stream::", &["node/src/network/"]),
    ("quinn::", &["node/src/network/"]),
    ("axum::", &["node/src/api/"]),
    ("clap::", &["node/src/cli.rs", "testnet/src/cli.rs"]),
    ("Device::cuda", &["training/src/device.rs"]),
    ("arc_malachitebft", &["protocol/src/topology/tendermint.rs"]),
];

/// What the pure crates must not know.
const IMPURE: &[&str] = &[
    "SystemTime",
    "Instant",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "getrandom",
    "OsRng",
    "thread_rng",
    "HashMap",
    "HashSet",
    "tokio",
];

/// Functions whose last bit depends on the platform.
const INEXACT: &[&str] = &[
    ".exp()", ".exp2()", ".ln()", ".log2()", ".log10()", ".powf(", ".sin()", ".cos()", ".tanh()",
];

/// Where these are allowed all the same, because nothing that members agree on depends on the result (decision 0010).
const INEXACT_ALLOWED: &[&str] = &["aggregation/src/privacy/accountant/"];

/// The traits of the workspace; another one needs a decision record.
const TRAITS: &[&str] = &["Trainer", "Aggregator", "Encoder", "Store", "Content"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_owned()
}

/// All Rust sources of a folder of the workspace, as (path from the root, text).
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder's entry is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .expect("below the root")
                    .to_string_lossy()
                    .into_owned();
                found.push((name, fs::read_to_string(&path).expect("sources are UTF-8")));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn all_sources() -> Vec<(String, String)> {
    LEVELS
        .iter()
        .filter(|(name, _)| *name != "tests")
        .flat_map(|(name, _)| sources(&format!("{name}/src")))
        .collect()
}

/// The lines of code with their numbers: comments are left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The code before the first test module.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn a_crate_imports_only_from_lower_levels() {
    let levels: BTreeMap<&str, u8> = LEVELS.iter().copied().collect();
    let mut offences = Vec::new();
    for (name, level) in LEVELS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("each crate has a manifest");
        let manifest: toml::Table = manifest.parse().expect("manifests are TOML");
        let Some(dependencies) = manifest.get("dependencies").and_then(|table| table.as_table()) else {
            continue;
        };
        for dependency in dependencies.keys().filter_map(|key| key.strip_prefix("synod-")) {
            if levels[dependency] >= *level {
                offences.push(format!("{name} imports {dependency}"));
            }
        }
    }
    assert_none("imports go down", &offences);
}

#[test]
fn each_heavy_package_has_one_door() {
    let mut offences = Vec::new();
    for (path, text) in all_sources() {
        for (package, doors) in DOORS {
            let inside = doors.iter().any(|door| path.starts_with(door));
            let named = code(&text).find(|(_, line)| line.contains(package));
            if let (false, Some((at, _))) = (inside, named) {
                offences.push(format!(
                    "{path}:{at} names {package}, whose door is {}",
                    doors.join(" or ")
                ));
            }
        }
    }
    assert_none("one door a package", &offences);
}

#[test]
fn what_peers_agree_on_has_no_clock_no_disk_no_chance_and_no_inexact_function() {
    let mut offences = Vec::new();
    for (path, text) in [sources("protocol/src"), sources("aggregation/src")].concat() {
        let allowed = INEXACT_ALLOWED.iter().any(|folder| path.starts_with(folder));
        let inexact = if allowed { &[][..] } else { INEXACT };
        for (at, line) in code(shipped(&text)) {
            for word in IMPURE.iter().chain(inexact).filter(|word| line.contains(**word)) {
                offences.push(format!("{path}:{at} has {word}"));
            }
        }
    }
    assert_none("absent from protocol and aggregation", &offences);
}

#[test]
fn the_simulator_builds_without_engine_disk_or_network() {
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "synod-testnet",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let heavy = ["burn ", "rocksdb ", "libp2p ", "tokio ", "quinn "];
    let offences: Vec<String> = tree
        .lines()
        .filter(|line| heavy.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect();
    assert_none("the simulator is light", &offences);
}

#[test]
fn every_file_says_what_it_is() {
    let headless = all_sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path);
    assert_none("files without a module header", &headless.collect::<Vec<_>>());
}

#[test]
fn no_file_grows_past_its_reader() {
    let long = all_sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 900);
    assert_none(
        "files over 900 lines",
        &long.map(|(path, lines)| format!("{path}: {lines}")).collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_unbounded_or_shared_behind_a_lock() {
    let mut offences = Vec::new();
    for (path, text) in all_sources() {
        for (at, line) in code(shipped(&text)) {
            for word in [
                "unbounded_channel",
                "mpsc::channel()",
                "Arc<Mutex",
                "Arc<RwLock",
                "todo!(",
                "unimplemented!(",
            ] {
                if line.contains(word) {
                    offences.push(format!("{path}:{at} has {word}"));
                }
            }
        }
    }
    assert_none("absent everywhere", &offences);
}

#[test]
fn there_are_no_traits_without_a_decision() {
    let mut offences = Vec::new();
    for (path, text) in all_sources() {
        for (at, line) in code(shipped(&text)) {
            let declared = ["pub trait ", "pub(crate) trait ", "trait "]
                .iter()
                .find_map(|start| line.trim_start().strip_prefix(start))
                .map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default());
            if let Some(name) = declared.filter(|name| !TRAITS.contains(name)) {
                offences.push(format!("{path}:{at} declares {name}"));
            }
        }
    }
    assert_none("traits are few", &offences);
}
