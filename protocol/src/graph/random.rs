//! The shapes by chance, each drawn from ChaCha under a seed that all members share, so that all draw the same.
//! Nothing here asks the operating system for randomness, and every draw ends after a bounded number of steps.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Graph, GraphSeed};

/// Draws in `0..bound`; the bias of the multiplication is below bound / 2⁶⁴.
struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of one purpose; `round` chooses another one for each round.
    fn new(seed: &GraphSeed, purpose: &str, round: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("synod graph 1");
        hasher.update(seed);
        hasher.update(&round.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()))
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }
}

/// 0 to `count` − 1 in an order by chance (Fisher and Yates).
pub(crate) fn shuffled(count: usize, seed: &GraphSeed, purpose: &str) -> Vec<usize> {
    let mut draw = Draw::new(seed, purpose, 0);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, draw.below(last + 1));
    }
    order
}

/// Swaps tried for each link, so that each is moved many times over and the ring is forgotten (Milo et al. 2003, arXiv
/// cond-mat/0312028, §2.1).
const SWAPS_PER_LINK: usize = 20;

/// Times that the swaps are repeated when they left the graph in parts.
const REPEATS: usize = 64;

/// A regular graph: a wide ring whose links are swapped at random, a–b and c–d for a–d and c–b, which keeps degrees.
/// Should all repetitions leave it in parts, which chance practically rules out above degree 2, the wide ring it is.
pub(super) fn regular(members: usize, degree: usize, seed: &GraphSeed) -> Graph {
    let mut draw = Draw::new(seed, "regular", 0);
    let ring = wide_ring(members, degree);
    let mut links = ring.clone();
    let mut present = vec![false; members * members];
    for &(a, b) in &links {
        present[a * members + b] = true;
        present[b * members + a] = true;
    }
    for _ in 0..REPEATS {
        for _ in 0..SWAPS_PER_LINK * links.len() {
            swap(&mut links, &mut present, members, &mut draw);
        }
        let graph = Graph::undirected(members, links.iter().copied());
        if graph.is_connected() {
            return graph;
        }
    }
    Graph::undirected(members, ring)
}

/// Each member with the `degree / 2` next ones, and for an odd degree with the one across; each link once.
fn wide_ring(members: usize, degree: usize) -> Vec<(usize, usize)> {
    let near = (1..=degree / 2).flat_map(|jump| (0..members).map(move |a| (a, (a + jump) % members)));
    let across = (0..members / 2)
        .map(|a| (a, a + members / 2))
        .filter(|_| degree % 2 == 1);
    let mut links: Vec<(usize, usize)> = near.chain(across).map(|(a, b)| (a.min(b), a.max(b))).collect();
    links.sort_unstable();
    links.dedup();
    links
}

fn swap(links: &mut [(usize, usize)], present: &mut [bool], members: usize, draw: &mut Draw) {
    let (first, second) = (draw.below(links.len()), draw.below(links.len()));
    let ((a, b), (c, d)) = (links[first], links[second]);
    // Which ends meet is a matter of chance, too: the pairs are kept in order of their members.
    let (c, d) = if draw.below(2) == 0 { (c, d) } else { (d, c) };
    let at = |x: usize, y: usize| x * members + y;
    if a == d || c == b || a == c || b == d || present[at(a, d)] || present[at(c, b)] {
        return;
    }
    for (x, y, there) in [(a, b, false), (c, d, false), (a, d, true), (c, b, true)] {
        present[at(x, y)] = there;
        present[at(y, x)] = there;
    }
    links[first] = (a, d);
    links[second] = (c, b);
}

/// Each member sends to `fan_out` others, drawn without replacement.
pub(super) fn push(members: usize, fan_out: usize, round: u64, seed: &GraphSeed) -> Graph {
    let mut draw = Draw::new(seed, "push", round);
    let mut arcs = Vec::with_capacity(members * fan_out);
    let mut others: Vec<usize> = Vec::with_capacity(members);
    for from in 0..members {
        others.clear();
        others.extend((0..members).filter(|to| *to != from));
        for place in 0..fan_out {
            let chosen = place + draw.below(others.len() - place);
            others.swap(place, chosen);
            arcs.push((from, others[place]));
        }
    }
    Graph::directed(members, arcs)
}

/// Each pair with the same chance; each part that is left is then linked to the part of member 0 by one drawn link.
pub(super) fn erdos_renyi(members: usize, edges_permille: u16, seed: &GraphSeed) -> Graph {
    let mut draw = Draw::new(seed, "erdos_renyi", 0);
    let mut links = Vec::new();
    for a in 0..members {
        for b in a + 1..members {
            if draw.below(1000) < usize::from(edges_permille) {
                links.push((a, b));
            }
        }
    }
    let mut graph = Graph::undirected(members, links.iter().copied());
    while let Some(member) = graph.first_unreached() {
        let parents = graph.breadth_first();
        let reached: Vec<usize> = (0..members).filter(|&a| a == 0 || parents[a].is_some()).collect();
        links.push((reached[draw.below(reached.len())], member));
        graph = Graph::undirected(members, links.iter().copied());
    }
    graph
}
