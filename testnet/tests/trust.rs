//! The table of trust, cell by cell and under attack: a session that is filled in from whom its creator trusts settles all its
//! rounds, and learns, when those who are not trusted do misbehave.
//! Where noise is asked for, it is in what is measured, too: those cells have many members and a bound that leaves room for it.

use synod_aggregation::privacy::PrivacyConfig;
use synod_config::SessionFile;
use synod_config::trust::Trust;
use synod_testnet::cli::run_checked;
use synod_testnet::simulation::Scenario;

const ROUNDS: u64 = 24;

/// A session among so many members as the trust fills it in, with the misdeeds that the trust reckons with.
fn cell(trust: Trust) -> Scenario {
    // Noise of each member for itself needs many to average it; that of a sum does not.
    let peers: u32 = match (trust.privacy, trust.members) {
        (true, false) => 48,
        (true, true) => 16,
        (false, _) => 9,
    };
    let mut file = SessionFile {
        name: "cell".to_owned(),
        ..SessionFile::default()
    };
    file.protocol.rounds = ROUNDS;
    file.protocol.min_members = peers;
    trust
        .apply(&mut file)
        .expect("so many members are enough for every cell");
    let text = format!(
        "name = 'trust'\nabout = '{trust}'\npeers = {peers}\n[terms]\nrounds = {ROUNDS}\nbegin_members = {peers}\n\
         [objective]\ndimension = {}\n[expect]\nwithin_ms = 900000\nloss_below = {}\n",
        if trust.privacy { 4 } else { 64 },
        if trust.privacy { 0.08 } else { 0.06 },
    );
    let mut scenario: Scenario = toml::from_str(&text).expect("the text above is a scenario");
    scenario.terms.verification = file.protocol.verification;
    let aggregation = file.aggregation;
    (scenario.pre, scenario.rule) = (aggregation.pre, aggregation.rule);
    (scenario.outer, scenario.worker) = (aggregation.outer, aggregation.worker);
    scenario.privacy = aggregation.privacy;
    // What the advice asks the creator to measure: the size of this objective's updates once it has nearly learnt.
    match &mut scenario.privacy {
        PrivacyConfig::LocalDp(local) => local.clip_norm = 0.1,
        PrivacyConfig::SecureSum(sums) => {
            sums.range = 0.1;
            sums.noise.as_mut().expect("privacy was asked for").clip_norm = 0.1;
        }
        PrivacyConfig::None | PrivacyConfig::CentralDp(_) => {}
    }
    let flips = if trust.members { 0 } else { Trust::faults(peers) };
    // Peer 0 founds the session and coordinates first.
    let mut misdeeds: Vec<String> = (1..=flips)
        .map(|peer| format!("[[adversaries]]\npeer = {peer}\ndoes.scale = -8.0\n"))
        .collect();
    if !trust.server {
        misdeeds.push("[[adversaries]]\npeer = 0\ndoes = 'lie'\n".to_owned());
    }
    let misdeeds: toml::Table = toml::from_str(&misdeeds.concat()).expect("the text above is a table");
    if let Some(adversaries) = misdeeds.get("adversaries") {
        scenario.adversaries = adversaries.clone().try_into().expect("they are adversaries");
    }
    scenario
}

/// The same without a coordinator, over this graph: where members are not trusted, one of them sends models with the sign
/// turned and eight times as large. Whether the server is trusted has no meaning there.
fn cell_on(graph: &str, trust: Trust) -> Scenario {
    const PEERS: u32 = 9;
    let topology = format!("[protocol.topology.decentralized]\ngraph = {graph}");
    let mut file: SessionFile = toml::from_str(&topology).expect("a graph");
    file.name = "cell".to_owned();
    file.protocol.min_members = PEERS;
    file.protocol.max_members = PEERS;
    trust.apply(&mut file).expect("enough members for every cell");
    let liar = match trust.members {
        true => "",
        false => "[[adversaries]]\npeer = 4\ndoes.scale = -8.0\n",
    };
    let text = format!(
        "name = 'trust'\nabout = \"{trust} on {graph}\"\npeers = {PEERS}\n[terms]\nrounds = {ROUNDS}\nbegin_members = {PEERS}\n\
         [terms.topology.decentralized]\ngraph = {graph}\n[expect]\nwithin_ms = 300000\nloss_below = 0.06\n{liar}",
    );
    let mut scenario: Scenario = toml::from_str(&text).expect("the text above is a scenario");
    scenario.mixing = file.aggregation.mixing;
    scenario
}

fn check(words: &str) {
    hold(&cell(words.parse().expect("words of trust")), words);
}

fn check_on(graph: &str, words: &str) {
    hold(
        &cell_on(graph, words.parse().expect("words of trust")),
        &format!("{words} on {graph}"),
    );
}

fn hold(scenario: &Scenario, words: &str) {
    let report = run_checked(scenario, false, false);
    assert!(report.passed, "{words}: {}\n{:#?}", report.to_line(), report.violations);
}

#[test]
fn all_are_trusted() {
    check("server=yes,members=yes,privacy=no");
}

#[test]
fn the_server_lies() {
    check("server=no,members=yes,privacy=no");
}

#[test]
fn members_flip_signs() {
    check("server=yes,members=no,privacy=no");
}

#[test]
fn the_server_lies_and_members_flip_signs() {
    check("server=no,members=no,privacy=no");
}

#[test]
fn all_are_trusted_but_to_know() {
    check("server=yes,members=yes,privacy=yes");
}

#[test]
fn the_server_lies_and_must_not_know() {
    check("server=no,members=yes,privacy=yes");
}

#[test]
fn members_flip_signs_and_must_not_know() {
    check("server=yes,members=no,privacy=yes");
}

#[test]
fn nobody_is_trusted_in_anything() {
    check("server=no,members=no,privacy=yes");
}

#[test]
fn without_a_coordinator_all_are_trusted() {
    for graph in [
        "'complete'",
        "'ring'",
        "'exponential'",
        "{ random_regular = { degree = 4 } }",
    ] {
        check_on(graph, "server=yes,members=yes,privacy=no");
    }
}

#[test]
fn without_a_coordinator_a_member_lies() {
    for graph in ["'complete'", "'exponential'", "{ random_regular = { degree = 4 } }"] {
        check_on(graph, "server=no,members=no,privacy=no");
    }
}

#[test]
fn without_a_coordinator_nothing_is_noised() {
    let text = "[protocol.topology.decentralized]\ngraph = 'complete'";
    let mut file: SessionFile = toml::from_str(text).expect("a graph");
    let trust: Trust = "server=no,members=yes,privacy=yes".parse().expect("words of trust");
    let refused = trust.apply(&mut file).expect_err("there is nothing to advise");
    assert!(refused.to_string().contains("federated"), "{refused}");
}
