"""Flower's simulation runtime on Ray, with its FedAvg: two CPUs, one for each client actor."""

import os

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

from flwr.app import ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from common import Clock, arguments, batches, make_model, report, train

CELL, ROUNDS = arguments()
CLOCK = Clock()
MODEL = make_model(CELL.model)

server, client = ServerApp(), ClientApp()


class TimedFedAvg(FedAvg):
    def configure_train(self, *args):
        CLOCK.stamp()
        return super().configure_train(*args)


@client.train()
def train_client(message, context):
    number = context.node_config["partition-id"]
    model = make_model(CELL.model)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(model, CELL, number)
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(batches(CELL, number).y)}),
        }
    )
    return Message(content=content, reply_to=message)


@server.main()
def serve(grid, context):
    strategy = TimedFedAvg(
        fraction_train=CELL.cohort / CELL.clients, fraction_evaluate=0, min_available_nodes=CELL.clients
    )
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(MODEL.state_dict()), num_rounds=ROUNDS)
    CLOCK.stamp()
    MODEL.load_state_dict(result.arrays.to_torch_state_dict())


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=CELL.clients,
        backend_config={
            "init_args": {"num_cpus": 2, "num_gpus": 0},
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
        },
    )
    report(CLOCK, MODEL, "flwr", "ray")
