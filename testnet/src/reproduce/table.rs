//! Results as tables for people: a table for each setting, split, momentum and number of faulty workers, and the list of
//! configurations that stay near what is reached without attack. It measures nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::case::{Attack, Case, WORKERS};
use super::training::{Outcome, Schedule};

type Results = BTreeMap<String, Outcome>;

/// Points below the run without attack that still count as near it.
const NEAR: f64 = 3.0;

/// A cell: the accuracies of all seeds.
#[derive(Default)]
struct Cell(Vec<f64>);

impl Cell {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// What one table shows, in the order of the plan: its title, and its cells by defence and attack.
struct Table {
    title: String,
    setting: &'static str,
    split: &'static str,
    momentum_tenths: u32,
    faulty: usize,
    defences: Vec<&'static str>,
    attacks: Vec<Attack>,
    cells: BTreeMap<(&'static str, &'static str), Cell>,
}

impl Table {
    fn cell(&self, defence: &'static str, attack: Attack) -> Option<&Cell> {
        self.cells.get(&(defence, attack.name()))
    }

    /// The lowest mean over attacks.
    fn worst(&self, defence: &'static str) -> f64 {
        let attacked = self.attacks.iter().filter(|attack| **attack != Attack::None);
        attacked
            .filter_map(|attack| self.cell(defence, *attack))
            .fold(f64::INFINITY, |worst, cell| worst.min(cell.mean()))
    }

    /// What the undefended reach when nobody attacks.
    fn attack_free(&self) -> f64 {
        self.defences
            .first()
            .and_then(|first| self.cell(first, Attack::None))
            .map_or(f64::NAN, Cell::mean)
    }
}

fn tables(cases: &[Case], results: &Results) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for case in cases {
        let Some(outcome) = results.get(&case.key()) else {
            continue;
        };
        let title = format!(
            "{}, {}, momentum 0.{}, f = {} of {WORKERS}",
            case.setting.name(),
            case.split.name(),
            case.momentum_tenths,
            case.faulty
        );
        let at = tables.iter().position(|table| table.title == title).unwrap_or_else(|| {
            tables.push(Table {
                title,
                setting: case.setting.name(),
                split: case.split.name(),
                momentum_tenths: case.momentum_tenths,
                faulty: case.faulty,
                defences: Vec::new(),
                attacks: case.setting.attacks().to_vec(),
                cells: BTreeMap::new(),
            });
            tables.len() - 1
        });
        let table = &mut tables[at];
        let defence = case.defence.name();
        if !table.defences.contains(&defence) {
            table.defences.push(defence);
        }
        table
            .cells
            .entry((defence, case.attack.name()))
            .or_default()
            .0
            .push(outcome.accuracy);
    }
    tables
}

/// All tables, and the list.
pub fn markdown(cases: &[Case], results: &Results, schedule: Schedule) -> String {
    let mut text = String::from("# Accuracy of ten workers by defence and attack\n\n");
    let seeds = cases.iter().map(|case| case.seed).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "Test accuracy in percent, mean over {seeds} seed(s), in brackets the least of them; {} rounds, batch {}, step {}. \
         `worst` is the lowest mean over attacks, and *drop* how far that is below the first defence without attack.\n",
        schedule.rounds, schedule.batch, schedule.rate
    );
    let tables = tables(cases, results);
    text.push_str(&nearness(&tables));
    for table in &tables {
        let _ = writeln!(text, "## {}\n", table.title);
        let names: Vec<&str> = table.attacks.iter().map(|attack| attack.name()).collect();
        let _ = writeln!(text, "| defence | {} | worst | drop |", names.join(" | "));
        let _ = writeln!(text, "|---|{}---|---|", "---|".repeat(names.len()));
        for &defence in &table.defences {
            let _ = write!(text, "| {defence} |");
            for &attack in &table.attacks {
                let _ = match table.cell(defence, attack) {
                    Some(cell) => write!(text, " {:.1} ({:.1}) |", cell.mean(), cell.least()),
                    None => write!(text, " |"),
                };
            }
            let worst = table.worst(defence);
            let _ = writeln!(text, " {worst:.1} | {:.1} |", table.attack_free() - worst);
        }
        text.push('\n');
    }
    text
}

/// Who stays near the run without attack under all attacks, with fewer than a quarter faulty.
fn nearness(tables: &[Table]) -> String {
    let mut text = format!(
        "## Within {NEAR} points of the attack-free run, under all attacks, f < n/4\n\n\
         Drop in points: the worst attack against the undefended run without attack.\n\n\
         | setting | split | momentum | f | within | beyond |\n|---|---|---|---|---|---|\n"
    );
    for table in tables.iter().filter(|table| 4 * table.faulty < WORKERS) {
        let (mut within, mut beyond) = (Vec::new(), Vec::new());
        for &defence in &table.defences {
            let drop = table.attack_free() - table.worst(defence);
            let list = if drop <= NEAR { &mut within } else { &mut beyond };
            list.push(format!("{defence} {drop:.1}"));
        }
        let or_none = |list: Vec<String>| {
            if list.is_empty() {
                "none".to_owned()
            } else {
                list.join(", ")
            }
        };
        let _ = writeln!(
            text,
            "| {} | {} | 0.{} | {} | {} | {} |",
            table.setting,
            table.split,
            table.momentum_tenths,
            table.faulty,
            or_none(within),
            or_none(beyond)
        );
    }
    text.push('\n');
    text
}

/// The same as data: for each table with fewer than a quarter faulty, the defences that stay near.
pub fn within(cases: &[Case], results: &Results) -> Value {
    let tables = tables(cases, results);
    let few = tables.iter().filter(|table| 4 * table.faulty < WORKERS);
    few.map(|table| {
        let near = table
            .defences
            .iter()
            .filter(|defence| table.attack_free() - table.worst(defence) <= NEAR);
        json!({ "table": table.title, "defences": near.collect::<Vec<_>>() })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::case::{Setting, Split, plan};
    use super::*;

    #[test]
    fn a_defence_is_near_when_its_worst_attack_costs_three_points_at_most() {
        let cases = plan(&[Setting::Federated], &[Split::Iid], &[1, 4], &[9], 2);
        let results: Results = cases
            .iter()
            .map(|case| {
                let bent = case.defence.name() == "mean" && case.attack == Attack::Foe;
                let accuracy = match case.attack {
                    Attack::None => 95.0,
                    _ if bent => 91.0,
                    _ => 92.5,
                };
                let outcome = Outcome {
                    accuracy,
                    worst: accuracy,
                };
                (case.key(), outcome)
            })
            .collect();
        let near = within(&cases, &results);
        assert_eq!(
            near.as_array().map(Vec::len),
            Some(1),
            "four of ten are more than a quarter"
        );
        let names = near[0]["defences"].to_string();
        assert!(names.contains("median") && !names.contains("\"mean\""), "{names}");
        let text = markdown(&cases, &results, super::super::FULL);
        assert!(text.contains("| median | 95.0 (95.0) |"), "{text}");
        assert!(text.contains("mean 4.0"), "{text}");
    }
}
