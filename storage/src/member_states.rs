//! Which blobs hold what this member carries from update to update (optimizer state, worker momentum, encoding residual), by round.
//! It neither reads nor writes those bytes, whose format is `training`'s; retention spares what is named here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::task::Round;

use crate::codec;
use crate::store::{Result, Scope, Store};

const PREFIX: &str = "member_state/";

/// States that are kept: after the last round that was trained, and after the one before it, should it be trained again.
const KEPT: usize = 2;

/// A member's own state after its update for a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedState {
    /// The round that the update was for.
    pub round: Round,
    /// The state.
    pub blob: BlobId,
}

/// Names the state after `round`, in place of an earlier one for it, and forgets all but the newest two. The blob has
/// to be in the blob store and linked.
pub fn put(store: &dyn Store, session: &SessionId, state: NamedState) -> Result<()> {
    // 20 digits hold every round, so that the order of keys is that of rounds.
    let key = |round: Round| format!("{PREFIX}{round:020}");
    store.put_meta(Scope::Session(*session), &key(state.round), &codec::encode(&state))?;
    let named = list(store, session)?;
    let too_many = named.len().saturating_sub(KEPT);
    named
        .iter()
        .take(too_many)
        .try_for_each(|old| store.remove_meta(Scope::Session(*session), &key(old.round)))
}

/// All named states of a session, sorted by round.
pub fn list(store: &dyn Store, session: &SessionId) -> Result<Vec<NamedState>> {
    let mut states = Vec::new();
    for (key, bytes) in store.metas(Scope::Session(*session), PREFIX)? {
        let what = format!("{key} of session {session}");
        states.push(codec::decode::<NamedState>(&bytes, Path::new("db"), &what)?);
    }
    states.sort_by_key(|state| state.round);
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::MemoryStore;

    #[test]
    fn the_newest_two_rounds_are_named() {
        let (store, session) = (MemoryStore::new(), SessionId([1; 32]));
        let state = |round: Round, content: u8| NamedState {
            round,
            blob: BlobId([content; 32]),
        };
        for round in [1, 2, 9, 10, 11] {
            put(&store, &session, state(round, round as u8)).unwrap();
        }
        put(&store, &session, state(11, 77)).unwrap();
        assert_eq!(list(&store, &session).unwrap(), [state(10, 10), state(11, 77)]);
        assert_eq!(list(&store, &SessionId([2; 32])).unwrap(), []);
    }
}
