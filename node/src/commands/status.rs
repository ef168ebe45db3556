//! `node status`: this node and its sessions, once, as JSON, or live.
//! It shows what the node says; nothing is computed here.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use synod_protocol::session::Lifecycle;
use synod_storage::store::Standing;

use super::table::Table;
use super::{Terminal, bytes, client, converse, short};
use crate::api::types::{NodeView, SessionView};
use crate::cli::StatusArgs;
use crate::client::Client;
use crate::data_dir::DataDir;
use crate::failure::Outcome;

/// How often a live view is refreshed.
const REFRESH: Duration = Duration::from_millis(500);

/// Shows it.
pub fn run(dir: &DataDir, args: &StatusArgs, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    converse(async {
        if args.watch {
            return watch(&client, terminal).await;
        }
        let view: NodeView = client.get("/v1/status").await?;
        match args.json {
            true => terminal.print_json(&view),
            false => terminal.print(describe(&view)),
        }
        Ok(())
    })
}

fn describe(view: &NodeView) -> String {
    let mut lines = vec![
        format!(
            "node    {}   (version {}, process {}, up {} s)",
            view.peer, view.version, view.pid, view.uptime_s
        ),
        format!("folder  {}", view.data_dir),
        format!("device  {}", view.device),
        format!(
            "peers   {} connected; reachability {}",
            view.peers_connected, view.reachability
        ),
        format!(
            "bytes   messages {} in, {} out; models and updates {} in, {} out",
            bytes(view.control_bytes.received),
            bytes(view.control_bytes.sent),
            bytes(view.bulk_bytes.received),
            bytes(view.bulk_bytes.sent)
        ),
    ];
    lines.extend(view.listen.iter().map(|address| format!("listen  {address}")));
    if view.sessions.is_empty() {
        lines.push("no session: create one with `node session create`, or join one with `node join`".to_owned());
    } else {
        lines.push(format!("\n{}", table(&view.sessions)));
        lines.extend(view.sessions.iter().map(notice));
    }
    lines.join("\n")
}

/// One line under the table: how a session stands here.
fn notice(session: &SessionView) -> String {
    let name = &session.name;
    match (&session.stopped, &session.trouble) {
        (Some(reason), _) => format!("{name}: STOPPED HERE: {reason}"),
        (None, Some(trouble)) => format!(
            "{name}: {}; THIS NODE COULD NOT DO ITS PART: {trouble}",
            session.explanation
        ),
        (None, None) => format!("{name}: {}", session.explanation),
    }
}

/// Sessions as columns.
pub fn table(sessions: &[SessionView]) -> Table {
    let mut table = Table::new(&[
        "session",
        "id",
        "life",
        "round",
        "phase",
        "members",
        "coordinator",
        "held-out loss",
        "state",
    ]);
    for session in sessions {
        table.row([
            session.name.clone(),
            short(&session.id).to_owned(),
            match (&session.stopped, session.left) {
                (Some(_), _) => "stopped".to_owned(),
                (None, true) => "left".to_owned(),
                (None, false) => word(&session.lifecycle),
            },
            format!("{}/{}", session.round.min(session.rounds), session.rounds),
            doing(session),
            session.members.len().to_string(),
            coordinator(session),
            loss(session),
            session.state.as_deref().map_or("–", short).to_owned(),
        ]);
    }
    table
}

/// A word of the protocol as it is written in JSON.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}

fn doing(session: &SessionView) -> String {
    match &session.progress {
        _ if session.left => "–".to_owned(),
        Some(now) => format!("{} {}/{}", word(&session.phase), now.step, now.steps),
        None => word(&session.phase),
    }
}

fn coordinator(session: &SessionView) -> String {
    let me = session.members.iter().find(|member| member.me);
    match &session.coordinator {
        Some(peer) if me.is_some_and(|me| me.peer == *peer) => "this node".to_owned(),
        Some(peer) => short(peer).to_owned(),
        None => "–".to_owned(),
    }
}

fn loss(session: &SessionView) -> String {
    let row = session.last_round.as_ref();
    let known = row.and_then(|row| {
        row.heldout_after
            .or_else(|| row.own.as_ref().and_then(|own| own.heldout_before))
    });
    known.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.3}"))
}

/// Live until every session is finished or stopped: bars on a terminal, a line a change elsewhere.
async fn watch(client: &Client, terminal: Terminal) -> Outcome {
    let bars = MultiProgress::new();
    let mut shown: BTreeMap<String, ProgressBar> = BTreeMap::new();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let sessions: Vec<SessionView> = client.get("/v1/sessions").await?;
        for session in &sessions {
            if terminal.is_interactive() {
                let bar = shown
                    .entry(session.id.clone())
                    .or_insert_with(|| bars.add(new_bar(session)));
                bar.set_position(settled(session));
                bar.set_message(message(session));
            } else {
                let line = format!(
                    "{} {} round {}/{} loss {} state {}",
                    session.name,
                    word(&session.lifecycle),
                    settled(session),
                    session.rounds,
                    loss(session),
                    session.state.as_deref().map_or("–", short)
                );
                if told.insert(session.id.clone(), line.clone()).as_ref() != Some(&line) {
                    terminal.print(line);
                }
            }
        }
        let is_over = |session: &SessionView| {
            let ended = session.lifecycle == Lifecycle::Finished || session.standing == Standing::Left;
            ended || session.stopped.is_some()
        };
        if !sessions.is_empty() && sessions.iter().all(is_over) {
            shown.values().for_each(ProgressBar::abandon);
            return Ok(());
        }
        tokio::time::sleep(REFRESH).await;
    }
}

fn settled(session: &SessionView) -> u64 {
    match session.lifecycle {
        Lifecycle::Finished => session.rounds,
        _ => session.round.saturating_sub(1),
    }
}

fn new_bar(session: &SessionView) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:16} {bar:24} {pos}/{len} rounds  {wide_msg}");
    let bar = ProgressBar::new(session.rounds).with_prefix(session.name.clone());
    bar.with_style(style.expect("the template is written correctly"))
}

fn message(session: &SessionView) -> String {
    let speed = session.progress.and_then(|now| now.tokens_per_s);
    let speed = speed.map_or_else(String::new, |speed| format!(", {speed:.0} tokens/s"));
    format!(
        "{}: {}{speed}, held-out loss {}, {} members, led by {}",
        word(&session.lifecycle),
        doing(session),
        loss(session),
        session.members.len(),
        coordinator(session)
    )
}
