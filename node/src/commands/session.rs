//! `node session create|schedule|list|show`.
//! The node checks and founds; this reads files and prints.

use std::io::Write;
use std::path::PathBuf;

use synod_config::SessionConfig;
use synod_config::load::session_as_written;
use synod_config::presets::{PRESETS, preset};
use synod_config::trust::Trust;
use synod_protocol::session::Topology;
use synod_protocol::topology::gossip::graph_seed;
use synod_training::schedules;

use super::table::Table;
use super::{Terminal, absolute_data, absolute_tokenizer, bounded, client, converse, short, tokenizer};
use crate::api::types::{ConfigView, CreateSession, Joined, SessionView};
use crate::cli::{CreateArgs, JsonArgs, NameArgs, ScheduleArgs};
use crate::client::session_path;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// No session file is longer.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Rounds of a graph that is drawn anew each time, over which its speed is averaged for `session show`.
const GRAPH_ROUNDS: u64 = 64;

/// `node session create`
pub fn create(dir: &DataDir, args: &CreateArgs, terminal: Terminal) -> Outcome {
    let (place, mut file) = text(args.file.as_ref(), args.preset.as_ref())?;
    if let Some(path) = &args.tokenizer {
        file = tokenizer::named_in(&place, &file, path, args.eod.as_deref())?;
    }
    if let Some(trust) = args.trust {
        let reasons;
        (file, reasons) = filled(&place, &file, trust)?;
        // As comments, so that what --show prints is a file.
        let shown = reasons.iter().filter(|_| !args.json);
        shown.for_each(|reason| terminal.print(format!("# {reason}")));
    }
    if args.show {
        terminal.print(file.trim_end());
        return Ok(());
    }
    let wanted = CreateSession {
        file,
        place,
        name: args.name.clone(),
        data: absolute_data(&args.data)?,
        tokenizer: absolute_tokenizer(args.tokenizer.as_ref())?,
    };
    let client = client(dir)?;
    let joined: Joined = converse(async { client.post_long("/v1/sessions", &wanted).await })?;
    if args.json {
        terminal.print_json(&joined);
        return Ok(());
    }
    for note in &joined.notes {
        terminal.print(format!("note    {note}"));
    }
    terminal.tell(format!("session {}   {}", joined.name, joined.session));
    terminal.tell(format!(
        "next    invite others with `node invite {}`; see `node status`",
        joined.name
    ));
    Ok(())
}

/// The file with what follows from the creator's trust, and why.
fn filled(place: &str, text: &str, trust: Trust) -> Outcome<(String, Vec<String>)> {
    let mut file = session_as_written(place, text).map_err(Failure::user)?;
    let reasons = trust
        .apply(&mut file)
        .map_err(|error| Failure::user(format!("{place}, --trust {trust}: {error}")))?;
    let text = toml::to_string(&file).map_err(|error| Failure::user(format!("{place}: {error}")))?;
    Ok((text, reasons))
}

/// A session file's place and text, from a preset or a path.
fn text(file: Option<&PathBuf>, preset_name: Option<&String>) -> Outcome<(String, String)> {
    if let Some(name) = preset_name {
        let known = || PRESETS.map(|(name, _)| name).join(", ");
        let text = preset(name).ok_or_else(|| Failure::user(format!("--preset {name}: there are only {}", known())))?;
        return Ok((format!("preset {name}"), text.to_owned()));
    }
    let path = file.expect("the parser asks for a file or a preset");
    let text = std::fs::File::open(path)
        .and_then(|file| bounded(file, FILE_BYTES_MAX))
        .map_err(|error| Failure::user(format!("cannot read the session file {}: {error}", path.display())))?;
    Ok((path.display().to_string(), text))
}

/// `node session schedule`
pub fn schedule(dir: &DataDir, args: &ScheduleArgs, terminal: Terminal) -> Outcome {
    let (training, rounds) = match &args.session {
        Some(session) => {
            let config = config_of(dir, session)?;
            (config.training, config.protocol.rounds)
        }
        None => {
            let (place, text) = text(args.file.as_ref(), args.preset.as_ref())?;
            let file = session_as_written(&place, &text).map_err(Failure::user)?;
            let checked = file.training.check();
            checked.map_err(|error| Failure::user(format!("{place}: {error}")))?;
            (file.training, file.protocol.rounds)
        }
    };
    let steps = rounds.saturating_mul(u64::from(training.local_steps));
    let rows = schedules::table(&training, steps, schedules::MOST_ROWS);
    if let Some(path) = &args.svg {
        std::fs::File::create_new(path)
            .and_then(|mut svg| svg.write_all(schedules::svg(&rows).as_bytes()))
            .map_err(|error| Failure::user(format!("--svg {}: {error}", path.display())))?;
    }
    match (args.json, args.csv) {
        (true, _) => terminal.print_json(&rows),
        (false, true) => terminal.print(schedules::csv(&rows).trim_end()),
        (false, false) => terminal.print(schedules::chart(&rows).trim_end()),
    }
    Ok(())
}

/// The configuration of a session that this node is in, from the running node.
fn config_of(dir: &DataDir, session: &str) -> Outcome<SessionConfig> {
    let (client, path) = (client(dir)?, session_path(session, "/config"));
    let view: ConfigView = converse(async { client.get(&path).await })?;
    let unreadable =
        || Failure::environment("the node's answer is no session configuration of this version: restart it");
    let bytes = hex::decode(&view.canonical_hex).map_err(|_| unreadable())?;
    SessionConfig::from_bytes(&bytes).map_err(|_| unreadable())
}

/// `node session list`
pub fn list(dir: &DataDir, args: &JsonArgs, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let sessions: Vec<SessionView> = converse(async { client.get("/v1/sessions").await })?;
    if args.json {
        terminal.print_json(&sessions);
    } else if sessions.is_empty() {
        terminal.tell("no session: create one with `node session create`, or join one with `node join`");
    } else {
        terminal.print(super::status::table(&sessions).to_string());
    }
    Ok(())
}

/// `node session show`
pub fn show(dir: &DataDir, args: &NameArgs, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let path = session_path(&args.session, "");
    let (view, config): (SessionView, ConfigView) =
        converse(async { Ok((client.get(&path).await?, client.get(&format!("{path}/config")).await?)) })?;
    if args.json {
        terminal
            .print_json(&serde_json::json!({ "session": view, "config": config.config, "privacy": config.privacy }));
        return Ok(());
    }
    terminal.print(describe(&view));
    if let Some(graph) = graph_of(&view, &config) {
        terminal.print(format!("graph        {graph}"));
    }
    terminal.print(format!("privacy      {}", config.privacy));
    terminal.print(format!("\n{:#}", config.config));
    Ok(())
}

/// The graph of a decentralized session among its trainers of now, and how fast it mixes.
fn graph_of(view: &SessionView, config: &ConfigView) -> Option<String> {
    let config = SessionConfig::from_bytes(&hex::decode(&config.canonical_hex).ok()?).ok()?;
    let Topology::Decentralized(terms) = &config.protocol.topology else {
        return None;
    };
    if !config.protocol.is_mixing() {
        return None;
    }
    let trainers = view
        .members
        .iter()
        .filter(|member| member.roles.contains("trainer"))
        .count();
    let members = trainers.max(config.protocol.members_to_begin());
    let (graph, weighting, seed) = (&terms.graph, terms.weighting, graph_seed(&config.id()));
    let speed = match graph.contraction(members, weighting, &seed) {
        Err(error) => return Some(format!("complete, in place of this: {error}")),
        Ok(Some(contraction)) => format!(
            "spectral gap {:.4}: {} rounds leave {:.4} of the distance between members at most",
            contraction.gap(),
            contraction.rounds,
            contraction.factor
        ),
        Ok(None) => match graph.mean_square_contraction(members, weighting, &seed, GRAPH_ROUNDS) {
            Ok(left) => format!("a round leaves {left:.4} of the squared distance between members on average"),
            Err(error) => error.to_string(),
        },
    };
    let least = graph.least_in_degree(members, &seed).unwrap_or(0);
    Some(format!(
        "{} among {members}, {least} neighbours at the least, {speed}",
        graph.name()
    ))
}

fn describe(view: &SessionView) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
    let data = match view.data.as_slice() {
        [] => "–".to_owned(),
        paths => paths.join(", "),
    };
    let mut lines = vec![
        format!("session      {}   {}", view.name, view.id),
        format!("creator      {}", view.creator),
        format!(
            "life         {}: {}",
            super::status::word(&view.lifecycle),
            view.explanation
        ),
        format!(
            "round        {} of {}, term {}, {}",
            view.round,
            view.rounds,
            view.term,
            super::status::word(&view.phase)
        ),
        format!("coordinator  {}", or_none(&view.coordinator)),
        format!("state        {}", or_none(&view.state)),
        format!("data here    {data}"),
    ];
    if let Some(distance) = view.distance {
        lines.push(format!(
            "distance     {distance:.3e} from the neighbours' models, before the last mix"
        ));
    }
    if let Some(reason) = &view.stopped {
        lines.push(format!("STOPPED HERE {reason}"));
    }
    if let Some(trouble) = &view.trouble {
        lines.push(format!("TROUBLE HERE {trouble}"));
    }
    let mut table = Table::new(&["member", "roles", "heard", "phase", "round", "reputation", "absent"]);
    for member in &view.members {
        let heard = member
            .heard_ms_ago
            .map_or_else(|| "never".to_owned(), |ms| format!("{:.1} s ago", ms as f64 / 1e3));
        table.row([
            member.peer.clone(),
            member.roles.clone(),
            if member.me { "this node".to_owned() } else { heard },
            member
                .phase
                .map_or_else(|| "–".to_owned(), |phase| super::status::word(&phase)),
            member.round.map_or_else(|| "–".to_owned(), |round| round.to_string()),
            member.reputation.to_string(),
            member.absent_rounds.to_string(),
        ]);
    }
    lines.push(format!("\n{table}"));
    for one in &view.evidence {
        lines.push(format!(
            "charged      {}: {} ({}, round {})",
            short(&one.peer),
            one.reject,
            one.kind,
            one.round
        ));
    }
    lines.join("\n")
}
