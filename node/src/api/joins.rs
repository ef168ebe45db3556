//! The routes by which this node joins sessions: a preview that spends nothing, and the join itself, which looks at
//! everything here before it asks the issuer for a use of the key.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use synod_config::SessionConfig;
use synod_protocol::invite::Invite;
use synod_protocol::journal::JournalEntry;
use synod_protocol::session::Role;
use synod_storage::store::Standing;

use super::Context;
use super::routes::{Body, adopt, blocking, build_worker, id_of, keep_tokenizer, record};
use super::types::{JoinSession, Joined, Preview};
use crate::clock::unix_s;
use crate::driver::{NewSession, Request};
use crate::failure::{Failure, Fault, Outcome};
use crate::joining::{Joining, Offered};
use crate::requirements::{self, Need};
use crate::session_data::{options, tokenizer_of};

/// Nobody waits for an issuer longer than this, in seconds.
const PATIENCE_MAX_S: u64 = 3_600;

/// `POST /v1/join`
pub(super) async fn join(State(context): State<Context>, Body(wanted): Body<JoinSession>) -> Outcome<Json<Joined>> {
    let (invite, patience) = read(&context, &wanted).await?;
    let joining = joining(&context);
    // What cannot be is refused before a use of the key is spent.
    let Offered { config, offer } = joining.preview(&invite, patience).await?;
    obtain_tokenizer(&context, &wanted, &invite, &config).await?;
    let trains = invite.permission().roles.has(Role::Trainer);
    let (worker, notes) = build_worker(&context, &config, &wanted.data, trains).await?;
    let disk = requirements::disk(
        &context.data_dir,
        &context.retention,
        Some((&config, members_after(&offer, &config))),
    );
    if !disk.good {
        return Err(Failure::environment(format!("disk: {}", disk.finding)));
    }
    let admitted = joining.ask(&invite, patience).await?;
    let roles = admitted.admission.verify().map_err(Failure::environment)?.value().roles;
    let bootstrap = invite.grant().bootstrap.clone();
    let record = record(&config, admitted.config_bytes, wanted.data, Standing::Joined, bootstrap);
    let answer = Joined {
        session: record.id.to_string(),
        name: record.name.clone(),
        roles: roles.to_string(),
        notes,
    };
    let new = NewSession {
        record,
        config,
        entries: vec![JournalEntry::OwnAdmission(admitted.admission)],
        worker,
    };
    adopt(&context, new).await?;
    Ok(Json(answer))
}

/// `POST /v1/join/preview`
pub(super) async fn preview(State(context): State<Context>, Body(wanted): Body<JoinSession>) -> Outcome<Json<Preview>> {
    let (invite, patience) = read(&context, &wanted).await?;
    let offered = joining(&context).preview(&invite, patience).await;
    let tokenizer = match &offered {
        Ok(Offered { config, .. }) => obtain_tokenizer(&context, &wanted, &invite, config).await,
        Err(_) => Ok(String::new()),
    };
    blocking(move || Ok(Json(look(&context, &wanted, &invite, offered, tokenizer)))).await
}

/// Has the session's tokenizer in the store: the operator's file, or the one that is there, or the issuer's. One sentence
/// says which.
async fn obtain_tokenizer(
    context: &Context,
    wanted: &JoinSession,
    invite: &Invite,
    config: &SessionConfig,
) -> Outcome<String> {
    let tokenizer = tokenizer_of(config).filter(|_| wanted.tokenizer.is_none());
    let Some(tokenizer) = tokenizer.filter(|tokenizer| !context.blobs.has(&tokenizer.blake3)) else {
        keep_tokenizer(context, config, wanted.tokenizer.clone()).await?;
        return Ok(match &wanted.tokenizer {
            Some(path) => format!("{path} is the session's"),
            None => "the session's is on this node".to_owned(),
        });
    };
    let issuer = invite.grant().issuer;
    joining(context).fetch_tokenizer(&tokenizer, issuer).await?;
    Ok(format!("the session's came from {issuer}"))
}

/// Everything that can be known, in the order in which an operator would mend it.
fn look(
    context: &Context,
    wanted: &JoinSession,
    invite: &Invite,
    offered: Outcome<Offered>,
    tokenizer: Outcome<String>,
) -> Preview {
    let now = unix_s();
    let Offered { config, offer } = match offered {
        Ok(offered) => offered,
        Err(failure) => {
            // A refusal is about the key; the issuer that gave it can be reached.
            let (key, issuer) = match failure.fault {
                Fault::User => (Need::of("key", Err(failure)), Ok("it answers".to_owned())),
                Fault::Environment => (requirements::key(invite, None, now), Err(failure)),
            };
            let needs = vec![
                key,
                Need::of("issuer", issuer),
                requirements::text(&wanted.data),
                requirements::disk(&context.data_dir, &context.retention, None),
                requirements::device(context.device),
            ];
            return Preview::of(needs, None);
        }
    };
    let members = members_after(&offer, &config);
    let data = options(
        &context.data_dir,
        &context.blobs,
        &config,
        &wanted.data,
        &context.text_field,
    );
    let mut needs = vec![
        requirements::key(invite, Some(&offer), now),
        Need::of("issuer", Ok("it answers, and would let this node in".to_owned())),
        requirements::session(&config, &offer),
        requirements::model(&config),
        requirements::privacy(&config),
        match invite.permission().roles.has(Role::Trainer) {
            true => requirements::data(data.as_ref(), &config),
            false => Need::of("data", Ok("none is needed: the key is for no trainer".to_owned())),
        },
        requirements::memory(&config, members),
        requirements::disk(&context.data_dir, &context.retention, Some((&config, members))),
        requirements::device(context.device),
    ];
    if let Some(need) = requirements::tokenizer(&config, wanted.tokenizer.is_some(), tokenizer) {
        let data = needs.iter().position(|need| need.what == "data");
        needs.insert(data.unwrap_or_default(), need);
    }
    Preview::of(needs, Some(crate::readable::readable(&config)))
}

/// Members once this node is one.
fn members_after(offer: &synod_protocol::message::Offer, config: &SessionConfig) -> u64 {
    u64::from(offer.members.saturating_add(1).min(config.protocol.max_members))
}

/// The key, if this node may use it, and how long to wait for its issuer.
async fn read(context: &Context, wanted: &JoinSession) -> Outcome<(Invite, Duration)> {
    let invite = Invite::parse(&wanted.key, unix_s()).map_err(Failure::user)?;
    let grant = invite.grant();
    if grant.issuer == context.identity.peer_id() {
        return Err(Failure::user("this node issued that key: give it to another node"));
    }
    let mine = context.driver.ask(Request::View).await?;
    if mine.iter().any(|view| id_of(view) == grant.session) {
        let name = &grant.session_name;
        return Err(Failure::user(format!("this node is in session `{name}` already")));
    }
    Ok((invite, Duration::from_secs(wanted.patience_s.min(PATIENCE_MAX_S))))
}

fn joining(context: &Context) -> Joining {
    Joining {
        identity: context.identity.clone(),
        network: context.network.clone(),
        driver: context.driver.clone(),
    }
}
