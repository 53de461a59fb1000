#include "commands/selftest/small_jobs.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

#include "base/check.h"
#include "base/plugin_file.h"
#include "base/registry.h"
#include "commands/selftest/experiments.h"
#include "commands/selftest/suite.h"
#include "engine/set_up.h"
#include "network/arithmetic.h"
#include "process/launcher.h"
#include "storage/checkpoint.h"

extern char** environ;

namespace fl_sim::selftest {
namespace {

using Words = std::vector<std::string>;

Words words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

Words example_of(const std::string& algorithm) {
  const std::string& example = plugin_info("algorithm", algorithm).example;
  return words_of(example.empty() ? "--algorithm " + algorithm : example);
}

// The models to run it with: the example's own, if it names one.
Words models_of(const std::string& algorithm) {
  const Words example = example_of(algorithm);
  const auto found = std::find(example.begin(), example.end(), "--model");
  if (found == example.end() || found + 1 == example.end()) return {"logistic", "2nn"};
  return {*(found + 1)};
}

// 3 rounds with clients of unequal sizes, of whom nothing divides evenly.
Job small_job(const std::string& algorithm, const std::string& model, int64_t group_size) {
  Words arguments = example_of(algorithm);
  const auto add = [&](const std::string& key, const std::string& value, bool over = false) {
    const auto found = std::find(arguments.begin(), arguments.end(), "--" + key);
    if (found == arguments.end()) {
      arguments.insert(arguments.end(), {"--" + key, value});
    } else if (over && found + 1 != arguments.end()) {
      *(found + 1) = value;
    }
  };
  if (std::find(arguments.begin(), arguments.end(), "--partitioner") == arguments.end()) {
    add("partitioner", "dirichlet");
    add("dirichlet.alpha", "0.5");
  }
  add("dataset", "fcube");
  add("model", model);
  add("clients", "11");
  add("cohort", "5");
  add("local.batch-size", "32");
  add("local.lr", "0.1");
  add("rounds", "3", true);
  add("group-size", std::to_string(group_size), true);
  add("device", device().is_cuda() ? "cuda" : "cpu", true);
  add("evaluate-every", "0", true);
  return Job::parse(arguments);
}

// Checksum of a small job's model, on rank 0.
std::string checksum_of(const Job& job, Communicator& comm) {
  const Experiment experiment = set_up(job, comm);
  set_arithmetic(experiment.job);
  Simulation simulation(experiment, comm);
  const std::string checksum = simulation.run().checksum;
  FL_CHECK(comm.rank() != 0 || torch::isfinite(simulation.weights()).all().item<bool>(),
           "the model is not finite");
  return checksum;
}

// What the environment was before MPI started and wrote into it for processes of its own.
const Words kEnvironment = [] {
  Words variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    variables.emplace_back(*variable);
  }
  return variables;
}();

Words launch_environment() {
  Words variables = environment_to_launch(kEnvironment);
  if (std::getenv("MPIEXEC_TIMEOUT") == nullptr)
    variables.emplace_back("MPIEXEC_TIMEOUT=600");  // seconds, of Open MPI and of MPICH
  return variables;
}

std::string read_and_remove(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  return text.str();
}

struct Output {
  int code = 0;
  std::string out, error;
};

Output execute(const Words& command, const Words& variables) {
  const auto pointers = [](const Words& words) {
    std::vector<char*> result;
    for (const std::string& word : words) result.push_back(const_cast<char*>(word.c_str()));
    result.push_back(nullptr);
    return result;
  };
  const std::string base =
      (std::filesystem::temp_directory_path() / message("fl_sim_selftest_", ::getpid(), "_"))
          .string();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, (base + "out").c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, (base + "error").c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, command[0].c_str(), &actions, nullptr,
                                   pointers(command).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  FL_CHECK(failed == 0, "cannot start ", command[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {status, read_and_remove(base + "out"), read_and_remove(base + "error")};
}

Words& chosen_for_ranks() {
  static Words chosen = [] {
    Words all;
    for (const auto& [name, info] : catalog()["algorithm"]) all.push_back(name);
    return all;
  }();
  return chosen;
}

// Of each small job, "2nn, groups of 3": its checksum. Or what went wrong.
struct Checksums {
  std::map<std::string, std::string> of = {};
  std::string error = {};
};

// Of all chosen algorithms on `ranks` ranks. An algorithm that ends the program is left out when
// the rest is tried again.
std::map<std::string, Checksums> launch(int ranks) {
  Words variables = launch_environment();
  Words prefix;
  if (ranks > 1) prefix = {find_launcher(), "-n", std::to_string(ranks)};
  prefix.insert(prefix.end(), {std::filesystem::read_symlink("/proc/self/exe").string(), "selftest",
                               "--checksums", "--device", device().is_cuda() ? "cuda" : "cpu"});
  for (const PluginFile& file : plugin_files()) {
    prefix.insert(prefix.end(), {"--plugin", file.path});
  }
  std::map<std::string, Checksums> all;
  Words left = chosen_for_ranks();
  while (!left.empty()) {
    Words command = prefix;
    command.insert(command.end(), left.begin(), left.end());
    const Output output = execute(command, variables);
    std::istringstream lines(output.out);
    std::string algorithm, model, group, checksum;
    while (lines >> algorithm >> model >> group >> checksum) {
      all[algorithm].of[message(model, ", groups of ", group)] = checksum;
    }
    std::erase_if(left, [&](const std::string& name) {
      return all.contains(name) && all[name].of.size() == 2 * models_of(name).size();
    });
    if (left.empty()) break;
    all[left[0]].error =
        output.error.empty() ? "ended without a checksum" : output.error.substr(0, 2000);
    left.erase(left.begin());
  }
  return all;
}

const Checksums& checksums(const std::string& algorithm, int ranks) {
  static std::map<int, std::map<std::string, Checksums>> known;
  if (!known.contains(ranks)) known[ranks] = launch(ranks);
  return known[ranks][algorithm];
}

Result same_for_all_ranks(const std::string& algorithm) {
  FL_CHECK(!find_launcher().empty(), "needs mpirun, which is not in the PATH");
  const Checksums& one = checksums(algorithm, 1);
  FL_CHECK(one.error.empty(), "on one rank: ", one.error);
  for (const int ranks : {2, 3}) {
    const Checksums& several = checksums(algorithm, ranks);
    FL_CHECK(several.error.empty(), "on ", ranks, " ranks: ", several.error);
    for (const auto& [what, checksum] : one.of) {
      const std::string& found = several.of.at(what);
      if (found != checksum) {
        return require(false, message(what, ": checksum ", found, " on ", ranks,
                                      " ranks instead of ", checksum));
      }
    }
  }
  return {};
}

// What a run remembers, as a checkpoint in `folder`.
void save(const std::string& folder, const ServerState& server, const ClientStore& clients) {
  Manifest manifest{.round = server.round, .folder = round_folder(folder, server.round)};
  std::vector<ClientStore::Saved> states = clients.capture();
  const int64_t length = states.empty() ? 0 : states[0].size;
  const torch::ScalarType type = states.empty() ? torch::kFloat32 : states[0].type;
  CheckpointWriter writer;
  writer.start(manifest.folder, 0, server.round, length, type, std::move(states));
  const CheckpointWriter::Done done = writer.take(true).value();
  FL_CHECK(done.error.empty(), done.error);
  manifest.files = {write_server_file(manifest.folder, server), done.file};
  commit(manifest);
}

// The server's part of it; the clients' goes into `clients`.
ServerState restore(const std::string& folder, ClientStore& clients) {
  const Manifest manifest = find_checkpoint(folder).value();
  read_clients_file(manifest, manifest.files.at(1), clients);
  return read_server_file(manifest);
}

// Two rounds, then the third in a simulation of its own, made from what the first has saved: an
// algorithm that keeps something outside of its declared state would have lost it.
Result survives_saving(const std::string& algorithm) {
  const std::string folder =
      (std::filesystem::temp_directory_path() / message("fl_sim_selftest_", ::getpid())).string();
  std::vector<Result> results;
  for (const std::string& model : models_of(algorithm)) {
    Job job = small_job(algorithm, model, 3);
    Experiment whole = set_up(job, one_rank());
    const ServerState expected = run(whole).server;

    Experiment first = set_up(job, one_rank());
    first.job.set("rounds", "2");
    {
      Simulation simulation(first, one_rank());
      simulation.run();
      save(folder, simulation.server(), simulation.host().store());
    }
    Experiment second = set_up(job, one_rank());
    Simulation simulation(second, one_rank());
    ServerState saved = restore(folder, simulation.host().store());
    remove_checkpoints(folder);
    saved.weights = saved.weights.to(second.device);
    for (State* state : {&saved.shared, &saved.hidden}) {
      for (auto& [name, tensor] : *state) tensor = tensor.to(second.device);
    }
    simulation.resume(std::move(saved));
    simulation.run();
    const ServerState& actual = simulation.server();
    results.push_back(require(actual.round == 3, message("ended after round ", actual.round)));
    results.push_back(compare(to_vector(actual.weights), to_vector(expected.weights), 0));
    for (const auto& [kept, remembered] :
         {std::pair{&expected.shared, &actual.shared}, {&expected.hidden, &actual.hidden}}) {
      for (const auto& [name, tensor] : *kept) {
        results.push_back(compare(to_vector(remembered->at(name)), to_vector(tensor), 0));
      }
    }
  }
  return all_of(results);
}

std::vector<Check> small_job_checks() {
  std::vector<Check> checks;
  for (const auto& [name, info] : catalog()["algorithm"]) {
    checks.push_back({name, "ranks", "the model has the same bits for 1, 2 and 3 ranks",
                      [algorithm = name] { return same_for_all_ranks(algorithm); }});
    checks.push_back(
        {name, "save/load",
         "a run that is saved after two rounds and resumed by another ends with the same bits",
         [algorithm = name] { return survives_saving(algorithm); }});
  }
  return checks;
}

[[maybe_unused]] const bool kSmallJobsAdded = add_checks(small_job_checks);

}  // namespace

void print_checksums(const std::vector<std::string>& algorithms) {
  MpiSession& mpi = start_mpi();
  for (const std::string& algorithm : algorithms) {
    for (const std::string& model : models_of(algorithm)) {
      for (const int64_t group_size : {1, 3}) {
        Communicator comm(mpi);
        std::string checksum;
        try {
          checksum = checksum_of(small_job(algorithm, model, group_size), comm);
        } catch (const std::exception& error) {
          std::cerr << error.what() << std::endl;
          if (comm.size() > 1) comm.abort(1);  // the others may be waiting
          std::exit(1);
        }
        if (comm.rank() != 0) continue;
        std::cout << algorithm << " " << model << " " << group_size << " " << checksum << std::endl;
      }
    }
  }
}

void choose_for_ranks(std::vector<std::string> algorithms) {
  chosen_for_ranks() = std::move(algorithms);
}

}  // namespace fl_sim::selftest
