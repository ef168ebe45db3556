//! The routes for keys of this node's sessions: mint, list, revoke.
//! The machine counts uses and holds revocations; the book of what was minted only makes them speak of names.

use axum::Json;
use axum::extract::{Path, State};
use synod_protocol::contract::Command;
use synod_protocol::identity::SessionId;
use synod_protocol::invite::{BlockId, Invite, PREFIX, Permission};
use synod_protocol::session::{Role, Roles};
use synod_storage::store::Standing;

use super::Context;
use super::routes::{Body, blocking, command, find, id_of};
use super::types::{Empty, InviteStanding, InviteView, MintInvite, Minted, RevokeInvite, Revoked, SessionView};
use crate::clock::unix_s;
use crate::driver::{InviteUses, Request};
use crate::failure::{Failure, Outcome};
use crate::invite_book::{self, Entry};
use crate::network;

/// Fewer characters of a name could be meant for many.
const SHORTEST_NAME: usize = 4;

/// `POST /v1/sessions/{session}/invites`
pub(super) async fn mint(
    State(context): State<Context>,
    Path(name): Path<String>,
    Body(wanted): Body<MintInvite>,
) -> Outcome<Json<Minted>> {
    let view = find(&context, &name).await?;
    check_may_invite(&view)?;
    let roles: Roles = wanted.roles.parse().map_err(Failure::user)?;
    if let Some(role) = [Role::Validator, Role::Curvature]
        .into_iter()
        .find(|role| roles.has(*role))
    {
        return Err(Failure::user(format!(
            "--role {}: the name is reserved, and nodes cannot take that part yet; use trainer, coordinator or observer",
            Roles::of(&[role])
        )));
    }
    let bootstrap = match wanted.addresses.is_empty() {
        true => reachable(context.network.listen_addresses().await.control),
        false => {
            let bad = wanted
                .addresses
                .iter()
                .find_map(|address| network::check_address(address).err());
            if let Some(problem) = bad {
                return Err(Failure::user(format!("--address: {problem}")));
            }
            wanted.addresses
        }
    };
    let permission = Permission {
        roles,
        expires_unix_s: unix_s().saturating_add(wanted.expires_in_s),
        uses: wanted.uses,
    };
    let (session, randomness) = (id_of(&view), (random()?, random()?));
    let invite = Invite::issue(&context.identity, session, view.name, bootstrap, permission, randomness);
    let invite = invite.map_err(Failure::user)?;
    let (key, store) = (invite.to_text(), context.store.clone());
    // Remembered first: a key that was handed out can be listed and revoked.
    let entry = blocking(move || invite_book::add(store.as_ref(), &session, &invite, unix_s())).await?;
    Ok(Json(Minted {
        key,
        block: entry.block,
        expires_unix_s: entry.expires_unix_s,
    }))
}

fn check_may_invite(view: &SessionView) -> Outcome {
    let mine = view.members.iter().find(|member| member.me);
    let coordinates = mine.is_some_and(|member| member.roles.split(',').any(|role| role == "coordinator"));
    match view.standing == Standing::Created || coordinates {
        true => Ok(()),
        false => Err(Failure::user(format!(
            "only members with the role coordinator mint invites to `{}`; ask its creator {}",
            view.name, view.creator
        ))),
    }
}

/// The addresses that an invite carries: as many as fit, those that others can use first.
fn reachable(mut addresses: Vec<String>) -> Vec<String> {
    let is_loopback = |address: &String| address.contains("/127.0.0.1/") || address.contains("/ip6/::1/");
    addresses.sort_by_key(is_loopback);
    if addresses.iter().any(|address| !is_loopback(address)) {
        addresses.retain(|address| !is_loopback(address));
    }
    addresses.truncate(synod_protocol::limits::INVITE_ADDRESSES);
    addresses
}

/// `GET /v1/sessions/{session}/invites`
pub(super) async fn list(State(context): State<Context>, Path(name): Path<String>) -> Outcome<Json<Vec<InviteView>>> {
    let session = id_of(&find(&context, &name).await?);
    Ok(Json(known(&context, session).await?))
}

/// `POST /v1/sessions/{session}/revoke`
pub(super) async fn revoke(
    State(context): State<Context>,
    Path(name): Path<String>,
    Body(wanted): Body<RevokeInvite>,
) -> Outcome<Json<Revoked>> {
    let view = find(&context, &name).await?;
    let known = known(&context, id_of(&view)).await?;
    let block = match wanted.invite.trim().starts_with(PREFIX) {
        true => block_of_key(&context, &view, &wanted.invite)?,
        false => block_of_name(&view, &known, wanted.invite.trim())?,
    };
    let before = known.into_iter().find(|one| one.block == block.to_string());
    let Json(Empty {}) = command(&context, &view.id, Command::Revoke(block)).await?;
    Ok(Json(Revoked {
        block: block.to_string(),
        already: before
            .as_ref()
            .is_some_and(|one| one.standing == InviteStanding::Revoked),
        spent: before.map_or(0, |one| one.spent),
    }))
}

/// A whole key speaks for itself, also one that was narrowed elsewhere and never shown.
fn block_of_key(context: &Context, view: &SessionView, key: &str) -> Outcome<BlockId> {
    let invite = Invite::decode(key).map_err(Failure::user)?;
    invite.check().map_err(Failure::user)?;
    invite.expect_session(&id_of(view)).map_err(Failure::user)?;
    let issuer = invite.grant().issuer;
    match issuer == context.identity.peer_id() {
        true => Ok(invite_book::name(&invite)),
        false => Err(Failure::user(format!(
            "that key was issued by {issuer}: only that node can revoke it"
        ))),
    }
}

fn block_of_name(view: &SessionView, known: &[InviteView], name: &str) -> Outcome<BlockId> {
    let is_name = name.len() >= SHORTEST_NAME && name.chars().all(|c| c.is_ascii_hexdigit());
    if !is_name || name.len() > 32 {
        return Err(Failure::user(format!(
            "`{name}` does not name an invite: take a name that `node invite list {}` shows, or the key itself",
            view.name
        )));
    }
    let name = name.to_ascii_lowercase();
    let mut found = known.iter().filter(|one| one.block.starts_with(&name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.block.parse().expect("a view's name was printed by this program")),
        (Some(_), Some(_)) => Err(Failure::user(format!(
            "`{name}` begins the names of several invites: give more of it (`node invite list {}`)",
            view.name
        ))),
        (None, _) => Err(Failure::user(format!(
            "nothing was revoked: this node has issued no invite `{name}` to `{0}` (`node invite list {0}`). A key that its \
             holder narrowed is known once somebody has joined with it; until then revoke it by the key itself, or the one \
             that it was made from",
            view.name
        ))),
    }
}

/// Every key that this node has issued to a session, and the narrowed ones that were used or revoked.
async fn known(context: &Context, session: SessionId) -> Outcome<Vec<InviteView>> {
    let uses = context.driver.ask(|reply| Request::InviteUses(session, reply)).await?;
    let store = context.store.clone();
    let book = blocking(move || Ok(invite_book::all(store.as_ref(), &session)?)).await?;
    Ok(views(&book, &uses, unix_s()))
}

fn views(book: &[Entry], (spent, revoked): &InviteUses, now: u64) -> Vec<InviteView> {
    let minted = book.iter().map(|entry| {
        let block: Option<BlockId> = entry.block.parse().ok();
        let spent = block.and_then(|block| spent.get(&block)).copied().unwrap_or(0);
        let standing = if block.is_some_and(|block| revoked.contains(&block)) {
            InviteStanding::Revoked
        } else if spent >= entry.uses {
            InviteStanding::UsedUp
        } else if entry.expires_unix_s <= now {
            InviteStanding::Expired
        } else {
            InviteStanding::Open
        };
        InviteView {
            block: entry.block.clone(),
            roles: Some(entry.roles.clone()),
            uses: Some(entry.uses),
            spent,
            left: Some(entry.uses.saturating_sub(spent)),
            expires_unix_s: Some(entry.expires_unix_s),
            minted_unix_s: Some(entry.minted_unix_s),
            standing,
        }
    });
    let mut views: Vec<InviteView> = minted.collect();
    let elsewhere: std::collections::BTreeSet<&BlockId> = spent.keys().chain(revoked).collect();
    for block in elsewhere {
        let name = block.to_string();
        if !book.iter().any(|entry| entry.block == name) {
            views.push(InviteView {
                block: name,
                roles: None,
                uses: None,
                spent: spent.get(block).copied().unwrap_or(0),
                left: None,
                expires_unix_s: None,
                minted_unix_s: None,
                standing: match revoked.contains(block) {
                    true => InviteStanding::Revoked,
                    false => InviteStanding::Narrowed,
                },
            });
        }
    }
    views
}

fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::environment(format!("the system gives no random numbers: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_shown_with_its_standing() {
        let block = |number: u8| BlockId([number; 16]);
        let entry = |number: u8, uses, expires_unix_s| Entry {
            block: block(number).to_string(),
            roles: "trainer".into(),
            uses,
            expires_unix_s,
            minted_unix_s: 5,
        };
        let book = [entry(1, 2, 90), entry(2, 2, 90), entry(3, 2, 20), entry(4, 9, 90)];
        let spent = [(block(1), 1), (block(2), 2), (block(7), 1)].into();
        let shown = views(&book, &(spent, [block(4), block(8)].into()), 50);
        let standing: Vec<_> = shown.iter().map(|one| (one.standing, one.spent, one.left)).collect();
        let expected = [
            (InviteStanding::Open, 1, Some(1)),
            (InviteStanding::UsedUp, 2, Some(0)),
            (InviteStanding::Expired, 0, Some(2)),
            (InviteStanding::Revoked, 0, Some(9)),
            (InviteStanding::Narrowed, 1, None),
            (InviteStanding::Revoked, 0, None),
        ];
        assert_eq!(standing, expected);
    }
}
