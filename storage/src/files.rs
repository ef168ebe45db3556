//! The few file operations that need care to survive a crash: making folders and syncing them.
//! It knows nothing of what the files are.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::store::Result;

/// Makes a folder (and those above it) that only this user may enter. It is there after a crash, too.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.is_dir())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StoreError::io("make the folder", path))?;
    for above in missing
        .iter()
        .filter_map(|made| made.parent())
        .filter(|above| !above.as_os_str().is_empty())
    {
        sync_folder(above)?;
    }
    Ok(())
}

/// Makes the folder's names durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::io("sync the folder", path))
}

/// The paths in a folder, sorted.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = listed.map_err(StoreError::io("list", path))?;
    paths.sort_unstable();
    Ok(paths)
}
