"""One round of Flower's federated averaging among processes on this machine: CLIENTS PARAMETERS ROUNDS; one JSON object.

A server and its clients are processes that stay connected over gRPC (`start_server` and `start_client`, Flower's way with the least
to do in a round: newer ways start programs for it). A client adds one to what it gets. A round is from one average to the next.
"""

import json
import logging
import multiprocessing as mp
import sys
import time

WARM_UP = 2
MESSAGE_BYTES = 2**31 - 1


def client(address):
    import flwr

    class Adds(flwr.client.NumPyClient):
        def fit(self, parameters, config):
            return [values + 1 for values in parameters], 1, {}

    logging.disable(logging.CRITICAL)
    time.sleep(2)
    flwr.client.start_client(
        server_address=address, client=Adds().to_client(), insecure=True, grpc_max_message_length=MESSAGE_BYTES
    )


def serve(address, clients, parameters, rounds, times):
    import flwr
    import numpy as np

    class Timed(flwr.server.strategy.FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            averaged = super().aggregate_fit(server_round, results, failures)
            times.put((time.perf_counter(), len(failures)))
            return averaged

    logging.disable(logging.CRITICAL)
    start = flwr.common.ndarrays_to_parameters([np.zeros(parameters, dtype=np.float32)])
    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=start,
    )
    flwr.server.start_server(
        server_address=address,
        config=flwr.server.ServerConfig(num_rounds=rounds + WARM_UP),
        strategy=strategy,
        grpc_max_message_length=MESSAGE_BYTES,
    )


def main():
    clients, parameters, rounds = (int(text) for text in sys.argv[1:4])
    address, times = "127.0.0.1:47593", mp.Queue()
    processes = [mp.Process(target=serve, args=(address, clients, parameters, rounds, times))]
    processes += [mp.Process(target=client, args=(address,)) for _ in range(clients)]
    for process in processes:
        process.start()
    ends = [times.get(timeout=600) for _ in range(rounds + WARM_UP)]
    for process in processes:
        process.join(timeout=30)
        process.kill()
    failed = sum(failures for _, failures in ends)
    moments = [moment for moment, _ in ends[WARM_UP - 1 :]]
    walls = sorted(round(1000 * (end - begin)) for begin, end in zip(moments, moments[1:]))
    print(
        json.dumps(
            {
                "by": "flower 1.39.0",
                "nodes": clients,
                "parameters": parameters,
                "encoding": "f32",
                "rounds": rounds,
                "failed": failed,
                "round_ms": [walls[len(walls) // 2], walls[0], walls[-1]],
            }
        )
    )


if __name__ == "__main__":
    mp.set_start_method("spawn")
    main()
