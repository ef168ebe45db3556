//! `node session create|list|show`.
//! The node checks and founds; this reads files and prints.

use synod_config::load::parse_session;
use synod_config::presets::{PRESETS, preset};
use synod_config::trust::Trust;

use super::table::Table;
use super::{Terminal, absolute, client, converse, short};
use crate::api::types::{ConfigView, CreateSession, Joined, SessionView};
use crate::cli::{CreateArgs, JsonArgs, NameArgs};
use crate::client::session_path;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// `node session create`
pub fn create(dir: &DataDir, args: &CreateArgs, terminal: Terminal) -> Outcome {
    let (place, mut file) = text(args)?;
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
        data: absolute(args.data.as_deref())?,
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
    let mut file = parse_session(place, text).map_err(Failure::user)?;
    let reasons = trust
        .apply(&mut file)
        .map_err(|error| Failure::user(format!("{place}, --trust {trust}: {error}")))?;
    let text = toml::to_string(&file).map_err(|error| Failure::user(format!("{place}: {error}")))?;
    Ok((text, reasons))
}

fn text(args: &CreateArgs) -> Outcome<(String, String)> {
    if let Some(name) = &args.preset {
        let known = || PRESETS.map(|(name, _)| name).join(", ");
        let text = preset(name).ok_or_else(|| Failure::user(format!("--preset {name}: there are only {}", known())))?;
        return Ok((format!("preset {name}"), text.to_owned()));
    }
    let path = args.file.as_ref().expect("the parser asks for a file or a preset");
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::user(format!("cannot read the session file {}: {error}", path.display())))?;
    Ok((path.display().to_string(), text))
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
    terminal.print(format!("privacy      {}", config.privacy));
    terminal.print(format!("\n{:#}", config.config));
    Ok(())
}

fn describe(view: &SessionView) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
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
        format!("data here    {}", or_none(&view.data)),
    ];
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
