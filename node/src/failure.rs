//! How a command ends badly: whose fault it is, hence its exit code, and one or two lines for the operator.
//! Bugs are not failures: they panic, and exit with 101.

use synod_config::LoadError;
use synod_storage::error::StoreError;

/// Whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// What was asked for cannot be: exit code 1.
    User,
    /// The machine, the disk, the network or another node: exit code 2.
    Environment,
}

/// Why a command failed, in words that say what, where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault.
    pub fault: Fault,
    /// One or two lines.
    pub message: String,
}

/// What every command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// What was asked for cannot be.
    pub fn user(message: impl ToString) -> Self {
        Self {
            fault: Fault::User,
            message: message.to_string(),
        }
    }

    /// The world does not allow it.
    pub fn environment(message: impl ToString) -> Self {
        Self {
            fault: Fault::Environment,
            message: message.to_string(),
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self.fault {
            Fault::User => 1,
            Fault::Environment => 2,
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::user(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::environment(error)
    }
}
