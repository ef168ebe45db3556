//! What the demo found, as tables for people and one JSON object for programs, and whether it is what was promised.
//! It computes nothing but means and comparisons of what the nodes measured.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::plot::Figure;
use super::sources::Institution;
use crate::processes::{Bytes, RoundRow};

/// `node evaluate … --json` over all institutions' held-out text.
#[derive(Debug, Clone, Deserialize)]
pub struct Evaluation {
    /// Nats a token over all texts.
    pub loss: f64,
    /// Tokens measured.
    pub tokens: u64,
    /// Each text by itself, in the order of the institutions.
    pub texts: Vec<TextLoss>,
}

/// The loss on one text.
#[derive(Debug, Clone, Deserialize)]
pub struct TextLoss {
    /// Nats a token.
    pub loss: f64,
}

/// Everything that was measured. Lists are in the order of the institutions.
#[derive(Debug)]
pub struct Findings {
    /// Who took part.
    pub institutions: Vec<Institution>,
    /// The joint session's id.
    pub session: String,
    /// Each node's rounds of the joint session.
    pub joint: Vec<Vec<RoundRow>>,
    /// Each node's rounds alone.
    pub alone: Vec<Vec<RoundRow>>,
    /// The joint model on everyone's held-out text.
    pub joint_union: Evaluation,
    /// Each lonely model on everyone's held-out text.
    pub alone_union: Vec<Evaluation>,
    /// Seconds of joint training.
    pub joint_s: f64,
    /// Seconds of training alone, all at once.
    pub alone_s: f64,
    /// Where the model was exported to.
    pub export: PathBuf,
    /// Where the figure is.
    pub svg: PathBuf,
}

impl Findings {
    /// Every node settled the same state in every round.
    pub fn digests_equal(&self) -> bool {
        let digests = |rows: &[RoundRow]| {
            rows.iter()
                .map(|row| (row.round, row.state.clone()))
                .collect::<Vec<_>>()
        };
        self.joint
            .windows(2)
            .all(|pair| !pair[0].is_empty() && digests(&pair[0]) == digests(&pair[1]))
    }

    /// The best of those alone, on everyone's held-out text.
    pub fn best_alone(&self) -> f64 {
        self.alone_union
            .iter()
            .map(|found| found.loss)
            .fold(f64::INFINITY, f64::min)
    }

    /// What the demo promises.
    pub fn passed(&self) -> bool {
        self.digests_equal() && self.joint_union.loss < self.best_alone()
    }

    /// Means over the institutions' held-out texts: of the founded state (round 0), then after each round.
    pub fn joint_per_round(&self) -> Vec<f64> {
        let rows = self.joint.iter().map(Vec::len).min().unwrap_or(0);
        let mean = |row: usize| {
            let losses = self.joint.iter().filter_map(|rows| rows[row].heldout_after);
            losses.map(f64::from).sum::<f64>() / self.joint.len() as f64
        };
        (0..rows).map(mean).collect()
    }

    /// The figure: the joint model over its local steps, and where each alone ended.
    pub fn figure(&self) -> Figure {
        let mut own = self.joint.iter().flatten().filter_map(|row| row.own.as_ref());
        let steps = own.next().map_or(1, |own| own.steps);
        let losses = self.joint_per_round().into_iter().enumerate();
        let names = self.institutions.iter().map(|one| format!("{} alone", one.name));
        Figure {
            curve: losses
                .map(|(round, loss)| (round as f64 * f64::from(steps), loss))
                .collect(),
            curve_name: "together".to_owned(),
            levels: names.zip(self.alone_union.iter().map(|found| found.loss)).collect(),
            x_label: "local steps at each institution".to_owned(),
            y_label: "loss on everyone's held-out text, nats a byte".to_owned(),
        }
    }

    /// A row for each node and round of the joint session.
    pub fn rounds_table(&self) -> String {
        let header = [
            "round", "node", "before", "after", "received", "sent", "tokens/s", "seconds", "model",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        let rounds = self.joint.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            for (institution, node) in self.institutions.iter().zip(&self.joint) {
                let Some(row) = node.get(round).filter(|row| row.round > 0) else {
                    continue;
                };
                let own = row.own.as_ref();
                let Bytes { received, sent } = total_bytes(std::slice::from_ref(row));
                rows.push([
                    row.round.to_string(),
                    institution.name.clone(),
                    loss(own.and_then(|own| own.heldout_before)),
                    loss(row.heldout_after),
                    kilobytes(received),
                    kilobytes(sent),
                    own.map_or_else(|| "–".to_owned(), |own| format!("{:.0}", own.tokens_per_s)),
                    format!("{:.1}", row.wall_ms as f64 / 1e3),
                    row.state.chars().take(12).collect(),
                ]);
            }
        }
        table(&rows)
    }

    /// The joint model beside those trained alone, on each institution's held-out text and on all together.
    pub fn comparison_table(&self) -> String {
        let mut header = vec!["held-out text of".to_owned()];
        header.extend(self.institutions.iter().map(|one| one.name.clone()));
        header.push("everyone".to_owned());
        let mut rows = vec![header];
        let names = std::iter::once("together".to_owned())
            .chain(self.institutions.iter().map(|one| format!("{} alone", one.name)));
        for (name, found) in names.zip(std::iter::once(&self.joint_union).chain(&self.alone_union)) {
            let mut row = vec![name];
            row.extend(found.texts.iter().map(|text| format!("{:.3}", text.loss)));
            row.push(format!("{:.3}", found.loss));
            rows.push(row);
        }
        table(&rows)
    }

    /// The last line of standard output.
    pub fn to_json(&self, total_s: f64) -> Value {
        let by_name = |pick: &dyn Fn(usize) -> Value| -> Value {
            self.institutions
                .iter()
                .enumerate()
                .map(|(index, one)| (one.name.clone(), pick(index)))
                .collect()
        };
        let bytes = |index: usize| {
            let Bytes { received, sent } = total_bytes(&self.joint[index]);
            json!({ "received": received, "sent": sent })
        };
        let after = |index: usize| self.joint[index].iter().map(|row| row.heldout_after).collect::<Value>();
        let state = self
            .joint
            .first()
            .and_then(|rows| rows.last())
            .map(|row| row.state.clone());
        json!({
            "passed": self.passed(),
            "session": self.session,
            "institutions": by_name(&|index| {
                let Institution { source, bytes, .. } = &self.institutions[index];
                json!({ "source": source, "text_bytes": bytes })
            }),
            "losses": {
                "unit": "nats a byte, held-out text",
                "joint_per_round": self.joint_per_round(),
                "joint_per_round_by_institution": by_name(&after),
            },
            "union": {
                "joint": self.joint_union.loss,
                "alone": by_name(&|index| self.alone_union[index].loss.into()),
                "tokens": self.joint_union.tokens,
            },
            "own_text": {
                "joint": by_name(&|index| self.joint_union.texts[index].loss.into()),
                "alone": by_name(&|index| self.alone_union[index].texts[index].loss.into()),
            },
            "bytes": by_name(&bytes),
            "seconds": { "joint": self.joint_s, "alone": self.alone_s, "total": total_s },
            "tokens": { "joint": tokens(&self.joint), "alone": tokens(&self.alone) },
            "tokens_per_s": { "joint": tokens(&self.joint) as f64 / self.joint_s },
            "digests_equal": self.digests_equal(),
            "state": state,
            "export": self.export,
            "svg": self.svg,
        })
    }
}

fn total_bytes(rows: &[RoundRow]) -> Bytes {
    rows.iter().fold(Bytes::default(), |sum, row| Bytes {
        received: sum.received + row.control_bytes.received + row.bulk_bytes.received,
        sent: sum.sent + row.control_bytes.sent + row.bulk_bytes.sent,
    })
}

fn tokens(nodes: &[Vec<RoundRow>]) -> u64 {
    nodes
        .iter()
        .flatten()
        .filter_map(|row| row.own.as_ref())
        .map(|own| own.tokens)
        .sum()
}

fn loss(value: Option<f32>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.1} kB", bytes as f64 / 1e3)
}

/// Rows of equal length as aligned columns: the first to the left, the others too, two spaces between.
pub fn table<Row: AsRef<[String]>>(rows: &[Row]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.as_ref().len()), 0);
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .as_ref()
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: u64, state: &str, after: f32) -> RoundRow {
        let own = json!({ "train_loss": 3.0, "heldout_before": 5.0, "tokens": 100, "tokens_per_s": 10.0, "steps": 30 });
        let bytes = json!({ "received": 1000, "sent": 500 });
        serde_json::from_value(json!({
            "round": round, "wall_ms": 1500, "state": state, "term": 0, "participants": [],
            "own": if round == 0 { Value::Null } else { own },
            "heldout_after": after, "control_bytes": bytes, "bulk_bytes": bytes,
        }))
        .unwrap()
    }

    fn evaluation(loss: f64) -> Evaluation {
        Evaluation {
            loss,
            tokens: 10,
            texts: vec![TextLoss { loss }, TextLoss { loss: loss + 1.0 }],
        }
    }

    fn findings(joint_loss: f64, second_state: &str) -> Findings {
        let institution = |name: &str| Institution {
            name: name.to_owned(),
            source: "text".to_owned(),
            folder: PathBuf::new(),
            bytes: 9,
        };
        Findings {
            institutions: vec![institution("a"), institution("b")],
            session: "s".to_owned(),
            joint: vec![
                vec![row(0, "w", 5.0), row(1, "x", 4.0), row(2, "y", 3.0)],
                vec![row(0, "w", 5.0), row(1, "x", 5.0), row(2, second_state, 2.0)],
            ],
            alone: vec![vec![row(1, "p", 4.0)], vec![row(1, "q", 4.0)]],
            joint_union: evaluation(joint_loss),
            alone_union: vec![evaluation(3.0), evaluation(2.8)],
            joint_s: 10.0,
            alone_s: 10.0,
            export: "e".into(),
            svg: "f.svg".into(),
        }
    }

    #[test]
    fn it_passes_only_below_every_one_alone_and_with_equal_digests() {
        assert!(findings(2.5, "y").passed());
        assert!(!findings(2.8, "y").passed());
        assert!(!findings(2.9, "y").passed());
        assert!(!findings(2.5, "z").passed());
    }

    #[test]
    fn the_json_holds_what_was_promised() {
        let json = findings(2.5, "y").to_json(30.0);
        assert_eq!(json["passed"], true);
        assert_eq!(json["losses"]["joint_per_round"], json!([5.0, 4.5, 2.5]));
        assert_eq!(json["union"]["alone"]["b"], 2.8);
        assert_eq!(json["bytes"]["a"], json!({ "received": 6000, "sent": 3000 }));
        assert_eq!(json["tokens"]["joint"], 400);
        assert_eq!(json["state"], "y");
    }

    #[test]
    fn tables_have_a_row_for_each_node_and_round_and_for_each_model() {
        let findings = findings(2.5, "y");
        assert_eq!(findings.rounds_table().lines().count(), 5);
        let comparison = findings.comparison_table();
        assert!(
            comparison.contains("together          2.500  3.500  2.500"),
            "{comparison}"
        );
        assert_eq!(findings.figure().curve, [(0.0, 5.0), (30.0, 4.5), (60.0, 2.5)]);
    }
}
