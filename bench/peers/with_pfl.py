"""Apple's pfl-research with its simulated backend, on two processes when torchrun starts it."""

import functools
import logging

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.internal.ops.selector import get_framework_module
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from common import SEED, Clock, arguments, batches, make_model, report


class User(Dataset):
    def __init__(self, data, user_id):
        super().__init__((data.x, data.y), user_id=user_id)
        self.data = data

    def iter(self, batch_size):
        return iter(self.data)


class Rounds(TrainingProcessCallback):
    def __init__(self, clock):
        self.clock = clock

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.clock.stamp()
        return False, Metrics()


def main():
    logging.disable()
    cell, rounds = arguments()
    np.random.seed(SEED)
    module = make_model(cell.model)
    module.loss = lambda x, y, eval=False: torch.nn.functional.cross_entropy(module(x), y)
    module.metrics = lambda x, y, eval=False: {}
    model = PyTorchModel(
        model=module,
        local_optimizer_create=functools.partial(torch.optim.SGD, momentum=cell.momentum),
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    users = FederatedDataset(
        lambda client: User(batches(cell, client), client),
        get_user_sampler("minimize_reuse", list(range(cell.clients))),
    )
    backend = SimulatedBackend(training_data=users, val_data=None, postprocessors=[WeightByDatapoints()])
    clock = Clock()
    clock.stamp()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=cell.cohort,
            val_cohort_size=0,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=cell.lr, local_batch_size=cell.batch
        ),
        callbacks=[Rounds(clock)],
        send_metrics_to_platform=False,
    )
    if get_framework_module().distributed.global_rank == 0:
        report(clock, module, "pfl")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
