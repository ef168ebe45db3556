//! Live progress of a session over several nodes: a table that is redrawn on a terminal, a line a round elsewhere.
//! It goes to standard error, so that standard output keeps the results alone.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::DemoError;
use super::report::table;
use crate::processes::{Cluster, ProcessError, RoundRow, SessionStatus};

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
        let elapsed = begun.elapsed();
        let looked = look(cluster, sessions, &mut screen, elapsed);
        if looked.is_err() {
            // A node that has just ended explains more than an answer that did not come.
            std::thread::sleep(POLL);
            cluster.check_alive("training")?;
        }
        if looked? {
            await_last_losses(cluster, sessions)?;
            screen.show(cluster, sessions, elapsed)?;
            return Ok(elapsed.as_secs_f64());
        }
        if begun.elapsed() > LIMIT {
            // What each node says, and the ends of the logs.
            let never = cluster.wait_until("training ends", Duration::ZERO, |_| Ok(false));
            return Err(never.err().map_or(DemoError::TooLong, DemoError::from));
        }
        std::thread::sleep(POLL);
    }
}

/// Shows how it stands; whether all are finished.
fn look(cluster: &Cluster, sessions: &[String], screen: &mut Screen, elapsed: Duration) -> Result<bool, DemoError> {
    let finished = statuses(cluster, sessions)?
        .iter()
        .all(|(_, status)| status.is_finished());
    screen.show(cluster, sessions, elapsed)?;
    Ok(finished)
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

    fn show(&mut self, cluster: &Cluster, sessions: &[String], elapsed: Duration) -> Result<(), DemoError> {
        let text = match self.redraws {
            true => self.redrawn(&statuses(cluster, sessions)?, elapsed),
            false => self.new_rounds(cluster, sessions, elapsed)?,
        };
        // Nobody may be looking.
        _ = std::io::stderr().write_all(text.as_bytes());
        Ok(())
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

    /// A line for each round that all nodes have settled and measured since we last looked.
    fn new_rounds(&mut self, cluster: &Cluster, sessions: &[String], elapsed: Duration) -> Result<String, DemoError> {
        let mut text = String::new();
        let mut logs = Vec::new();
        for (node, session) in cluster.nodes().iter().zip(sessions) {
            logs.push((node.name(), node.rounds(session)?));
        }
        loop {
            let round = self.rounds_told + 1;
            let after = |rows: &[RoundRow]| rows.iter().find(|row| row.round == round)?.heldout_after;
            let losses: Option<Vec<_>> = logs
                .iter()
                .map(|(name, rows)| Some(format!("{name} {:.3}", after(rows)?)))
                .collect();
            let Some(losses) = losses else { return Ok(text) };
            let seconds = elapsed.as_secs_f64();
            text += &format!(
                "  {seconds:>4.0} s  round {round:<2} settled; held-out {}\n",
                losses.join(", ")
            );
            self.rounds_told = round;
        }
    }
}

fn statuses(cluster: &Cluster, sessions: &[String]) -> Result<Vec<(String, SessionStatus)>, DemoError> {
    let mut statuses = Vec::new();
    for (node, session) in cluster.nodes().iter().zip(sessions) {
        let status = node.session(session)?;
        if let Some(reason) = status.stopped {
            let (node, log) = (node.name().to_owned(), node.log().to_owned());
            return Err(DemoError::Stopped { node, reason, log });
        }
        statuses.push((node.name().to_owned(), status));
    }
    Ok(statuses)
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
fn await_last_losses(cluster: &mut Cluster, sessions: &[String]) -> Result<(), ProcessError> {
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
