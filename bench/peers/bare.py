"""FedAvg written by hand in PyTorch, as fast as an experienced person writes it: CELL ROUNDS [PROCESSES]."""

import sys

import torch
import torch.multiprocessing as mp
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from common import SEED, Clock, arguments, batches, make_model, report, train


def train_clients(cell, model, weights, total, clients):
    """Adds the mean of the clients' models, weighted by their samples, to `total`."""
    for client in clients:
        vector_to_parameters(weights.clone(), model.parameters())
        train(model, cell, client)
        total.add_(parameters_to_vector(model.parameters()).detach(), alpha=1 / cell.cohort)


def work(cell, weights, total, inbox, outbox):
    torch.set_num_threads(1)
    model = make_model(cell.model)
    while (clients := inbox.get()) is not None:
        total.zero_()
        train_clients(cell, model, weights, total, clients)
        outbox.put(len(clients))


def main():
    cell, rounds = arguments()
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    model = make_model(cell.model)
    weights = parameters_to_vector(model.parameters()).detach().share_memory_()
    totals = [torch.zeros_like(weights).share_memory_() for _ in range(processes)]
    for client in range(cell.clients):  # workers inherit the clients' samples
        batches(cell, client)

    inboxes, outbox, workers = [mp.SimpleQueue() for _ in totals], mp.SimpleQueue(), []
    if processes > 1:
        for inbox, total in zip(inboxes, totals):
            workers.append(mp.Process(target=work, args=(cell, weights, total, inbox, outbox)))
            workers[-1].start()

    clock, random = Clock(), torch.Generator().manual_seed(SEED)
    clock.stamp()
    for _ in range(rounds):
        cohort = torch.randperm(cell.clients, generator=random)[: cell.cohort].tolist()
        if workers:
            for number, inbox in enumerate(inboxes):
                inbox.put(cohort[number::processes])
            for _ in workers:
                outbox.get()
            torch.sum(torch.stack(totals), 0, out=weights)
        else:
            totals[0].zero_()
            train_clients(cell, model, weights, totals[0], cohort)
            weights.copy_(totals[0])
        clock.stamp()

    for inbox in inboxes[: len(workers)]:
        inbox.put(None)
    for worker in workers:
        worker.join()
    vector_to_parameters(weights, model.parameters())
    report(clock, model)


if __name__ == "__main__":
    main()
