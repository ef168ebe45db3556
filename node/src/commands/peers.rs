//! `node peers`: who is connected, how, and what has passed.
//! Members that are not connected are in `node session show`.

use super::table::Table;
use super::{Terminal, bytes, client, converse};
use crate::api::types::PeerView;
use crate::cli::JsonArgs;
use crate::data_dir::DataDir;
use crate::failure::Outcome;

/// Lists them.
pub fn run(dir: &DataDir, args: &JsonArgs, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let peers: Vec<PeerView> = converse(async { client.get("/v1/peers").await })?;
    if args.json {
        terminal.print_json(&peers);
        return Ok(());
    }
    if peers.is_empty() {
        terminal.tell("no peer is connected: join a session, or set network.bootstrap");
        return Ok(());
    }
    let mut table = Table::new(&[
        "peer",
        "sessions",
        "round trip",
        "connected",
        "received",
        "sent",
        "address",
    ]);
    for peer in peers {
        let through = if peer.relayed { " (relayed)" } else { "" };
        table.row([
            peer.peer,
            peer.sessions.join(","),
            peer.round_trip_ms
                .map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
            format!("{} s", peer.connected_s),
            bytes(peer.control_bytes.received + peer.bulk_bytes.received),
            bytes(peer.control_bytes.sent + peer.bulk_bytes.sent),
            format!("{}{through}", peer.addresses.first().map_or("", String::as_str)),
        ]);
    }
    terminal.print(table.to_string());
    Ok(())
}
