//! `node join KEY`: the running node asks the issuer and becomes a member; `--dry-run` only says what is missing.
//! Everything that can be checked here is checked before anybody is asked.

use std::path::Path;

use serde::Serialize;
use synod_protocol::invite::Invite;
use synod_training::data::read_documents;

use super::{Terminal, absolute, bytes, client, converse, settings};
use crate::api::types::{JoinSession, Joined, Probed};
use crate::cli::JoinArgs;
use crate::clock::unix_s;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// How long a dry run tries to reach the issuer, in seconds.
const PROBE_S: u64 = 10;

/// Joins, or says what is missing.
pub fn run(dir: &DataDir, args: &JoinArgs, terminal: Terminal) -> Outcome {
    if args.dry_run {
        return dry_run(dir, args, terminal);
    }
    let invite = Invite::parse(&args.key, unix_s()).map_err(Failure::user)?;
    let grant = invite.grant();
    let wanted = JoinSession {
        key: args.key.clone(),
        data: absolute(args.data.as_deref())?,
        patience_s: args.timeout,
    };
    let client = client(dir)?;
    if !args.json {
        terminal.tell(format!(
            "asking {} to let this node into `{}` …",
            grant.issuer, grant.session_name
        ));
    }
    let joined: Joined = converse(async { client.post("/v1/join", &wanted).await })?;
    match args.json {
        true => terminal.print_json(&joined),
        false => terminal.tell(format!(
            "joined `{}` as {}   {}\nnext   `node status --watch`",
            joined.name, joined.roles, joined.session
        )),
    }
    Ok(())
}

/// One thing that joining needs.
#[derive(Serialize)]
struct Need {
    what: &'static str,
    good: bool,
    finding: String,
}

fn dry_run(dir: &DataDir, args: &JoinArgs, terminal: Terminal) -> Outcome {
    let needs = [
        key(&args.key),
        data(args.data.as_deref()),
        disk(dir),
        device(dir),
        issuer(dir, &args.key),
    ];
    match args.json {
        true => terminal.print_json(&needs),
        false => {
            for Need { what, good, finding } in &needs {
                terminal.print(format!(
                    "{} {what:<8} {finding}",
                    if *good { "ok     " } else { "MISSING" }
                ));
            }
        }
    }
    match needs.iter().filter(|need| !need.good).count() {
        0 => Ok(()),
        missing => Err(Failure::user(format!(
            "{missing} of {} things are missing; nothing was joined",
            needs.len()
        ))),
    }
}

fn need(what: &'static str, finding: Outcome<String>) -> Need {
    match finding {
        Ok(finding) => Need {
            what,
            good: true,
            finding,
        },
        Err(failure) => Need {
            what,
            good: false,
            finding: failure.message,
        },
    }
}

fn key(key: &str) -> Need {
    let read = Invite::parse(key, unix_s()).map_err(Failure::user);
    need(
        "key",
        read.map(|invite| {
            format!(
                "genuine, for `{}` as {}",
                invite.grant().session_name,
                invite.permission().roles
            )
        }),
    )
}

fn data(path: Option<&Path>) -> Need {
    let Some(path) = path else {
        let text = "none given: only sessions with a synthetic objective need none; else give --data PATH";
        return need("data", Err(Failure::user(text)));
    };
    let read = read_documents(path).map_err(Failure::user);
    need(
        "data",
        read.and_then(|documents| {
            let count: u64 = documents.texts.iter().map(|text| text.len() as u64).sum();
            match count {
                0 => Err(Failure::user(format!("{} holds no text", path.display()))),
                _ => Ok(format!(
                    "{} in {} documents (the session's least is known once admitted)",
                    bytes(count),
                    documents.texts.len()
                )),
            }
        }),
    )
}

fn disk(dir: &DataDir) -> Need {
    let least = settings(dir, &[]).map(|config| config.retention.min_free_bytes);
    need(
        "disk",
        least.and_then(|least| match dir.free_bytes() {
            Ok(free) if free >= least => Ok(format!("{} free around {dir}", bytes(free))),
            Ok(free) => Err(Failure::environment(format!(
                "{} free around {dir}, {} are asked for: free some space",
                bytes(free),
                bytes(least)
            ))),
            Err(error) => Err(Failure::environment(format!("{dir}: {error}"))),
        }),
    )
}

fn device(dir: &DataDir) -> Need {
    let chosen = settings(dir, &[]).map(|config| config.device());
    need(
        "device",
        chosen.and_then(|device| match device.open() {
            Ok(_) => Ok(device.to_string()),
            Err(error) => Err(Failure::environment(error)),
        }),
    )
}

fn issuer(dir: &DataDir, key: &str) -> Need {
    let wanted = JoinSession {
        key: key.to_owned(),
        data: None,
        patience_s: PROBE_S,
    };
    let probed =
        client(dir).and_then(|client| converse(async { client.post::<Probed>("/v1/join/probe", &wanted).await }));
    need(
        "issuer",
        probed.and_then(|probed| match probed.problem {
            None => Ok("reachable".to_owned()),
            Some(problem) => Err(Failure::environment(problem)),
        }),
    )
}
