//! Who mixes with whom in a session without a coordinator: the shapes by name, and what each asks of its members.
//! It holds no weights, no messages and no vectors; members are numbers here, their places in the sorted roster.
//!
//! A shape is a pure function of the number of members, the round, and a seed that all members share: every member
//! builds the same graph by itself. All arithmetic is on integers, and in `spectrum` on `f64` with + − × ÷ and `sqrt`.

pub(crate) mod random;
mod shapes;
pub mod spectrum;
pub mod weights;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits;

pub use spectrum::Contraction;
pub use weights::{Weighting, Weights};

/// A seed that all members share; a session derives it from its id.
pub type GraphSeed = [u8; 32];

/// Which graph a session mixes on. Its canonical bytes are part of the session's identity: variants are only ever
/// appended.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GraphConfig {
    /// Everyone with everyone. The default: up to some sixteen members it costs little and mixes at once.
    #[default]
    Complete,
    /// Each with the one before and the one after. The fewest links, the slowest mixing.
    Ring,
    /// A grid whose borders meet, as near to a square as the number of members allows.
    Torus,
    /// Members whose numbers differ in one bit; their number is a power of two.
    Hypercube,
    /// Everyone with the first member.
    Star,
    /// Member i sends to i + 1, i + 2, i + 4, … (Assran, Loizou, Ballas & Rabbat 2019, ICML; Ying et al. 2021, NeurIPS).
    Exponential,
    /// In round t member i sends to i + 2^(t mod ⌈log₂ n⌉) alone; exact after log₂ n rounds when n is a power of two.
    OnePeerExponential,
    /// A random connected graph in which each has as many neighbours, drawn once (Steger & Wormald 1999, for why such
    /// graphs mix well).
    RandomRegular {
        /// Neighbours of each member. Four already give a gap that hardly depends on the number of members.
        #[serde(default = "default_degree")]
        degree: usize,
    },
    /// Each round each member sends to as many others, drawn anew (Epidemic Learning: de Vos et al. 2023, NeurIPS,
    /// algorithm 1, EL-Local).
    RandomPush {
        /// Members that each sends to.
        #[serde(default = "default_degree")]
        fan_out: usize,
    },
    /// Each pair is linked with the same chance, drawn once; parts that chance left apart are joined.
    ErdosRenyi {
        /// The chance of a link, in thousandths.
        edges_permille: u16,
    },
    /// The links that the session's creator lists, each as a pair of members in the order of the roster.
    Edges {
        /// The links: each once, its smaller member first, in increasing order.
        edges: Vec<(usize, usize)>,
    },
}

fn default_degree() -> usize {
    4
}

/// A graph that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Too few or too many members.
    #[error("graph {graph}: {members} members, and it needs {least} to {}", limits::MEMBERS)]
    Members {
        /// The graph's name.
        graph: &'static str,
        /// What there are.
        members: usize,
        /// The fewest that it works with.
        least: usize,
    },
    /// A hypercube of another size.
    #[error("graph hypercube: {members} members are no power of two; use exponential, which takes any number")]
    PowerOfTwo {
        /// What there are.
        members: usize,
    },
    /// A torus of one row.
    #[error("graph torus: {members} members make no grid of at least two by two; use ring or random_regular")]
    Grid {
        /// What there are.
        members: usize,
    },
    /// A degree that no such graph has.
    #[error(
        "graph {graph}: {key} = {got} must lie between {least} and {most} among {members} members{}",
        if *odd { ", and members times degree must be even" } else { "" }
    )]
    Degree {
        /// The graph's name.
        graph: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// What was asked for.
        got: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
        /// What members there are.
        members: usize,
        /// Whether parity is what is wrong.
        odd: bool,
    },
    /// A chance that is none.
    #[error("graph erdos_renyi: edges_permille = {got} must lie between 1 and 1000")]
    Permille {
        /// What was asked for.
        got: u16,
    },
    /// A link that is none.
    #[error(
        "graph edges: link {index}, ({from}, {to}), must name two of the {members} members, the smaller first, and follow the one before it in order"
    )]
    Edge {
        /// Which link.
        index: usize,
        /// One end.
        from: usize,
        /// The other end.
        to: usize,
        /// What members there are.
        members: usize,
    },
    /// Members that no path of links reaches.
    #[error("graph edges: no path leads from member 0 to member {member}; add a link")]
    Disconnected {
        /// One of them.
        member: usize,
    },
}

impl GraphConfig {
    /// The graph's name, as config files spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Ring => "ring",
            Self::Torus => "torus",
            Self::Hypercube => "hypercube",
            Self::Star => "star",
            Self::Exponential => "exponential",
            Self::OnePeerExponential => "one_peer_exponential",
            Self::RandomRegular { .. } => "random_regular",
            Self::RandomPush { .. } => "random_push",
            Self::ErdosRenyi { .. } => "erdos_renyi",
            Self::Edges { .. } => "edges",
        }
    }

    /// Whether messages may go one way only. A rule of mixing that needs an answer along each link refuses such a graph.
    pub fn is_directed(&self) -> bool {
        matches!(
            self,
            Self::Exponential | Self::OnePeerExponential | Self::RandomPush { .. }
        )
    }

    /// Whether the graph differs from round to round. Mixing that remembers its neighbours refuses such a graph.
    pub fn varies(&self) -> bool {
        matches!(self, Self::OnePeerExponential | Self::RandomPush { .. })
    }

    /// Whether the graph can be built among `members` members. Ask when a session is created.
    pub fn check(&self, members: usize) -> Result<(), GraphError> {
        let least = match self {
            Self::Ring => 3,
            Self::Torus => 4,
            _ => 2,
        };
        let graph = self.name();
        if !(least..=limits::MEMBERS).contains(&members) {
            return Err(GraphError::Members { graph, members, least });
        }
        let degree = |key, got, least, odd| GraphError::Degree {
            graph,
            key,
            got,
            least,
            most: members - 1,
            members,
            odd,
        };
        match self {
            Self::Hypercube if !members.is_power_of_two() => Err(GraphError::PowerOfTwo { members }),
            Self::Torus if shapes::rows_of_torus(members) < 2 => Err(GraphError::Grid { members }),
            Self::RandomRegular { degree: got } => {
                // Degree 1 is a set of pairs, connected only when there is one.
                let least = if members == 2 { 1 } else { 2 };
                let odd = members % 2 == 1 && got % 2 == 1;
                if !(least..members).contains(got) || odd {
                    return Err(degree("degree", *got, least, odd));
                }
                Ok(())
            }
            Self::RandomPush { fan_out } if !(1..members).contains(fan_out) => {
                Err(degree("fan_out", *fan_out, 1, false))
            }
            Self::ErdosRenyi { edges_permille: got } if !(1..=1000).contains(got) => {
                Err(GraphError::Permille { got: *got })
            }
            Self::Edges { edges } => check_edges(edges, members),
            _ => Ok(()),
        }
    }

    /// The graph of one round. Graphs that do not vary ignore `round`; those without chance ignore `seed`.
    pub fn build(&self, members: usize, round: u64, seed: &GraphSeed) -> Result<Graph, GraphError> {
        self.check(members)?;
        Ok(match self {
            Self::Complete => shapes::complete(members),
            Self::Ring => shapes::ring(members),
            Self::Torus => shapes::torus(members),
            Self::Hypercube => shapes::hypercube(members),
            Self::Star => shapes::star(members),
            Self::Exponential => shapes::exponential(members),
            Self::OnePeerExponential => shapes::one_peer_exponential(members, round),
            Self::RandomRegular { degree } => random::regular(members, *degree, seed),
            Self::RandomPush { fan_out } => random::push(members, *fan_out, round, seed),
            Self::ErdosRenyi { edges_permille } => random::erdos_renyi(members, *edges_permille, seed),
            Self::Edges { edges } => Graph::undirected(members, edges.iter().copied()),
        })
    }

    /// The fewest members that any one hears from in a round: what a rule of mixing has to bear its faults on.
    /// Of a graph drawn anew each round nobody may be heard; then it is 0.
    pub fn least_in_degree(&self, members: usize, seed: &GraphSeed) -> Result<usize, GraphError> {
        match self {
            Self::RandomPush { fan_out } if *fan_out < members.saturating_sub(1) => self.check(members).map(|()| 0),
            _ => {
                let graph = self.build(members, 0, seed)?;
                Ok(graph.in_degrees().into_iter().min().unwrap_or(0))
            }
        }
    }
}

fn check_edges(edges: &[(usize, usize)], members: usize) -> Result<(), GraphError> {
    let mut before = None;
    for (index, &(from, to)) in edges.iter().enumerate() {
        if from >= to || to >= members || before.is_some_and(|before| before >= (from, to)) {
            return Err(GraphError::Edge {
                index,
                from,
                to,
                members,
            });
        }
        before = Some((from, to));
    }
    let graph = Graph::undirected(members, edges.iter().copied());
    match graph.first_unreached() {
        Some(member) => Err(GraphError::Disconnected { member }),
        None => Ok(()),
    }
}

/// Who sends to whom in one round: for each member the others that it sends to, in increasing order, without itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    out: Vec<Vec<usize>>,
}

impl Graph {
    /// A graph whose links are used both ways.
    fn undirected(members: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Self {
        Self::directed(members, edges.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]))
    }

    /// A graph of arcs; loops and doubled arcs are dropped.
    fn directed(members: usize, arcs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut out = vec![BTreeSet::new(); members];
        for (from, to) in arcs {
            if from != to {
                out[from].insert(to);
            }
        }
        Self {
            out: out.into_iter().map(|to| to.into_iter().collect()).collect(),
        }
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.out.len()
    }

    /// Whom a member sends to, in increasing order.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn sends_to(&self, member: usize) -> &[usize] {
        &self.out[member]
    }

    /// Whom each member hears from, in increasing order.
    pub fn hears_from(&self) -> Vec<Vec<usize>> {
        let mut heard = vec![Vec::new(); self.members()];
        for (from, to) in self.out.iter().enumerate() {
            for &to in to {
                heard[to].push(from);
            }
        }
        heard
    }

    /// How many each member hears from.
    pub fn in_degrees(&self) -> Vec<usize> {
        self.hears_from().iter().map(Vec::len).collect()
    }

    /// Messages of one round.
    pub fn arcs(&self) -> usize {
        self.out.iter().map(Vec::len).sum()
    }

    /// Whether every link is used both ways.
    pub fn is_symmetric(&self) -> bool {
        self.hears_from() == self.out
    }

    /// Whether a path of links leads from each member to every other.
    pub fn is_connected(&self) -> bool {
        let reversed = Graph { out: self.hears_from() };
        self.first_unreached().is_none() && reversed.first_unreached().is_none()
    }

    /// The least member that no path leads to from member 0.
    fn first_unreached(&self) -> Option<usize> {
        let parents = self.breadth_first();
        (1..self.members()).find(|&member| parents[member].is_none())
    }

    /// For each member the one that a breadth-first walk from member 0 reached it from.
    fn breadth_first(&self) -> Vec<Option<usize>> {
        let mut parents = vec![None; self.members()];
        let mut queue = std::collections::VecDeque::from([0]);
        while let Some(member) = queue.pop_front() {
            for &next in self.out.get(member).into_iter().flatten() {
                if next != 0 && parents[next].is_none() {
                    parents[next] = Some(member);
                    queue.push_back(next);
                }
            }
        }
        parents
    }

    /// The links of a breadth-first spanning tree from member 0, which RelaySum sends along; used both ways.
    /// None for a graph that is not connected, or whose links go one way only.
    pub fn spanning_tree(&self) -> Option<Graph> {
        if !self.is_symmetric() {
            return None;
        }
        let parents = self.breadth_first();
        let edges = (1..self.members()).map(|member| parents[member].map(|parent| (parent, member)));
        let edges: Option<Vec<_>> = edges.collect();
        Some(Graph::undirected(self.members(), edges?))
    }
}
