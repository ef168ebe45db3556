//! What every store does, as one suite that both stores pass; it panics at the first property that does not hold.
//! It proves nothing about `kill -9` or broken disks: those tests are `rocks_store`'s own (`tests/durability.rs`).

use std::sync::Arc;

use synod_protocol::identity::{BlobId, Identity, SessionId};
use synod_protocol::journal::JournalEntry;
use synod_protocol::message::Message;
use synod_protocol::signed::Signed;

use crate::store::{BlobLink, Scope, SessionRecord, Standing, Store};

/// Opens the store of this name: a new one the first time, the same one (after it was dropped) later.
pub type Open<'a> = &'a dyn Fn(&str) -> Arc<dyn Store>;

/// Runs the whole suite.
pub fn check(open: Open<'_>) {
    sessions_are_kept_replaced_and_forgotten(open);
    a_journal_keeps_its_order_over_restarts(open);
    a_journal_is_replaced_as_a_whole(open);
    journals_of_sessions_do_not_mix(open);
    metadata_is_found_by_scope_key_and_prefix(open);
    rounds_come_in_order(open);
    a_blob_is_free_when_its_last_link_goes(open);
    a_removed_session_leaves_nothing(open);
    threads_lose_no_entries(open);
}

/// Session ids that are neighbours in byte order, and the extremes: where range scans go wrong.
fn neighbours() -> [SessionId; 4] {
    let mut low = [7; 32];
    low[31] = 0xff;
    let mut high = [7; 32];
    high[30] = 8;
    high[31] = 0;
    [
        SessionId([0; 32]),
        SessionId(low),
        SessionId(high),
        SessionId([0xff; 32]),
    ]
}

fn record(id: SessionId) -> SessionRecord {
    SessionRecord {
        id,
        name: format!("session-{}", id.short()),
        config: vec![1, 2, 3],
        data: vec!["/srv/texts".to_owned(), "/srv/more".to_owned()],
        standing: Standing::Joined,
        created_unix_s: 1_700_000_000,
        bootstrap: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".to_owned()],
    }
}

/// A journal entry that differs for (nearly) each number.
pub fn entry(session: SessionId, number: u64) -> JournalEntry {
    let identity = Identity::from_secret([5; 32]);
    let proposal = Signed::new(&identity, session, &Message::Leave { round: number });
    match number % 3 {
        0 => JournalEntry::Promised { round: number, term: 1 },
        1 => JournalEntry::Voted {
            round: number,
            term: 1,
            proposal,
        },
        _ => JournalEntry::Banned(Identity::from_secret([(number % 251) as u8; 32]).peer_id()),
    }
}

fn sessions_are_kept_replaced_and_forgotten(open: Open<'_>) {
    let store = open("sessions");
    assert_eq!(store.sessions().expect("reads"), []);
    for id in neighbours().into_iter().rev() {
        store.put_session(&record(id)).expect("writes");
    }
    let [_, second, ..] = neighbours();
    let left = SessionRecord {
        standing: Standing::Left,
        data: Vec::new(),
        ..record(second)
    };
    store.put_session(&left).expect("writes");
    drop(store);
    let store = open("sessions");
    assert_eq!(store.session(&second).expect("reads"), Some(left.clone()));
    let mut expected = neighbours().map(record);
    expected[1] = left;
    assert_eq!(store.sessions().expect("reads"), expected, "all, sorted by id");
    store.remove_session(&second).expect("writes");
    assert_eq!(store.session(&second).expect("reads"), None);
    assert_eq!(store.sessions().expect("reads").len(), 3);
    store.remove_session(&second).expect("removing twice is no error");
}

fn a_journal_keeps_its_order_over_restarts(open: Open<'_>) {
    let session = SessionId([3; 32]);
    let mut expected = Vec::new();
    for restart in 0..3 {
        let store = open("order");
        assert_eq!(store.journal(&session).expect("reads"), expected);
        for number in 0..100 {
            let entry = entry(session, restart * 100 + number);
            store.append(&session, &entry).expect("writes");
            expected.push(entry);
        }
        assert_eq!(store.journal(&session).expect("reads"), expected);
    }
}

fn a_journal_is_replaced_as_a_whole(open: Open<'_>) {
    let session = SessionId([4; 32]);
    let store = open("replace");
    let entries: Vec<_> = (0..300).map(|number| entry(session, number)).collect();
    store
        .replace_journal(&session, &entries[..20])
        .expect("a journal may begin so");
    for entry in &entries[20..30] {
        store.append(&session, entry).expect("writes");
    }
    store.replace_journal(&session, &entries[25..30]).expect("writes");
    store.append(&session, &entries[30]).expect("writes");
    assert_eq!(store.journal(&session).expect("reads"), entries[25..31]);
    drop(store);
    let store = open("replace");
    store.append(&session, &entries[31]).expect("writes");
    assert_eq!(
        store.journal(&session).expect("reads"),
        entries[25..32],
        "appending goes on after a restart"
    );
    store.replace_journal(&session, &[]).expect("writes");
    assert_eq!(store.journal(&session).expect("reads"), []);
    drop(store);
    let store = open("replace");
    assert_eq!(store.journal(&session).expect("reads"), []);
    store.append(&session, &entries[0]).expect("writes");
    assert_eq!(store.journal(&session).expect("reads"), entries[..1]);
}

fn journals_of_sessions_do_not_mix(open: Open<'_>) {
    let store = open("mix");
    for number in 0..40 {
        for session in neighbours() {
            store.append(&session, &entry(session, number)).expect("writes");
        }
    }
    let [first, second, third, last] = neighbours();
    store.replace_journal(&second, &[entry(second, 7)]).expect("writes");
    store.remove_session(&third).expect("writes");
    for session in [first, last] {
        let expected: Vec<_> = (0..40).map(|number| entry(session, number)).collect();
        assert_eq!(store.journal(&session).expect("reads"), expected);
    }
    assert_eq!(store.journal(&second).expect("reads"), [entry(second, 7)]);
    assert_eq!(store.journal(&third).expect("reads"), []);
}

fn metadata_is_found_by_scope_key_and_prefix(open: Open<'_>) {
    let store = open("meta");
    let scopes: Vec<_> = neighbours()
        .map(Scope::Session)
        .into_iter()
        .chain([Scope::Node])
        .collect();
    for (at, scope) in scopes.iter().enumerate() {
        for key in ["a", "b/1", "b/10", "b/2", "b0", "é"] {
            store
                .put_meta(*scope, key, format!("{at} {key}").as_bytes())
                .expect("writes");
        }
    }
    store
        .put_meta(Scope::Node, "a", b"")
        .expect("an empty value is a value");
    store.remove_meta(scopes[1], "b/10").expect("writes");
    store.remove_meta(scopes[1], "not there").expect("no error");
    drop(store);
    let store = open("meta");
    assert_eq!(store.meta(Scope::Node, "a").expect("reads"), Some(Vec::new()));
    assert_eq!(store.meta(Scope::Node, "b").expect("reads"), None, "a prefix is no key");
    let keys = |scope, prefix| -> Vec<String> {
        store
            .metas(scope, prefix)
            .expect("reads")
            .into_iter()
            .map(|(key, _)| key)
            .collect()
    };
    assert_eq!(keys(scopes[0], "b/"), ["b/1", "b/10", "b/2"]);
    assert_eq!(keys(scopes[1], "b/"), ["b/1", "b/2"]);
    assert_eq!(keys(scopes[3], ""), ["a", "b/1", "b/10", "b/2", "b0", "é"]);
    assert_eq!(keys(Scope::Node, "é"), ["é"]);
    assert_eq!(
        store.metas(scopes[2], "b0").expect("reads"),
        [("b0".to_owned(), b"2 b0".to_vec())]
    );
}

fn rounds_come_in_order(open: Open<'_>) {
    let store = open("rounds");
    for round in [300, 2, 256, 1, 255, u64::MAX, 0] {
        for session in neighbours() {
            store.put_round(&session, round, &round.to_le_bytes()).expect("writes");
        }
    }
    let [_, session, ..] = neighbours();
    store.put_round(&session, 2, b"again").expect("writes");
    let rounds: Vec<_> = store
        .rounds(&session, 0)
        .expect("reads")
        .into_iter()
        .map(|(round, _)| round)
        .collect();
    assert_eq!(rounds, [0, 1, 2, 255, 256, 300, u64::MAX]);
    let some = store.rounds(&session, 2).expect("reads");
    assert_eq!(some[0], (2, b"again".to_vec()));
    assert_eq!(some.len(), 5);
}

fn a_blob_is_free_when_its_last_link_goes(open: Open<'_>) {
    let store = open("links");
    let [first, second, ..] = neighbours();
    let blob = |number: u8| BlobId([number; 32]);
    let link = |round, number| BlobLink {
        round,
        blob: blob(number),
        bytes: u64::from(number) * 10,
    };
    for made in [link(2, 3), link(1, 2), link(1, 1), link(2, 1), link(1, 1)] {
        store.link_blob(&first, &made).expect("writes");
    }
    store.link_blob(&second, &link(9, 2)).expect("writes");
    drop(store);
    let store = open("links");
    assert_eq!(
        store.links(&first).expect("reads"),
        [link(1, 1), link(1, 2), link(2, 1), link(2, 3)]
    );
    assert_eq!(
        store.retire(&first, 2, &[]).expect("writes"),
        [],
        "1 is linked by round 2, 2 by the other session"
    );
    assert_eq!(store.links(&first).expect("reads"), [link(2, 1), link(2, 3)]);
    assert_eq!(
        store.retire(&first, 3, &[blob(3)]).expect("writes"),
        [blob(1)],
        "3 is to be kept"
    );
    assert_eq!(store.links(&first).expect("reads"), [link(2, 3)]);
    assert!(!store.is_linked(&blob(1)).expect("reads"));
    assert!(store.is_linked(&blob(2)).expect("reads") && store.is_linked(&blob(3)).expect("reads"));
    assert_eq!(store.retire(&second, 10, &[]).expect("writes"), [blob(2)]);
    assert_eq!(store.retire(&SessionId([99; 32]), 10, &[]).expect("writes"), []);
}

fn a_removed_session_leaves_nothing(open: Open<'_>) {
    let store = open("removed");
    let [gone, stays, ..] = neighbours();
    let link = |number: u8| BlobLink {
        round: 1,
        blob: BlobId([number; 32]),
        bytes: 1,
    };
    for session in [gone, stays] {
        store.put_session(&record(session)).expect("writes");
        store.append(&session, &entry(session, 0)).expect("writes");
        store
            .put_meta(Scope::Session(session), "key", b"value")
            .expect("writes");
        store.put_round(&session, 1, b"row").expect("writes");
        store.link_blob(&session, &link(1)).expect("writes");
    }
    store.link_blob(&gone, &link(2)).expect("writes");
    assert_eq!(store.remove_session(&gone).expect("writes"), [link(2).blob]);
    drop(store);
    let store = open("removed");
    let counts = |session| {
        [
            usize::from(store.session(&session).expect("reads").is_some()),
            store.journal(&session).expect("reads").len(),
            store.metas(Scope::Session(session), "").expect("reads").len(),
            store.rounds(&session, 0).expect("reads").len(),
            store.links(&session).expect("reads").len(),
        ]
    };
    assert_eq!(counts(gone), [0; 5]);
    assert_eq!(counts(stays), [1; 5]);
    store.append(&gone, &entry(gone, 5)).expect("writes");
    assert_eq!(
        store.journal(&gone).expect("reads"),
        [entry(gone, 5)],
        "the session may come back, empty"
    );
}

fn threads_lose_no_entries(open: Open<'_>) {
    let store = open("threads");
    let session = SessionId([6; 32]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for term in 0..25 {
                    let entry = JournalEntry::Promised { round: thread, term };
                    store.append(&session, &entry).expect("writes");
                }
            });
        }
    });
    let journal = store.journal(&session).expect("reads");
    for thread in 0..4 {
        let terms = journal.iter().filter_map(|entry| match entry {
            JournalEntry::Promised { round, term } if *round == thread => Some(*term),
            _ => None,
        });
        assert!(terms.eq(0..25), "each thread's entries, in its order");
    }
}
