//! `node join KEY`: the running node looks whether it can take part, asks the issuer and becomes a member; `--dry-run`
//! only says what is missing, by the issuer's word where it answers. No use of the key is spent before all is there.

use synod_protocol::invite::Invite;

use super::{Terminal, absolute_data, absolute_tokenizer, client, converse, key, settings};
use crate::api::types::{JoinSession, Joined, Preview};
use crate::cli::JoinArgs;
use crate::clock::unix_s;
use crate::data_dir::DataDir;
use crate::failure::{Failure, Outcome};
use crate::requirements::{self, Need};

/// How long the issuer is asked where the operator says nothing, in seconds.
const PATIENCE_S: u64 = 60;
/// The same for a dry run, which may be repeated.
const DRY_RUN_PATIENCE_S: u64 = 10;

/// Joins, or says what is missing.
pub fn run(dir: &DataDir, args: &JoinArgs, terminal: Terminal) -> Outcome {
    let key = key::read(&args.key)?;
    if args.dry_run {
        return dry_run(dir, key, args, terminal);
    }
    let invite = Invite::parse(&key, unix_s()).map_err(Failure::user)?;
    let grant = invite.grant();
    let wanted = JoinSession {
        key,
        data: absolute_data(&args.data)?,
        tokenizer: absolute_tokenizer(args.tokenizer.as_ref())?,
        patience_s: args.timeout.unwrap_or(PATIENCE_S),
    };
    let client = client(dir)?;
    if !args.json {
        terminal.tell(format!(
            "asking {} to let this node into `{}` …",
            grant.issuer, grant.session_name
        ));
    }
    let joined: Joined = converse(async { client.post_long("/v1/join", &wanted).await })?;
    match args.json {
        true => terminal.print_json(&joined),
        false => {
            joined
                .notes
                .iter()
                .for_each(|note| terminal.print(format!("note   {note}")));
            terminal.tell(format!(
                "joined `{}` as {}   {}\nnext   `node status --watch`",
                joined.name, joined.roles, joined.session
            ));
        }
    }
    Ok(())
}

fn dry_run(dir: &DataDir, key: String, args: &JoinArgs, terminal: Terminal) -> Outcome {
    let preview = preview(dir, key, args)?;
    match args.json {
        true => terminal.print_json(&preview),
        false => {
            for Need {
                what, good, finding, ..
            } in &preview.needs
            {
                let mark = if *good { "ok     " } else { "MISSING" };
                terminal.print(format!("{mark} {what:<9} {finding}"));
            }
            if terminal.verbose
                && let Some(config) = &preview.config
            {
                terminal.print(format!("\n{config:#}"));
            }
        }
    }
    let missing = preview.needs.iter().filter(|need| !need.good);
    match missing.clone().count() {
        0 => Ok(()),
        count => Err(Failure::user(format!(
            "{count} of {} things are missing ({}); nothing was joined, and no use of the key was spent",
            preview.needs.len(),
            missing.map(|need| need.what.as_str()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn preview(dir: &DataDir, key: String, args: &JoinArgs) -> Outcome<Preview> {
    let client = client(dir)?;
    let invite = Invite::parse(&key, unix_s());
    let running = converse(async { Ok(client.is_running().await) })?;
    if running && invite.is_ok() {
        let wanted = JoinSession {
            key,
            data: args
                .data
                .iter()
                .map(|path| there_or_not("--data", path))
                .collect::<Outcome<_>>()?,
            tokenizer: args
                .tokenizer
                .as_ref()
                .map(|path| there_or_not("--tokenizer", path))
                .transpose()?,
            patience_s: args.timeout.unwrap_or(DRY_RUN_PATIENCE_S),
        };
        return converse(async { client.post_long("/v1/join/preview", &wanted).await });
    }
    // Nobody can be asked: what this command sees by itself.
    let config = settings(dir, &[])?;
    let node = match running {
        true => Ok("running; the issuer was not asked, for want of a key that can be used".to_owned()),
        false => Err(Failure::environment(format!(
            "no node is running on {dir}, so the issuer was not asked: start it with `node start`"
        ))),
    };
    let key = match &invite {
        Ok(invite) => requirements::key(invite, None, unix_s()),
        Err(error) => Need::of("key", Err(Failure::user(error))),
    };
    let data: Vec<String> = args.data.iter().map(|path| path.display().to_string()).collect();
    let needs = vec![
        key,
        Need::of("node", node),
        requirements::text(&data),
        requirements::disk(dir, &config.retention, None),
        requirements::device(config.device()),
    ];
    Ok(Preview::of(needs, None))
}

/// A path as the node will see it; whether something is there is a finding of the dry run.
fn there_or_not(flag: &str, path: &std::path::Path) -> Outcome<String> {
    let full = std::path::absolute(path).map_err(|error| Failure::user(format!("{flag}: {error}")))?;
    Ok(full.display().to_string())
}
