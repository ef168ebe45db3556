//! Sessions without a coordinator, with real `node` processes on loopback: four members mix on a ring, one is killed; four
//! agree by quorum, and whose turn it is to propose is killed.
//! The objective is the synthetic one, so that a round costs next to nothing; no test here asserts how long anything takes.

use std::time::Duration;

use synod_testnet::processes::{Cluster, Plan, ProcessError};

/// Ends a hang; nothing is expected to take nearly as long.
const LIMIT: Duration = Duration::from_secs(240);
const MEMBERS: usize = 4;

fn session(rounds: u64) -> String {
    format!(
        "name = 'ring'
        [protocol]
        rounds = {rounds}
        min_members = 2
        begin_members = {MEMBERS}
        heartbeat_ms = 250
        lost_after_ms = 2000
        deadline = {{ floor_ms = 500, cap_ms = 20000, k = 6 }}
        [protocol.topology.decentralized]
        graph = 'ring'
        [training]
        local_steps = 10
        [training.model.synthetic]
        [aggregation]
        encoding = 'f32'
        "
    )
}

#[test]
fn four_nodes_on_a_ring_learn_without_a_coordinator_though_one_is_killed() -> Result<(), ProcessError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(Plan::new(dir.path(), MEMBERS))?;
    let id = cluster.gather(&session(120), &[None; MEMBERS])?;
    let reached = |cluster: &Cluster, node: usize, round: u64| -> Result<bool, ProcessError> {
        Ok(cluster.node(node).session(&id)?.round >= round)
    };
    cluster.wait_until("all mix", LIMIT, |cluster| {
        (0..MEMBERS).try_fold(true, |all, node| Ok(all && reached(cluster, node, 4)?))
    })?;
    cluster.node_mut(3).kill()?;
    let round = cluster.node(0).session(&id)?.round;
    cluster.wait_until("the others go on without it", LIMIT, |cluster| {
        (0..3).try_fold(true, |all, node| Ok(all && reached(cluster, node, round + 5)?))
    })?;
    cluster.node_mut(3).start()?;
    cluster.wait_until("all finish", LIMIT, |cluster| {
        (0..MEMBERS).try_fold(true, |all, node| {
            Ok(all && cluster.node(node).session(&id)?.is_finished())
        })
    })?;
    for node in 0..MEMBERS {
        let status = cluster.node(node).session(&id)?;
        assert_eq!(status.coordinator, None, "nobody leads");
        let rows = cluster.node(node).rounds(&id)?;
        let losses: Vec<f32> = rows
            .iter()
            .filter_map(|row| row.own.as_ref().and_then(|own| own.heldout_before))
            .collect();
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(node == 3 || last < 0.3 * first, "node {node}: {first} became {last}");
    }
    cluster.stop()
}

#[test]
fn four_nodes_agree_by_quorum_though_a_proposer_is_killed_and_anyone_can_check_it() -> Result<(), ProcessError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = Cluster::start(Plan::new(dir.path(), MEMBERS))?;
    let file = format!(
        "name = 'council'
        [protocol]
        rounds = 60
        min_members = 3
        begin_members = {MEMBERS}
        heartbeat_ms = 250
        lost_after_ms = 2000
        deadline = {{ floor_ms = 500, cap_ms = 20000, k = 6 }}
        [protocol.topology.decentralized]
        agreement = 'quorum'
        [training]
        local_steps = 10
        [training.model.synthetic]
        "
    );
    let id = cluster.gather(&file, &[None; MEMBERS])?;
    let settled = |cluster: &Cluster, node: usize, round: u64| -> Result<bool, ProcessError> {
        Ok(cluster.node(node).session(&id)?.round > round)
    };
    cluster.wait_until("all settle", LIMIT, |cluster| {
        (0..MEMBERS).try_fold(true, |all, node| Ok(all && settled(cluster, node, 4)?))
    })?;
    // Whoever proposes now: it may be gone by the time it is killed, and another has the turn; either must not matter.
    let proposer = cluster.node(0).session(&id)?.coordinator;
    let peers = (0..MEMBERS).map(|node| Ok(Some(cluster.node(node).status()?.peer)));
    let peers = peers.collect::<Result<Vec<_>, ProcessError>>()?;
    let killed = peers.iter().position(|peer| *peer == proposer).unwrap_or(0);
    cluster.node_mut(killed).kill()?;
    let others: Vec<usize> = (0..MEMBERS).filter(|node| *node != killed).collect();
    let round = cluster.node(others[0]).session(&id)?.round;
    cluster.wait_until("the others settle without it", LIMIT, |cluster| {
        others
            .iter()
            .try_fold(true, |all, node| Ok(all && settled(cluster, *node, round + 4)?))
    })?;
    cluster.node_mut(killed).start()?;
    cluster.wait_until("all finish", LIMIT, |cluster| {
        (0..MEMBERS).try_fold(true, |all, node| {
            Ok(all && cluster.node(node).session(&id)?.is_finished())
        })
    })?;
    let states = |node: usize| -> Result<Vec<_>, ProcessError> {
        let rows = cluster.node(node).rounds(&id)?;
        Ok(rows.into_iter().map(|row| (row.round, row.state)).collect())
    };
    let first = states(0)?;
    assert_eq!(first.len(), 61, "the founding and every round");
    for node in 1..MEMBERS {
        assert_eq!(states(node)?, first, "node {node} has the same states");
    }
    let verified: serde_json::Value = cluster.node(killed).ask_json(&["verify", "council", "--json"])?;
    assert_eq!(verified["rounds"], 60, "{verified}");
    assert!(verified["fault"].is_null(), "{verified}");
    cluster.stop()
}
