// Parallel weights: pwfl.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "engine/set_up.h"

namespace fl_sim::selftest {
namespace {

// example_problem() with cohorts of two and of four clients.
Problem even_problem(Problem problem = example_problem()) {
  problem.cohorts = {{0, 1, 2, 3}, {0, 3}, {0, 1, 2, 3}};
  return problem;
}

Finished finish(const Problem& problem, const std::string& lines, int64_t rounds,
                torch::ScalarType type = torch::kFloat64) {
  Experiment e = experiment_of(problem, "pwfl", lines, rounds);
  e.dtype = type;
  return run_recorded(e);
}

// Who trained a model, by round: chance, which the rules take as it came.
std::vector<std::vector<int64_t>> cohorts_of(const Finished& finished, int64_t model,
                                             int64_t rounds) {
  std::vector<std::vector<int64_t>> cohorts(static_cast<size_t>(rounds));
  for (const ClientRecord& record : finished.clients) {
    if (record.model == model) {
      cohorts[static_cast<size_t>(record.round - 1)].push_back(record.client);
    }
  }
  return cohorts;
}

// The trainable numbers of one of the models.
Vector model_of(const Finished& finished, const Problem& problem, int64_t model) {
  const Experiment e = experiment_of(problem, "fedavg", Local().lines(), 1);
  return numbers(finished.server.weights[model], e.network->layout());
}

// Without merges every model is what the inner rule makes of that model's own cohorts.
Result each_model(const Problem& problem, const Local& local, const std::string& lines,
                  const ClosedForm& rule, int64_t models = 2, double tolerance = kTolerance,
                  torch::ScalarType type = torch::kFloat64) {
  std::vector<Result> results;
  for (const int64_t rounds : {1, 2, 3}) {
    const Finished finished = finish(
        problem, message(local.lines(), "pwfl.models = ", models, "\n", lines), rounds, type);
    for (int64_t model = 0; model < models; ++model) {
      Problem own = problem;
      own.cohorts = cohorts_of(finished, model, rounds);
      const Vector actual = model_of(finished, problem, model);
      results.push_back(compare(actual, rule(own, local, rounds), tolerance));
      results.back().note = message("model ", model, " after round ", rounds);
      results.push_back(differ(actual, problem.start, 0.01));
    }
    results.push_back(differ(model_of(finished, problem, 0), model_of(finished, problem, 1), 1e-3));
  }
  return all_of(results);
}

constexpr const char* kUniform = "weighting = uniform\n";

Vector fedavg_rule(const Problem& p, const Local& l, int64_t t) { return fedavg(p, l, t); }
Vector scaffold_rule(const Problem& p, const Local& l, int64_t t) {
  return scaffold(p, l, t, 1, true);
}
Vector fedadam_rule(const Problem& p, const Local& l, int64_t t) {
  return fedadam(p, l, t, 0.1, 0.9, 0.99, 1e-3, false);
}

// Uniform FedAvg in plain doubles: rules.h has the one by samples.
Vector uniform_fedavg(const Problem& problem, const Local& local, int64_t rounds) {
  Vector w = problem.start;
  for (int64_t round = 1; round <= rounds; ++round) {
    Vector sum(0.0, w.size());
    for (const int64_t k : problem.cohort(round)) sum += problem.train(k, w, local) - w;
    w += sum / static_cast<double>(problem.cohort(round).size());
  }
  return w;
}

FL_SELFTEST("pwfl", "closed form", "fedavg for each of two models, uniform weights", [] {
  return each_model(even_problem(), Local{.momentum = 0.5}, kUniform, uniform_fedavg);
});
// Of samples like 1 and 4 the shares are no floats: exact to a few 1e-8 of the deltas.
FL_SELFTEST("pwfl", "closed form", "fedavg for each of two models, by samples",
            [] { return each_model(even_problem(), Local{}, "", fedavg_rule, 2, 2e-7); });
FL_SELFTEST("pwfl", "closed form", "a classifier, in groups of three clients", [] {
  return each_model(even_problem(classifier_problem()), Local{},
                    message(kUniform, "group-size = 3"), uniform_fedavg);
});
// One server's c, and one c_k of a client, for each model.
FL_SELFTEST("pwfl", "closed form", "scaffold keeps its controls for each model apart", [] {
  return all_of({each_model(even_problem(), Local{}, "pwfl.inner = scaffold", scaffold_rule),
                 each_model(even_problem(), Local{}, "pwfl.inner = scaffold\ngroup-size = 3",
                            scaffold_rule)});
});
FL_SELFTEST("pwfl", "closed form", "fedadam keeps its moments for each model apart", [] {
  return each_model(even_problem(), Local{}, "pwfl.inner = fedadam\nweighting = samples",
                    fedadam_rule, 2, 2e-6);
});
FL_SELFTEST("pwfl", "float32", "scaffold for each of two models", [] {
  return each_model(even_problem(), Local{}, "pwfl.inner = scaffold", scaffold_rule, 2, 1e-5,
                    torch::kFloat32);
});

// A client's velocity belongs to the model that it trained: with one batch an epoch and a single
// client, which alternates between nothing and a model, FedAvg is heavy-ball momentum over all the
// rounds in which it trained that model.
FL_SELFTEST("pwfl", "closed form", "kept momentum is kept for each model apart", [] {
  const Problem problem = even_problem();
  const Local local{.steps = 2, .momentum = 0.5};
  const int64_t rounds = 4;
  const Finished finished =
      finish(problem, message(local.lines(), kUniform, "local.keep-momentum = true"), rounds);
  std::vector<Result> results;
  for (int64_t model = 0; model < 2; ++model) {
    const auto cohorts = cohorts_of(finished, model, rounds);
    Vector w = problem.start;
    std::map<int64_t, Vector> velocity;
    for (const std::vector<int64_t>& cohort : cohorts) {
      Vector sum(0.0, w.size());
      for (const int64_t k : cohort) {
        Vector y = w;
        Vector& v = velocity.try_emplace(k, 0.0, w.size()).first->second;
        for (int64_t step = 0; step < local.steps; ++step) {
          v = local.momentum * v + problem.gradient(k, y);
          y -= local.lr * v;
        }
        sum += y - w;
      }
      w += sum / static_cast<double>(cohort.size());
    }
    results.push_back(compare(model_of(finished, problem, model), w));
  }
  return all_of(results);
});

// Merges in plain doubles: FedAvg on each model, then the average, or the model whose clients had
// the lowest mean loss on the way, by samples.
Vector merged(const Problem& problem, const Local& local, const Finished& finished, int64_t models,
              int64_t rounds, bool average, int64_t every) {
  std::vector<Vector> w(static_cast<size_t>(models), problem.start);
  for (int64_t round = 1; round <= rounds; ++round) {
    std::vector<double> loss(w.size());
    for (size_t j = 0; j < w.size(); ++j) {
      const std::vector<int64_t> cohort =
          cohorts_of(finished, static_cast<int64_t>(j), rounds)[static_cast<size_t>(round - 1)];
      Vector sum(0.0, w[j].size());
      for (const int64_t k : cohort) {
        double seen = 0;
        const Vector trained = problem.train(k, w[j], local, [&](const Vector& y) {
          seen += problem.loss(k, y) / static_cast<double>(local.steps);
          return Vector(0.0, y.size());
        });
        sum += trained - w[j];
        loss[j] += problem.share(k, cohort) * seen;
      }
      w[j] += sum / static_cast<double>(cohort.size());
    }
    if (round % every != 0) continue;
    Vector all(0.0, w[0].size());
    for (const Vector& own : w) all += own / static_cast<double>(models);
    const auto best = std::min_element(loss.begin(), loss.end()) - loss.begin();
    if (!average) all = w[static_cast<size_t>(best)];
    std::fill(w.begin(), w.end(), all);
  }
  Vector flat(w.size() * w[0].size());
  for (size_t j = 0; j < w.size(); ++j) flat[std::slice(j * w[0].size(), w[0].size(), 1)] = w[j];
  return flat;
}

Result merges(const std::string& how, int64_t every) {
  const Problem problem = even_problem();
  const Local local{.momentum = 0.5};
  std::vector<Result> results;
  for (const int64_t seed : {0, 1, 2}) {
    for (const int64_t rounds : {1, 2, 3, 4}) {
      const Finished finished = finish(problem,
                                       message(local.lines(), kUniform, "pwfl.merge = ", how,
                                               "\npwfl.merge-every = ", every, "\nseed = ", seed),
                                       rounds);
      const Experiment e = experiment_of(problem, "fedavg", local.lines(), 1);
      results.push_back(
          compare(numbers(finished.server.weights, e.network->layout()),
                  merged(problem, local, finished, 2, rounds, how == "average", every)));
      results.back().note = message("seed ", seed, ", after round ", rounds);
    }
  }
  return all_of(results);
}

FL_SELFTEST("pwfl", "closed form", "models are averaged after every round",
            [] { return merges("average", 1); });
FL_SELFTEST("pwfl", "closed form", "models are averaged after every other round",
            [] { return merges("average", 2); });
FL_SELFTEST("pwfl", "closed form", "the best model replaces the others after every round",
            [] { return merges("best", 1); });
FL_SELFTEST("pwfl", "closed form", "the best model replaces the others after every third round",
            [] { return merges("best", 3); });

// Losses 9/8 of one sample and 1/2 of four: the mean and the sum disagree about which is the best.
FL_SELFTEST("pwfl", "mistakes", "the best model has the lowest mean loss, not the lowest sum", [] {
  const Point near = {{1}, {1}};
  const Problem problem = {
      .clients = {{{{1.5}, {1}}}, {near, near, near, near}}, .start = {0}, .cohorts = {{0, 1}}};
  const Local local{.steps = 1};
  const Finished finished =
      finish(problem, message(local.lines(), kUniform, "pwfl.merge = best"), 1);
  return all_of({compare(model_of(finished, problem, 0), {local.lr}),
                 compare(model_of(finished, problem, 1), {local.lr})});
});

FL_SELFTEST("pwfl", "equals", "one model is the inner algorithm, bit for bit", [] {
  std::vector<Result> results;
  for (const Problem& problem : {example_problem(), classifier_problem()}) {
    for (const char* inner : {"fedavg", "scaffold", "fedadam", "fedavgm"}) {
      std::string lines = Local{.momentum = 0.5}.lines() + "group-size = 2\n";
      if (std::string(inner) != "scaffold") lines += "local.keep-momentum = true\n";
      for (const char* merge : {"none", "average", "best"}) {
        results.push_back(compare(
            solve(problem, "pwfl",
                  message(lines, "pwfl.models = 1\npwfl.inner = ", inner, "\npwfl.merge = ", merge),
                  3),
            solve(problem, inner, lines, 3), 0));
        results.back().note = message(inner, ", merge ", merge);
      }
    }
  }
  return all_of(results);
});

// The parts are of one size, so the mean of their means is the mean over the cohort.
FL_SELFTEST("pwfl", "equals", "averaged after every round: uniform FedAvg of the cohort", [] {
  const Problem problem = even_problem();
  const std::string lines = Local{.momentum = 0.5}.lines() + kUniform;
  const Vector one = solve(problem, "fedavg", lines, 3);
  Vector two(2 * one.size());
  for (const size_t j : {0, 1}) two[std::slice(j * one.size(), one.size(), 1)] = one;
  return compare(solve(problem, "pwfl", lines + "pwfl.merge = average", 3), two);
});

// Of eleven clients or of ten, three parts of three; nobody twice; other ones in another round or
// with another seed; and over the rounds everybody trains every model.
FL_SELFTEST("pwfl", "mistakes", "the parts of a cohort are disjoint, of one size, and drawn", [] {
  Problem problem{
      .clients = std::vector<std::vector<Point>>(11, {{{1}, {1}}}), .start = {0}, .cohorts = {}};
  std::vector<int64_t> all(11);
  for (size_t k = 0; k < all.size(); ++k) all[k] = static_cast<int64_t>(k);
  problem.cohorts = {all, {all.begin(), all.begin() + 10}};
  constexpr int64_t kRounds = 30;
  std::vector<Result> results;
  std::set<std::vector<int64_t>> seen;  // parts of model 0
  std::set<std::pair<int64_t, int64_t>> met;
  for (const int64_t seed : {0, 1}) {
    const Finished finished =
        finish(problem, message(Local().lines(), "pwfl.models = 3\nseed = ", seed), kRounds);
    std::vector<std::set<int64_t>> trained(kRounds);
    for (int64_t model = 0; model < 3; ++model) {
      const auto cohorts = cohorts_of(finished, model, kRounds);
      for (size_t round = 0; round < cohorts.size(); ++round) {
        results.push_back(require(cohorts[round].size() == 3,
                                  message("a part of ", cohorts[round].size(), " clients")));
        trained[round].insert(cohorts[round].begin(), cohorts[round].end());
        for (const int64_t client : cohorts[round]) {
          if (client < 10) met.emplace(client, model);  // the eleventh comes in one round only
        }
        if (model == 0) seen.insert(cohorts[round]);
      }
    }
    for (const auto& clients : trained)
      results.push_back(require(clients.size() == 9, "a client trains two models at once"));
  }
  // 60 draws of 165 sets.
  results.push_back(require(seen.size() > 35, message("only ", seen.size(), " different parts")));
  results.push_back(require(met.size() == 30, message(met.size(), " of 30 pairs have met")));
  return all_of(results);
});

// A client that trains a model for the first time has no control for it, whatever it has trained
// before; and what it keeps for the others stays as it was.
FL_SELFTEST("pwfl", "mistakes", "a client's state is that of the model that it trains", [] {
  const Problem problem = even_problem();
  std::vector<Result> results;
  for (const int64_t rounds : {1, 2, 3, 4}) {
    const Finished finished =
        finish(problem, Local{.steps = 1}.lines() + "pwfl.inner = scaffold", rounds);
    std::map<std::pair<int64_t, int64_t>, Vector> controls;  // after one step: the gradient at w
    for (int64_t round = 1; round <= rounds; ++round) {
      const Finished before =
          round == 1
              ? Finished{}
              : finish(problem, Local{.steps = 1}.lines() + "pwfl.inner = scaffold", round - 1);
      for (const ClientRecord& record : finished.clients) {
        if (record.round != round) continue;
        const Vector w = round == 1 ? problem.start : model_of(before, problem, record.model);
        controls[{record.client, record.model}] = problem.gradient(record.client, w);
      }
    }
    for (const auto& [client, state] : finished.states) {
      for (int64_t model = 0; model < 2; ++model) {
        const bool known = controls.contains({client, model});
        const Vector expected = known ? controls.at({client, model}) : Vector(0.0, 3);
        const Experiment e = experiment_of(problem, "fedavg", Local().lines(), 1);
        results.push_back(
            compare(numbers(state.at(message(model, "/control")), e.network->layout()), expected));
        results.push_back(
            require((state.at("known")[model].item<double>() == 1) == known,
                    message("client ", client, " and model ", model, " after round ", rounds)));
      }
    }
  }
  return all_of(results);
});

// The round's figures are those of the mixture, the mean of the predicted probabilities, and of
// each model; worked out here from the classifier's scores.
FL_SELFTEST("pwfl", "mistakes", "the test figures are each model's and their mixture's", [] {
  const Problem problem = even_problem(classifier_problem());
  Experiment e = experiment_of(
      problem, "pwfl", message(Local{.lr = 0.5}.lines(), kUniform, "evaluate-every = 1"), 3);
  e.data.test = e.data.train;
  const Finished finished = run_recorded(e);
  const RoundRecord& last = finished.rounds.back();
  double samples = 0, mixture_loss = 0, mixture_hits = 0;
  std::vector<double> loss(2), hits(2);
  for (const auto& points : problem.clients) {
    for (const Point& point : points) {
      Vector mean(0.0, 3);
      const auto label = static_cast<size_t>(point.label);
      const auto hit = [&](const Vector& p) {
        return static_cast<size_t>(std::max_element(std::begin(p), std::end(p)) - std::begin(p)) ==
               label;
      };
      for (size_t j = 0; j < 2; ++j) {
        const Vector p = softmax(problem.classifier->scores(
            model_of(finished, problem, static_cast<int64_t>(j)), point.a));
        loss[j] -= std::log(p[label]);
        hits[j] += hit(p) ? 1 : 0;
        mean += p / 2.0;
      }
      mixture_loss -= std::log(mean[label]);
      mixture_hits += hit(mean) ? 1 : 0;
      ++samples;
    }
  }
  return all_of(
      {compare({last.test_loss, last.test_accuracy, last.model_loss.at(0), last.model_loss.at(1),
                last.model_accuracy.at(0), last.model_accuracy.at(1)},
               {mixture_loss / samples, mixture_hits / samples, loss[0] / samples,
                loss[1] / samples, hits[0] / samples, hits[1] / samples}),
       require(std::abs(loss[0] - loss[1]) > 0.01, "the models are alike")});
});

FL_SELFTEST("pwfl", "mistakes", "models start alike, or each with weights of its own", [] {
  const auto start = [](const std::string& lines) {
    const Experiment e = set_up(
        any_job("algorithm = pwfl\nmodel = 2nn\npwfl.models = 3\nrounds = 1\ndevice = cpu\n" +
                lines),
        one_rank());
    return Simulation(e, one_rank()).weights().clone();
  };
  const torch::Tensor same = start("pwfl.init = same"), other = start("pwfl.init = different");
  const auto row = [](const torch::Tensor& rows, int64_t j) { return to_vector(rows[j]); };
  return all_of(
      {compare(row(same, 1), row(same, 0), 0), compare(row(same, 2), row(same, 0), 0),
       compare(row(other, 0), row(same, 0), 0), differ(row(other, 1), row(other, 0), 0.01),
       differ(row(other, 2), row(other, 0), 0.01), differ(row(other, 2), row(other, 1), 0.01)});
});

// Without survivors a model stays as it was, and cannot be the best.
FL_SELFTEST("pwfl", "mistakes", "a model whose clients are all lost stays as it was", [] {
  const Problem problem = even_problem();
  std::vector<Result> results;
  bool happened = false;
  for (int64_t seed = 0; seed < 12; ++seed) {
    const std::string lines =
        message(Local().lines(), kUniform, "availability.dropout = 0.6\nseed = ", seed, "\n");
    const Finished none = finish(problem, lines, 1);
    const Finished best = finish(problem, lines + "pwfl.merge = best", 1);
    std::vector<int64_t> trained(2);
    std::vector<int64_t> drawn(2);
    for (const ClientRecord& record : none.clients) {
      trained[static_cast<size_t>(record.model)] += record.counts() ? 1 : 0;
      ++drawn[static_cast<size_t>(record.model)];
    }
    results.push_back(require(drawn == std::vector<int64_t>{2, 2}, "parts of other sizes"));
    for (int64_t model = 0; model < 2; ++model) {
      const Vector w = model_of(none, problem, model);
      if (trained[static_cast<size_t>(model)] > 0) {
        results.push_back(differ(w, problem.start, 0.01));
        continue;
      }
      results.push_back(compare(w, problem.start, 0));
      if (trained[static_cast<size_t>(1 - model)] == 0) continue;
      happened = true;
      results.push_back(
          compare(model_of(best, problem, model), model_of(none, problem, 1 - model), 0));
    }
  }
  results.push_back(require(happened, "no model was without clients"));
  return all_of(results);
});

// Models that are averaged after every round are alike, and so are those that a client makes of
// them: their mixture is what it makes of FedAvg's. In the second evaluation some clients have a
// model of their own from a round before.
Result like_alone(const std::string& inner, const std::string& inner_lines) {
  const Problem problem = even_problem(classifier_problem());
  const std::string lines =
      Local{}.lines() + kUniform + inner_lines + "\nevaluate-clients = 1\nevaluate-every = 1\n";
  const auto evaluations = [&](const std::string& algorithm, const std::string& more) {
    Experiment e = experiment_of(problem, algorithm, lines + more, 2);
    e.test = e.partition;
    const Finished finished = run_recorded(e);
    std::vector<double> all;
    for (const ClientEvaluation& evaluation : finished.evaluations) {
      all.insert(all.end(), {evaluation.loss, evaluation.accuracy, evaluation.personal_loss,
                             evaluation.personal_accuracy});
    }
    return Vector(all.data(), all.size());
  };
  const Vector alone = evaluations(inner, "");
  return all_of({compare(evaluations("pwfl", "pwfl.merge = average\npwfl.inner = " + inner), alone),
                 compare(evaluations("pwfl", "pwfl.models = 1\npwfl.inner = " + inner), alone, 0),
                 require(alone.size() == 32, "not everybody evaluates")});
}

FL_SELFTEST("pwfl", "equals", "averaged and fine-tuned: fine-tuned FedAvg",
            [] { return like_alone("finetune", "finetune.epochs = 2"); });

// Two exchanges a round, and the server's tensors that clients need between them.
FL_SELFTEST("pwfl", "equals", "one model of mime, bit for bit; two are not alike", [] {
  const Problem problem = even_problem();
  const std::string lines = Local{}.lines() + "pwfl.inner = mime\n";
  const Vector two = solve(problem, "pwfl", lines, 3);
  return all_of({compare(solve(problem, "pwfl", lines + "pwfl.models = 1", 3),
                         solve(problem, "mime", Local{}.lines(), 3), 0),
                 differ(two[std::slice(0, 3, 1)], two[std::slice(3, 3, 1)], 0.01)});
});

// Of one client in each part, mime's c is that client's gradient at w, so that with full batches
// y takes steps of lr ((1-b) c_y + b s), c_y its gradient at y.
FL_SELFTEST("pwfl", "closed form", "mime keeps its statistic for each model apart", [] {
  Problem problem = even_problem();
  problem.cohorts = {{0, 3}};
  return each_model(problem, Local{}, "pwfl.inner = mime\nmime.beta = 0.5",
                    [](const Problem& p, const Local& l, int64_t rounds) {
                      Vector w = p.start, s(0.0, w.size());
                      for (int64_t round = 1; round <= rounds; ++round) {
                        const int64_t k = p.cohort(round).at(0);
                        const Vector c = p.gradient(k, w);
                        Vector y = w;
                        for (int64_t step = 0; step < l.steps; ++step)
                          y -= l.lr * (0.5 * p.gradient(k, y) + 0.5 * s);
                        s = 0.5 * c + 0.5 * s;
                        w = y;
                      }
                      return w;
                    });
});

// That `lines` are refused, with a message that says `text`.
Result refused(const std::string& lines, const std::string& text) {
  try {
    experiment_of(even_problem(), "pwfl", Local().lines() + lines, 1);
  } catch (const Error& error) {
    const std::string what = error.what();
    return require(what.find(text) != std::string::npos, what);
  }
  return require(false, lines + " was not refused");
}

FL_SELFTEST("pwfl", "mistakes", "what makes no sense is refused", [] {
  return all_of({refused("pwfl.models = 5", "pwfl.models is 5, but cohort is 4"),
                 refused("pwfl.inner = pwfl", "within itself"),
                 refused("pwfl.inner = fedvag", "pwfl.inner is fedvag"),
                 refused("pwfl.inner = centralized", "has no clients"),
                 refused("pwfl.merge-every = 2", "pwfl.merge is none"),
                 refused("pwfl.init = different\ninit = start.h5", "init is start.h5")});
});

}  // namespace
}  // namespace fl_sim::selftest
