//! The node's door: one HTTP/JSON API on a Unix socket in the data directory. Who may open the socket may do everything;
//! it listens nowhere else. The routes are in `routes`, their content in `types`.

mod invites;
mod joins;
mod routes;
pub mod types;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use synod_config::node_config::RetentionSection;
use synod_protocol::identity::Identity;
use synod_storage::blobs::BlobStore;
use synod_storage::store::Store;
use synod_training::device::DeviceChoice;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::compute::Drill;
use crate::data_dir::DataDir;
use crate::driver::DriverHandle;
use crate::failure::{Failure, Outcome};
use crate::network::NetworkHandle;

/// The longest path that the system takes for a Unix socket, less its final zero.
const SOCKET_PATH_BYTES: usize = 107;

/// What the routes need.
#[derive(Clone)]
pub struct Context {
    /// This node's key, for invites.
    pub identity: Identity,
    /// The machines' owner.
    pub driver: DriverHandle,
    /// Messages and blobs of peers.
    pub network: NetworkHandle,
    /// Records.
    pub store: Arc<dyn Store>,
    /// Models and updates.
    pub blobs: BlobStore,
    /// The node's folder.
    pub data_dir: DataDir,
    /// Where it computes.
    pub device: DeviceChoice,
    /// What holds the text in this machine's data.
    pub text_field: String,
    /// How much is kept, and how much room stays.
    pub retention: RetentionSection,
    /// A drill, in tests.
    pub drill: Option<Drill>,
    /// Time.
    pub clock: Clock,
    /// Stops the node.
    pub shutdown: CancellationToken,
}

/// The bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Door {
    /// Binds the socket, for its owner alone. A file that a killed node left is replaced; the data directory's lock,
    /// which the caller holds, says that it is no living one's.
    pub fn bind(path: &Path) -> Outcome<Self> {
        let place = path.display();
        if path.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(Failure::user(format!(
                "the socket's path {place} is longer than the system's {SOCKET_PATH_BYTES} bytes: choose a shorter --data-dir"
            )));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(Failure::environment(format!(
                "another process answers on {place}: stop it, or set api.socket"
            )));
        }
        if let Ok(left) = std::fs::symlink_metadata(path) {
            if !left.file_type().is_socket() {
                return Err(Failure::user(format!(
                    "api.socket names {place}, which is there already and is no socket: choose another name"
                )));
            }
            std::fs::remove_file(path)
                .map_err(|error| Failure::environment(format!("cannot replace the stale socket {place}: {error}")))?;
        }
        let bound = UnixListener::bind(path).and_then(|listener| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        });
        let listener = bound.map_err(|error| Failure::environment(format!("cannot listen on {place}: {error}")))?;
        Ok(Self {
            listener,
            file: SocketFile(path.to_owned()),
        })
    }

    /// Answers until the node shuts down.
    pub async fn serve(self, context: Context) {
        let Self { listener, file } = self;
        let shutdown = context.shutdown.clone();
        let server = axum::serve(listener, routes::router(context)).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the API has ended; stop the node with Ctrl-C");
        }
        drop(file);
    }
}
