//! What is configured: a session's file, which all its members share and which is hashed into the session's id, and a
//! node's file, which is one machine's business. It reads files and checks values; it opens no socket, device or store.

pub mod load;
pub mod node_config;
pub mod presets;
pub mod session_config;
pub mod trust;

pub use load::{LoadError, Override, load_node, load_session};
pub use node_config::NodeConfig;
pub use session_config::{AggregationConfig, SessionConfig, SessionFile};
