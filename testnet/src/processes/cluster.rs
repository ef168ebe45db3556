//! Several nodes on loopback, each with its own folder, identity, ports and log, and what tests and the demo do with them.
//! Dropping a cluster kills its nodes; a guard beside each does so where the program dies first.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{NodeBinary, NodeProcess, ProcessError, ports};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(200);
/// A node whose ports were taken between our look and its start gets others, so many times.
const PORT_ATTEMPTS: usize = 4;

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The folder for the nodes' folders and `logs/`. Nodes that are there already are started as they are.
    pub root: PathBuf,
    /// The nodes' names, which are their folders' names.
    pub names: Vec<String>,
    /// Flags of `node start` for all: `["--threads", "1", "--set", "retention.rounds=5"]`, say.
    pub start_flags: Vec<String>,
    /// The binary; none: see [`NodeBinary::find`].
    pub binary: Option<NodeBinary>,
    /// Nodes that run another binary, by their places: a member that misbehaves, say.
    pub others: BTreeMap<usize, NodeBinary>,
}

impl Plan {
    /// A plan for `count` nodes named `node-0`, `node-1`, … with one thread each.
    pub fn new(root: impl Into<PathBuf>, count: usize) -> Self {
        Self {
            root: root.into(),
            names: (0..count).map(|index| format!("node-{index}")).collect(),
            start_flags: vec!["--threads".to_owned(), "1".to_owned()],
            binary: None,
            others: BTreeMap::new(),
        }
    }

    /// With a setting for all nodes: `network.mdns=false`, say.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.start_flags.extend(["--set".to_owned(), setting.to_owned()]);
        self
    }
}

/// Nodes on loopback.
#[derive(Debug)]
pub struct Cluster {
    root: PathBuf,
    nodes: Vec<NodeProcess>,
}

/// Answers `node session create` and `node join`.
#[derive(Deserialize)]
struct Joined {
    session: String,
}

/// Answers `node invite`.
#[derive(Deserialize)]
struct Minted {
    key: String,
}

impl Cluster {
    /// Makes what is missing and starts all nodes; returns once each answers.
    pub fn start(plan: Plan) -> Result<Self, ProcessError> {
        let mut cluster = Self::prepare(plan)?;
        for index in 0..cluster.nodes.len() {
            cluster.start_fresh(index)?;
        }
        Ok(cluster)
    }

    /// Makes the nodes' folders, and starts none.
    pub fn prepare(plan: Plan) -> Result<Self, ProcessError> {
        let Plan {
            root,
            names,
            start_flags,
            binary,
            others,
        } = plan;
        let binary = binary.map_or_else(NodeBinary::find, Ok)?;
        fs::create_dir_all(&root).map_err(ProcessError::io("make", &root))?;
        let root = root.canonicalize().map_err(ProcessError::io("find", &root))?;
        let node = |(index, name): (usize, &String)| {
            let binary = others.get(&index).unwrap_or(&binary);
            let log = root.join("logs").join(format!("{name}.log"));
            NodeProcess::new(name, binary.clone(), root.join(name), log, start_flags.clone())
        };
        let nodes: Vec<_> = names.iter().enumerate().map(node).collect();
        for node in &nodes {
            node.init(ports::free_pair()?)?;
        }
        Ok(Self { root, nodes })
    }

    /// Starts a node; where its ports were taken meanwhile and it has never run, it is made anew with other ports.
    fn start_fresh(&mut self, index: usize) -> Result<(), ProcessError> {
        let node = &mut self.nodes[index];
        let has_run = node.data_dir().join("store").exists();
        for attempt in 1.. {
            match node.start() {
                Err(ProcessError::Ended { tail, .. })
                    if tail.contains("in use") && !has_run && attempt < PORT_ATTEMPTS => {}
                other => return other,
            }
            fs::remove_dir_all(node.data_dir()).map_err(ProcessError::io("remove", node.data_dir()))?;
            node.init(ports::free_pair()?)?;
        }
        Ok(())
    }

    /// The folder around the nodes' folders.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All nodes.
    pub fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, index: usize) -> &NodeProcess {
        &self.nodes[index]
    }

    /// One node, to start, stop or kill it.
    pub fn node_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.nodes[index]
    }

    // ---- sessions ---------------------------------------------------------------------------------------------------

    /// `node session create` from the text of a session file; the session's id.
    pub fn create(&self, index: usize, file: &str, data: Option<&Path>) -> Result<String, ProcessError> {
        let path = self.root.join(format!("session-{}.toml", self.nodes[index].name()));
        fs::write(&path, file).map_err(ProcessError::io("write", &path))?;
        let path = path.display().to_string();
        let data = data.map(|data| data.display().to_string());
        let mut arguments = vec!["session", "create", &path, "--json"];
        arguments.extend(data.iter().flat_map(|data| ["--data", data]));
        Ok(self.nodes[index].ask_json::<Joined>(&arguments)?.session)
    }

    /// `node invite`; the key. `flags` as in `["--uses", "3", "--role", "trainer"]`.
    pub fn invite(&self, index: usize, session: &str, flags: &[&str]) -> Result<String, ProcessError> {
        let arguments = [&["invite", session, "--json"], flags].concat();
        Ok(self.nodes[index].ask_json::<Minted>(&arguments)?.key)
    }

    /// `node join`; the session's id.
    pub fn join(&self, index: usize, key: &str, data: Option<&Path>) -> Result<String, ProcessError> {
        let data = data.map(|data| data.display().to_string());
        let mut arguments = vec!["join", key, "--json"];
        arguments.extend(data.iter().flat_map(|data| ["--data", data]));
        Ok(self.nodes[index].ask_json::<Joined>(&arguments)?.session)
    }

    /// Node 0 creates a session and invites every other node, each by a key of its own; the session's id. `data` has one
    /// entry a node.
    pub fn gather(&self, file: &str, data: &[Option<&Path>]) -> Result<String, ProcessError> {
        assert_eq!(data.len(), self.nodes.len(), "one entry a node");
        let session = self.create(0, file, data[0])?;
        for (index, data) in data.iter().enumerate().skip(1) {
            let key = self.invite(0, &session, &[])?;
            self.join(index, &key, *data)?;
        }
        Ok(session)
    }

    // ---- waiting ----------------------------------------------------------------------------------------------------

    /// Waits until `condition` holds. A node that ends by itself ends the wait with an error; one that refuses to answer
    /// (it is starting, or we stopped it) only means *not yet*. `what` completes "waited in vain until …".
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Result<bool, ProcessError>,
    ) -> Result<(), ProcessError> {
        let begun = Instant::now();
        loop {
            self.check_alive(&format!("waiting until {what}"))?;
            match condition(self) {
                Ok(true) => return Ok(()),
                Ok(false) | Err(ProcessError::Refused { .. } | ProcessError::NoSession { .. }) => {}
                Err(error) => return Err(error),
            }
            if begun.elapsed() > limit {
                let (what, seconds) = (what.to_owned(), limit.as_secs());
                return Err(ProcessError::TimedOut {
                    what,
                    seconds,
                    state: self.describe(),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until every started node has settled `rounds` rounds of the session.
    pub fn wait_settled(&mut self, session: &str, rounds: u64, limit: Duration) -> Result<(), ProcessError> {
        self.wait_until(&format!("round {rounds} is settled everywhere"), limit, |cluster| {
            for node in cluster.nodes.iter().filter(|node| node.is_started()) {
                if node.session(session)?.settled() < rounds {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// An error if a node has ended though nobody asked it to.
    pub fn check_alive(&mut self, during: &str) -> Result<(), ProcessError> {
        self.nodes.iter_mut().try_for_each(|node| node.check_alive(during))
    }

    /// What each node says of itself, and the end of its log.
    fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            text += &format!("\n{}: ", node.name());
            match node.status() {
                _ if !node.is_started() => text += "not started",
                Ok(status) => {
                    for one in status.sessions {
                        text += &format!(
                            "session {} {} in round {}, {}: {}; ",
                            one.name, one.lifecycle, one.round, one.phase, one.explanation
                        );
                    }
                }
                Err(error) => text += &error.to_string(),
            }
            text += &format!("\n  its log {} ends with:\n{}", node.log().display(), node.log_tail());
        }
        text
    }

    /// Stops all nodes in order. The first error is returned, after all were stopped.
    pub fn stop(mut self) -> Result<(), ProcessError> {
        let stopped: Vec<_> = self.nodes.iter_mut().map(NodeProcess::stop).collect();
        stopped.into_iter().collect()
    }
}
