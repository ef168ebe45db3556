//! The simulator's own acceptance: every scenario file, with a few seeds, comes out as it says.
//! Thousands of seeds are the business of `make simulate`, not of this test.

use std::path::{Path, PathBuf};

use synod_protocol::session::Topology;
use synod_testnet::cli::run_checked;
use synod_testnet::simulation::{Overrides, Report, Scenario, Verdict, run};

/// Not run here: too large for a test; `make simulate SCENARIO=…` runs it.
const APART: [&str; 1] = ["thousand_peers"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn scenario(name: &str, overrides: Overrides) -> Scenario {
    Scenario::load(&folder().join(format!("{name}.toml")), overrides).expect("the scenarios in the tree are valid")
}

fn seed(seed: u64) -> Overrides {
    Overrides {
        seed: Some(seed),
        ..Overrides::default()
    }
}

fn check(report: &Report) {
    assert!(report.passed, "{}\n{:#?}", report.to_line(), report.violations);
}

#[test]
fn every_scenario_comes_out_as_it_says() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() > 30, "{names:?}");
    for name in names.iter().filter(|name| !APART.contains(&name.as_str())) {
        for number in 1..=4 {
            let scenario = scenario(name, seed(number));
            assert_eq!(scenario.name, *name, "the name in the file is the file's");
            check(&run_checked(&scenario, false, false));
        }
    }
}

#[test]
fn two_runs_of_a_seed_give_one_event_log_and_two_seeds_give_two() {
    for name in ["chaos", "lossy", "replay"] {
        let digest = |number| run(&scenario(name, seed(number)), false).event_log_digest;
        assert_eq!(digest(11), digest(11), "{name}");
        assert_ne!(digest(11), digest(12), "{name}");
    }
}

#[test]
fn members_of_unlike_speed_finish_sooner_when_their_steps_go_by_it() {
    for number in 1..=4 {
        let time = |name| {
            let report = run(&scenario(name, seed(number)), false);
            check(&report);
            report.virtual_ms
        };
        let (alike, by_speed) = (time("unlike_machines"), time("unlike_machines_by_speed"));
        assert!(
            4 * by_speed < 3 * alike,
            "seed {number}: {by_speed} ms by speed, {alike} ms without"
        );
    }
}

#[test]
fn a_scenario_scales_to_more_peers_and_other_rounds() {
    let overrides = Overrides {
        seed: Some(3),
        peers: Some(100),
        rounds: Some(4),
    };
    let report = run(&scenario("thousand_peers", overrides), false);
    check(&report);
    assert_eq!((report.peers, report.settled), (100, 4));
}

#[test]
fn shards_settle_the_states_that_a_federated_session_settles() {
    for number in 1..=3 {
        let in_shards = scenario("federated_shards", seed(number));
        let mut whole = in_shards.clone();
        whole.terms.topology = Topology::Federated;
        let last = |scenario: &Scenario| {
            let report = run(scenario, false);
            check(&report);
            (report.settled, report.state_last)
        };
        let settled = last(&in_shards);
        assert!(settled.0 == 12 && settled == last(&whole), "seed {number}: {settled:?}");
    }
}

#[test]
fn a_canary_without_its_bug_is_not_caught() {
    let mut scenario = scenario("canary_double_vote", seed(1));
    scenario.planted_bug = None;
    let report = run(&scenario, false);
    assert_eq!(
        (report.safety, report.canary_caught, report.passed),
        (Verdict::Holds, Some(false), false)
    );
}

#[test]
fn robust_rules_learn_where_the_mean_does_not() {
    let loss = |name: String| run(&scenario(&name, seed(5)), false).loss_last.unwrap();
    let [mean, trimmed, clipped] =
        ["mean", "trimmed_mean", "centered_clip"].map(|rule| loss(format!("byzantine_sign_flip_{rule}")));
    assert!(
        trimmed < 0.05 && clipped < 0.05 && mean > 0.1,
        "{mean} {trimmed} {clipped}"
    );
}

#[test]
fn a_fault_free_run_settles_every_round_under_the_first_coordinator() {
    let report = run(&scenario("baseline", seed(2)), false);
    check(&report);
    assert_eq!((report.takeovers, report.crashes, report.lost), (0, 0, 0));
}
