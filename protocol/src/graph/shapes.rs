//! The shapes without chance: complete, ring, torus, hypercube, star, and the exponential graphs.
//! Each is a list of links; nothing here checks whether the number of members allows it, `GraphConfig::check` does.

use super::Graph;

pub(super) fn complete(members: usize) -> Graph {
    Graph::undirected(members, (0..members).flat_map(|a| (0..a).map(move |b| (a, b))))
}

pub(super) fn ring(members: usize) -> Graph {
    Graph::undirected(members, (0..members).map(|a| (a, (a + 1) % members)))
}

pub(super) fn star(members: usize) -> Graph {
    Graph::undirected(members, (1..members).map(|a| (0, a)))
}

/// Rows of the grid that is nearest to a square: the largest divisor up to the root of the number of members.
pub(super) fn rows_of_torus(members: usize) -> usize {
    (1..=members)
        .take_while(|rows| rows * rows <= members)
        .filter(|rows| members.is_multiple_of(*rows))
        .last()
        .unwrap_or(1)
}

pub(super) fn torus(members: usize) -> Graph {
    let rows = rows_of_torus(members);
    let columns = members / rows;
    let links = (0..members).flat_map(|at| {
        let (row, column) = (at / columns, at % columns);
        let right = row * columns + (column + 1) % columns;
        let below = (row + 1) % rows * columns + column;
        [(at, right), (at, below)]
    });
    Graph::undirected(members, links)
}

pub(super) fn hypercube(members: usize) -> Graph {
    let bits = members.ilog2();
    Graph::undirected(
        members,
        (0..members).flat_map(|a| (0..bits).map(move |bit| (a, a ^ (1 << bit)))),
    )
}

/// The jumps 1, 2, 4, … below the number of members: ⌈log₂ n⌉ of them.
fn jumps(members: usize) -> impl Iterator<Item = usize> + Clone {
    std::iter::successors(Some(1), |jump| Some(jump * 2)).take_while(move |jump| *jump < members)
}

pub(super) fn exponential(members: usize) -> Graph {
    Graph::directed(
        members,
        (0..members).flat_map(|a| jumps(members).map(move |jump| (a, (a + jump) % members))),
    )
}

pub(super) fn one_peer_exponential(members: usize, round: u64) -> Graph {
    let jumps: Vec<usize> = jumps(members).collect();
    let jump = jumps[(round % jumps.len() as u64) as usize];
    Graph::directed(members, (0..members).map(|a| (a, (a + jump) % members)))
}

/// Rounds after which the one-peer graph repeats.
pub(super) fn one_peer_period(members: usize) -> u64 {
    jumps(members).count() as u64
}
