//! Where peers were last found, kept across restarts: nodes that all restart find each other without an invite.
//! It believes nothing: an address is only ever a place to dial, and the peer there proves who it is.

use std::sync::Arc;
use std::time::Duration;

use synod_protocol::identity::PeerId;
use synod_storage::error::StoreError;
use synod_storage::store::{Scope, Store};
use tokio_util::sync::CancellationToken;

use crate::network::NetworkHandle;

/// Under which the book is kept.
const KEY: &str = "addresses";
/// How often it is written, if it has changed.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// Tells the network what was known at the last stop.
pub fn restore(store: &dyn Store, network: &NetworkHandle) -> Result<(), StoreError> {
    let kept = store.meta(Scope::Node, KEY)?.unwrap_or_default();
    // A book of another version is no loss: peers are found again.
    let book: Vec<(String, Vec<String>)> = serde_json::from_slice(&kept).unwrap_or_default();
    for (peer, addresses) in book {
        if let Ok(peer) = peer.parse::<PeerId>() {
            network.add_addresses(peer, addresses);
        }
    }
    Ok(())
}

/// Writes the book now and then, until `token`.
pub async fn keep(store: Arc<dyn Store>, network: NetworkHandle, token: CancellationToken) {
    let mut written = Vec::new();
    while token
        .run_until_cancelled(tokio::time::sleep(WRITE_EVERY))
        .await
        .is_some()
    {
        let book = network.known_addresses().await;
        let book: Vec<_> = book
            .into_iter()
            .map(|(peer, addresses)| (peer.to_string(), addresses))
            .collect();
        let bytes = serde_json::to_vec(&book).expect("the book is plain data");
        if bytes == written || book.is_empty() {
            continue;
        }
        let (store, bytes_to_write) = (Arc::clone(&store), bytes.clone());
        let put = tokio::task::spawn_blocking(move || store.put_meta(Scope::Node, KEY, &bytes_to_write)).await;
        match put {
            Ok(Ok(())) => written = bytes,
            Ok(Err(error)) => tracing::warn!(%error, "the address book was not written"),
            Err(_) => return,
        }
    }
}
