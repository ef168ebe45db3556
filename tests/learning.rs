//! One member of five lies in every round, with real processes: robust rules go on learning, the plain mean does not.
//! The objective is the synthetic one, so that a round costs next to nothing; the rules do not know the difference.

use std::time::Duration;

use synod_testnet::processes::{Cluster, NodeBinary, Plan, ProcessError};

const LIMIT: Duration = Duration::from_secs(240);
const MEMBERS: usize = 5;
const ROUNDS: u64 = 12;

/// The held-out loss of the first and of the last state at an honest member, with one liar among the five.
fn losses_under(rule: &str) -> Result<(f32, f32), ProcessError> {
    let session = format!(
        "name = 'drill'
        [protocol]
        rounds = {ROUNDS}
        min_members = {MEMBERS}
        quorum_percent = 100
        heartbeat_ms = 250
        lost_after_ms = 5000
        deadline = {{ floor_ms = 30000, cap_ms = 60000, k = 6 }}
        [training]
        local_steps = 10
        [training.model.synthetic]
        [aggregation]
        rule = {rule}
        outer = {{ learning_rate = 0.7, momentum = 0.0, nesterov = false }}
        "
    );
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut plan = Plan::new(dir.path(), MEMBERS);
    plan.others
        .insert(MEMBERS - 1, NodeBinary::at(env!("CARGO_BIN_EXE_rogue"))?);
    let mut cluster = Cluster::start(plan)?;
    let id = cluster.gather(&session, &[None; MEMBERS])?;
    cluster.wait_settled(&id, ROUNDS, LIMIT)?;
    let rows = cluster.node(1).rounds(&id)?;
    let losses: Vec<f32> = rows
        .iter()
        .filter_map(|row| row.own.as_ref().and_then(|own| own.heldout_before))
        .collect();
    let ends = losses.first().copied().zip(losses.last().copied());
    cluster.stop()?;
    Ok(ends.expect("an honest member reports its losses"))
}

#[test]
fn under_the_mean_one_liar_stops_learning() -> Result<(), ProcessError> {
    let (first, last) = losses_under("'mean'")?;
    assert!(
        last > first,
        "one liar of five should ruin the mean: {first} became {last}"
    );
    Ok(())
}

#[test]
fn under_the_trimmed_mean_it_does_not() -> Result<(), ProcessError> {
    let (first, last) = losses_under("{ trimmed_mean = { f = 1 } }")?;
    assert!(last < 0.3 * first, "the session should learn: {first} became {last}");
    Ok(())
}

#[test]
fn under_centered_clipping_it_does_not() -> Result<(), ProcessError> {
    let (first, last) = losses_under("{ centered_clip = {} }")?;
    assert!(last < 0.3 * first, "the session should learn: {first} became {last}");
    Ok(())
}
