//! `node invite`: mint, list, explain, narrow and revoke keys.
//! Minting, listing and revoking are the running node's; explaining and narrowing need no node and ask nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use synod_protocol::invite::{Invite, Permission};
use synod_protocol::session::Roles;

use super::status::word;
use super::table::Table;
use super::{Terminal, client, converse, key, seconds};
use crate::api::types::{InviteView, MintInvite, Minted, RevokeInvite, Revoked};
use crate::cli::{InviteAction, InviteArgs};
use crate::client::session_path;
use crate::clock::unix_s;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::invite_book;
use crate::readable::span;

/// A key that outlives ten years is a typing error, or ought to be a new key.
const LONGEST_S: u64 = 3_650 * 86_400;

/// Does what was asked for.
pub fn run(dir: &DataDir, args: &InviteArgs, terminal: Terminal) -> Outcome {
    match &args.action {
        None => mint(dir, args, terminal),
        Some(InviteAction::List { session, json }) => list(dir, session, *json, terminal),
        Some(InviteAction::Explain { key, json }) => explain(&key::read(key)?, *json, terminal),
        Some(InviteAction::Narrow {
            key,
            role,
            expires,
            uses,
            json,
        }) => {
            let wanted = Narrowing {
                role: role.as_deref(),
                expires: expires.as_deref(),
                uses: *uses,
            };
            let narrowed = narrow(&key::read(key)?, &wanted)?;
            let (key, block) = (narrowed.to_text(), invite_book::name(&narrowed).to_string());
            let expires_unix_s = narrowed.permission().expires_unix_s;
            match json {
                true => terminal.print_json(&Minted {
                    key,
                    block,
                    expires_unix_s,
                }),
                false => terminal.print(key),
            }
            Ok(())
        }
        Some(InviteAction::Revoke { session, key, json }) => revoke(dir, session, key, *json, terminal),
    }
}

fn mint(dir: &DataDir, args: &InviteArgs, terminal: Terminal) -> Outcome {
    let session = args.session.as_ref().expect("the parser asks for a session");
    let roles: Roles = args
        .role
        .parse()
        .map_err(|error| Failure::user(format!("--role: {error}")))?;
    let expires_in_s = seconds("--expires", &args.expires)?;
    if expires_in_s > LONGEST_S {
        let text = format!("--expires {}: a key may live 3650 days at most", args.expires);
        return Err(Failure::user(text));
    }
    let wanted = MintInvite {
        roles: roles.to_string(),
        expires_in_s,
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
        Some(left) => format!("in {}", span(left)),
        None => format!(
            "EXPIRED {} ago: ask the issuer for a new one",
            span(now - key.expires_unix_s)
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

fn list(dir: &DataDir, session: &str, json: bool, terminal: Terminal) -> Outcome {
    let client = client(dir)?;
    let path = session_path(session, "/invites");
    let invites: Vec<InviteView> = converse(async { client.get(&path).await })?;
    if json {
        terminal.print_json(&invites);
        return Ok(());
    }
    if invites.is_empty() {
        terminal.tell(format!("this node has minted no key: `node invite {session}`"));
        return Ok(());
    }
    let mut table = Table::new(&["name", "roles", "joined", "uses left", "expires", "standing"]);
    let (now, unknown) = (unix_s(), || "–".to_owned());
    for one in invites {
        let expires = one.expires_unix_s.map(|at| match at.checked_sub(now) {
            Some(left) => format!("in {}", span(left)),
            None => format!("{} ago", span(now - at)),
        });
        table.row([
            one.block,
            one.roles.unwrap_or_else(unknown),
            one.spent.to_string(),
            one.left.map_or_else(unknown, |left| left.to_string()),
            expires.unwrap_or_else(unknown),
            word(&one.standing),
        ]);
    }
    terminal.print(table.to_string());
    Ok(())
}

fn revoke(dir: &DataDir, session: &str, invite: &str, json: bool, terminal: Terminal) -> Outcome {
    let wanted = RevokeInvite {
        invite: key::read(invite)?,
    };
    let client = client(dir)?;
    let path = session_path(session, "/revoke");
    let revoked: Revoked = converse(async { client.post(&path, &wanted).await })?;
    if json {
        terminal.print_json(&revoked);
        return Ok(());
    }
    let Revoked { block, already, spent } = revoked;
    let stay = match spent {
        0 => "nobody had".to_owned(),
        1 => "1 member has, and stays".to_owned(),
        more => format!("{more} members have, and stay"),
    };
    match already {
        true => terminal.tell(format!("{block} was revoked before: nobody joins with it ({stay})")),
        false => terminal.tell(format!("revoked {block}: nobody joins with that key any more ({stay})")),
    }
    Ok(())
}
