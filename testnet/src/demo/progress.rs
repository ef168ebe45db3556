//! Live progress of a session over several nodes: a table that is redrawn on a terminal, a line a round elsewhere.
//! It goes to standard error, so that standard output keeps the results alone.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::DemoError;
use super::report::table;
use crate::processes::{Cluster, ProcessError, SessionStatus};

/// How often the nodes are asked.
const POLL: Duration = Duration::from_millis(700);
/// A demo that takes longer than this has failed, however slow the machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// Watches `sessions[i]` at node `i` until all are finished; seconds that it took.
pub fn watch(cluster: &mut Cluster, sessions: &[String]) -> Result<f64, DemoError> {
    let begun = Instant::now();
    let mut screen = Screen::new();
    loop {
        cluster.check_alive("training")?;
        let mut statuses = Vec::new();
        for (node, session) in cluster.nodes().iter().zip(sessions) {
            let status = node.session(session)?;
            if let Some(reason) = status.stopped {
                let (node, log) = (node.name().to_owned(), node.log().to_owned());
                return Err(DemoError::Stopped { node, reason, log });
            }
            statuses.push((node.name().to_owned(), status));
        }
        screen.show(&statuses, begun.elapsed());
        if statuses.iter().all(|(_, status)| status.is_finished()) {
            return Ok(begun.elapsed().as_secs_f64());
        }
        if begun.elapsed() > LIMIT {
            // What each node says, and the ends of the logs.
            let never = cluster.wait_until("training ends", Duration::ZERO, |_| Ok(false));
            return Err(never.err().map_or(DemoError::TooLong, DemoError::from));
        }
        std::thread::sleep(POLL);
    }
}

struct Screen {
    redraws: bool,
    lines_drawn: usize,
    rounds_told: u64,
}

impl Screen {
    fn new() -> Self {
        Self {
            redraws: std::io::stderr().is_terminal(),
            lines_drawn: 0,
            rounds_told: 0,
        }
    }

    fn show(&mut self, statuses: &[(String, SessionStatus)], elapsed: Duration) {
        let text = match self.redraws {
            true => self.redrawn(statuses, elapsed),
            false => self.new_rounds(statuses, elapsed),
        };
        // Nobody may be looking.
        _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn redrawn(&mut self, statuses: &[(String, SessionStatus)], elapsed: Duration) -> String {
        let mut lines: Vec<String> = progress_table(statuses).lines().map(str::to_owned).collect();
        lines.push(format!("{:.0} s", elapsed.as_secs_f64()));
        let mut text = match self.lines_drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A"),
        };
        lines.iter().for_each(|line| text += &format!("\x1b[2K{line}\n"));
        self.lines_drawn = lines.len();
        text
    }

    fn new_rounds(&mut self, statuses: &[(String, SessionStatus)], elapsed: Duration) -> String {
        let settled = statuses.iter().map(|(_, status)| status.settled()).min().unwrap_or(0);
        // The loss after a round is measured a moment later; whoever has gone on meanwhile has measured it.
        let measured = |status: &SessionStatus| {
            let row = status.last_round.as_ref();
            row.is_some_and(|row| row.round > settled || row.heldout_after.is_some())
        };
        if settled <= self.rounds_told || !statuses.iter().all(|(_, status)| measured(status)) {
            return String::new();
        }
        self.rounds_told = settled;
        let rounds = statuses.first().map_or(0, |(_, status)| status.rounds);
        let losses: Vec<String> = statuses
            .iter()
            .map(|(name, status)| format!("{name} {}", loss(heldout(status))))
            .collect();
        format!(
            "  round {settled}/{rounds} settled after {:.0} s; held-out {}\n",
            elapsed.as_secs_f64(),
            losses.join(", ")
        )
    }
}

fn progress_table(statuses: &[(String, SessionStatus)]) -> String {
    let mut rows = vec![["node", "round", "phase", "step", "loss", "held-out", "tokens/s"].map(str::to_owned)];
    for (name, status) in statuses {
        let own = status.last_round.as_ref().and_then(|row| row.own.as_ref());
        let speed = status
            .progress
            .and_then(|now| now.tokens_per_s)
            .or(own.map(|own| own.tokens_per_s));
        rows.push([
            name.clone(),
            format!("{}/{}", status.round.min(status.rounds), status.rounds),
            match status.lifecycle.as_str() {
                "running" => status.phase.replace('_', " "),
                other => other.to_owned(),
            },
            status
                .progress
                .map_or_else(|| "–".to_owned(), |now| format!("{}/{}", now.step, now.steps)),
            loss(status.progress.map(|now| now.loss).or(own.map(|own| own.train_loss))),
            loss(heldout(status)),
            speed.map_or_else(|| "–".to_owned(), |speed| format!("{speed:.0}")),
        ]);
    }
    table(&rows)
}

fn heldout(status: &SessionStatus) -> Option<f32> {
    let row = status.last_round.as_ref()?;
    row.heldout_after
        .or_else(|| row.own.as_ref().and_then(|own| own.heldout_before))
}

fn loss(value: Option<f32>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// Waits until the loss after the last round is measured at every node: it comes a moment after the settlement.
pub fn await_last_losses(cluster: &mut Cluster, sessions: &[String]) -> Result<(), ProcessError> {
    cluster.wait_until(
        "the last round's held-out losses are measured",
        Duration::from_secs(120),
        |cluster| {
            for (node, session) in cluster.nodes().iter().zip(sessions) {
                if node
                    .session(session)?
                    .last_round
                    .is_none_or(|row| row.heldout_after.is_none())
                {
                    return Ok(false);
                }
            }
            Ok(true)
        },
    )
}
