//! `node leave SESSION`: takes this node out of a session at the next border between rounds.
//! Records and models stay, for `node export` and `node log`.

use super::{Terminal, client, converse};
use crate::api::types::Empty;
use crate::cli::NameArgs;
use crate::client::session_path;
use crate::data_dir::DataDir;
use crate::failure::Outcome;

/// Leaves.
pub fn run(dir: &DataDir, args: &NameArgs, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let answer: Empty = converse(async { client.post(&session_path(&args.session, "/leave"), &Empty {}).await })?;
    match args.json {
        true => terminal.print_json(&answer),
        false => terminal.tell(format!(
            "leaving `{}` at the next border between rounds; its model stays here",
            args.session
        )),
    }
    Ok(())
}
