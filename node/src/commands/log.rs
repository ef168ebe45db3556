//! `node log SESSION`: the settled rounds as this node saw them, with losses, bytes and digests.
//! It reads the running node, or a stopped node's store.

use super::model_source::rounds_of;
use super::table::Table;
use super::{Terminal, bytes, short};
use crate::cli::LogArgs;
use crate::data_dir::DataDir;
use crate::failure::Outcome;
use crate::rounds::RoundRow;

/// Prints the rows.
pub fn run(dir: &DataDir, args: &LogArgs, terminal: Terminal) -> Outcome {
    let rows = rounds_of(dir, &args.session, args.from)?;
    match args.json {
        true => terminal.print_json(&rows),
        false if rows.is_empty() && args.from > 0 => {
            terminal.tell(format!(
                "no round from {} on is settled yet: see `node status`",
                args.from
            ));
        }
        false if rows.is_empty() => terminal.tell("no round is settled yet: see `node status`"),
        false => terminal.print(table(&rows).to_string()),
    }
    Ok(())
}

/// The rows as columns.
fn table(rows: &[RoundRow]) -> Table {
    let header = [
        "round", "updates", "missing", "train", "held-out", "after", "distance", "tok/s", "received", "sent",
        "seconds", "state",
    ];
    let mut table = Table::new(&header);
    let loss = |value: Option<f32>| value.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.4}"));
    for row in rows {
        let own = row.own.as_ref();
        table.row([
            row.round.to_string(),
            row.participants
                .iter()
                .filter(|one| one.weight > 0.0)
                .count()
                .to_string(),
            row.missing.len().to_string(),
            loss(own.map(|own| own.train_loss)),
            loss(own.and_then(|own| own.heldout_before)),
            loss(row.heldout_after),
            row.distance
                .map_or_else(|| "–".to_owned(), |distance| format!("{distance:.3e}")),
            own.map_or_else(|| "–".to_owned(), |own| format!("{:.0}", own.tokens_per_s)),
            bytes(row.control_bytes.received + row.bulk_bytes.received),
            bytes(row.control_bytes.sent + row.bulk_bytes.sent),
            format!("{:.1}", row.wall_ms as f64 / 1e3),
            short(&row.state).to_owned(),
        ]);
    }
    table
}
