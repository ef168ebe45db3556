//! Who exchanges with whom. Today: `federated`, a coordinator with succession; graphs and quorums have their place here.
//! What is exchanged is no business of this folder.

pub mod federated;
