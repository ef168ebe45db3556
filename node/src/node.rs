//! One running node: everything started in order, and stopped in reverse.
//! What each part does is the part's business; this file only knows the order and why it is so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use synod_config::NodeConfig;
use synod_config::node_config::{NetworkSection, RetentionSection};
use synod_protocol::identity::Identity;
use synod_storage::blobs::BlobStore;
use synod_storage::lock::DataLock;
use synod_storage::retention::RetentionConfig;
use synod_storage::rocks_store::RocksStore;
use synod_storage::store::Store;
use synod_storage::{keys, retention};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Context, Door};
use crate::clock::Clock;
use crate::compute::Drill;
use crate::data_dir::DataDir;
use crate::driver::{Driver, Parts};
use crate::effects::Effects;
use crate::failure::{Failure, Outcome};
use crate::network::{self, BlobAccess, NetworkConfig, NetworkError, NetworkHandle};
use crate::rounds::Meter;
use crate::session_data::prune_tokens;
use crate::{address_book, shutdown, telemetry};

/// How often the network's counters are read for the rows of rounds.
const METER_EVERY: Duration = Duration::from_millis(200);

/// How long requests under way may take once the node stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long ports may stay taken by a node that is just going.
const PORTS_PATIENCE: Duration = Duration::from_secs(4);

/// Runs a node until it is asked to stop; with a drill, its trainers misbehave. `ready` hears of it once every part runs.
pub async fn run(data_dir: DataDir, config: NodeConfig, drill: Option<Drill>, ready: impl FnOnce(&Started)) -> Outcome {
    // Start, in order.
    // 1. Logging, so that everything after it can be seen.
    telemetry::start(&config.log)?;
    let clock = Clock::start();
    // 2. The folder is ours alone, has room, and holds our key.
    let lock = DataLock::acquire(data_dir.root())?;
    check_room(&data_dir, config.retention.min_free_bytes)?;
    if !data_dir.key().exists() {
        return Err(Failure::user(data_dir.without_key()));
    }
    let identity = Identity::from_secret(keys::load(&data_dir.key())?);
    start_threads(config.compute.threads)?;
    // 3. Records and blobs; blobs that a crash left without a record go.
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(lock)?);
    let blobs = BlobStore::open(data_dir.root())?;
    let freed = retention::sweep(store.as_ref(), &blobs)?;
    if freed > 0 {
        tracing::info!(freed, "deleted blobs that nothing refers to");
    }
    if let Err(error) = prune_tokens(&data_dir, SystemTime::now()) {
        tracing::warn!(%error, "tokens that nothing uses take room still");
    }
    // 4. The door, before the network: the command line gets an answer as soon as there is something to ask.
    let door = Door::bind(&data_dir.socket(&config.api.socket))?;
    // 5. Signals, and the network: from here on peers may talk to us; what they say waits in its bounded queue.
    let token = CancellationToken::new();
    let network_token = CancellationToken::new();
    shutdown::watch_signals(token.clone())
        .map_err(|error| Failure::environment(format!("signals cannot be watched: {error}")))?;
    let mut network = start_network(&config.network, &identity, access(&blobs, &data_dir), &network_token).await?;
    let handle = network.handle.clone();
    address_book::restore(store.as_ref(), &handle)?;
    tokio::spawn(address_book::keep(Arc::clone(&store), handle.clone(), token.clone()));
    // 6. The driver, with every session that was running.
    let effects = Effects::new(
        handle.clone(),
        Arc::clone(&store),
        blobs.clone(),
        start_meter(handle.clone(), network_token.clone()),
        kept(&config.retention),
    );
    let (device, fallback) = config.device().resolved();
    if let Some(reason) = fallback {
        tracing::warn!("{reason}");
    }
    device.open().map_err(Failure::environment)?;
    let (mut driver, inbox, driver_handle) = Driver::new(Parts {
        clock,
        identity: identity.clone(),
        effects,
        data_dir: data_dir.clone(),
        device,
        text_field: config.text.field.clone(),
        events_max_bytes: config.log.events_max_bytes,
        record_max_bytes: config.log.record_max_bytes,
        drill,
    });
    driver.resume()?;
    let driving = tokio::spawn(driver.run(inbox, network.events, token.clone()));
    // 7. The door opens.
    let context = Context {
        identity: identity.clone(),
        driver: driver_handle,
        network: handle.clone(),
        store,
        blobs,
        data_dir: data_dir.clone(),
        device,
        text_field: config.text.field.clone(),
        retention: config.retention.clone(),
        drill,
        clock,
        shutdown: token.clone(),
    };
    let mut serving = tokio::spawn(door.serve(context));
    let listen = handle.listen_addresses().await;
    ready(&Started {
        peer: identity.peer_id().to_string(),
        listen: listen.control,
        data_dir: data_dir.to_string(),
    });

    // A driver that ends by itself is a bug; its panic is the process's. So is a plane of the network that ends.
    let driven = tokio::select! {
        driven = driving => driven,
        Some(ended) = network.tasks.join_next() => ended,
    };
    let by_itself = !token.is_cancelled();
    token.cancel();
    // Stop, in reverse. The driver has ended: no machine decides any more, the workers are joined.
    // 7. The door: requests under way have a moment to be answered, its socket goes.
    if tokio::time::timeout(LAST_ANSWERS, &mut serving).await.is_err() {
        serving.abort();
    }
    // 6, 5. The network: connections are closed, so that peers notice at once.
    network_token.cancel();
    while network.tasks.join_next().await.is_some() {}
    // 4 to 1. Store and lock go with their last owners.
    match driven {
        Ok(()) if by_itself => Err(Failure::environment(
            "a part of the node has ended by itself: see its log",
        )),
        Ok(()) => Ok(()),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Failure::environment(format!(
            "the driver was stopped from outside: {error}"
        ))),
    }
}

/// The operator's bounds, with the two rounds that a session itself needs.
fn kept(section: &RetentionSection) -> RetentionConfig {
    RetentionConfig {
        rounds: section.rounds.saturating_add(2),
        max_bytes: section.max_bytes,
    }
}

/// Binds and starts the network. A node that was stopped just now may hold its ports for a moment longer.
async fn start_network(
    section: &NetworkSection,
    identity: &Identity,
    blobs: BlobAccess,
    token: &CancellationToken,
) -> Outcome<network::Network> {
    let begun = std::time::Instant::now();
    loop {
        match network::start(network_config(section), identity, blobs.clone(), token.clone()).await {
            Err(NetworkError::AddressInUse { .. }) if begun.elapsed() < PORTS_PATIENCE => {
                tokio::time::sleep(METER_EVERY).await;
            }
            Err(error @ NetworkError::BadAddress { .. }) => return Err(Failure::user(error)),
            started => return started.map_err(Failure::environment),
        }
    }
}

/// What an operator wants to see once a node runs.
#[derive(Debug, Clone)]
pub struct Started {
    /// This node's id.
    pub peer: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Its folder.
    pub data_dir: String,
}

fn check_room(data_dir: &DataDir, min_free_bytes: u64) -> Outcome {
    let free = data_dir
        .free_bytes()
        .map_err(|error| Failure::environment(format!("the free space around {data_dir} is not known: {error}")))?;
    if free < min_free_bytes {
        return Err(Failure::environment(format!(
            "only {} MB are free around {data_dir}, and retention.min_free_bytes asks for {} MB: free some space",
            free >> 20,
            min_free_bytes >> 20
        )));
    }
    Ok(())
}

fn start_threads(threads: usize) -> Outcome {
    let started = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    started.map_err(|error| Failure::environment(format!("compute.threads = {threads}: {error}")))
}

/// Reads the network's counters now and then, so that the driver need not wait for them.
fn start_meter(network: NetworkHandle, token: CancellationToken) -> watch::Receiver<Meter> {
    let (send, meter) = watch::channel(Meter::default());
    tokio::spawn(async move {
        while !token.is_cancelled() {
            send.send_replace(Meter::of(&network.counters().await));
            tokio::time::sleep(METER_EVERY).await;
        }
    });
    meter
}

/// The operator's settings in the network's words.
fn network_config(section: &NetworkSection) -> NetworkConfig {
    let NetworkSection {
        listen,
        bulk_listen,
        external,
        bulk_external,
        bootstrap,
        relays,
        mdns,
        kademlia,
        relay_server,
        autonat,
        bulk_quic,
        connections_max,
    } = section.clone();
    NetworkConfig {
        listen,
        bulk_listen,
        external,
        bulk_external,
        bootstrap,
        relays,
        mdns,
        kademlia,
        relay_server,
        autonat,
        bulk_quic,
        connections_max,
        ..NetworkConfig::default()
    }
}

/// How the bulk plane reaches the blobs. Each piece of a download is verified before it is written, and the whole by whoever
/// reads it.
fn access(blobs: &BlobStore, data_dir: &DataDir) -> BlobAccess {
    let (to_open, to_commit, folder) = (blobs.clone(), blobs.clone(), data_dir.blobs().join("incoming"));
    BlobAccess {
        open: Arc::new(move |blob| match to_open.has(blob) {
            true => to_open.open_file(blob).map(Some).map_err(std::io::Error::other),
            false => Ok(None),
        }),
        partial: Arc::new(move |blob| Ok(folder.join(format!("{blob}.partial")))),
        commit: Arc::new(move |blob, path| to_commit.adopt(blob, path).map_err(std::io::Error::other)),
    }
}
