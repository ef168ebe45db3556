//! A node's configuration: what is this machine's business and nobody else's, with the commented file that `node init` writes.
//! It resolves no address and opens no device; the parts that use a value do, and say what failed.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use synod_training::device::DeviceChoice;

/// The control plane's port where nothing else is chosen; the bulk plane listens on the next one.
pub const DEFAULT_PORT: u16 = 7600;

/// The file that `node init` writes: every setting, its default and its meaning.
pub const TEMPLATE: &str = include_str!("../presets/node.toml");

/// One machine's settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Ports, addresses, discovery.
    pub network: NetworkSection,
    /// Device and threads.
    pub compute: ComputeSection,
    /// How this machine's data is written.
    pub text: TextSection,
    /// What is logged, and how.
    pub log: LogSection,
    /// What is kept, and for how long.
    pub retention: RetentionSection,
    /// The door for the command line.
    pub api: ApiSection,
}

/// Ports, addresses, discovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSection {
    /// Multiaddrs of the control plane.
    pub listen: Vec<String>,
    /// UDP address of the bulk plane; the same port is used over TCP as a fallback.
    pub bulk_listen: SocketAddr,
    /// Multiaddrs under which the control plane is reachable from outside.
    pub external: Vec<String>,
    /// Addresses under which the bulk plane is reachable from outside.
    pub bulk_external: Vec<SocketAddr>,
    /// Multiaddrs with `/p2p/…` that are dialled at start.
    pub bootstrap: Vec<String>,
    /// Multiaddrs with `/p2p/…` of relays to listen on.
    pub relays: Vec<String>,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Find members' addresses through other members.
    pub kademlia: bool,
    /// Carry other peers' traffic.
    pub relay_server: bool,
    /// Learn from peers whether this machine is reachable.
    pub autonat: bool,
    /// Fetch blobs over QUIC (else TLS over TCP).
    pub bulk_quic: bool,
    /// Connections in all.
    pub connections_max: u32,
}

impl Default for NetworkSection {
    fn default() -> Self {
        Self {
            listen: vec![
                format!("/ip4/0.0.0.0/udp/{DEFAULT_PORT}/quic-v1"),
                format!("/ip4/0.0.0.0/tcp/{DEFAULT_PORT}"),
            ],
            bulk_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT + 1)),
            external: Vec::new(),
            bulk_external: Vec::new(),
            bootstrap: Vec::new(),
            relays: Vec::new(),
            mdns: true,
            kademlia: true,
            relay_server: false,
            autonat: true,
            bulk_quic: true,
            connections_max: 512,
        }
    }
}

/// Device and threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComputeSection {
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Threads for arithmetic; 0: one a core.
    pub threads: usize,
}

impl Default for ComputeSection {
    fn default() -> Self {
        Self {
            device: "auto".to_owned(),
            threads: 0,
        }
    }
}

/// How this machine's data is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSection {
    /// The key of JSON Lines, or the column of Parquet files, that holds a document's text.
    pub field: String,
}

impl Default for TextSection {
    /// As data sets of language models mostly have it.
    fn default() -> Self {
        Self {
            field: "text".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line, for machines.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug` or `trace`, or filters of modules as in `info,synod_node::network=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// Bytes of a session's event log; at the bound the older half is dropped.
    pub events_max_bytes: u64,
    /// Bytes of a recording of all that a session's machine is told, for `testnet replay`; at the bound it ends. 0: none.
    pub record_max_bytes: u64,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Pretty,
            events_max_bytes: 16 << 20,
            // Heartbeats and claims of a few members fill a megabyte in minutes: only who looks for a bug wants that.
            record_max_bytes: 0,
        }
    }
}

/// What is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Settled rounds whose states and updates stay on disk beyond those that the session needs.
    pub rounds: u64,
    /// Bytes of blobs that a session may keep, beyond its newest round; the oldest rounds go first.
    pub max_bytes: u64,
    /// The node refuses to start with less free space than this, in bytes.
    pub min_free_bytes: u64,
}

impl Default for RetentionSection {
    fn default() -> Self {
        // Two rounds: a member that was away for a moment still finds what it missed.
        Self {
            rounds: 2,
            // Four members' updates and states of a model of 500 M parameters for three rounds.
            max_bytes: 32 << 30,
            min_free_bytes: 256 << 20,
        }
    }
}

/// The door for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSection {
    /// Path of the Unix socket, relative to the data directory.
    pub socket: String,
}

impl Default for ApiSection {
    fn default() -> Self {
        Self {
            socket: "node.sock".to_owned(),
        }
    }
}

/// Levels, alone or after a module's path and `=`, separated by commas.
fn is_log_filter(text: &str) -> bool {
    let is_level = |level: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
    let is_path = |path: &str| !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
    text.split(',').all(|part| match part.split_once('=') {
        Some((path, level)) => is_path(path) && is_level(level),
        None => is_level(part),
    })
}

impl NodeConfig {
    /// Refuses what no part could use: the key, and the reason.
    pub fn check(&self) -> Result<(), (String, String)> {
        let refuse = |key: &str, reason: String| Err((key.to_owned(), reason));
        if let Err(error) = self.compute.device.parse::<DeviceChoice>() {
            return refuse("compute.device", error.to_string());
        }
        if self.compute.threads > 4096 {
            return refuse("compute.threads", "at most 4096".to_owned());
        }
        if self.text.field.is_empty() {
            return refuse("text.field", "must name a key or a column".to_owned());
        }
        // The file's format has no larger numbers.
        let numbers = [
            ("network.connections_max", self.network.connections_max as u64),
            ("log.events_max_bytes", self.log.events_max_bytes),
            ("log.record_max_bytes", self.log.record_max_bytes),
            ("retention.rounds", self.retention.rounds),
            ("retention.max_bytes", self.retention.max_bytes),
            ("retention.min_free_bytes", self.retention.min_free_bytes),
        ];
        if let Some((key, _)) = numbers.iter().find(|(_, value)| i64::try_from(*value).is_err()) {
            return refuse(key, format!("at most {}", i64::MAX));
        }
        if !is_log_filter(&self.log.level) {
            let reason =
                "must be error, warn, info, debug or trace, alone or by module: info,synod_node::network=debug";
            return refuse("log.level", reason.to_owned());
        }
        if self.network.connections_max == 0 {
            return refuse(
                "network.connections_max",
                "at least 1, or nobody can be reached".to_owned(),
            );
        }
        if self.network.listen.is_empty() {
            return refuse("network.listen", "at least one address is needed".to_owned());
        }
        let multiaddrs = [
            ("network.listen", &self.network.listen),
            ("network.external", &self.network.external),
            ("network.bootstrap", &self.network.bootstrap),
            ("network.relays", &self.network.relays),
        ];
        for (key, list) in multiaddrs {
            if let Some(bad) = list.iter().find(|address| !address.starts_with('/')) {
                return refuse(
                    key,
                    format!("`{bad}` is not a multiaddr: write /ip4/1.2.3.4/udp/7600/quic-v1, say"),
                );
            }
        }
        if self.log.events_max_bytes < 64 << 10 {
            return refuse("log.events_max_bytes", "at least 65536".to_owned());
        }
        if self.api.socket.is_empty() {
            return refuse("api.socket", "a file name is needed".to_owned());
        }
        Ok(())
    }

    /// The device.
    ///
    /// # Panics
    /// Never for a configuration that [`check`](Self::check) has passed.
    pub fn device(&self) -> DeviceChoice {
        self.compute.device.parse().expect("check has read it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_file_states_the_defaults_and_every_setting() {
        let config: NodeConfig = toml::from_str(TEMPLATE).unwrap();
        assert_eq!(config, NodeConfig::default());
        let table = toml::Table::try_from(NodeConfig::default()).unwrap();
        let written: toml::Table = toml::from_str(TEMPLATE).unwrap();
        assert_eq!(table, written, "a setting is missing from the file");
    }

    #[test]
    fn bad_values_are_named_by_their_key() {
        let bad = |text: &str| toml::from_str::<NodeConfig>(text).unwrap().check().unwrap_err().0;
        assert_eq!(bad("[compute]\ndevice = 'gpu'"), "compute.device");
        assert_eq!(bad("[network]\nlisten = ['1.2.3.4']"), "network.listen");
        assert_eq!(bad("[network]\nrelays = ['x']"), "network.relays");
    }
}
