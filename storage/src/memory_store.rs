//! The store of the simulator: ordered maps that live as long as the value does.
//! It survives no process; a simulated crash drops the peer and keeps (or clones) the store, which is the peer's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use synod_protocol::identity::{BlobId, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::task::Round;

use crate::store::{BlobLink, Result, Scope, SessionRecord, Store};

/// Records in memory. A clone is a copy of the disk: the two go on apart from then on.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default, Clone)]
struct Tables {
    sessions: BTreeMap<SessionId, SessionRecord>,
    journals: BTreeMap<SessionId, Vec<JournalEntry>>,
    meta: BTreeMap<(Scope, String), Vec<u8>>,
    rounds: BTreeMap<(SessionId, Round), Vec<u8>>,
    links: BTreeMap<SessionId, BTreeMap<(Round, BlobId), u64>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        Self {
            tables: Mutex::new(self.tables().clone()),
        }
    }
}

impl Tables {
    fn is_linked(&self, blob: &BlobId) -> bool {
        self.links
            .values()
            .any(|links| links.keys().any(|(_, linked)| linked == blob))
    }

    fn without_links(&self, dropped: BTreeSet<BlobId>) -> Vec<BlobId> {
        dropped.into_iter().filter(|blob| !self.is_linked(blob)).collect()
    }
}

impl Store for MemoryStore {
    fn put_session(&self, record: &SessionRecord) -> Result<()> {
        self.tables().sessions.insert(record.id, record.clone());
        Ok(())
    }

    fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>> {
        Ok(self.tables().sessions.get(id).cloned())
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>> {
        Ok(self.tables().sessions.values().cloned().collect())
    }

    fn remove_session(&self, id: &SessionId) -> Result<Vec<BlobId>> {
        let mut tables = self.tables();
        tables.sessions.remove(id);
        tables.journals.remove(id);
        tables.meta.retain(|(scope, _), _| *scope != Scope::Session(*id));
        tables.rounds.retain(|(session, _), _| session != id);
        let dropped = tables.links.remove(id).unwrap_or_default();
        Ok(tables.without_links(dropped.into_keys().map(|(_, blob)| blob).collect()))
    }

    fn append(&self, session: &SessionId, entry: &JournalEntry) -> Result<()> {
        self.tables().journals.entry(*session).or_default().push(entry.clone());
        Ok(())
    }

    fn journal(&self, session: &SessionId) -> Result<Vec<JournalEntry>> {
        Ok(self.tables().journals.get(session).cloned().unwrap_or_default())
    }

    fn replace_journal(&self, session: &SessionId, entries: &[JournalEntry]) -> Result<()> {
        self.tables().journals.insert(*session, entries.to_vec());
        Ok(())
    }

    fn put_meta(&self, scope: Scope, key: &str, value: &[u8]) -> Result<()> {
        self.tables().meta.insert((scope, key.to_owned()), value.to_vec());
        Ok(())
    }

    fn meta(&self, scope: Scope, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.tables().meta.get(&(scope, key.to_owned())).cloned())
    }

    fn metas(&self, scope: Scope, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let tables = self.tables();
        let from = tables.meta.range((scope, prefix.to_owned())..);
        let found = from.take_while(|((at, key), _)| *at == scope && key.starts_with(prefix));
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn remove_meta(&self, scope: Scope, key: &str) -> Result<()> {
        self.tables().meta.remove(&(scope, key.to_owned()));
        Ok(())
    }

    fn put_round(&self, session: &SessionId, round: Round, row: &[u8]) -> Result<()> {
        self.tables().rounds.insert((*session, round), row.to_vec());
        Ok(())
    }

    fn rounds(&self, session: &SessionId, from: Round) -> Result<Vec<(Round, Vec<u8>)>> {
        let tables = self.tables();
        let rows = tables.rounds.range((*session, from)..=(*session, Round::MAX));
        Ok(rows.map(|((_, round), row)| (*round, row.clone())).collect())
    }

    fn link_blob(&self, session: &SessionId, link: &BlobLink) -> Result<()> {
        self.tables()
            .links
            .entry(*session)
            .or_default()
            .insert((link.round, link.blob), link.bytes);
        Ok(())
    }

    fn links(&self, session: &SessionId) -> Result<Vec<BlobLink>> {
        let tables = self.tables();
        let links = tables.links.get(session).into_iter().flatten();
        Ok(links
            .map(|(&(round, blob), &bytes)| BlobLink { round, blob, bytes })
            .collect())
    }

    fn is_linked(&self, blob: &BlobId) -> Result<bool> {
        Ok(self.tables().is_linked(blob))
    }

    fn retire(&self, session: &SessionId, keep_from: Round, keep: &[BlobId]) -> Result<Vec<BlobId>> {
        let mut tables = self.tables();
        let Some(links) = tables.links.get_mut(session) else {
            return Ok(Vec::new());
        };
        let mut dropped = BTreeSet::new();
        links.retain(|(round, blob), _| {
            let kept = *round >= keep_from || keep.contains(blob);
            if !kept {
                dropped.insert(*blob);
            }
            kept
        });
        Ok(tables.without_links(dropped))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    #[test]
    fn it_behaves_as_every_store_does() {
        let disks = Mutex::new(BTreeMap::<String, Arc<MemoryStore>>::new());
        conformance::check(&|name| {
            let mut disks = disks.lock().unwrap();
            disks.entry(name.to_owned()).or_default().clone() as Arc<dyn Store>
        });
    }

    #[test]
    fn a_clone_is_the_disk_at_the_moment_of_the_crash() {
        let session = SessionId([1; 32]);
        let before = MemoryStore::new();
        before.append(&session, &JournalEntry::Left).unwrap();
        let after = before.clone();
        before.append(&session, &JournalEntry::Left).unwrap();
        assert_eq!(after.journal(&session).unwrap(), [JournalEntry::Left]);
    }
}
