//! How the bulk plane reaches the blob store: three functions, called on a blocking thread.
//! It knows nothing of how blobs are named on disk or indexed; the driver binds it to the storage crate.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use synod_protocol::identity::BlobId;

/// Opens a blob for serving: the file and its length, or none when it is not here.
pub type OpenBlob = dyn Fn(&BlobId) -> io::Result<Option<(File, u64)>> + Send + Sync;
/// Names the file in which a partly received blob is kept, also between starts (its folder must exist).
pub type PartialPath = dyn Fn(&BlobId) -> io::Result<PathBuf> + Send + Sync;
/// Takes a completed file into the store. Its bytes were verified against the id while they came; it is not yet synced.
pub type CommitBlob = dyn Fn(&BlobId, &Path) -> io::Result<()> + Send + Sync;

/// What the bulk plane needs from the blob store.
#[derive(Clone)]
pub struct BlobAccess {
    /// See [`OpenBlob`].
    pub open: Arc<OpenBlob>,
    /// See [`PartialPath`].
    pub partial: Arc<PartialPath>,
    /// See [`CommitBlob`].
    pub commit: Arc<CommitBlob>,
}

impl BlobAccess {
    /// Blobs as plain files in a folder, named by their id (`.part` while they arrive): for tests and tools.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        let folder: PathBuf = folder.into();
        let [at_open, at_partial, at_commit] = [folder.clone(), folder.clone(), folder];
        Self {
            open: Arc::new(move |blob| match File::open(at_open.join(blob.to_string())) {
                Ok(file) => {
                    let length = file.metadata()?.len();
                    Ok(Some((file, length)))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }),
            partial: Arc::new(move |blob| Ok(at_partial.join(format!("{blob}.part")))),
            commit: Arc::new(move |blob, path| std::fs::rename(path, at_commit.join(blob.to_string()))),
        }
    }

    pub(super) async fn open(&self, blob: BlobId) -> io::Result<Option<(File, u64)>> {
        let open = Arc::clone(&self.open);
        blocking(move || open(&blob)).await
    }

    pub(super) async fn partial(&self, blob: BlobId) -> io::Result<PathBuf> {
        let partial = Arc::clone(&self.partial);
        blocking(move || partial(&blob)).await
    }

    /// How many bytes of a blob arrived in part; a file without any is deleted. What cannot be looked at is none.
    pub(super) async fn keep_partial(&self, blob: BlobId) -> u64 {
        let partial = Arc::clone(&self.partial);
        let looked = blocking(move || {
            let path = partial(&blob)?;
            let length = std::fs::metadata(&path)?.len();
            if length == 0 {
                std::fs::remove_file(path)?;
            }
            Ok(length)
        });
        looked.await.unwrap_or_default()
    }

    /// Deletes what arrived of a blob in part.
    pub(super) async fn remove_partial(&self, blob: BlobId) -> io::Result<()> {
        let partial = Arc::clone(&self.partial);
        blocking(move || std::fs::remove_file(partial(&blob)?)).await
    }

    pub(super) async fn commit(&self, blob: BlobId, path: PathBuf) -> io::Result<()> {
        let commit = Arc::clone(&self.commit);
        blocking(move || commit(&blob, &path)).await
    }
}

impl std::fmt::Debug for BlobAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobAccess")
    }
}

/// Runs disk work off the async threads. A panic there, or a runtime that is going down, becomes an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
