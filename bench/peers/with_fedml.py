"""FedML's simulators: CELL ROUNDS sp in one process, CELL ROUNDS MPI under mpirun (a server and its workers)."""

import logging
import os
import sys
from types import SimpleNamespace

os.environ["WANDB_MODE"] = "disabled"

import fedml
import torch
from fedml.simulation.mpi.fedavg_seq import FedAvgSeqAPI
from fedml.simulation.sp.fedavg import FedAvgAPI

from common import Clock, arguments, batches, make_model, report, stock_sgd_gets_momentum


def settings(cell, rounds, backend):
    """What a FedML job says in fedml_config.yaml. `fedml.init` would ask FedML's service over the network first."""
    args = SimpleNamespace(
        training_type="simulation",
        backend=backend,
        federated_optimizer="FedAvg" if backend == "sp" else "FedAvg_seq",
        dataset="fashion-mnist",
        client_num_in_total=cell.clients,
        client_num_per_round=cell.cohort,
        comm_round=rounds,
        epochs=1,
        batch_size=cell.batch,
        client_optimizer="sgd",
        learning_rate=cell.lr,
        weight_decay=0,
        frequency_of_the_test=1,
        enable_wandb=False,
        using_mlops=False,
        rank=0,
    )
    fedml.mlops.pre_setup(args)
    return args


def main():
    logging.disable()
    cell, rounds = arguments()
    backend = sys.argv[3]
    stock_sgd_gets_momentum(cell)
    args = settings(cell, rounds, backend)
    model, clock = make_model(cell.model), Clock()
    local = {client: batches(cell, client) for client in range(cell.clients)}
    numbers = {client: len(data.y) for client, data in local.items()}
    dataset = [60_000, 10_000, None, None, numbers, local, dict.fromkeys(local), 10]

    def tested(self, round_index):  # in place of FedML's test after every round
        clock.stamp()

    if backend == "sp":
        FedAvgAPI._local_test_on_all_clients = tested
    else:
        args = fedml._init_simulation_mpi(args)
        FedAvgSeqAPI.FedAVGAggregator.test_on_server_for_all_clients = tested
    clock.stamp()
    fedml.FedMLRunner(args, torch.device("cpu"), dataset, model).run()
    if args.rank == 0:
        report(clock, model, "fedml")


if __name__ == "__main__":
    main()
