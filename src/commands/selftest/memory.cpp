// Algorithms that remember what clients sent last: mifa, fedvarp, fedstale.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/check.h"
#include "commands/selftest/experiments.h"

namespace fl_sim::selftest {
namespace {

// What a job says beside Local.
struct Recall {
  bool mean_alone = false;  // MIFA's step
  bool over_seen = false;   // whose mean is over those that took part
  double beta = 1;
  bool uniform = true;
  double server_lr = 1;
  double decay = 1;  // of the local rate, a round
};

// Gu et al. 2021, Algorithm 1; Jhunjhunwala et al. 2022, Algorithm 1; Rodio & Neglia 2024: with the
// updates of all clients in a list, over the local rates that they were made with.
Vector recall(const Problem& problem, const Local& local, int64_t rounds, const Recall& job) {
  Vector w = problem.start;
  const Vector zero(0.0, w.size());
  std::vector<Vector> kept(problem.clients.size(), zero);
  std::set<int64_t> seen;
  const auto part_of = [&](int64_t k) {  // of the population
    return job.uniform
               ? 1 / static_cast<double>(problem.population())
               : static_cast<double>(problem.size(k)) / static_cast<double>(problem.samples());
  };
  const auto mean = [&] {
    Vector sum = zero;
    for (int64_t k = 0; k < problem.population(); ++k)
      sum += part_of(k) * kept[static_cast<size_t>(k)];
    return sum;
  };
  for (int64_t t = 1; t <= rounds; ++t) {
    const std::vector<int64_t> cohort = problem.survivors(t);
    const double rate = std::pow(job.decay, static_cast<double>(t - 1));
    Local own = local;
    own.lr *= rate;
    const Vector before = mean();
    Vector news = zero;
    for (const int64_t k : cohort) {
      Vector& h = kept[static_cast<size_t>(k)];
      const Vector delta = problem.train(k, w, own) - w;
      news += (job.uniform ? 1 / static_cast<double>(cohort.size()) : problem.share(k, cohort)) *
              (delta - job.beta * rate * h);
      h = delta / rate;
      seen.insert(k);
    }
    if (job.mean_alone) {
      double whole = 0;
      for (const int64_t k : seen) whole += part_of(k);
      w += job.server_lr * rate * mean() / (job.over_seen ? whole : 1.0);
    } else {
      w += job.server_lr * (news + job.beta * rate * before);
    }
  }
  return w;
}

// example_problem() whose cohorts go on changing: everybody is remembered for some rounds.
Problem by_turns() {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1}, {1, 2}, {0, 3}, {1, 3}};
  return problem;
}

// In round 1 an update is not a number, in round 2 a client is lost that is remembered already: of
// a run of so many rounds.
std::string losses(int64_t rounds) {
  return message("inject = nan-update@1:0", rounds > 1 ? ",client-crash@2:1" : "", "\n");
}
Problem with_losses() {
  Problem problem = by_turns();
  problem.refused = {{1, 0}, {2, 1}};
  return problem;
}

Result rounds_of(const std::string& algorithm, const Problem& problem, const Local& local,
                 const std::string& lines, const Recall& job, int64_t rounds = 6) {
  return compare(solve(problem, algorithm, local.lines() + lines, rounds),
                 recall(problem, local, rounds, job));
}

// mifa -----------------------------------------------------------------------------------------

FL_CLOSED_FORM("mifa", "uniform weights", Local{}, "", recall, Recall{.mean_alone = true});
FL_CLOSED_FORM("mifa", "weights by samples", Local{}, "weighting = samples", recall,
               Recall{.mean_alone = true, .uniform = false});
FL_CLOSED_FORM("mifa", "the mean of those seen, a server rate of a half, local momentum",
               Local{.momentum = 0.5}, "mifa.over = seen\nserver.lr = 0.5", recall,
               Recall{.mean_alone = true, .over_seen = true, .server_lr = 0.5});
FL_CLOSED_FORM("mifa", "the mean of those seen, by samples", Local{},
               "mifa.over = seen\nweighting = samples", recall,
               Recall{.mean_alone = true, .over_seen = true, .uniform = false});
FL_CLOSED_FORM("mifa", "a local rate that falls", Local{}, "local.lr-decay = 0.5", recall,
               Recall{.mean_alone = true, .decay = 0.5});

FL_SELFTEST("mifa", "closed form", "six rounds of cohorts by turns", [] {
  return all_of({rounds_of("mifa", by_turns(), Local{}, "", {.mean_alone = true}),
                 rounds_of("mifa", with_losses(), Local{}, message(losses(6), "mifa.over = seen"),
                           {.mean_alone = true, .over_seen = true})});
});

FL_SELFTEST("mifa", "equals", "FedAvg with uniform weights, where all take part", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  std::vector<Result> results;
  for (const char* server : {"", "server.optimizer = momentum\n", "server.optimizer = adam\n"}) {
    for (const char* over : {"mifa.over = all", "mifa.over = seen"}) {
      const std::string lines = Local{.momentum = 0.5}.lines() + server;
      results.push_back(compare(solve(problem, "mifa", lines + over, 5),
                                solve(problem, "fedavg", lines + "weighting = uniform", 5)));
    }
  }
  return all_of(results);
});

// Three of four clients: three quarters of FedAvg's step, or all of it.
FL_SELFTEST("mifa", "equals", "its first round is FedAvg's, times the share of the population", [] {
  const Problem problem = example_problem();
  const Local local;
  const Vector fedavg = solve(problem, "fedavg", local.lines() + "weighting = uniform", 1);
  return all_of({compare(solve(problem, "mifa", local.lines(), 1),
                         problem.start + 0.75 * (fedavg - problem.start)),
                 compare(solve(problem, "mifa", local.lines() + "mifa.over = seen", 1), fedavg),
                 differ(fedavg, problem.start, 0.1)});
});

// Where the updates of all clients, one after the other, sum to 0: FedAvg of all of them ends
// there, and of a part of them never comes to rest.
Result comes_to_rest(const std::string& algorithm, const std::string& lines) {
  Problem everybody = example_problem(), parts = everybody;
  everybody.cohorts = {{0, 1, 2, 3}};
  for (int64_t t = 0; t < 400; ++t) parts.cohorts.push_back({t % 4, (t + 1 + t / 4 % 3) % 4});
  parts.cohorts.erase(parts.cohorts.begin(), parts.cohorts.begin() + 3);
  for (std::vector<int64_t>& cohort : parts.cohorts) std::sort(cohort.begin(), cohort.end());
  const std::string local = Local{.steps = 2}.lines() + "weighting = uniform\n";
  const Vector end = solve(everybody, "fedavg", local, 400);
  return all_of({compare(solve(parts, algorithm, local + lines, 400), end, 1e-7),
                 differ(solve(parts, "fedavg", local, 400), end, 0.01)});
}

FL_SELFTEST("mifa", "fixed point", "a part of the clients a round ends where all of them do",
            [] { return comes_to_rest("mifa", "server.lr = 0.5"); });
FL_SELFTEST("fedvarp", "fixed point", "a part of the clients a round ends where all of them do",
            [] { return comes_to_rest("fedvarp", "server.lr = 0.5"); });

// fedvarp --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedvarp", "uniform weights", Local{}, "", recall, Recall{});
FL_CLOSED_FORM("fedvarp", "weights by samples", Local{}, "weighting = samples", recall,
               Recall{.uniform = false});
FL_CLOSED_FORM("fedvarp", "a server rate of a half, local momentum", Local{.momentum = 0.5},
               "server.lr = 0.5", recall, Recall{.server_lr = 0.5});
FL_CLOSED_FORM("fedvarp", "a local rate that falls", Local{}, "local.lr-decay = 0.5", recall,
               Recall{.decay = 0.5});
FL_CLOSED_FORM("fedvarp", "a classifier with a hidden layer", classifier_problem(), Local{}, "",
               recall, Recall{});

FL_SELFTEST("fedvarp", "closed form", "six rounds of cohorts by turns", [] {
  return all_of({rounds_of("fedvarp", by_turns(), Local{}, "", {}),
                 rounds_of("fedvarp", with_losses(), Local{}, message(losses(6), "server.lr = 0.5"),
                           {.server_lr = 0.5})});
});

FL_SELFTEST("fedvarp", "equals", "FedAvg with uniform weights, where all take part", [] {
  Problem problem = example_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  const std::string lines = Local{.momentum = 0.5}.lines() + "weighting = uniform";
  return compare(solve(problem, "fedvarp", lines, 5), solve(problem, "fedavg", lines, 5));
});

FL_SELFTEST("fedvarp", "equals", "its first round is FedAvg's: nothing is remembered", [] {
  const Problem problem = example_problem();
  const std::string lines = Local().lines() + "weighting = uniform";
  return all_of(
      {compare(solve(problem, "fedvarp", lines, 1), solve(problem, "fedavg", lines, 1), 1e-14),
       differ(solve(problem, "fedvarp", lines, 2), solve(problem, "fedavg", lines, 2), 1e-3)});
});

// fedstale -------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedstale", "a quarter", Local{}, "fedstale.beta = 0.25", recall,
               Recall{.beta = 0.25});
FL_CLOSED_FORM("fedstale", "a half, by samples, local momentum", Local{.momentum = 0.5},
               "fedstale.beta = 0.5\nweighting = samples", recall,
               Recall{.beta = 0.5, .uniform = false});
FL_CLOSED_FORM("fedstale", "a half, with a local rate that falls and a server rate of a half",
               Local{}, "fedstale.beta = 0.5\nlocal.lr-decay = 0.5\nserver.lr = 0.5", recall,
               Recall{.beta = 0.5, .server_lr = 0.5, .decay = 0.5});

FL_SELFTEST("fedstale", "closed form", "six rounds of cohorts by turns", [] {
  return rounds_of("fedstale", with_losses(), Local{}, message(losses(6), "fedstale.beta = 0.5"),
                   {.beta = 0.5});
});

FL_SELFTEST("fedstale", "equals", "beta 0 is FedAvg, beta 1 FedVARP, bit for bit", [] {
  std::vector<Result> results;
  for (const torch::ScalarType type : {torch::kFloat64, torch::kFloat32}) {
    for (const char* more : {"", "weighting = samples\n", "server.optimizer = adam\n"}) {
      const Problem problem = with_losses();
      const std::string lines = Local{.momentum = 0.5}.lines() + losses(5) + more;
      const std::string uniform =
          std::string(more).find("samples") == std::string::npos ? "weighting = uniform\n" : "";
      const auto after = [&](const std::string& algorithm, const std::string& own) {
        return solve(problem, algorithm, lines + own, 5, type);
      };
      const Vector fedavg = after("fedavg", uniform), fedvarp = after("fedvarp", "");
      results.push_back(compare(after("fedstale", "fedstale.beta = 0"), fedavg, 0));
      results.push_back(compare(after("fedstale", "fedstale.beta = 1"), fedvarp, 0));
      results.push_back(differ(fedavg, fedvarp, 1e-3));
    }
  }
  return all_of(results);
});

// What the server and clients keep -------------------------------------------------------------

// After cohorts by turns: what each client sent last that counted, and their mean over all clients.
Result remembers(const std::string& algorithm, const std::string& lines) {
  const Problem problem = with_losses();
  const Local local;
  const auto job = [&](int64_t rounds) { return local.lines() + losses(rounds) + lines; };
  Experiment e = experiment_of(problem, algorithm, job(4), 4);
  const Finished end = run(e);
  std::map<int64_t, Vector> last;  // by client
  for (int64_t t = 1; t <= 4; ++t) {
    const Vector w = t == 1 ? problem.start : solve(problem, algorithm, job(t - 1), t - 1);
    for (const int64_t k : problem.survivors(t)) last[k] = problem.train(k, w, local) - w;
  }
  Vector mean(0.0, problem.start.size());
  std::vector<Result> results;
  for (const auto& [client, update] : last) {
    mean += update / 4;
    results.push_back(
        compare(numbers(end.states.at(client).at("update"), e.network->layout()), update));
  }
  results.push_back(
      compare(numbers(end.server.hidden.at("mean_update"), e.network->layout()), mean));
  return all_of(results);
}

FL_SELFTEST("mifa", "mistakes", "the mean is of what each client sent last", [] {
  return all_of({remembers("mifa", ""), remembers("mifa", "server.optimizer = momentum")});
});
FL_SELFTEST("fedvarp", "mistakes", "the mean is of what each client sent last",
            [] { return remembers("fedvarp", ""); });
FL_SELFTEST("fedstale", "mistakes", "the mean is of what each client sent last",
            [] { return remembers("fedstale", "fedstale.beta = 0.25"); });

// Between 0 and 1 the simulation sends two vectors, a server that holds all updates is sent one.
FL_SELFTEST("fedstale", "mistakes", "clients send one update each, whatever beta is", [] {
  std::vector<Result> results;
  const auto bytes = [](const std::string& algorithm, const std::string& own) {
    Experiment e = experiment_of(example_problem(), algorithm, Local().lines() + own, 1);
    return run_recorded(e).rounds.at(0).bytes_up;
  };
  const int64_t expected = 3 * 3 * 8;  // three numbers of each of three clients, in float64
  for (const char* beta : {"0", "0.25", "1"}) {
    const int64_t sent = bytes("fedstale", message("fedstale.beta = ", beta));
    results.push_back(require(sent == expected, message("beta ", beta, ": ", sent, " bytes")));
  }
  results.push_back(require(bytes("fedavg", "") == expected, "fedavg's"));
  return all_of(results);
});

// That a job is refused, with a message that names `reason`.
Result not_taken(const std::string& lines, const std::string& reason) {
  std::vector<Result> results;
  for (const char* algorithm : {"mifa", "fedvarp"}) {
    try {
      experiment_of(example_problem(), algorithm, Local().lines() + lines, 1);
      results.push_back(require(false, message("'", lines, "' is not refused")));
    } catch (const Error& error) {
      const std::string what = error.what();
      results.push_back(require(what.find(reason) != std::string::npos,
                                message("'", lines, "' is refused for another reason: ", what)));
    }
  }
  // Of which FedAvg knows nothing.
  experiment_of(example_problem(), "fedstale", Local().lines() + lines + "\nfedstale.beta = 0", 1);
  return all_of(results);
}

FL_SELFTEST("mifa", "mistakes", "what its mean cannot be made of is refused", [] {
  return all_of({not_taken("weighting = loss", "weighting is loss"),
                 not_taken("weighting = samples\nsampler = multinomial", "sampler is multinomial"),
                 not_taken("uniform.weights = unbiased", "uniform.weights cohort"),
                 not_taken("aggregator = median", "aggregator is median"),
                 not_taken("transforms = clip\nclip.norm = 1", "transforms is clip")});
});

}  // namespace
}  // namespace fl_sim::selftest
