//! Reading configuration: defaults < file < environment (`SYNOD_…`) < flags, one layer over the other.
//! Every refusal names the place (file and line, variable or flag), the key, the value and the reason.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::node_config::NodeConfig;
use crate::session_config::{SessionConfigError, SessionFile};
use crate::trust::{Said, fill_rule};

/// One value that comes from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Where it was given, as the operator wrote it: `--device`, say.
    pub place: String,
    /// The dotted key.
    pub key: String,
    /// The value as text.
    pub value: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there or not readable.
    #[error("cannot read {path}: {reason}; {remedy}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A value is wrong.
    #[error("{place}: {key} = {value}: {reason}")]
    Value {
        /// File and line, variable or flag.
        place: String,
        /// The dotted key.
        key: String,
        /// The value as it stands there.
        value: String,
        /// Why it cannot be.
        reason: String,
    },
    /// The text is not TOML, or a key is unknown.
    #[error("{place}: {reason}")]
    Text {
        /// File and line.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

/// A node's configuration from all its layers. `environment` is the process's variables, all of them.
pub fn load_node(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[Override],
) -> Result<NodeConfig, LoadError> {
    let place = path.display().to_string();
    let text = read(path, "make one with `node init`")?;
    let file: NodeConfig = parse(&place, &text)?;
    if let Err((key, reason)) = file.check() {
        return Err(located(&place, &text, key, reason));
    }
    let mut table = toml::Table::try_from(&file).expect("a node's configuration is TOML");
    let keys = leaves(&toml::Table::try_from(NodeConfig::default()).expect("defaults are TOML"));
    let mut overrides = Vec::new();
    for (name, value) in environment {
        if let Some((key, _)) = keys.iter().find(|(key, _)| variable(key) == name) {
            overrides.push(Override {
                place: name,
                key: key.clone(),
                value,
            });
        }
    }
    overrides.extend_from_slice(flags);
    let mut config = file;
    for change in overrides {
        config = apply(&mut table, &keys, &change)?;
    }
    Ok(config)
}

/// The variable that sets `key`: `network.mdns` is `SYNOD_NETWORK_MDNS`.
pub fn variable(key: &str) -> String {
    format!("SYNOD_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Variables that look like settings and are none: a typing mistake that would go unnoticed.
pub fn unknown_variables<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let defaults = toml::Table::try_from(NodeConfig::default()).expect("defaults are TOML");
    let known: Vec<String> = leaves(&defaults).iter().map(|(key, _)| variable(key)).collect();
    let sections: Vec<String> = defaults.keys().map(|section| variable(section) + "_").collect();
    let looks_like_one = |name: &&str| sections.iter().any(|section| name.starts_with(section.as_str()));
    let unknown = |name: &&str| !known.iter().any(|known| known == name);
    names.into_iter().filter(looks_like_one).filter(unknown).collect()
}

/// A session file from disk.
pub fn load_session(path: &Path) -> Result<SessionFile, LoadError> {
    let text = read(
        path,
        "give a session file (`node session create --help` shows one) or --preset NAME",
    )?;
    parse_session(&path.display().to_string(), &text)
}

/// A session file from text; `place` names it in errors. A file that names neither a rule nor steps before it gets those
/// for members that do not trust each other, as far as their number allows.
pub fn parse_session(place: &str, text: &str) -> Result<SessionFile, LoadError> {
    let mut file = session_as_written(place, text)?;
    let keys: toml::Table = parse(place, text)?;
    let aggregation = keys.get("aggregation").and_then(toml::Value::as_table);
    let says = |key| aggregation.is_some_and(|table| table.contains_key(key));
    let said = Said {
        rule: says("rule") || says("pre"),
        worker: says("worker"),
        outer: says("outer"),
        mixing: says("mixing"),
        encoding: says("encoding"),
    };
    fill_rule(&mut file, said);
    Ok(file)
}

/// The same, with nothing filled in but each key's own default.
pub fn session_as_written(place: &str, text: &str) -> Result<SessionFile, LoadError> {
    parse(place, text)
}

/// Adds file and line to a refusal of a value that came from a session file's text.
pub fn locate(place: &str, text: &str, error: SessionConfigError) -> LoadError {
    match error {
        SessionConfigError::Value { key, value, reason } => {
            let at = find(text, &key).map_or_else(|| place.to_owned(), |span| at_line(place, text, span.start));
            LoadError::Value {
                place: at,
                key,
                value,
                reason,
            }
        }
        other => LoadError::Text {
            place: place.to_owned(),
            reason: other.to_string(),
        },
    }
}

fn read(path: &Path, remedy: &'static str) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|error| LoadError::Unreadable {
        path: path.display().to_string(),
        reason: error.to_string(),
        remedy: match error.kind() {
            std::io::ErrorKind::NotFound => remedy,
            std::io::ErrorKind::InvalidData => "mend it, or move it away and make a new one",
            _ => "look at its owner and mode",
        },
    })
}

fn parse<T: DeserializeOwned>(place: &str, text: &str) -> Result<T, LoadError> {
    toml::from_str(text).map_err(|error| {
        let reason = error.message().trim().replace('\n', ", ");
        let Some(span) = error.span() else {
            return LoadError::Text {
                place: place.to_owned(),
                reason,
            };
        };
        let place = at_line(place, text, span.start);
        match key_at(text, &span) {
            Some((key, value)) => LoadError::Value {
                place,
                key,
                value,
                reason,
            },
            None => LoadError::Text { place, reason },
        }
    })
}

fn located(place: &str, text: &str, key: String, reason: String) -> LoadError {
    match find(text, &key) {
        Some(span) => {
            let value = text[span.clone()].to_owned();
            LoadError::Value {
                place: at_line(place, text, span.start),
                key,
                value,
                reason,
            }
        }
        None => LoadError::Text {
            place: place.to_owned(),
            reason: format!("{key}: {reason}"),
        },
    }
}

fn at_line(place: &str, text: &str, at: usize) -> String {
    let line = text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1;
    format!("{place}, line {line}")
}

/// The span of the value of a dotted key; of the longest prefix of it that is there.
fn find(text: &str, key: &str) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut span) = (root.get_ref(), None);
    for part in key.split('.') {
        let Some((_, value)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part) else {
            break;
        };
        span = Some(value.span());
        match value.get_ref() {
            DeValue::Table(next) => table = next,
            _ => break,
        }
    }
    span
}

/// The dotted key whose value (not a table) holds `span`, and that value as it stands in the text.
fn key_at(text: &str, span: &Range<usize>) -> Option<(String, String)> {
    fn walk(table: &DeTable<'_>, prefix: &str, at: usize) -> Option<(String, Range<usize>)> {
        for (name, value) in table.iter() {
            let key = format!("{prefix}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(next) => {
                    if let Some(found) = walk(next, &format!("{key}."), at) {
                        return Some(found);
                    }
                }
                _ if value.span().contains(&at) => return Some((key, value.span())),
                _ => {}
            }
        }
        None
    }
    let root = DeTable::parse(text).ok()?;
    let (key, at) = walk(root.get_ref(), "", span.start)?;
    Some((key, text[at].to_owned()))
}

/// Every key of a table that holds no table, dotted, with its value.
fn leaves(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => {
                found.extend(
                    leaves(inner)
                        .into_iter()
                        .map(|(key, value)| (format!("{name}.{key}"), value)),
                );
            }
            leaf => found.push((name.clone(), leaf.clone())),
        }
    }
    found
}

/// Lays one value over the table and reads the whole again.
fn apply(table: &mut toml::Table, keys: &[(String, toml::Value)], change: &Override) -> Result<NodeConfig, LoadError> {
    let refuse = |reason: String| LoadError::Value {
        place: change.place.clone(),
        key: change.key.clone(),
        value: format!("\"{}\"", change.value),
        reason,
    };
    let Some((_, like)) = keys.iter().find(|(key, _)| *key == change.key) else {
        return Err(refuse(
            "there is no such setting; the file that `node init` writes lists them all".to_owned(),
        ));
    };
    let value = typed(&change.value, like).map_err(refuse)?;
    let mut at = &mut *table;
    let (section, name) = change.key.rsplit_once('.').unwrap_or(("", &change.key));
    for part in section.split('.').filter(|part| !part.is_empty()) {
        let inner = at.get_mut(part).and_then(toml::Value::as_table_mut);
        at = inner.expect("every section of the defaults is in every configuration");
    }
    at.insert(name.to_owned(), value);
    let config = NodeConfig::deserialize(table.clone()).map_err(|error| refuse(error.message().trim().to_owned()))?;
    config.check().map_err(|(_, reason)| refuse(reason))?;
    Ok(config)
}

/// Reads text as the same kind of value as `like`; lists are separated by commas.
fn typed(text: &str, like: &toml::Value) -> Result<toml::Value, String> {
    match like {
        toml::Value::Boolean(_) => match text {
            "true" | "1" => Ok(true.into()),
            "false" | "0" => Ok(false.into()),
            _ => Err("expected true or false".to_owned()),
        },
        toml::Value::Integer(_) => text
            .parse::<i64>()
            .map(Into::into)
            .map_err(|_| "expected a whole number".to_owned()),
        toml::Value::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(toml::Value::Array(parts.map(|part| part.to_owned().into()).collect()))
        }
        _ => Ok(text.to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    use synod_aggregation::{Composition, MixingConfig, OuterConfig, RuleConfig};

    use super::*;
    use crate::session_config::AggregationConfig;

    fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Result<NodeConfig, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags: Vec<_> = flags
            .iter()
            .map(|(place, key, value)| Override {
                place: (*place).into(),
                key: (*key).into(),
                value: (*value).into(),
            })
            .collect();
        load_node(&path, variables, &flags)
    }

    #[test]
    fn each_layer_wins_over_the_one_below() {
        assert!(load("", &[], &[]).unwrap().network.mdns);
        let file = "[network]\nmdns = false\n[compute]\nthreads = 3";
        assert!(!load(file, &[], &[]).unwrap().network.mdns);
        let variables = [
            ("SYNOD_NETWORK_MDNS", "true"),
            ("SYNOD_COMPUTE_THREADS", "4"),
            ("PATH", "/bin"),
        ];
        let config = load(file, &variables, &[("--threads", "compute.threads", "5")]).unwrap();
        assert!(config.network.mdns);
        assert_eq!(config.compute.threads, 5);
        let listed = load(
            "",
            &[("SYNOD_NETWORK_LISTEN", "/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.4/tcp/2")],
            &[],
        )
        .unwrap();
        assert_eq!(listed.network.listen, ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"]);
    }

    #[test]
    fn refusals_name_place_key_value_and_reason() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
        let cases: [Case<'_>; 6] = [
            (
                "\n[network]\nmdns = 'yes'",
                &[],
                &["config.toml, line 3", "network.mdns = 'yes'", "expected a boolean"],
            ),
            (
                "[network]\nmdsn = true",
                &[],
                &["config.toml, line 2", "mdsn", "unknown field"],
            ),
            (
                "[compute]\n\ndevice = 'gpu'",
                &[],
                &["line 3", "compute.device = 'gpu'", "cuda:N"],
            ),
            ("[network\n", &[], &["config.toml, line 1"]),
            (
                "",
                &[("SYNOD_COMPUTE_THREADS", "many")],
                &["SYNOD_COMPUTE_THREADS", "\"many\"", "whole number"],
            ),
            (
                "",
                &[("SYNOD_COMPUTE_DEVICE", "gpu")],
                &["SYNOD_COMPUTE_DEVICE", "compute.device", "cuda:N"],
            ),
        ];
        for (text, variables, parts) in cases {
            let error = load(text, variables, &[]).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
        let error = load("", &[], &[("--set", "network.nothing", "1")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such setting"), "{error}");
    }

    #[test]
    fn numbers_beyond_the_formats_own_and_mistyped_variables_are_named() {
        for (key, text) in [
            ("retention.max_bytes", "[retention]\nmax_bytes = 9223372036854775808"),
            ("retention.rounds", "[retention]\nrounds = 18446744073709551615"),
        ] {
            let error = load(text, &[], &[]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("9223372036854775807"), "{error}");
        }
        let names = ["SYNOD_NETWORK_MDSN", "SYNOD_NETWORK_MDNS", "SYNOD_DATA", "HOME"];
        assert_eq!(unknown_variables(names), ["SYNOD_NETWORK_MDSN"]);
        let filter = load("[log]\nlevel = 'info,synod_node::network=debug'", &[], &[]);
        assert!(filter.is_ok(), "{filter:?}");
        assert!(load("[log]\nlevel = 'info,,x'", &[], &[]).is_err());
    }

    #[test]
    fn a_file_without_a_rule_gets_a_robust_one_for_its_members() {
        let aggregation = |text: &str| parse_session("mine.toml", text).unwrap().aggregation;
        let four = aggregation("[protocol]\nmin_members = 4");
        assert_eq!(four.composition(), Composition::robust(1));
        assert_eq!((four.worker.momentum, four.outer), (0.9, OuterConfig::AVERAGING));
        let nine = aggregation("[protocol]\nmin_members = 9\n[aggregation]\nencoding = 'f32'");
        assert_eq!(nine.composition(), Composition::robust(2));
        let in_shards = aggregation("[protocol]\nmin_members = 4\n[protocol.topology.sharded]\nshards = 4");
        assert_eq!(
            in_shards.composition(),
            Composition::of(RuleConfig::TrimmedMean { f: 1 })
        );
        // Two cannot outvote each other, and what the file says stands.
        let two = aggregation("[protocol]\nmin_members = 2");
        assert_eq!(two, AggregationConfig::default());
        let said = aggregation("[protocol]\nmin_members = 4\n[aggregation]\nrule = 'mean'");
        assert_eq!(said, AggregationConfig::default());
        // Under masks the mean stays, or the rule is one across groups.
        let sums = |more: &str| {
            aggregation(&format!(
                "[protocol]\nmin_members = 12\n[aggregation.privacy.secure_sum]\n{more}"
            ))
        };
        assert_eq!(sums("").composition(), AggregationConfig::default().composition());
        assert_eq!(sums("group_size = 4").composition(), Composition::robust(1));
        let graph = |more: &str| {
            format!("[protocol]\nmin_members = 5\n[protocol.topology.decentralized]\ngraph = 'complete'\n{more}")
        };
        let mixed = aggregation(&graph(""));
        assert_eq!(mixed.mixing, MixingConfig::NearestNeighbours { b: 1 });
        assert_eq!(mixed.composition(), AggregationConfig::default().composition());
        assert_eq!(
            aggregation(&graph("[aggregation]\nmixing = 'gossip'")).mixing,
            MixingConfig::Gossip
        );
        let outer = aggregation("[protocol]\nmin_members = 4\n[aggregation.outer]\nmomentum = 0.5");
        assert_eq!((outer.worker.momentum, outer.outer.momentum), (0.0, 0.5));
    }

    #[test]
    fn a_session_files_cross_checks_tell_the_line() {
        let text = "name = 'a'\n[protocol]\nrounds = 0\n";
        let file = parse_session("s.toml", text).unwrap();
        let error = file.found(synod_protocol::identity::PeerId([0; 32]), 0).unwrap_err();
        let error = locate("s.toml", text, error).to_string();
        assert_eq!(error, "s.toml, line 3: protocol.rounds = 0: it must be 1 to 1000000");
        let error = parse_session("s.toml", "[training]\nlocal_step = 3")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("s.toml, line 2") && error.contains("local_step"),
            "{error}"
        );
    }
}
