"""The work that every simulator does: one cell is one federated job on Fashion-MNIST."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    model: str
    clients: int  # the 60,000 training images, dealt evenly and at random
    cohort: int
    batch: int
    lr: float
    momentum: float = 0.0
    rounds: int = 8  # rounds of one run, the first of which is warm-up

    @property
    def samples(self):
        return 60_000 // self.clients


CELLS = {
    "2nn-b10": Cell("2nn", clients=100, cohort=10, batch=10, lr=0.05),
    "2nn-b32": Cell("2nn", clients=100, cohort=10, batch=32, lr=0.05),
    "cnn-b10": Cell("cnn", clients=100, cohort=10, batch=10, lr=0.05, rounds=3),
    "cnn-b32": Cell("cnn", clients=100, cohort=10, batch=32, lr=0.05, rounds=3),
    "lenet": Cell("lenet", clients=10, cohort=10, batch=64, lr=0.01, momentum=0.9, rounds=2),
    "logistic": Cell("logistic", clients=1000, cohort=100, batch=10, lr=0.05, rounds=12),
}
