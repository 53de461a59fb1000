"""Meta's FLSim with its synchronous trainer, in one process."""

import dataclasses
import logging
import os
import sys

dataclass = dataclasses.dataclass


def hashable_dataclass(cls=None, /, **options):
    """FLSim has data classes as defaults of data classes, which Python 3.11 and later want hashable."""
    if cls is None:
        return lambda cls: hashable_dataclass(cls, **options)
    return dataclass(cls, **options, **({"unsafe_hash": True} if cls.__module__.startswith("flsim.") else {}))


dataclasses.dataclass = hashable_dataclass

from flsim.clients.base_client import ClientConfig
from flsim.data.data_provider import IFLDataProvider, IFLUserData
from flsim.optimizers.local_optimizers import LocalOptimizerSGDConfig
from flsim.optimizers.server_optimizers import FedAvgOptimizerConfig
from flsim.servers.sync_servers import SyncServerConfig
from flsim.trainers.sync_trainer import SyncTrainer, SyncTrainerConfig
from flsim.utils.example_utils import FLModel
from omegaconf import OmegaConf

from common import Clock, arguments, batches, make_model, report


class User(IFLUserData):
    def __init__(self, data):
        self.data = data

    def train_data(self):
        for x, y in self.data:
            yield {"features": x, "labels": y}

    def num_train_examples(self):
        return len(self.data.y)

    def num_train_batches(self):
        return len(self.data)

    def eval_data(self):
        return iter(())

    def num_eval_examples(self):
        return 0

    def num_eval_batches(self):
        return 0


class Users(IFLDataProvider):
    def __init__(self, cell):
        self.users = [User(batches(cell, client)) for client in range(cell.clients)]

    def train_user_ids(self):
        return list(range(len(self.users)))

    def num_train_users(self):
        return len(self.users)

    def get_train_user(self, user_index):
        return self.users[user_index]

    def train_users(self):
        return self.users

    def eval_users(self):
        return []

    def test_users(self):
        return []


class Trainer(SyncTrainer):
    clock = Clock()

    def _client_selection(self, *args):
        self.clock.stamp()
        return super()._client_selection(*args)


def main():
    logging.disable()
    cell, rounds = arguments()
    model = make_model(cell.model)
    config = SyncTrainerConfig(
        epochs=rounds * cell.cohort / cell.clients,
        users_per_round=cell.cohort,
        eval_epoch_frequency=rounds * cell.cohort / cell.clients,
        do_eval=False,
        report_train_metrics=False,
        always_keep_trained_model=True,
        server=SyncServerConfig(server_optimizer=FedAvgOptimizerConfig()),
        client=ClientConfig(epochs=1, optimizer=LocalOptimizerSGDConfig(lr=cell.lr, momentum=cell.momentum)),
    )
    trainer = Trainer(model=FLModel(model), cuda_enabled=False, **OmegaConf.structured(config))
    sys.stderr = open(os.devnull, "w")  # progress bars
    trainer.train(Users(cell), metrics_reporter=None, num_total_users=cell.clients, distributed_world_size=1)
    trainer.clock.stamp()
    report(trainer.clock, model, "flsim")


if __name__ == "__main__":
    main()
