//! The accountants against dp-accounting 0.6.0, Opacus 1.6.0 and 30-digit quadrature: `data/dp_accounting.json` holds their
//! values, and the environment variable SYNOD_VECTORS may name a folder with another file of that name and form.

use std::path::PathBuf;

use serde_json::Value;
use synod_aggregation::privacy::accountant::{Accountant, AccountantError};
use synod_aggregation::privacy::ledger::{Event, Mechanism, Sampling};

const OURS: &str = include_str!("data/dp_accounting.json");

fn vectors() -> Vec<Value> {
    let mut files = vec![serde_json::from_str(OURS).expect("JSON")];
    let folder = std::env::var_os("SYNOD_VECTORS").map(PathBuf::from).unwrap_or_default();
    match std::fs::read_to_string(folder.join("dp_accounting.json")) {
        Ok(text) => files.push(serde_json::from_str(&text).expect("JSON")),
        Err(_) => println!("only our own copy: SYNOD_VECTORS names no folder with dp_accounting.json"),
    }
    files
}

fn rows(name: &str) -> Vec<Value> {
    let rows: Vec<Value> = vectors()
        .iter()
        .flat_map(|file| file[name].as_array().cloned().unwrap_or_default())
        .collect();
    assert!(!rows.is_empty(), "{name}");
    rows
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))
}

fn gaussian(noise_multiplier: f64, sampling: Sampling, count: f64) -> Event {
    Event {
        mechanism: Mechanism::Gaussian { noise_multiplier },
        sampling,
        count: count as u32,
    }
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64, what: &Value) {
    assert!(
        (found / expected - 1.0).abs() <= tolerance,
        "{found} where {expected} is expected: {what}"
    );
}

#[test]
fn rdp_of_poisson_sampling_meets_opacus() {
    for row in rows("poisson_gaussian") {
        let sampling = Sampling::Poisson {
            rate: number(&row, "q"),
        };
        let event = gaussian(number(&row, "sigma"), sampling, number(&row, "steps"));
        let found = Accountant::Rdp.epsilon(&[event], number(&row, "delta")).unwrap();
        assert_near(found, number(&row, "eps_rdp_opacus"), 1e-6, &row);
    }
}

#[test]
fn pld_of_poisson_sampling_meets_dp_accounting() {
    for row in rows("poisson_gaussian") {
        let sampling = Sampling::Poisson {
            rate: number(&row, "q"),
        };
        let event = gaussian(number(&row, "sigma"), sampling, number(&row, "steps"));
        let found = Accountant::Pld.epsilon(&[event], number(&row, "delta")).unwrap();
        println!("{found} {}", number(&row, "eps_pld_dp_accounting"));
        assert_near(found, number(&row, "eps_pld_dp_accounting"), 1e-3, &row);
    }
}

/// ε of a single order is its RDP and a known term, and the least over all orders is at most that of each exact order listed.
#[test]
fn no_epsilon_is_above_what_any_exact_order_gives() {
    for row in rows("per_order_rdp_one_step") {
        let numbers = |key: &str| -> Vec<f64> {
            row[key]
                .as_array()
                .expect("a list")
                .iter()
                .map(|value| value.as_f64().expect("a number"))
                .collect()
        };
        let (orders, exact) = (numbers("orders"), numbers("rdp_exact_mpmath"));
        for (steps, delta) in [(1.0, 1e-5), (100.0, 1e-5), (10_000.0, 1e-7)] {
            let sampling = Sampling::Poisson {
                rate: number(&row, "q"),
            };
            let event = gaussian(number(&row, "sigma"), sampling, steps);
            let found = Accountant::Rdp.epsilon(&[event], delta).unwrap();
            // 1.25 is none of the orders that ours are taken at.
            for (order, exact) in orders
                .iter()
                .zip(&exact)
                .filter(|(order, _)| **order <= 64.0 && order.fract() != 0.25)
            {
                let of_order = steps * exact + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0);
                assert!(
                    found <= of_order * (1.0 + 1e-9) + 1e-12,
                    "{found} {of_order} {order} {row}"
                );
            }
        }
    }
}

#[test]
fn releases_of_all_records_are_exact() {
    for row in rows("gaussian_exact") {
        for sampling in [Sampling::All, Sampling::Poisson { rate: 1.0 }] {
            let event = gaussian(number(&row, "sigma"), sampling, number(&row, "steps"));
            let found = Accountant::Pld.epsilon(&[event], number(&row, "delta")).unwrap();
            assert_near(found, number(&row, "eps_exact"), 1e-9, &row);
        }
    }
}

#[test]
fn noise_for_a_budget_meets_the_reference() {
    for row in rows("calibration") {
        let (epsilon, delta) = (number(&row, "target_eps"), number(&row, "delta"));
        let (sampling, steps) = (
            Sampling::Poisson {
                rate: number(&row, "q"),
            },
            number(&row, "steps"),
        );
        for (accountant, key) in [(Accountant::Rdp, "sigma_rdp"), (Accountant::Pld, "sigma_pld")] {
            let found = accountant
                .noise_multiplier(sampling, steps as u32, epsilon, delta)
                .unwrap();
            assert_near(found, number(&row, key), 1e-3, &row);
            assert!(accountant.epsilon(&[gaussian(found, sampling, steps)], delta).unwrap() <= epsilon);
        }
    }
}

#[test]
fn trees_meet_dp_accounting() {
    for row in rows("tree_aggregation") {
        let event = Event {
            mechanism: Mechanism::Tree {
                noise_multiplier: number(&row, "sigma"),
            },
            sampling: Sampling::All,
            count: number(&row, "steps") as u32,
        };
        let delta = number(&row, "delta");
        let found = Accountant::Rdp.epsilon(&[event], delta).unwrap();
        assert_near(found, number(&row, "eps_rdp"), 1e-6, &row);
        assert!(Accountant::Pld.epsilon(&[event], delta).unwrap() < found);
    }
}

#[test]
fn fixed_size_sampling_meets_dp_accounting() {
    for row in rows("without_replacement") {
        let sampling = Sampling::WithoutReplacement {
            population: number(&row, "n") as u32,
            sample: number(&row, "k") as u32,
        };
        let event = gaussian(number(&row, "sigma"), sampling, number(&row, "steps"));
        let delta = number(&row, "delta");
        let found = Accountant::Rdp.epsilon(&[event], delta).unwrap();
        assert_near(found, number(&row, "eps_rdp_replace_one"), 1e-3, &row);
        assert_eq!(
            Accountant::Pld.epsilon(&[event], delta),
            Err(AccountantError::FixedSize)
        );
        let other = gaussian(1.0, Sampling::All, 1.0);
        assert_eq!(
            Accountant::Rdp.epsilon(&[event, other], delta),
            Err(AccountantError::Neighbours)
        );
    }
}

/// What must hold whatever the figures: more noise, less ε; more releases, more; PLD never above RDP nor below one release.
#[test]
fn accounts_are_monotone_and_pld_is_the_tighter() {
    let delta = 1e-6;
    let of = |accountant: Accountant, sigma, rate, count: f64| {
        accountant
            .epsilon(&[gaussian(sigma, Sampling::Poisson { rate }, count)], delta)
            .unwrap()
    };
    for accountant in [Accountant::Rdp, Accountant::Pld] {
        assert!(of(accountant, 1.0, 0.02, 100.0) < of(accountant, 0.9, 0.02, 100.0));
        assert!(of(accountant, 1.0, 0.02, 100.0) < of(accountant, 1.0, 0.02, 200.0));
        assert!(of(accountant, 1.0, 0.02, 100.0) < of(accountant, 1.0, 0.03, 100.0));
    }
    for (sigma, rate, count) in [
        (0.5, 0.001, 10.0),
        (1.0, 0.1, 30.0),
        (0.7, 0.9, 3.0),
        (30.0, 0.5, 5000.0),
        (1.0, 1e-5, 1e5),
    ] {
        let (rdp, pld) = (
            of(Accountant::Rdp, sigma, rate, count),
            of(Accountant::Pld, sigma, rate, count),
        );
        assert!(pld <= rdp && pld > 0.0, "{sigma} {rate} {count}: {pld} {rdp}");
    }
}

/// Different releases in one ledger: as much as one kind when they are of one kind, less than the sum of both otherwise.
#[test]
fn different_releases_compose() {
    let delta = 1e-5;
    let sampled = gaussian(1.0, Sampling::Poisson { rate: 0.02 }, 100.0);
    let all = gaussian(8.0, Sampling::All, 10.0);
    for accountant in [Accountant::Rdp, Accountant::Pld] {
        let epsilon = |events: &[Event]| accountant.epsilon(events, delta).unwrap();
        let twice = epsilon(&[Event { count: 200, ..sampled }]);
        assert!((epsilon(&[sampled, sampled]) / twice - 1.0).abs() < 1e-6);
        let both = epsilon(&[sampled, all]);
        assert!(both > epsilon(&[sampled]).max(epsilon(&[all])) && both < epsilon(&[sampled]) + epsilon(&[all]));
        assert!((epsilon(&[all, sampled]) / both - 1.0).abs() < 1e-9);
    }
}

#[test]
fn senseless_questions_are_refused() {
    let event = gaussian(1.0, Sampling::Poisson { rate: 0.1 }, 1.0);
    for accountant in [Accountant::Rdp, Accountant::Pld] {
        for delta in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(accountant.epsilon(&[event], delta).is_err());
        }
        assert!(accountant.epsilon(&[Event { count: 0, ..event }], 1e-5).is_err());
        for epsilon in [0.0, -1.0, f64::NAN] {
            assert!(accountant.noise_multiplier(Sampling::All, 1, epsilon, 1e-5).is_err());
        }
    }
    assert!(Accountant::Pld.epsilon(&[event], 1e-12).is_err());
    assert!(Accountant::Rdp.epsilon(&[event], 1e-12).is_ok());
}
