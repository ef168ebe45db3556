//! The keys that this node minted for a session, by name: what `node invite list` shows and `node invite revoke` knows.
//! It keeps no secret, and nothing is admitted or refused by it: uses and revocations are the machine's.

use serde::{Deserialize, Serialize};
use synod_protocol::identity::SessionId;
use synod_protocol::invite::{BlockId, Invite};
use synod_storage::error::StoreError;
use synod_storage::store::{Scope, Store};

use crate::failure::{Failure, Outcome};

/// Under which entries are kept, before the block's name.
const PREFIX: &str = "invite/";
/// Keys of a session that are remembered. Entries of expired ones make room; an operator who mints more than this many
/// living keys wants one with more uses.
const ENTRIES_MAX: usize = 1024;

/// One key that was minted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name: the id of its only block.
    pub block: String,
    /// Roles that it gives.
    pub roles: String,
    /// How many may join with it.
    pub uses: u32,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix_s: u64,
    /// When it was made.
    pub minted_unix_s: u64,
}

/// Remembers a key; refuses when too many living ones are remembered already.
pub fn add(store: &dyn Store, session: &SessionId, invite: &Invite, now_unix_s: u64) -> Outcome<Entry> {
    let kept = all(store, session)?;
    if kept.len() >= ENTRIES_MAX {
        let oldest = kept.iter().filter(|entry| entry.expires_unix_s <= now_unix_s);
        let oldest = oldest.min_by_key(|entry| entry.expires_unix_s).ok_or_else(|| {
            Failure::user(format!(
                "{ENTRIES_MAX} keys to this session have not expired yet: mint one with more --uses, or for a shorter time"
            ))
        })?;
        store.remove_meta(Scope::Session(*session), &format!("{PREFIX}{}", oldest.block))?;
    }
    let permission = invite.permission();
    let entry = Entry {
        block: name(invite).to_string(),
        roles: permission.roles.to_string(),
        uses: permission.uses,
        expires_unix_s: permission.expires_unix_s,
        minted_unix_s: now_unix_s,
    };
    let bytes = serde_json::to_vec(&entry).expect("an entry is plain data");
    store.put_meta(Scope::Session(*session), &format!("{PREFIX}{}", entry.block), &bytes)?;
    Ok(entry)
}

/// All keys that are remembered, in the order in which they were minted.
pub fn all(store: &dyn Store, session: &SessionId) -> Result<Vec<Entry>, StoreError> {
    let metas = store.metas(Scope::Session(*session), PREFIX)?;
    // An entry of another version is shown by its uses alone, as a key that was narrowed elsewhere.
    let entries = metas.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok());
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by(|a, b| (a.minted_unix_s, &a.block).cmp(&(b.minted_unix_s, &b.block)));
    Ok(entries)
}

/// What an invite is called: its last block.
pub fn name(invite: &Invite) -> BlockId {
    *invite.block_ids().last().expect("an invite has a block")
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_protocol::identity::Identity;
    use synod_protocol::invite::Permission;
    use synod_protocol::session::{Role, Roles};
    use synod_storage::memory_store::MemoryStore;

    const SESSION: SessionId = SessionId([3; 32]);

    fn invite(number: u64, expires_unix_s: u64) -> Invite {
        let permission = Permission {
            roles: Roles::of(&[Role::Trainer]),
            expires_unix_s,
            uses: 2,
        };
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let issuer = Identity::from_secret([1; 32]);
        Invite::issue(&issuer, SESSION, "s".into(), Vec::new(), permission, ([2; 32], nonce)).unwrap()
    }

    #[test]
    fn keys_are_listed_in_the_order_in_which_they_were_minted() {
        let store = MemoryStore::default();
        let minted: Vec<Entry> = (0..5)
            .map(|at| add(&store, &SESSION, &invite(at, 900), 100 + at).unwrap())
            .collect();
        assert_eq!(all(&store, &SESSION).unwrap(), minted);
        assert_eq!(minted[0].block, name(&invite(0, 900)).to_string());
        assert!(all(&store, &SessionId([4; 32])).unwrap().is_empty());
        let kept = store.metas(Scope::Session(SESSION), "").unwrap();
        let secret = [2u8; 32];
        assert!(
            kept.iter()
                .all(|(_, bytes)| !bytes.windows(32).any(|window| window == secret))
        );
    }

    #[test]
    fn expired_keys_make_room_and_living_ones_do_not() {
        let store = MemoryStore::default();
        for at in 0..ENTRIES_MAX as u64 {
            add(&store, &SESSION, &invite(at, 500 + at), 100).unwrap();
        }
        let refused = add(&store, &SESSION, &invite(5_000, 900), 499).unwrap_err();
        assert!(refused.message.contains("not expired"), "{refused}");
        add(&store, &SESSION, &invite(5_000, 9_000), 502).unwrap();
        let kept = all(&store, &SESSION).unwrap();
        assert_eq!(kept.len(), ENTRIES_MAX);
        assert!(!kept.iter().any(|entry| entry.expires_unix_s == 500), "the oldest went");
        assert!(kept.iter().any(|entry| entry.expires_unix_s == 501), "and it alone");
    }
}
