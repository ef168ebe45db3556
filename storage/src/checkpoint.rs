//! Named checkpoints: which blob holds the agreed state of a round that somebody wants to keep.
//! It neither writes nor reads states, whose format is `aggregation`'s; retention spares what is named here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::task::Round;

use crate::codec;
use crate::store::{Result, Scope, Store};

const PREFIX: &str = "checkpoint/";

/// A state that is kept under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The name, unique in its session.
    pub name: String,
    /// The round that settled the state.
    pub round: Round,
    /// The state.
    pub blob: BlobId,
    /// Its length.
    pub bytes: u64,
    /// When it was named, in seconds since 1970.
    pub created_unix_s: u64,
}

/// Names a checkpoint, in place of an earlier one of this name. The blob has to be in the blob store and linked.
pub fn put(store: &dyn Store, session: &SessionId, checkpoint: &Checkpoint) -> Result<()> {
    let key = format!("{PREFIX}{}", checkpoint.name);
    store.put_meta(Scope::Session(*session), &key, &codec::encode(checkpoint))
}

/// All checkpoints of a session, sorted by round and name.
pub fn list(store: &dyn Store, session: &SessionId) -> Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::new();
    for (key, bytes) in store.metas(Scope::Session(*session), PREFIX)? {
        checkpoints.push(codec::decode::<Checkpoint>(
            &bytes,
            Path::new("db"),
            &format!("{key} of session {session}"),
        )?);
    }
    checkpoints.sort_by(|a, b| (a.round, &a.name).cmp(&(b.round, &b.name)));
    Ok(checkpoints)
}

/// The checkpoint of the latest round.
pub fn latest(store: &dyn Store, session: &SessionId) -> Result<Option<Checkpoint>> {
    Ok(list(store, session)?.pop())
}

/// Forgets a name; that it is not there is no error. The blob goes with the next retention.
pub fn remove(store: &dyn Store, session: &SessionId, name: &str) -> Result<()> {
    store.remove_meta(Scope::Session(*session), &format!("{PREFIX}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::MemoryStore;

    #[test]
    fn checkpoints_are_listed_by_round() {
        let (store, session) = (MemoryStore::new(), SessionId([1; 32]));
        assert_eq!(latest(&store, &session).unwrap(), None);
        let checkpoint = |name: &str, round| Checkpoint {
            name: name.to_owned(),
            round,
            blob: BlobId([round as u8; 32]),
            bytes: 5,
            created_unix_s: 1_700_000_000,
        };
        let (early, late) = (checkpoint("zebra", 3), checkpoint("ant", 40));
        put(&store, &session, &late).unwrap();
        put(&store, &session, &early).unwrap();
        store
            .put_meta(Scope::Session(session), "checkpoints of another kind", b"")
            .unwrap();
        assert_eq!(list(&store, &session).unwrap(), [early.clone(), late.clone()]);
        assert_eq!(latest(&store, &session).unwrap(), Some(late));
        remove(&store, &session, "ant").unwrap();
        assert_eq!(latest(&store, &session).unwrap(), Some(early));
    }
}
