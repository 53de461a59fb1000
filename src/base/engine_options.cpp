#include "base/engine_options.h"

#include <algorithm>
#include <utility>

namespace fl_sim {
namespace {

using Type = Option::Type;

// Where files lie, what is shown.
Option same_results(Option option) {
  option.changes_results = false;
  return option;
}

Option path(Option option) {
  option.path = true;
  return option;
}

struct Declared {
  int place;
  std::vector<Option> options;
};
std::vector<Declared>& declared() {
  static std::vector<Declared> all;
  return all;
}

std::vector<Option> what_is_simulated() {
  return {
      {"algorithm", Type::kText, "fedavg", "federated algorithm (--list algorithms)"},
      {"dataset", Type::kText, {}, "training and test data (--list datasets)"},
      path(same_results({"data-dir", Type::kText, "auto",
                         "folder of data files; auto: $FL_SIM_DATA, ./data, then where Debian's "
                         "packages put them"})),
      {"model",
       Type::kText,
       {},
       "network (--list models); torchscript:FILE loads a TorchScript file"},
      path({"init", Type::kText, "random",
            "weights to start from: random, or a file (a results file, or HDF5 with PyTorch's "
            "state_dict names)"}),
      {"partitioner", Type::kText, "iid", "how samples are dealt to clients (--list partitioners)"},
      {.name = "transforms",
       .type = Type::kText,
       .default_value = "none",
       .meaning = "what happens to clients' updates before the sum, in this order (--list "
                  "transforms)",
       .plugin_kind = "transform",
       .several = true},
      {.name = "aggregator",
       .type = Type::kText,
       .default_value = "mean",
       .meaning = "what the server makes of clients' updates (--list aggregators)",
       .plugin_kind = "aggregator"},
      {"sampler", Type::kText, "uniform", "how a round's cohort is drawn (--list samplers)"},
      {"availability", Type::kText, "chance", "when clients can be reached (--list availability)"},
      {"devices", Type::kText, "none",
       "what clients run on, which gives a run virtual time (--list devices)"},
      {"clients", Type::kText, "auto",
       "clients in the population; auto: 100, or as many as the data has by nature"},
      {"cohort", Type::kInteger, "auto",
       "clients that take part in a round; auto: 10, or all where there are fewer", at_least(1)},
      {.name = "rounds",
       .type = Type::kInteger,
       .default_value = "100",
       .meaning = "rounds to run; --resume adds more to a run that kept its checkpoint",
       .range = at_least(1),
       .may_change = true},
      {"seed", Type::kInteger, "0", "seed of every random stream", at_least(0)},
      {"weighting",
       Type::kText,
       "samples",
       "weight of a client's update: its samples n, the same for all, or n / (1 + its mean "
       "training "
       "loss of the round)",
       {},
       {"samples", "uniform", "loss"}}};
}

std::vector<Option> how_clients_meet() {
  return {
      {"group-size", Type::kText, "auto",
       "clients that train as one batched computation; auto: 1 on CPUs"},
      {"sum",
       Type::kText,
       "exact",
       "exact: the same bits for every number of ranks; float: plain float sums",
       {},
       {"exact", "float"}},
      same_results({"gpu-comm",
                    Type::kText,
                    "auto",
                    "how device tensors reach MPI: through host memory, or directly if it can",
                    {},
                    {"auto", "host", "direct"}}),
      {"objective",
       Type::kText,
       "auto",
       "what models are trained for: cross-entropy of the classes; binary cross-entropy, one score "
       "for two classes; or the squared error of a number (auto: this where the data have numbers)",
       {},
       {"auto", "cross-entropy", "binary", "squared"}},
      {"metrics", Type::kText, "none",
       "of the test set, and of clients that evaluate, beside loss and accuracy: "
       "balanced-accuracy, auc, f1 (macro average), perplexity; of the test set only: "
       "class-accuracy, class-f1, confusion; with commas between them"}};
}

std::vector<Option> what_goes_wrong_and_state() {
  return {{"on-divergence",
           Type::kText,
           "skip",
           "a client with a non-finite update: leave it out, or stop the run",
           {},
           {"skip", "stop"}},
          {.name = "give-up",
           .type = Type::kInteger,
           .default_value = "0",
           .meaning = "end the run after so many rounds in a row without a client whose update "
                      "counts; 0: never",
           .range = at_least(0),
           .changes_results = false},
          path(same_results(
              {"state-dir", Type::kText, "none",
               "folder for client state beyond state-memory; none: all of it stays in memory"})),
          same_results({"state-memory", Type::kInteger, "0",
                        "client state that a rank keeps in memory, in MiB; 0: unlimited",
                        at_least(0)})};
}

std::vector<Option> files_and_messages() {
  return {
      {"inject", Type::kText, "none",
       "faults to suffer, with commas between them: client-crash@ROUND:CLIENT, nan-update@ROUND:"
       "CLIENT, slow-client@ROUND:CLIENT:SECONDS, rank-crash@ROUND:RANK, rank-error@ROUND:RANK, "
       "rank-stall@ROUND:RANK, "
       "slow-rank@ROUND:RANK:FACTOR"},
      same_results({"plugin", Type::kText, "none",
                    "files with plug-ins of your own, shared objects with commas between them; "
                    "--plugin may be said several times"}),
      {"plugin-hash", Type::kText, "none",
       "hashes that these files must have, as a results file says them; none: whatever they are"},
      path(same_results(
          {"output", Type::kText, "auto", "results file (HDF5); auto: results/<job>.h5"})),
      same_results({"overwrite", Type::kFlag, "false", "replace an existing results file"}),
      same_results({.name = "track",
                    .type = Type::kText,
                    .default_value = "none",
                    .meaning = "who is told of the run beside the results file (--list trackers)",
                    .plugin_kind = "tracker",
                    .several = true}),
      same_results({"quiet", Type::kFlag, "false", "print warnings and errors only"}),
      same_results({"alone", Type::kFlag, "false",
                    "this process is a whole run, whatever a launcher has started beside it"}),
      same_results({"log-level",
                    Type::kText,
                    "info",
                    "least important messages that are shown",
                    {},
                    {"error", "warning", "info", "debug"}})};
}

std::vector<Option> partitions() {
  return {
      {.name = "partition.min-samples",
       .type = Type::kInteger,
       .default_value = "10",
       .meaning = "fewest samples a client may hold",
       .range = at_least(1),
       .read_by = "partitioner"},
      {.name = "partition.retries",
       .type = Type::kInteger,
       .default_value = "1000",
       .meaning = "draws before a random split gives up",
       .range = at_least(1),
       .read_by = "partitioner"},
      path(same_results({"partition.save", Type::kText, "none",
                         "file (HDF5) to keep the partition in, for partitioner `file`; none: only "
                         "in the results"}))};
}

}  // namespace

void declare_engine_options(int place, std::vector<Option> options) {
  declared().push_back({place, std::move(options)});
}

const std::vector<Option>& engine_options() {
  static const std::vector<Option> options = [] {
    declare_engine_options(100, what_is_simulated());
    declare_engine_options(300, how_clients_meet());
    declare_engine_options(500, what_goes_wrong_and_state());
    declare_engine_options(700, files_and_messages());
    declare_engine_options(1000, partitions());
    std::vector<Declared>& all = declared();
    std::sort(all.begin(), all.end(),
              [](const Declared& a, const Declared& b) { return a.place < b.place; });
    std::vector<Option> joined;
    for (const Declared& some : all)
      joined.insert(joined.end(), some.options.begin(), some.options.end());
    return joined;
  }();
  return options;
}

std::vector<Option> all_options() {
  std::vector<Option> all = engine_options();
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      for (Option option : info.options) {
        option.name = name + "." + option.name;
        all.push_back(std::move(option));
      }
    }
  }
  return all;
}

bool may_differ(const std::string& key) {
  const std::vector<Option>& options = engine_options();
  const auto found = std::find_if(options.begin(), options.end(),
                                  [&](const Option& option) { return option.name == key; });
  if (found != options.end()) return !found->changes_results || found->may_change;
  const size_t dot = key.find('.');
  if (dot == std::string::npos) return false;
  for (const auto& [kind, plugins] : catalog()) {
    const auto plugin = plugins.find(key.substr(0, dot));
    if (plugin == plugins.end()) continue;
    for (const Option& option : plugin->second.options) {
      if (option.name != key.substr(dot + 1)) continue;
      // Trackers are told of a run, and change nothing of it.
      return kind == "tracker" || !option.changes_results || option.may_change;
    }
  }
  return false;
}

}  // namespace fl_sim
