// The options of the engine itself: every key of a job that no plug-in declares.
#include "job.h"

namespace fl_sim {
namespace {

using Type = Option::Type;

std::vector<Option> make_engine_options() {
  const std::vector<std::string> adaptive = {"adam"};
  return {
      {"algorithm", Type::kText, "fedavg", "federated algorithm (--list algorithms)"},
      {"dataset", Type::kText, {}, "training and test data (--list datasets)"},
      {"data-dir", Type::kText, "auto", "folder of data files; auto: $FL_SIM_DATA, then where Debian's packages put them"},
      {"model", Type::kText, {}, "network (--list models); torchscript:FILE loads a TorchScript file"},
      {"partitioner", Type::kText, "iid", "how samples are dealt to clients (--list partitioners)"},
      {"sampler", Type::kText, "uniform", "how a round's cohort is drawn (--list samplers)"},
      {"clients", Type::kText, "auto", "clients in the population; auto: 100, or as many as the data has by nature"},
      {"cohort", Type::kInteger, "10", "clients that take part in a round", at_least(1)},
      {"rounds", Type::kInteger, "100", "rounds to run", at_least(1)},
      {"seed", Type::kInteger, "0", "seed of every random stream", at_least(0)},
      {"weighting", Type::kText, "samples", "weight of a client's update: its share of samples, or the same for all",
       {}, {"samples", "uniform"}},
      {"threads", Type::kInteger, "1", "threads a rank computes with; part of the job because results depend on it",
       between(1, 4096)},
      {"device", Type::kText, "auto", "where ranks compute; auto: CUDA devices where there are any",
       {}, {"auto", "cpu", "cuda"}},
      {"group-size", Type::kText, "auto", "clients that train as one batched computation; auto: 1 on CPUs"},
      {"sum", Type::kText, "exact", "exact: the same bits for every number of ranks; float: plain float sums",
       {}, {"exact", "float"}},
      {"gpu-comm", Type::kText, "auto", "how device tensors reach MPI: through host memory, or directly if it can",
       {}, {"auto", "host", "direct"}},
      {"evaluate-every", Type::kInteger, "1", "rounds between evaluations on the test set; 0: only after the last",
       at_least(0)},
      {"target-accuracy", Type::kNumber, "0", "end the run when test accuracy (0 to 1) reaches this; 0: never",
       between(0, 1)},
      {"on-divergence", Type::kText, "skip", "a client with a non-finite update: leave it out, or stop the run",
       {}, {"skip", "stop"}},
      {"output", Type::kText, "auto", "results file (HDF5); auto: results/<job>.h5"},
      {"overwrite", Type::kFlag, "false", "replace an existing results file"},
      {"quiet", Type::kFlag, "false", "print warnings and errors only"},
      {"log-level", Type::kText, "info", "least important messages that are shown",
       {}, {"error", "warning", "info", "debug"}},
      {"local.epochs", Type::kInteger, "1", "passes over a client's samples in a round", at_least(1)},
      {"local.steps", Type::kInteger, "0", "local steps in a round, instead of epochs; 0: by epochs", at_least(0)},
      {"local.batch-size", Type::kInteger, {}, "samples in a local mini-batch; a client's size or more: full batch",
       at_least(1)},
      {"local.lr", Type::kNumber, {}, "local learning rate", more_than(0)},
      {"local.lr-decay", Type::kNumber, "1", "factor on the local learning rate after every round",
       {.low = 0, .high = 1, .open_low = true}},
      {"local.momentum", Type::kNumber, "0", "local momentum, fresh in every round", from_below(0, 1)},
      {"local.nesterov", Type::kFlag, "false", "Nesterov's form of the local momentum"},
      {"local.weight-decay", Type::kNumber, "0", "l2 penalty, added to the gradient as weight-decay * weights",
       at_least(0)},
      {"local.clip-norm", Type::kNumber, "0", "largest l2 norm of a step's gradient; 0: unlimited", at_least(0)},
      {"server.optimizer", Type::kText, "sgd", "what the server does with the mean delta", {}, {"sgd", "adam"}},
      {"server.lr", Type::kNumber, "1", "server learning rate", more_than(0)},
      {"server.beta1", Type::kNumber, "0.9", "decay of the first moment", from_below(0, 1), {},
       {"server.optimizer", adaptive}},
      {"server.beta2", Type::kNumber, "0.99", "decay of the second moment", from_below(0, 1), {},
       {"server.optimizer", adaptive}},
      {"server.tau", Type::kNumber, "0.001", "adaptivity, added to the root of the second moment", more_than(0), {},
       {"server.optimizer", adaptive}},
      {"partition.min-samples", Type::kInteger, "10", "fewest samples a client may hold after a random split",
       at_least(1), {}, {"partitioner", {"dirichlet", "quantity-dirichlet"}}},
      {"partition.retries", Type::kInteger, "1000", "draws before a random split gives up", at_least(1), {},
       {"partitioner", {"dirichlet", "quantity-dirichlet"}}},
  };
}

}  // namespace

const std::vector<Option>& engine_options() {
  static const std::vector<Option> options = make_engine_options();
  return options;
}

}  // namespace fl_sim
