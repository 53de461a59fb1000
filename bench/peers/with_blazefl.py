"""BlazeFL's FedAvg with its trainer on two threads, which was faster here than its two processes in every cell: these
start anew, and load PyTorch's lazy parts again, in every round."""

from blazefl.contrib import FedAvgBaseServerHandler, FedAvgThreadPoolClientTrainer

from common import SEED, Clock, arguments, batches, make_model, report, stock_sgd_gets_momentum


class Models:
    def select_model(self, name):
        return make_model(name)


class Dataset:
    def __init__(self, cell):
        self.cell = cell

    def get_dataloader(self, type_, cid, batch_size, generator):
        return batches(self.cell, cid)


class Trainer(FedAvgThreadPoolClientTrainer):
    def progress_fn(self, futures):
        return futures


def main():
    cell, rounds = arguments()
    stock_sgd_gets_momentum(cell)
    job = dict(
        model_selector=Models(),
        model_name=cell.model,
        dataset=Dataset(cell),
        device="cpu",
        num_clients=cell.clients,
        batch_size=cell.batch,
        seed=SEED,
    )
    server = FedAvgBaseServerHandler(**job, global_round=rounds, sample_ratio=cell.cohort / cell.clients)
    trainer = Trainer(**job, epochs=1, lr=cell.lr, num_parallels=2)
    clock = Clock()
    clock.stamp()
    while not server.if_stop():
        cohort = server.sample_clients()
        trainer.local_process(server.downlink_package(), cohort)
        for package in trainer.uplink_package():
            server.load(package)
        clock.stamp()
    report(clock, server.model, "blazefl")


if __name__ == "__main__":
    main()
