//! Real `node` processes on loopback: started, asked, killed and restarted through the same binary that operators run.
//! It links nothing of the node and never reads its store: what it knows, `node … --json` has printed.
//!
//! ```no_run
//! use std::time::Duration;
//! use synod_testnet::processes::{Cluster, Plan};
//! # fn main() -> Result<(), synod_testnet::processes::ProcessError> {
//! let mut cluster = Cluster::start(Plan::new("/tmp/trial", 3))?;
//! let session = cluster.gather("name = 'trial'\n[training.model.synthetic]\n", &[None, None, None])?;
//! cluster.wait_until("round 2 is settled at node 1", Duration::from_secs(60), |cluster| {
//!     Ok(cluster.node(1).session(&session)?.round > 2)
//! })?;
//! cluster.node_mut(2).kill()?;
//! cluster.node_mut(2).start()?;
//! cluster.stop()
//! # }
//! ```

mod binary;
mod cluster;
mod error;
mod exchange;
mod guard;
mod namespaces;
mod node;
mod ports;
mod soak;
mod view;

pub use binary::NodeBinary;
pub use cluster::{Cluster, Plan};
pub use error::ProcessError;
pub use exchange::{Exchange, Exchanged};
pub use namespaces::{End, Namespaces};
pub use node::{Answer, NodeProcess};
pub use soak::{Soak, Soaked, divergent_rounds};
pub use view::{Bytes, Member, NodeStatus, OwnReport, Participant, Progress, RoundRow, SessionStatus};
