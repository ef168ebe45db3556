//! Where the members of a session were last seen, so that a restarted node finds them without the invite.
//! It keeps no reputation and no roster: those follow from the journal.

use std::path::Path;

use serde::{Deserialize, Serialize};
use synod_protocol::identity::{PeerId, SessionId};

use crate::codec;
use crate::store::{Result, Scope, Store};

const KEY: &str = "members";

/// One member, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Who.
    pub peer: PeerId,
    /// Addresses at which it was reached or that it announced, the best first.
    pub addresses: Vec<String>,
    /// When it was last heard, in seconds since 1970.
    pub last_seen_unix_s: u64,
}

/// Keeps this list in place of the earlier one. It costs one sync: once a minute is often enough.
pub fn put(store: &dyn Store, session: &SessionId, members: &[KnownMember]) -> Result<()> {
    store.put_meta(Scope::Session(*session), KEY, &codec::encode(&members))
}

/// The list kept last; empty where there is none.
pub fn list(store: &dyn Store, session: &SessionId) -> Result<Vec<KnownMember>> {
    match store.meta(Scope::Session(*session), KEY)? {
        Some(bytes) => codec::decode(&bytes, Path::new("db"), &format!("members of session {session}")),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::MemoryStore;

    #[test]
    fn the_last_list_counts() {
        let (store, session) = (MemoryStore::new(), SessionId([1; 32]));
        assert_eq!(list(&store, &session).unwrap(), []);
        let member = |number| KnownMember {
            peer: PeerId([number; 32]),
            addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".to_owned()],
            last_seen_unix_s: 1_700_000_000,
        };
        put(&store, &session, &[member(1), member(2)]).unwrap();
        put(&store, &session, &[member(2)]).unwrap();
        assert_eq!(list(&store, &session).unwrap(), [member(2)]);
        assert_eq!(list(&store, &SessionId([2; 32])).unwrap(), []);
    }
}
