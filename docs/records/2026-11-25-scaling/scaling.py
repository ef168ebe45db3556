"""Bytes a member and round by the number of members, counted by the simulator: `python3 scaling.py target/release/testnet`."""

import json
import subprocess
import sys
import tempfile

TOPOLOGIES = {
    "federated": ("", [4, 8, 16, 32, 64, 128, 256, 512]),
    "quorum": ('[terms.topology.decentralized]\nagreement = "quorum"\n', [4, 7, 16, 31, 64, 127]),
    "regular": ("[terms.topology.decentralized]\ngraph = { random_regular = { degree = 4 } }\n", [6, 16, 32, 64, 128, 256]),
}
ROUNDS = 6


def scenario(topology, members):
    return f"""name = "scaling"
about = "How much is said and fetched among so many."
peers = {members}
join_within_ms = 2000

[terms]
rounds = {ROUNDS}
min_members = {members // 2 + 1}
begin_members = {members}
max_members = {members}
{topology}
[expect]
within_ms = 3000000
"""


def main():
    testnet = sys.argv[1]
    for kind, (topology, sizes) in TOPOLOGIES.items():
        for members in sizes:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(scenario(topology, members))
                file.flush()
                run = subprocess.run(
                    [testnet, "simulate", file.name, "--seed", "1", "--json"], capture_output=True, text=True, check=True
                )
            report = next(json.loads(line) for line in run.stdout.splitlines() if line.startswith("{"))
            share = members * ROUNDS
            print(
                json.dumps(
                    {
                        "kind": kind,
                        "n": members,
                        "passed": report["passed"],
                        "control_per_member_round": round(report["control_bytes"] / share),
                        "bulk_per_member_round": round(report["bulk_bytes"] / share),
                        "messages_per_member_round": round(report["messages"] / share, 1),
                        "virtual_ms_per_round": round(report["virtual_ms"] / ROUNDS),
                    }
                ),
                flush=True,
            )


main()
