//! Where the `node` binary is: named in SYNOD_NODE, else beside the running program, else where cargo puts release builds.
//! It builds nothing.

use std::path::{Path, PathBuf};

use super::ProcessError;

/// The `node` binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBinary(PathBuf);

impl NodeBinary {
    /// The binary at this path, if there is one.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, ProcessError> {
        let path = path.into();
        match path.is_file() {
            true => Ok(Self(path.canonicalize().map_err(ProcessError::io("find", &path))?)),
            false => Err(ProcessError::NoBinary {
                looked_at: path.display().to_string(),
            }),
        }
    }

    /// The binary named in `SYNOD_NODE`; else the one beside this program (or, for a test, beside its `deps` folder); else
    /// `target/release/node` of this workspace.
    pub fn find() -> Result<Self, ProcessError> {
        if let Some(named) = std::env::var_os("SYNOD_NODE").filter(|named| !named.is_empty()) {
            return Self::at(named);
        }
        let mut places = Vec::new();
        if let Ok(this) = std::env::current_exe() {
            places.extend(this.ancestors().skip(1).take(2).map(|folder| folder.join("node")));
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        places.push(workspace.join("target/release/node"));
        match places.iter().find(|place| place.is_file()) {
            Some(place) => Self::at(place),
            None => {
                let looked_at: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
                Err(ProcessError::NoBinary {
                    looked_at: looked_at.join(", "),
                })
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named() {
        let error = NodeBinary::at("/nowhere/node").unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/node") && error.contains("SYNOD_NODE"),
            "{error}"
        );
    }
}
