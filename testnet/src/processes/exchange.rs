//! How long real nodes on this machine take to exchange a round: updates out, combined and checked by every member, settled,
//! and the new state stored. The objective is the synthetic one, so that a round is little else than its exchange.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Cluster, Plan, ProcessError, RoundRow};

/// Ends a hang.
const LIMIT: Duration = Duration::from_secs(900);
/// Rounds in the beginning that are not counted: connections are made, files are new.
const WARM_UP: u64 = 2;

/// What to do.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The folder for nodes and logs.
    pub root: PathBuf,
    /// Nodes, at least two.
    pub nodes: usize,
    /// Parameters of the model.
    pub parameters: u32,
    /// The encoding of updates.
    pub encoding: String,
    /// Rounds that are counted.
    pub rounds: u64,
    /// Shards that the vector is combined in; none: every node combines the whole.
    pub shards: Option<u32>,
}

/// What came of it. Milliseconds are of wall time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchanged {
    /// Nodes.
    pub nodes: usize,
    /// Parameters of the model.
    pub parameters: u32,
    /// The encoding of updates.
    pub encoding: String,
    /// Rounds that were counted.
    pub rounds: u64,
    /// Shards, if there were some.
    pub shards: Option<u32>,
    /// From one settlement to the next, the step of the objective with it: median, least and greatest.
    pub round_ms: [u64; 3],
    /// Model and update bytes that the creator received and sent in a round: median.
    pub bulk_bytes: u64,
}

impl Exchange {
    fn session(&self) -> String {
        format!(
            "name = 'exchange'
            [protocol]
            rounds = {rounds}
            min_members = {nodes}
            quorum_percent = 100
            heartbeat_ms = 500
            lost_after_ms = 10000
            deadline = {{ floor_ms = 0, cap_ms = 120000, k = 6 }}
            {topology}
            [training]
            local_steps = 1
            [training.model.synthetic]
            dimension = {parameters}
            noise = 0.0
            [aggregation]
            rule = 'mean'
            encoding = '{encoding}'
            outer = {{ learning_rate = 1.0, momentum = 0.0, nesterov = false }}
            ",
            rounds = self.rounds + WARM_UP,
            nodes = self.nodes,
            topology = self.shards.map_or_else(String::new, |shards| format!(
                "topology = {{ sharded = {{ shards = {shards} }} }}"
            )),
            parameters = self.parameters,
            encoding = self.encoding,
        )
    }

    /// Runs it.
    pub fn run(&self) -> Result<Exchanged, ProcessError> {
        let mut cluster = Cluster::start(Plan::new(&self.root, self.nodes).set("network.mdns=false"))?;
        let id = cluster.gather(&self.session(), &vec![None; self.nodes])?;
        cluster.wait_settled(&id, self.rounds + WARM_UP, LIMIT)?;
        let rows = cluster.node(0).rounds(&id)?;
        cluster.stop()?;
        let counted: Vec<&RoundRow> = rows.iter().filter(|row| row.round > WARM_UP).collect();
        let sorted = |value: fn(&RoundRow) -> u64| {
            let mut values: Vec<u64> = counted.iter().map(|row| value(row)).collect();
            values.sort_unstable();
            values
        };
        let median = |values: &[u64]| values.get(values.len() / 2).copied().unwrap_or(0);
        let walls = sorted(|row| row.wall_ms);
        let ends = [walls.first(), walls.last()].map(|end| end.copied().unwrap_or(0));
        Ok(Exchanged {
            nodes: self.nodes,
            parameters: self.parameters,
            encoding: self.encoding.clone(),
            rounds: counted.len() as u64,
            shards: self.shards,
            round_ms: [median(&walls), ends[0], ends[1]],
            bulk_bytes: median(&sorted(|row| row.bulk_bytes.received + row.bulk_bytes.sent)),
        })
    }
}
