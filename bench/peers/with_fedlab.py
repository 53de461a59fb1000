"""FedLab's standalone pipeline: CELL ROUNDS, or CELL ROUNDS processes for its cross-process mode on 1 + 2 processes."""

import logging
import os
import sys

import torch
import torch.multiprocessing as mp
from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler
from fedlab.core.client.manager import PassiveClientManager
from fedlab.core.network import DistNetwork
from fedlab.core.server.manager import SynchronousServerManager
from fedlab.core.standalone import StandalonePipeline

from common import Clock, arguments, batches, make_model, report

HOSTS = 2


class Dataset:
    """The clients from `first` on; FedLab numbers those of a process from 0."""

    def __init__(self, cell, first=0):
        self.cell, self.first = cell, first

    def get_dataloader(self, client, batch_size):
        return batches(self.cell, self.first + client)


class Trainer(FedAvgSerialClientTrainer):
    """FedLab keeps one optimizer for all clients; with momentum, each needs a fresh one."""

    momentum = 0.0

    def train(self, *args):
        self.optimizer = torch.optim.SGD(self._model.parameters(), self.lr, momentum=self.momentum)
        return super().train(*args)


class Handler(FedAvgServerHandler):
    def __init__(self, clock, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.clock = clock

    def sample_clients(self):
        self.clock.stamp()
        return super().sample_clients()


class Pipeline(StandalonePipeline):
    def evaluate(self):
        pass


def make_trainer(cell, clients, first=0):
    trainer = Trainer(make_model(cell.model), clients)
    trainer.setup_dataset(Dataset(cell, first))
    trainer.setup_optim(1, cell.batch, cell.lr)
    trainer.momentum = cell.momentum
    return trainer


def host(cell, rank, address):
    clients = cell.clients // HOSTS
    network = DistNetwork(address, world_size=1 + HOSTS, rank=rank)
    PassiveClientManager(network, make_trainer(cell, clients, first=(rank - 1) * clients)).run()


def main():
    logging.disable()
    cell, rounds = arguments()
    clock = Clock()
    handler = Handler(clock, make_model(cell.model), rounds, cell.cohort / cell.clients)
    if sys.argv[3:] == ["processes"]:
        address = ("127.0.0.1", str(20000 + os.getpid() % 20000))
        hosts = [mp.Process(target=host, args=(cell, rank, address)) for rank in range(1, 1 + HOSTS)]
        for process in hosts:
            process.start()
        manager = SynchronousServerManager(DistNetwork(address, world_size=1 + HOSTS, rank=0), handler)
        manager.setup()
        manager.main_loop()
        clock.stamp()
        manager.shutdown()
        for process in hosts:
            process.join()
    else:
        Pipeline(handler, make_trainer(cell, cell.clients)).main()
        clock.stamp()
    report(clock, handler.model, "fedlab")


if __name__ == "__main__":
    main()
