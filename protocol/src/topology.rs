//! Who exchanges with whom: `federated`, a coordinator with succession; `gossip`, neighbours on a graph without one;
//! `quorum`, all with all and one settlement, agreed on by more than two thirds.
//! What is exchanged is no business of this folder.

pub mod federated;
pub mod gossip;
mod presence;
pub mod quorum;
mod tendermint;
