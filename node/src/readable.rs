//! Values for people: protocol values as JSON with ids in their printed forms, and quantities with their units.
//! It is for logs, answers and evidence; what machines exchange stays in its own encoding.

use serde::Serialize;
use serde_json::Value;
use synod_protocol::identity::{BlobId, PeerId};

/// Keys whose 32 bytes name a peer; all other 32 bytes are digests.
const PEERS: [&str; 8] = ["peer", "coordinator", "lost", "next", "missing", "me", "from", "to"];

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

/// A span of time for people, rounded down.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `value` as JSON with readable ids.
pub fn readable(value: &impl Serialize) -> Value {
    // Through text, so that 0.7 of 32 bits stays 0.7 and does not become 0.699999988079071.
    let text = serde_json::to_string(value).expect("protocol values are plain data");
    rewrite("", serde_json::from_str(&text).expect("it was written a line above"))
}

fn rewrite(key: &str, value: Value) -> Value {
    match value {
        Value::Array(items) => match bytes_of(&items) {
            Some(bytes) if PEERS.contains(&key) => PeerId(bytes).to_string().into(),
            Some(bytes) => BlobId(bytes).to_string().into(),
            None => items.into_iter().map(|item| rewrite(key, item)).collect(),
        },
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, field)| {
                let field = rewrite(&name, field);
                (name, field)
            })
            .collect(),
        other => other,
    }
}

fn bytes_of(items: &[Value]) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> = items
        .iter()
        .map(|item| item.as_u64().and_then(|n| u8::try_from(n).ok()))
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_protocol::event::Event;
    use synod_protocol::identity::BodyId;
    use synod_protocol::message::Absence;

    #[test]
    fn peers_and_digests_are_printed_as_everywhere_else() {
        let peer = PeerId([7; 32]);
        let event = Event::Settled {
            round: 3,
            term: 0,
            body: BodyId([1; 32]),
            state: BlobId([2; 32]),
            verdicts: Vec::new(),
            missing: vec![(peer, Absence::Late)],
            members: 4,
        };
        let json = readable(&event);
        assert_eq!(json["settled"]["state"], BlobId([2; 32]).to_string());
        assert_eq!(json["settled"]["missing"][0][0], peer.to_string());
        assert_eq!(json["settled"]["round"], 3);
    }
}
