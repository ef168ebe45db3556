"""One round of hivemind's averaging among processes on this machine: PEERS PARAMETERS ROUNDS; one JSON object.

Each peer is a process with a DHT and a DecentralizedAverager of its own; half precision on the wire; a group has everyone, so
that matchmaking ends when all are there. A round is one `step` of all, begun together, and lasts until the last has its mean.
"""

import json
import multiprocessing as mp
import sys
import time


def peer(index, peers, parameters, rounds, first, barrier, times):
    import torch

    import hivemind
    from hivemind.compression import Float16Compression

    torch.set_num_threads(1)
    initial = None if index == 0 else first.get()
    dht = hivemind.DHT(initial_peers=initial, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    if index == 0:
        for _ in range(peers - 1):
            first.put([str(address) for address in dht.get_visible_maddrs()])
    averager = hivemind.DecentralizedAverager(
        [torch.randn(parameters)],
        dht,
        prefix="bench",
        start=True,
        target_group_size=peers,
        min_group_size=peers,
        compression=Float16Compression(),
    )
    for number in range(rounds):
        barrier.wait()
        began = time.perf_counter()
        done = averager.step(timeout=60)
        times.put((number, time.perf_counter() - began, done is not None))
        barrier.wait()
    averager.shutdown()
    dht.shutdown()


def main():
    peers, parameters, rounds = (int(text) for text in sys.argv[1:4])
    warm_up = 2
    first, times, barrier = mp.Queue(), mp.Queue(), mp.Barrier(peers)
    workers = [
        mp.Process(target=peer, args=(index, peers, parameters, rounds + warm_up, first, barrier, times))
        for index in range(peers)
    ]
    for worker in workers:
        worker.start()
    slowest, failed = {}, 0
    for _ in range(peers * (rounds + warm_up)):
        number, seconds, good = times.get(timeout=300)
        slowest[number] = max(seconds, slowest.get(number, 0.0))
        failed += not good
    for worker in workers:
        worker.join(timeout=30)
        worker.kill()
    counted = sorted(round(1e3 * seconds) for number, seconds in slowest.items() if number >= warm_up)
    print(
        json.dumps(
            {
                "by": "hivemind 1.1.12",
                "nodes": peers,
                "parameters": parameters,
                "encoding": "f16",
                "rounds": len(counted),
                "failed": failed,
                "round_ms": [counted[len(counted) // 2], counted[0], counted[-1]],
            }
        )
    )


if __name__ == "__main__":
    mp.set_start_method("fork")
    main()
