//! DiLoCo's parameter histories as torchft has them: synchronous, streaming, delayed, mixed, and with a lost replica.
//!
//! Re-created, not run: the expected numbers are those of torchft's seven regression fixtures (BSD-3-Clause,
//! `test_fixtures/torchft.diloco_regression_test.DiLoCoMockedUpdateTest.*.json` at commit 7eb7087), and the setting is the
//! one that `diloco_regression_test.py` describes: two replicas; two layers of one weight each, a fragment a layer, all
//! weights 1 at first; a gradient of 2 in every step, inner step w ← w − 2, outer step without momentum and with learning
//! rate 2; each fragment settled every 6 steps, hence 3 steps a round. A history has the weight before each local step.

use synod_aggregation::outer_step::{Due, Fragments, Replica, StreamedState, StreamingConfig};
use synod_aggregation::{Aggregator, Contribution, OuterConfig, rules::Mean};

const LOCAL_STEPS: u32 = 3;
const OUTER: OuterConfig = OuterConfig {
    learning_rate: 2.0,
    ..OuterConfig::AVERAGING
};

/// The two layers' histories of one replica, and of the agreed parameters before each round.
#[derive(Debug, Default, PartialEq)]
struct History {
    own: [Vec<f32>; 2],
    agreed: [Vec<f32>; 2],
}

impl History {
    fn note(&mut self, replica: &Replica) {
        for (history, &weight) in self.own.iter_mut().zip(&replica.parameters) {
            history.push(weight);
        }
    }

    fn note_agreed(&mut self, state: &StreamedState) {
        for (history, &weight) in self.agreed.iter_mut().zip(&state.outer.parameters) {
            history.push(weight);
        }
    }
}

/// Trains until the pseudo-gradient is due, noting the weights before each step.
fn train_until(due: Due, config: &StreamingConfig, replica: &mut Replica, history: &mut History) {
    while replica.due(config, LOCAL_STEPS) == Due::Step {
        history.note(replica);
        replica.parameters.iter_mut().for_each(|weight| *weight -= 2.0);
        replica.stepped();
    }
    assert_eq!(replica.due(config, LOCAL_STEPS), due);
}

/// One round of two replicas.
fn round(
    config: &StreamingConfig,
    fragments: &Fragments,
    state: &mut StreamedState,
    replicas: &mut [Replica; 2],
    histories: &mut [History; 2],
) {
    histories.iter_mut().for_each(|history| history.note_agreed(state));
    let mut gradients = Vec::new();
    for (replica, history) in replicas.iter_mut().zip(histories.iter_mut()) {
        train_until(Due::Send, config, replica, history);
        gradients.push(replica.send(state, fragments));
    }
    for (replica, history) in replicas.iter_mut().zip(histories.iter_mut()) {
        train_until(Due::Merge, config, replica, history);
    }
    let contributions: Vec<_> = gradients
        .iter()
        .map(|values| Contribution::dense(values, 1.0))
        .collect();
    let mut aggregate = vec![0.0; gradients[0].len()];
    Mean.aggregate(&contributions, &mut aggregate);
    state.settle(&OUTER, fragments, &aggregate);
    for replica in replicas.iter_mut() {
        replica.merge(config, state, fragments);
    }
}

/// Five rounds, as in torchft's runs, of which the weights after the last are noted too.
fn check(delay_steps: u32, mixing: f32, own: [[f32; 16]; 2], agreed: [[f32; 5]; 2]) {
    let config = StreamingConfig {
        fragments: 2,
        delay_steps,
        mixing,
    };
    assert_eq!(config.check(2, LOCAL_STEPS), Ok(()));
    let fragments = config.fragments(2);
    let mut state = StreamedState::new(vec![1.0; 2]);
    let mut replicas = [Replica::new(&state), Replica::new(&state)];
    let mut histories = [History::default(), History::default()];
    for _ in 0..5 {
        round(&config, &fragments, &mut state, &mut replicas, &mut histories);
    }
    for (replica, mut history) in replicas.iter().zip(histories) {
        history.note(replica);
        let expected = History {
            own: own.map(|own| own.to_vec()),
            agreed: agreed.map(|agreed| agreed.to_vec()),
        };
        assert_eq!(history, expected, "delay {delay_steps}, mixing {mixing}");
    }
}

#[rustfmt::skip]
const STRAIGHT: [f32; 16] =
    [1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -11.0, -13.0, -15.0, -17.0, -19.0, -21.0, -23.0, -25.0, -27.0, -29.0];

#[test]
fn streaming_without_delay() {
    check(
        0,
        0.0,
        [
            [
                1.0, -1.0, -3.0, -11.0, -13.0, -15.0, -17.0, -19.0, -21.0, -35.0, -37.0, -39.0, -41.0, -43.0, -45.0,
                -59.0,
            ],
            [
                1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -23.0, -25.0, -27.0, -29.0, -31.0, -33.0, -47.0, -49.0, -51.0, -53.0,
            ],
        ],
        [[1.0, -11.0, -11.0, -35.0, -35.0], [1.0, 1.0, -23.0, -23.0, -47.0]],
    );
}

#[test]
fn streaming_with_half_of_the_own_parameters() {
    check(
        0,
        0.5,
        [
            [
                1.0, -1.0, -3.0, -8.0, -10.0, -12.0, -14.0, -16.0, -18.0, -24.5, -26.5, -28.5, -30.5, -32.5, -34.5,
                -40.25,
            ],
            [
                1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -17.0, -19.0, -21.0, -23.0, -25.0, -27.0, -32.0, -34.0, -36.0, -38.0,
            ],
        ],
        [[1.0, -11.0, -11.0, -29.0, -29.0], [1.0, 1.0, -23.0, -23.0, -35.0]],
    );
}

#[test]
fn streaming_with_the_own_parameters_alone() {
    check(
        0,
        1.0,
        [STRAIGHT, STRAIGHT],
        [[1.0, -11.0, -11.0, -23.0, -23.0], [1.0, 1.0, -23.0, -23.0, -23.0]],
    );
}

#[test]
fn streaming_with_delay() {
    check(
        1,
        0.0,
        [
            [
                1.0, -1.0, -3.0, -7.0, -9.0, -11.0, -13.0, -15.0, -17.0, -27.0, -29.0, -31.0, -33.0, -35.0, -37.0,
                -47.0,
            ],
            [
                1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -19.0, -21.0, -23.0, -25.0, -27.0, -29.0, -39.0, -41.0, -43.0, -45.0,
            ],
        ],
        [[1.0, -7.0, -7.0, -27.0, -27.0], [1.0, 1.0, -19.0, -19.0, -39.0]],
    );
}

#[test]
fn streaming_with_delay_and_half_of_the_own_parameters() {
    check(
        1,
        0.5,
        [
            [
                1.0, -1.0, -3.0, -6.0, -8.0, -10.0, -12.0, -14.0, -16.0, -21.5, -23.5, -25.5, -27.5, -29.5, -31.5,
                -35.75,
            ],
            [
                1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -15.0, -17.0, -19.0, -21.0, -23.0, -25.0, -29.0, -31.0, -33.0, -35.0,
            ],
        ],
        [[1.0, -7.0, -7.0, -25.0, -25.0], [1.0, 1.0, -19.0, -19.0, -31.0]],
    );
}

#[test]
fn streaming_with_delay_and_the_own_parameters_alone() {
    check(
        1,
        1.0,
        [STRAIGHT, STRAIGHT],
        [[1.0, -7.0, -7.0, -23.0, -23.0], [1.0, 1.0, -19.0, -19.0, -23.0]],
    );
}

/// The second replica is lost when round 2 begins. It starts again from the first weights, trains until its pseudo-gradient is
/// due, is then told that it is behind, and takes over state and replica of the first, as bytes. torchft's histories: the
/// first replica's is that of an undisturbed run of seven rounds, the second's has three steps of its own and then the first's.
#[test]
fn a_lost_replica_recovers_from_another() {
    let config = StreamingConfig {
        fragments: 2,
        ..StreamingConfig::default()
    };
    let fragments = config.fragments(2);
    let mut state = StreamedState::new(vec![1.0; 2]);
    let mut replicas = [Replica::new(&state), Replica::new(&state)];
    let mut histories = [History::default(), History::default()];
    for _ in 0..2 {
        round(&config, &fragments, &mut state, &mut replicas, &mut histories);
    }

    let fresh = StreamedState::new(vec![1.0; 2]);
    replicas[1] = Replica::new(&fresh);
    histories[1] = History::default();
    histories[1].note_agreed(&fresh);
    train_until(Due::Send, &config, &mut replicas[1], &mut histories[1]);
    histories[0].note_agreed(&state);
    train_until(Due::Send, &config, &mut replicas[0], &mut histories[0]);
    let told = StreamedState::from_bytes(&state.to_bytes(), 2).expect("the donor's state is read");
    replicas[1] = Replica::from_bytes(&replicas[0].to_bytes(), 2).expect("the donor's replica is read");
    assert_eq!(told, state);
    let gradients = replicas.each_mut().map(|replica| replica.send(&told, &fragments));
    assert_eq!(gradients[0], gradients[1]);
    state.settle(&OUTER, &fragments, &gradients[0]);
    for replica in &mut replicas {
        replica.merge(&config, &state, &fragments);
    }

    for _ in 0..4 {
        round(&config, &fragments, &mut state, &mut replicas, &mut histories);
    }
    for (replica, history) in replicas.iter().zip(&mut histories) {
        history.note(replica);
    }
    let [first, second] = histories;
    assert_eq!(
        first.own,
        [
            vec![
                1.0, -1.0, -3.0, -11.0, -13.0, -15.0, -17.0, -19.0, -21.0, -35.0, -37.0, -39.0, -41.0, -43.0, -45.0,
                -59.0, -61.0, -63.0, -65.0, -67.0, -69.0, -83.0
            ],
            vec![
                1.0, -1.0, -3.0, -5.0, -7.0, -9.0, -23.0, -25.0, -27.0, -29.0, -31.0, -33.0, -47.0, -49.0, -51.0,
                -53.0, -55.0, -57.0, -71.0, -73.0, -75.0, -77.0
            ],
        ]
    );
    assert_eq!(
        second.own,
        [
            vec![
                1.0, -1.0, -3.0, -35.0, -37.0, -39.0, -41.0, -43.0, -45.0, -59.0, -61.0, -63.0, -65.0, -67.0, -69.0,
                -83.0
            ],
            vec![
                1.0, -1.0, -3.0, -29.0, -31.0, -33.0, -47.0, -49.0, -51.0, -53.0, -55.0, -57.0, -71.0, -73.0, -75.0,
                -77.0
            ],
        ]
    );
    assert_eq!(first.agreed[0], [1.0, -11.0, -11.0, -35.0, -35.0, -59.0, -59.0]);
    assert_eq!(first.agreed[1], [1.0, 1.0, -23.0, -23.0, -47.0, -47.0, -71.0]);
    assert_eq!(second.agreed[0], [1.0, -35.0, -35.0, -59.0, -59.0]);
    assert_eq!(second.agreed[1], [1.0, -23.0, -47.0, -47.0, -71.0]);
}

/// torchft's rule for a round that does not commit: the fragment goes back, the same round begins again.
#[test]
fn a_failed_round_is_begun_again_with_the_same_fragment() {
    let config = StreamingConfig {
        fragments: 2,
        ..StreamingConfig::default()
    };
    let fragments = config.fragments(2);
    let state = StreamedState::new(vec![1.0; 2]);
    let mut replica = Replica::new(&state);
    let mut history = History::default();
    train_until(Due::Send, &config, &mut replica, &mut history);
    assert_eq!(replica.send(&state, &fragments), [6.0]);
    assert_eq!(replica.due(&config, LOCAL_STEPS), Due::Merge);
    replica.discard(&state, &fragments);
    assert_eq!(replica.parameters, [1.0, -5.0]);
    train_until(Due::Send, &config, &mut replica, &mut history);
    assert_eq!(replica.send(&state, &fragments), [6.0]);
    assert_eq!(history.own[1], [1.0, -1.0, -3.0, -5.0, -7.0, -9.0]);
}

/// One fragment, no delay: the whole of DiLoCo's state is what the outer step alone makes of it.
#[test]
fn one_fragment_without_delay_is_diloco() {
    let config = StreamingConfig::default();
    let fragments = config.fragments(3);
    let mut state = StreamedState::new(vec![1.0, 2.0, 3.0]);
    let (mut parameters, mut momentum) = (vec![1.0, 2.0, 3.0], vec![0.0; 3]);
    let mut replica = Replica::new(&state);
    for _ in 0..4 {
        train_until(Due::Send, &config, &mut replica, &mut History::default());
        let gradient = replica.send(&state, &fragments);
        OuterConfig::DILOCO.step(&mut parameters, &mut momentum, &gradient);
        state.settle(&OuterConfig::DILOCO, &fragments, &gradient);
        replica.merge(&config, &state, &fragments);
        assert_eq!(state.outer.parameters, parameters);
        assert_eq!(state.outer.momentum, momentum);
        assert_eq!(replica.parameters, parameters);
    }
}
