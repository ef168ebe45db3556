//! Who exchanges with whom: `federated`, a coordinator with succession; `gossip`, neighbours on a graph without one.
//! What is exchanged is no business of this folder.

pub mod federated;
pub mod gossip;
