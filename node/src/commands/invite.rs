//! `node invite`: mint, explain, narrow and revoke keys.
//! Minting and revoking are the running node's; explaining and narrowing need no node and ask nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use synod_protocol::invite::{Invite, PREFIX, Permission};
use synod_protocol::session::Roles;

use super::{Terminal, client, converse, seconds};
use crate::api::types::{Empty, MintInvite, Minted, RevokeInvite, SessionView};
use crate::cli::{InviteAction, InviteArgs};
use crate::client::session_path;
use crate::clock::unix_s;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};

/// Does what was asked for.
pub fn run(dir: &DataDir, args: &InviteArgs, terminal: Terminal) -> Outcome {
    match &args.action {
        None => mint(dir, args, terminal),
        Some(InviteAction::Explain { key, json }) => explain(key, *json, terminal),
        Some(InviteAction::Narrow {
            key,
            role,
            expires,
            uses,
        }) => {
            let wanted = Narrowing {
                role: role.as_deref(),
                expires: expires.as_deref(),
                uses: *uses,
            };
            terminal.print(narrow(key, &wanted)?.to_text());
            Ok(())
        }
        Some(InviteAction::Revoke { session, key }) => revoke(dir, session, key, terminal),
    }
}

fn mint(dir: &DataDir, args: &InviteArgs, terminal: Terminal) -> Outcome {
    let session = args.session.as_ref().expect("the parser asks for a session");
    let roles: Roles = args
        .role
        .parse()
        .map_err(|error| Failure::user(format!("--role: {error}")))?;
    let wanted = MintInvite {
        roles: roles.to_string(),
        expires_in_s: seconds("--expires", &args.expires)?,
        uses: args.uses,
        addresses: args.address.clone(),
    };
    let client = client(dir)?;
    let minted: Minted = converse(async { client.post(&session_path(session, "/invites"), &wanted).await })?;
    match args.json {
        true => terminal.print_json(&minted),
        false => terminal.print(&minted.key),
    }
    Ok(())
}

/// What a key says.
#[derive(Serialize)]
struct Explained {
    session: String,
    session_name: String,
    issuer: String,
    roles: String,
    uses: u32,
    expires_unix_s: u64,
    expired: bool,
    genuine: bool,
    problem: Option<String>,
    narrowed: usize,
    bootstrap: Vec<String>,
    block: String,
}

fn explain(key: &str, json: bool, terminal: Terminal) -> Outcome {
    let invite = Invite::decode(key).map_err(Failure::user)?;
    let (grant, permission, now) = (invite.grant(), invite.permission(), unix_s());
    let problem = invite.check().err().map(|error| error.to_string());
    let explained = Explained {
        session: grant.session.to_string(),
        session_name: grant.session_name.clone(),
        issuer: grant.issuer.to_string(),
        roles: permission.roles.to_string(),
        uses: permission.uses,
        expires_unix_s: permission.expires_unix_s,
        expired: permission.expires_unix_s <= now,
        genuine: problem.is_none(),
        problem,
        narrowed: invite.narrowings(),
        bootstrap: grant.bootstrap.clone(),
        block: invite.block_ids().last().expect("an invite has a block").to_string(),
    };
    match json {
        true => terminal.print_json(&explained),
        false => terminal.print(describe(&explained, now)),
    }
    Ok(())
}

fn describe(key: &Explained, now: u64) -> String {
    let genuine = match &key.problem {
        None => "yes: every signature in it holds".to_owned(),
        Some(problem) => format!("NO: {problem}"),
    };
    let left = match key.expires_unix_s.checked_sub(now).filter(|left| *left > 0) {
        Some(left) => format!("in {}", rough(left)),
        None => format!(
            "EXPIRED {} ago: ask the issuer for a new one",
            rough(now - key.expires_unix_s)
        ),
    };
    let mut lines = vec![
        format!("session   {}   {}", key.session_name, key.session),
        format!("issuer    {}", key.issuer),
        format!("genuine   {genuine}"),
        format!("roles     {}", key.roles),
        format!(
            "uses      {} (counted by the issuer; what is left, only it knows)",
            key.uses
        ),
        format!("expires   {left}"),
        format!("narrowed  {} times", key.narrowed),
        format!("name      {} (for `node invite revoke`)", key.block),
    ];
    lines.extend(key.bootstrap.iter().map(|address| format!("address   {address}")));
    lines.join("\n")
}

fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

struct Narrowing<'a> {
    role: Option<&'a str>,
    expires: Option<&'a str>,
    uses: Option<u32>,
}

fn narrow(key: &str, wanted: &Narrowing<'_>) -> Outcome<Invite> {
    let invite = Invite::parse(key, unix_s()).map_err(Failure::user)?;
    let wide = invite.permission().clone();
    let roles = match wanted.role {
        Some(text) => text
            .parse()
            .map_err(|error| Failure::user(format!("--role: {error}")))?,
        None => wide.roles,
    };
    let expires_unix_s = match wanted.expires {
        Some(text) => expiry(seconds("--expires", text)?),
        None => wide.expires_unix_s,
    };
    let uses = wanted.uses.unwrap_or(wide.uses);
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| Failure::environment(format!("the system gives no random numbers: {error}")))?;
    invite
        .narrow(
            Permission {
                roles,
                expires_unix_s,
                uses,
            },
            secret,
        )
        .map_err(Failure::user)
}

fn expiry(in_seconds: u64) -> u64 {
    let at = SystemTime::now().checked_add(Duration::from_secs(in_seconds));
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(u64::MAX, |since| since.as_secs())
}

fn revoke(dir: &DataDir, session: &str, key: &str, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let path = session_path(session, "");
    let block = match key.trim().starts_with(PREFIX) {
        true => {
            let invite = Invite::decode(key).map_err(Failure::user)?;
            let view: SessionView = converse(async { client.get(&path).await })?;
            let named = view.id.parse().map_err(Failure::environment)?;
            invite.expect_session(&named).map_err(Failure::user)?;
            invite.block_ids().last().expect("an invite has a block").to_string()
        }
        false => key.to_owned(),
    };
    let wanted = RevokeInvite { block };
    let _: Empty = converse(async { client.post(&format!("{path}/revoke"), &wanted).await })?;
    terminal.tell("revoked: nobody joins with that key any more; who has joined stays");
    Ok(())
}
