//! A session of containers through what may happen to institutions: one is killed and comes back, one sleeps, one is cut off.
//! Agreement is what every node's own log says, round by round; nothing is read from volumes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{ContainerError, Engine, prepare_texts};
use crate::processes::{RoundRow, divergent_rounds};

/// The session that drills run where no other file is given.
pub const SESSION: &str = include_str!("session.toml");

/// How long a step of the drill may take: a machine with little to spare is slow, not stuck.
const STEP_LIMIT: Duration = Duration::from_secs(240);

/// How long who is cut off must have settled nothing.
const CUT_OFF: Duration = Duration::from_secs(12);

/// A drill to run.
#[derive(Debug, Clone)]
pub struct Drill {
    /// Institutions, at least four: two can be missing only of more than three.
    pub nodes: usize,
    /// The image of a node.
    pub image: String,
    /// Whether everything is left running at the end.
    pub keep: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Institutions.
    pub nodes: usize,
    /// Rounds that each has settled, by its number.
    pub settled: BTreeMap<usize, u64>,
    /// Rounds of which two institutions hold different models: none, or agreement is broken.
    pub divergent: Vec<u64>,
    /// Rounds that settled while one was killed, asleep, cut off.
    pub settled_meanwhile: BTreeMap<&'static str, u64>,
    /// Rounds that the institution that was cut off settled meanwhile: none, or a minority decided alone.
    pub settled_cut_off: u64,
    /// Whether all were together again at the end, with one model in every round.
    pub passed: bool,
    /// Seconds in all.
    pub wall_s: f64,
}

impl Drill {
    /// Runs it. `tell` hears what happens.
    pub fn run(&self, engine: &Engine, tell: &mut dyn FnMut(&str)) -> Result<Outcome, ContainerError> {
        let begun = Instant::now();
        prepare_texts(&engine.texts(), self.nodes)?;
        tell(&format!("bringing {} institutions up", self.nodes));
        engine.up(self.nodes, &self.image)?;
        let ended = self.through(engine, tell, begun);
        if !self.keep {
            engine.down()?;
        }
        ended
    }

    fn through(&self, engine: &Engine, tell: &mut dyn FnMut(&str), begun: Instant) -> Result<Outcome, ContainerError> {
        let session = create_session(engine, SESSION, self.nodes)?;
        tell(&format!("session {session}: all {} have joined", self.nodes));
        let watch = Watch {
            engine,
            session: &session,
        };
        watch.until(1, 2)?;
        let mut meanwhile = BTreeMap::new();
        let last = self.nodes;

        tell("institution 2 is killed");
        engine.kill(2)?;
        meanwhile.insert("killed", watch.two_more()?);
        tell("institution 2 comes back");
        engine.start(2)?;
        watch.caught_up(2)?;

        tell("institution 3 sleeps");
        engine.pause(3)?;
        meanwhile.insert("asleep", watch.two_more()?);
        tell("institution 3 wakes");
        engine.unpause(3)?;
        watch.caught_up(3)?;

        tell(&format!("institution {last} is cut off from the others"));
        engine.part(&[last])?;
        let begin = watch.settled(last)?;
        let apart = Instant::now();
        meanwhile.insert("cut_off", watch.two_more()?);
        std::thread::sleep(CUT_OFF.saturating_sub(apart.elapsed()));
        // What was on its way when the cable was cut may have come yet: one round.
        let settled_cut_off = (watch.settled(last)? - begin).saturating_sub(1);
        tell(&format!("institution {last} is back, under another address"));
        engine.heal()?;
        let end = watch.settled(1)? + 3;
        for node in 1..=self.nodes {
            watch.until(node, end)?;
        }
        let logs = (1..=self.nodes).map(|node| Ok((node, engine.rounds(node, &session)?)));
        let (nodes, logs): (Vec<usize>, Vec<Vec<RoundRow>>) =
            logs.collect::<Result<Vec<_>, ContainerError>>()?.into_iter().unzip();
        let divergent = divergent_rounds(&logs);
        let last_of = |rows: &Vec<RoundRow>| rows.last().map_or(0, |row| row.round);
        let settled: BTreeMap<usize, u64> = nodes.into_iter().zip(logs.iter().map(last_of)).collect();
        let all = settled.values().all(|rounds| *rounds >= end);
        Ok(Outcome {
            nodes: self.nodes,
            passed: all && divergent.is_empty() && settled_cut_off == 0,
            settled,
            divergent,
            settled_meanwhile: meanwhile,
            settled_cut_off,
            wall_s: begun.elapsed().as_secs_f64(),
        })
    }
}

/// Creates a session of this file at institution 1, and joins all others by one key: the session's name.
pub fn create_session(engine: &Engine, file: &str, nodes: usize) -> Result<String, ContainerError> {
    let path = engine.texts().with_file_name("session.toml");
    std::fs::write(&path, file).map_err(ContainerError::io("write", &path))?;
    engine.put(1, &path, "/tmp/session.toml")?;
    let created = engine.node(
        1,
        &["session", "create", "/tmp/session.toml", "--data", "/texts/1", "--json"],
    )?;
    let session = field(&created, "session")?;
    let uses = nodes.saturating_sub(1).max(1).to_string();
    let key = field(
        &engine.node(1, &["invite", &session, "--uses", &uses, "--json"])?,
        "key",
    )?;
    for node in 2..=nodes {
        let data = format!("/texts/{node}");
        engine.node(node, &["join", &key, "--data", &data])?;
    }
    Ok(session)
}

fn field(json: &str, name: &str) -> Result<String, ContainerError> {
    let value: Option<serde_json::Value> = serde_json::from_str(json).ok();
    let found = value.as_ref().and_then(|value| value[name].as_str());
    found.map(str::to_owned).ok_or_else(|| ContainerError::Unreadable {
        node: 1,
        command: "… --json".to_owned(),
        reason: format!("there is no `{name}` in {json}"),
    })
}

struct Watch<'a> {
    engine: &'a Engine,
    session: &'a str,
}

impl Watch<'_> {
    fn settled(&self, node: usize) -> Result<u64, ContainerError> {
        Ok(self.engine.session(node, self.session)?.settled())
    }

    /// Waits until a node has settled so many rounds.
    fn until(&self, node: usize, rounds: u64) -> Result<(), ContainerError> {
        let begun = Instant::now();
        loop {
            let seen = match self.engine.session(node, self.session) {
                Ok(session) if session.settled() >= rounds => return Ok(()),
                Ok(session) => format!("round {} is settled there: {}", session.settled(), session.explanation),
                // A node that was just started opens its store first.
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > STEP_LIMIT {
                return Err(ContainerError::Late {
                    what: format!("round {rounds} at institution {node}"),
                    seconds: STEP_LIMIT.as_secs(),
                    seen,
                });
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits for two more rounds at institution 1: how many there were.
    fn two_more(&self) -> Result<u64, ContainerError> {
        let before = self.settled(1)?;
        self.until(1, before + 2)?;
        Ok(self.settled(1)? - before)
    }

    /// Waits until a node has what institution 1 has now.
    fn caught_up(&self, node: usize) -> Result<(), ContainerError> {
        self.until(node, self.settled(1)?)
    }
}
