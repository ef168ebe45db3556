//! Random `kill -9` of real nodes, one after the other, with models compared round by round: safety and liveness by attrition.
//! The objective is the synthetic one, so that a round costs next to nothing; which node dies when follows from a seed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::{Cluster, Plan, ProcessError, RoundRow};

/// A node that has not caught up by then is stuck.
const LIMIT: Duration = Duration::from_secs(120);

/// Kills between two comparisons of all nodes.
const COMPARE_EVERY: u64 = 10;

/// What to do.
#[derive(Debug, Clone)]
pub struct Soak {
    /// The folder for nodes and logs.
    pub root: PathBuf,
    /// Nodes, at least three.
    pub nodes: usize,
    /// How many times one is killed and started again.
    pub kills: u64,
    /// Decides who and when.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Soaked {
    /// Nodes.
    pub nodes: usize,
    /// The seed.
    pub seed: u64,
    /// Kills that were survived.
    pub kills: u64,
    /// The last round that all have settled.
    pub rounds: u64,
    /// Rounds of which two nodes hold different models.
    pub divergent: Vec<u64>,
    /// What stood still, if anything did.
    pub stuck: Option<String>,
    /// Seconds in all.
    pub wall_s: f64,
}

impl Soaked {
    /// Whether nothing diverged and nothing stood still.
    pub fn passed(&self) -> bool {
        self.divergent.is_empty() && self.stuck.is_none()
    }
}

fn session(nodes: usize) -> String {
    format!(
        "name = 'soak'
        [protocol]
        rounds = 1000000
        min_members = 2
        begin_members = {nodes}
        heartbeat_ms = 250
        lost_after_ms = 2000
        absent_rounds = 1000000
        deadline = {{ floor_ms = 500, cap_ms = 20000, k = 6 }}
        [training]
        local_steps = 10
        [training.model.synthetic]
        [aggregation]
        rule = 'mean'
        encoding = 'f32'
        "
    )
}

impl Soak {
    /// Runs it. `tell` hears how far it is. What stands still is an outcome; what cannot be run at all is an error.
    pub fn run(&self, tell: &mut dyn FnMut(&str)) -> Result<Soaked, ProcessError> {
        let begun = Instant::now();
        let mut cluster = Cluster::start(Plan::new(&self.root, self.nodes).set("network.mdns=false"))?;
        let id = cluster.gather(&session(self.nodes), &vec![None; self.nodes])?;
        let mut soaked = Soaked {
            nodes: self.nodes,
            seed: self.seed,
            kills: 0,
            rounds: 0,
            divergent: Vec::new(),
            stuck: None,
            wall_s: 0.0,
        };
        let mut dice = ChaCha8Rng::seed_from_u64(self.seed);
        cluster.wait_settled(&id, 1, LIMIT)?;
        while soaked.kills < self.kills {
            std::thread::sleep(Duration::from_millis(u64::from(dice.next_u32() % 1500)));
            let victim = dice.next_u32() as usize % self.nodes;
            cluster.node_mut(victim).kill()?;
            std::thread::sleep(Duration::from_millis(u64::from(dice.next_u32() % 3000)));
            cluster.node_mut(victim).start()?;
            soaked.kills += 1;
            if soaked.kills.is_multiple_of(COMPARE_EVERY) || soaked.kills == self.kills {
                if let Err(error) = self.compare(&mut cluster, &id, &mut soaked) {
                    soaked.stuck = Some(error.to_string());
                }
                tell(&format!("{} kills, {} rounds", soaked.kills, soaked.rounds));
                if !soaked.passed() {
                    break;
                }
            }
        }
        soaked.wall_s = begun.elapsed().as_secs_f64();
        cluster.stop()?;
        Ok(soaked)
    }

    /// Waits until all have settled two more rounds, and compares all of their rows.
    fn compare(&self, cluster: &mut Cluster, session: &str, soaked: &mut Soaked) -> Result<(), ProcessError> {
        let furthest = (0..self.nodes).filter_map(|node| cluster.node(node).session(session).ok());
        let furthest = furthest.map(|status| status.settled()).max().unwrap_or(0);
        cluster.wait_settled(session, furthest + 2, LIMIT)?;
        let rows = (0..self.nodes).map(|node| cluster.node(node).rounds(session));
        let rows: Vec<Vec<RoundRow>> = rows.collect::<Result<_, _>>()?;
        soaked.divergent = divergent_rounds(&rows);
        soaked.rounds = furthest + 2;
        Ok(())
    }
}

/// The rounds of which two of these logs hold different models.
pub fn divergent_rounds(logs: &[Vec<RoundRow>]) -> Vec<u64> {
    let mut states: BTreeMap<u64, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for row in logs.iter().flatten() {
        let first = states.entry(row.round).or_insert(&row.state);
        if *first != row.state && !found.contains(&row.round) {
            found.push(row.round);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u64, state: &str) -> RoundRow {
        let text = format!(
            r#"{{"round":{round},"wall_ms":1,"state":"{state}","term":0,"participants":[],"own":null,"heldout_after":null,
                "control_bytes":{{"received":0,"sent":0}},"bulk_bytes":{{"received":0,"sent":0}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rounds_in_which_two_differ_are_found() {
        let logs = [
            vec![row(1, "a"), row(2, "b"), row(3, "c")],
            vec![row(2, "b"), row(3, "d")],
            vec![row(1, "a"), row(3, "d")],
        ];
        assert_eq!(divergent_rounds(&logs), [3]);
        assert_eq!(divergent_rounds(&logs[..1]), [0u64; 0]);
    }
}
