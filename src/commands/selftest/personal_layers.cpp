// Personalisation by parts of the model: finetune, fedper, fedrep, fedbabu, lgfedavg, fedbn.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/check.h"
#include "commands/selftest/experiments.h"
#include "commands/selftest/networks.h"
#include "network/row_part.h"

namespace fl_sim::selftest {
namespace {

const std::vector<std::string> kAlgorithms = {"finetune", "fedper",   "fedrep",
                                              "fedbabu",  "lgfedavg", "fedbn"};

// The rules in plain doubles ------------------------------------------------------------------

// 1 for the weights of the part and 0 for the others.
Vector head_of(const Problem& problem) {
  Vector part(0.0, problem.start.size());
  for (auto i = static_cast<size_t>(problem.classifier->head()); i < part.size(); ++i) part[i] = 1;
  return part;
}
Vector body_of(const Problem& problem) { return 1.0 - head_of(problem); }
Vector nothing_of(const Problem& problem) { return Vector(0.0, problem.start.size()); }

// Local training of a part, the rest of it frozen; the mean loss before each step goes to `losses`.
Vector train_part(const Problem& problem, int64_t k, const Vector& w, const Local& local,
                  const Vector& part, std::vector<double>* losses = nullptr) {
  Vector y = w, velocity(0.0, w.size());
  for (int64_t step = 0; step < local.steps; ++step) {
    if (losses != nullptr) losses->push_back(problem.loss(k, y));
    Vector g = part * problem.gradient(k, y);
    if (local.clip > 0) g *= std::min(1.0, local.clip / (norm(g) + 1e-6));
    g += local.weight_decay * part * y;
    velocity = local.momentum * velocity + g;
    y -= local.lr * (local.nesterov ? g + local.momentum * velocity : velocity);
  }
  return y;
}

// What a client makes of the model that it starts with.
using Client = std::function<Vector(int64_t k, const Vector& row)>;

// Clients that keep a part of the model: each trains the global model with its own part in it, and
// the server takes the weighted mean of the rest.
struct Federation {
  Vector kept;  // 1 for what clients keep
  Vector global;
  std::map<int64_t, Vector> last = {};  // the whole model that a client ended its last round with
  std::map<std::pair<int64_t, int64_t>, double> moved = {};  // (round, client): |what it shared|

  Vector model_of(int64_t k) const {
    const auto own = last.find(k);
    return own == last.end() ? global : kept * own->second + (1.0 - kept) * global;
  }
};

Federation federate(const Problem& problem, const Vector& kept, int64_t rounds,
                    const Client& client, double server_lr = 1) {
  Federation f{.kept = kept, .global = problem.start};
  for (int64_t t = 1; t <= rounds; ++t) {
    Vector delta(0.0, f.global.size());
    const std::vector<int64_t> cohort = problem.survivors(t);
    for (const int64_t k : cohort) {
      const Vector y = client(k, f.model_of(k)), shared = (1.0 - kept) * (y - f.global);
      delta += problem.share(k, cohort) * shared;
      f.last[k] = y;
      f.moved[{t, k}] = norm(shared);
    }
    f.global += server_lr * delta;
  }
  return f;
}

Client joint_training(const Problem& problem, const Local& local) {
  return [&problem, local](int64_t k, const Vector& row) { return problem.train(k, row, local); };
}

// Arivazhagan et al. 2019, and with the other half kept Liang et al. 2020.
Federation fedper(const Problem& problem, const Local& local, int64_t rounds, double lr = 1) {
  return federate(problem, head_of(problem), rounds, joint_training(problem, local), lr);
}
Federation lgfedavg(const Problem& problem, const Local& local, int64_t rounds) {
  return federate(problem, body_of(problem), rounds, joint_training(problem, local));
}

// Collins et al. 2021: the head first, then the body.
Federation fedrep(const Problem& problem, const Local& local, int64_t rounds, int64_t head_epochs) {
  Local head = local;
  head.steps = head_epochs;
  return federate(problem, head_of(problem), rounds, [&](int64_t k, const Vector& row) {
    return train_part(problem, k, train_part(problem, k, row, head, head_of(problem)), local,
                      body_of(problem));
  });
}

// Oh et al. 2022: the body alone.
Federation fedbabu(const Problem& problem, const Local& local, int64_t rounds) {
  return federate(problem, nothing_of(problem), rounds, [&](int64_t k, const Vector& row) {
    return train_part(problem, k, row, local, body_of(problem));
  });
}

// Full batches: so many steps.
Vector fine_tuned(const Problem& problem, int64_t k, const Vector& row, Local local, int64_t epochs,
                  const Vector& part) {
  local.steps = epochs;
  return train_part(problem, k, row, local, part);
}

// What is compared ----------------------------------------------------------------------------

// Clients evaluate on the next one's samples, which they do not train on.
int64_t tested_on(const Problem& problem, int64_t k) { return (k + 1) % problem.population(); }

Experiment evaluated_on_others(const Problem& problem, const std::string& algorithm,
                               const std::string& lines, int64_t rounds) {
  Experiment e = experiment_of(problem, algorithm,
                               lines + "\nevaluate-clients = 1\nevaluate-every = 1\n", rounds);
  std::vector<std::vector<int64_t>> lists;
  for (int64_t k = 0; k < problem.population(); ++k) {
    const auto list = e.partition.of(tested_on(problem, k));
    lists.emplace_back(list.begin(), list.end());
  }
  e.test = make_partition(lists);
  return e;
}

double accuracy(const Problem& problem, int64_t k, const Vector& w) {
  double correct = 0;
  for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
    const Vector scores = problem.classifier->scores(w, point.a);
    const auto best = std::max_element(std::begin(scores), std::end(scores)) - std::begin(scores);
    correct += best == point.label ? 1 : 0;
  }
  return correct / static_cast<double>(problem.size(k));
}

// The clients' own models after each of three rounds, the last of which is the first of client 3:
// their losses and accuracies against those of `model`.
using Model = std::function<Vector(int64_t rounds, int64_t k)>;
Result own_models(const Problem& problem, const std::string& algorithm, const std::string& lines,
                  const Model& model) {
  std::vector<Result> results;
  for (const char* group : {"\ngroup-size = 1", "\ngroup-size = 3"}) {
    Experiment e = evaluated_on_others(problem, algorithm, lines + group, 3);
    const Finished finished = run_recorded(e);
    results.push_back(require(finished.evaluations.size() == 12, "not every client evaluates"));
    for (const ClientEvaluation& evaluation : finished.evaluations) {
      const Vector row = model(evaluation.round, evaluation.client);
      const int64_t tested = tested_on(problem, evaluation.client);
      results.push_back({std::abs(evaluation.personal_loss - problem.loss(tested, row)), kTolerance,
                         message("loss of client ", evaluation.client, "'s model after round ",
                                 evaluation.round, group)});
      results.push_back({std::abs(evaluation.personal_accuracy - accuracy(problem, tested, row)),
                         kTolerance,
                         message("accuracy of client ", evaluation.client, "'s model after round ",
                                 evaluation.round, group)});
    }
  }
  return all_of(results);
}

// Numbers of a kept part [n] in their places of a row, 0 elsewhere.
Vector in_place(const torch::Tensor& values, const RowPart& part, const Network& network) {
  const torch::Tensor rows = torch::zeros({1, network.layout().row()}, values.options());
  part.scatter(rows, values.unsqueeze(0));
  return numbers(rows, network.layout());
}

// What clients keep after two and three rounds, and the length of what they shared.
Result kept_parts(const Problem& problem, const std::string& algorithm, const std::string& lines,
                  const std::string& name, const std::function<Federation(int64_t)>& rule) {
  std::vector<Result> results;
  for (const int64_t rounds : {2, 3}) {
    const Federation f = rule(rounds);
    Experiment e = evaluated_on_others(problem, algorithm, lines, rounds);
    const Finished finished = run_recorded(e);
    const RowPart head = fl_sim::head_of(*e.network);
    const RowPart part = name == "head" ? head : head.complement(e.network->layout());
    results.push_back(
        require(finished.states.size() == f.last.size(), "others than those that trained keep it"));
    for (const auto& [k, state] : finished.states) {
      results.push_back(compare(in_place(state.at(name), part, *e.network), f.kept * f.last.at(k)));
      results.back().note = message("client ", k, " after round ", rounds);
      results.push_back(differ(f.kept * f.last.at(k), f.kept * problem.start, 0.01));
    }
    // What is kept is as it was in the global model.
    const Vector global = numbers(finished.server.weights, e.network->layout());
    results.push_back(compare(f.kept * global, f.kept * problem.start, 0));
    for (const ClientRecord& record : finished.clients) {
      results.push_back({std::abs(record.delta_norm - f.moved.at({record.round, record.client})),
                         kTolerance, message("delta_norm of client ", record.client)});
    }
  }
  return all_of(results);
}

Vector losses_of(const Finished& finished, bool personal) {
  std::vector<double> losses;
  for (const ClientEvaluation& e : finished.evaluations) {
    losses.insert(losses.end(), {personal ? e.personal_loss : e.loss,
                                 personal ? e.personal_accuracy : e.accuracy});
  }
  return Vector(losses.data(), losses.size());
}

Vector states_of(const Finished& finished) {
  std::vector<torch::Tensor> all = {torch::zeros({0}, torch::kFloat64)};
  for (const auto& [k, state] : finished.states) {
    for (const auto& [name, tensor] : state) all.push_back(tensor.to(torch::kFloat64));
  }
  return to_vector(torch::cat(all));
}

// Bit for bit: weights and everything that clients keep.
Result same(const Finished& a, const Finished& b) {
  return all_of({compare(a.weights, b.weights, 0), compare(states_of(a), states_of(b), 0)});
}

const Local kPlain{};
const Local kAll{.steps = 4, .momentum = 0.5, .weight_decay = 0.125, .clip = 0.5, .nesterov = true};

// all six -------------------------------------------------------------------------------------

// A client's own model is made for evaluation alone: without any evaluation the run is the same.
[[maybe_unused]] const bool kUnchangedByEvaluation = [] {
  for (const std::string& algorithm : kAlgorithms) {
    add_check({algorithm, "mistakes", "evaluation changes nothing that is kept", [algorithm] {
                 const Problem problem = classifier_problem();
                 Experiment looked = evaluated_on_others(problem, algorithm, kAll.lines(), 3);
                 Experiment blind =
                     experiment_of(problem, algorithm, kAll.lines() + "evaluate-clients = 0", 3);
                 return same(run_recorded(looked), run(blind));
               }});
    // It weighs nothing, and keeps what it received.
    add_check({algorithm, "mistakes", "a client without samples changes nothing", [algorithm] {
                 Problem problem = classifier_problem();
                 problem.clients[1].clear();
                 const std::string lines = kPlain.lines() + "group-size = 3";
                 Experiment with = experiment_of(problem, algorithm, lines, 3);
                 const Finished result = run_recorded(with);
                 problem.cohorts = {{0, 2}, {0}, {0, 2, 3}};
                 Experiment without = experiment_of(problem, algorithm, lines, 3);
                 bool finite = true;
                 for (const double value : states_of(result))
                   finite = finite && std::isfinite(value);
                 return all_of({compare(result.weights, run(without).weights, 1e-12),
                                require(finite, "what it keeps is not finite")});
               }});
  }
  return true;
}();

[[maybe_unused]] const bool kNeedABody = [] {
  for (const char* algorithm : {"fedper", "fedrep", "fedbabu", "lgfedavg"}) {
    add_check({algorithm, "mistakes", "a model without a body is refused", [algorithm] {
                 std::string reason = "it is accepted";
                 try {
                   experiment_of(classifier_problem(0), algorithm, kPlain.lines(), 1);
                 } catch (const Error& error) {
                   reason = error.what();
                 }
                 return require(reason.find("is all head") != std::string::npos, reason);
               }});
  }
  return true;
}();

// fedper --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedper", "the averaged body", classifier_problem(), kPlain, "", fedper, 1);
FL_CLOSED_FORM("fedper", "all of a local optimiser, and a server rate of a half",
               classifier_problem(), kAll, "server.lr = 0.5", fedper, 0.5);

FL_SELFTEST("fedper", "closed form", "the heads that clients keep", [] {
  const Problem problem = classifier_problem();
  return kept_parts(problem, "fedper", kAll.lines(), "head",
                    [&](int64_t rounds) { return fedper(problem, kAll, rounds); });
});

FL_SELFTEST("fedper", "closed form", "the clients' own models; the global one before the first",
            [] {
              const Problem problem = classifier_problem();
              return own_models(problem, "fedper", kAll.lines(), [&](int64_t rounds, int64_t k) {
                return fedper(problem, kAll, rounds).model_of(k);
              });
            });

FL_SELFTEST("fedper", "equals", "without a head it is FedAvg, bit for bit", [] {
  const Problem problem = classifier_problem();
  Experiment none = evaluated_on_others(problem, "fedper", kAll.lines() + "fedper.part = none", 3);
  Experiment fedavg = evaluated_on_others(problem, "fedavg", kAll.lines(), 3);
  const Finished a = run_recorded(none), b = run_recorded(fedavg);
  return all_of(
      {same(a, b), compare(losses_of(a, true), losses_of(b, false), 0),
       require(a.clients.at(0).delta_norm == b.clients.at(0).delta_norm, "another delta_norm")});
});

// An adaptive server moves nothing by a mean delta of 0.
FL_SELFTEST("fedper", "mistakes", "no server's rule moves the head of the global model", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const char* rule : {"momentum", "adagrad", "adam", "yogi"}) {
    const Vector w =
        solve(problem, "fedper",
              message(kPlain.lines(), "server.lr = 0.1\nserver.optimizer = ", rule), 3);
    results.push_back(compare(head_of(problem) * w, head_of(problem) * problem.start, 0));
    results.push_back(differ(w, problem.start, 0.01));
  }
  return all_of(results);
});

// lgfedavg ------------------------------------------------------------------------------------

FL_CLOSED_FORM("lgfedavg", "the averaged head", classifier_problem(), kPlain, "", lgfedavg);
FL_CLOSED_FORM("lgfedavg", "all of a local optimiser", classifier_problem(), kAll, "", lgfedavg);

FL_SELFTEST("lgfedavg", "closed form", "the bodies that clients keep", [] {
  const Problem problem = classifier_problem();
  return kept_parts(problem, "lgfedavg", kAll.lines(), "body",
                    [&](int64_t rounds) { return lgfedavg(problem, kAll, rounds); });
});

FL_SELFTEST("lgfedavg", "closed form", "the clients' own models", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "lgfedavg", kAll.lines(), [&](int64_t rounds, int64_t k) {
    return lgfedavg(problem, kAll, rounds).model_of(k);
  });
});

FL_SELFTEST("lgfedavg", "equals", "its first round is FedAvg's in the head, FedPer's in the body",
            [] {
              const Problem problem = classifier_problem();
              const Vector fedavg = solve(problem, "fedavg", kAll.lines(), 1),
                           local = solve(problem, "lgfedavg", kAll.lines(), 1),
                           fedper = solve(problem, "fedper", kAll.lines(), 1);
              return compare(local + fedper, fedavg + problem.start, 1e-15);
            });

// fedrep --------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedrep", "an epoch of the head, then some of the body", classifier_problem(),
               kPlain, "", fedrep, 1);
FL_CLOSED_FORM("fedrep", "five epochs of the head, all of a local optimiser", classifier_problem(),
               kAll, "fedrep.head-epochs = 5", fedrep, 5);

FL_SELFTEST("fedrep", "closed form", "the heads that clients keep", [] {
  const Problem problem = classifier_problem();
  return kept_parts(problem, "fedrep", kAll.lines() + "fedrep.head-epochs = 2", "head",
                    [&](int64_t rounds) { return fedrep(problem, kAll, rounds, 2); });
});

FL_SELFTEST("fedrep", "closed form", "the clients' own models", [] {
  const Problem problem = classifier_problem();
  return own_models(
      problem, "fedrep", kAll.lines() + "fedrep.head-epochs = 2",
      [&](int64_t rounds, int64_t k) { return fedrep(problem, kAll, rounds, 2).model_of(k); });
});

FL_SELFTEST("fedrep", "closed form", "steps and losses are those of both trainings", [] {
  const Problem problem = classifier_problem();
  const Local body{.steps = 3}, head{.steps = 2};
  Experiment e = evaluated_on_others(problem, "fedrep", body.lines() + "fedrep.head-epochs = 2", 1);
  std::vector<Result> results;
  for (const ClientRecord& record : run_recorded(e).clients) {
    std::vector<double> losses;
    const Vector first =
        train_part(problem, record.client, problem.start, head, head_of(problem), &losses);
    train_part(problem, record.client, first, body, body_of(problem), &losses);
    const double mean = Vector(losses.data(), losses.size()).sum() / 5;
    results.push_back(require(record.steps == 5 && record.step_weight == 3 &&
                                  record.samples_seen == 5 * problem.size(record.client),
                              "other steps than five, three of the body"));
    results.push_back({std::abs(record.loss - mean), kTolerance, "mean loss"});
    results.push_back({std::abs(record.loss_before - losses.front()), kTolerance, "first loss"});
    results.push_back({std::abs(record.loss_after - losses.back()), kTolerance, "last loss"});
  }
  return all_of(results);
});

FL_SELFTEST("fedrep", "equals", "without head epochs it trains as FedBABU, bit for bit", [] {
  const Problem problem = classifier_problem();
  const std::string lines = kAll.lines();
  return compare(solve(problem, "fedrep", lines + "fedrep.head-epochs = 0", 3),
                 solve(problem, "fedbabu", lines, 3), 0);
});

// Head and body see the samples in orders of their own: with one order for both, the one of the
// two samples that the head takes last would always be the one that the body takes last.
FL_SELFTEST("fedrep", "mistakes", "head and body are trained on batches of their own", [] {
  Problem problem = classifier_problem();
  problem.cohorts = {{0}};
  Local one{.steps = 1};
  const auto& points = problem.clients[0];
  const auto in_order = [&](Vector w, const Vector& part, size_t first) {
    for (const size_t i : {first, 1 - first}) {
      w -= one.lr * part * problem.gradient(points[i], w);
    }
    return w;
  };
  bool same_order = false, other_order = false;
  std::vector<Result> results;
  for (int seed = 1; seed <= 12; ++seed) {
    const Vector w = solve(
        problem, "fedrep",
        message("local.epochs = 1\nlocal.batch-size = 1\nlocal.lr = ", one.lr, "\nseed = ", seed),
        1);
    double nearest = 1;
    for (const size_t head : {0, 1}) {
      for (const size_t body : {0, 1}) {
        const Vector expected =
            in_order(in_order(problem.start, head_of(problem), head), body_of(problem), body);
        const double d = distance(body_of(problem) * w, body_of(problem) * expected);
        nearest = std::min(nearest, d);
        if (d <= kTolerance) (head == body ? same_order : other_order) = true;
      }
    }
    results.push_back({nearest, kTolerance, "none of the four orders"});
  }
  results.push_back(require(same_order && other_order, "always the same of both orders"));
  return all_of(results);
});

// fedbabu -------------------------------------------------------------------------------------

FL_CLOSED_FORM("fedbabu", "the body under the initial head", classifier_problem(), kPlain, "",
               fedbabu);
FL_CLOSED_FORM("fedbabu", "all of a local optimiser", classifier_problem(), kAll, "", fedbabu);

FL_SELFTEST("fedbabu", "closed form", "models that were fine-tuned for five epochs", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "fedbabu", kAll.lines(), [&](int64_t rounds, int64_t k) {
    return fine_tuned(problem, k, fedbabu(problem, kAll, rounds).global, kAll, 5,
                      1.0 - nothing_of(problem));
  });
});

FL_SELFTEST("fedbabu", "closed form", "models whose head alone was fine-tuned for two epochs", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "fedbabu",
                    kAll.lines() + "fedbabu.finetune-epochs = 2\nfedbabu.part = head",
                    [&](int64_t rounds, int64_t k) {
                      return fine_tuned(problem, k, fedbabu(problem, kAll, rounds).global, kAll, 2,
                                        head_of(problem));
                    });
});

FL_SELFTEST("fedbabu", "equals", "without fine-tuning everybody has the global model", [] {
  Experiment e = evaluated_on_others(classifier_problem(), "fedbabu",
                                     kAll.lines() + "fedbabu.finetune-epochs = 0", 3);
  const Finished finished = run_recorded(e);
  return all_of({compare(losses_of(finished, true), losses_of(finished, false), 0),
                 require(finished.evaluations.size() == 12, "not every client evaluates")});
});

FL_SELFTEST("fedbabu", "mistakes", "the head stays as it was, whatever a local optimiser does", [] {
  const Problem problem = classifier_problem();
  Experiment e = experiment_of(problem, "fedbabu", kAll.lines(), 3);
  const Vector w = numbers(run(e).server.weights, e.network->layout());
  return compare(head_of(problem) * w, head_of(problem) * problem.start, 0);
});

// finetune ------------------------------------------------------------------------------------

FL_CLOSED_FORM("finetune", "the global model is FedAvg's", Local{.momentum = 0.5}, "", fedavg, 1);
FL_CLOSED_FORM("finetune", "around SCAFFOLD, the global model is SCAFFOLD's", Local{},
               "finetune.inner = scaffold", scaffold, 1, true);
FL_CLOSED_FORM("finetune", "around FedPer, the global model is FedPer's", classifier_problem(),
               Local{}, "finetune.inner = fedper", fedper, 1);

FL_SELFTEST("finetune", "closed form", "FedAvg's model after one more epoch", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "finetune", kAll.lines(), [&](int64_t rounds, int64_t k) {
    return fine_tuned(problem, k, fedavg(problem, kAll, rounds), kAll, 1,
                      1.0 - nothing_of(problem));
  });
});

FL_SELFTEST("finetune", "closed form", "FedAvg's model, whose head alone trains four epochs", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "finetune", kAll.lines() + "finetune.epochs = 4\nfinetune.part = head",
                    [&](int64_t rounds, int64_t k) {
                      return fine_tuned(problem, k, fedavg(problem, kAll, rounds), kAll, 4,
                                        head_of(problem));
                    });
});

FL_SELFTEST("finetune", "closed form", "around FedPer it starts from the clients' own models", [] {
  const Problem problem = classifier_problem();
  return own_models(problem, "finetune",
                    kPlain.lines() + "finetune.epochs = 2\nfinetune.inner = fedper",
                    [&](int64_t rounds, int64_t k) {
                      return fine_tuned(problem, k, fedper(problem, kPlain, rounds).model_of(k),
                                        kPlain, 2, 1.0 - nothing_of(problem));
                    });
});

FL_SELFTEST("finetune", "equals", "0 epochs are the inner algorithm, bit for bit", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const char* inner : {"fedavg", "fedadam", "scaffold", "fedper", "fedrep"}) {
    Experiment around = evaluated_on_others(
        problem, "finetune", message(kAll.lines(), "finetune.epochs = 0\nfinetune.inner = ", inner),
        3);
    Experiment alone = evaluated_on_others(problem, inner, kAll.lines(), 3);
    const Finished a = run_recorded(around), b = run_recorded(alone);
    results.push_back(same(a, b));
    results.back().note = inner;
    results.push_back(compare(losses_of(a, false), losses_of(b, false), 0));
    results.push_back(
        compare(losses_of(a, true), losses_of(b, alone.algorithm->needs().personal), 0));
    results.push_back(require(losses_of(a, true).size() == 24, "not every client evaluates"));
  }
  return all_of(results);
});

FL_SELFTEST("finetune", "equals", "around FedBABU without its own fine-tuning it is FedBABU", [] {
  const Problem problem = classifier_problem();
  Experiment outer = evaluated_on_others(problem, "finetune",
                                         kAll.lines() +
                                             "finetune.inner = fedbabu\nfinetune.epochs = 3\n"
                                             "fedbabu.finetune-epochs = 0",
                                         3);
  Experiment inner =
      evaluated_on_others(problem, "fedbabu", kAll.lines() + "fedbabu.finetune-epochs = 3", 3);
  const Finished a = run_recorded(outer), b = run_recorded(inner);
  return all_of({same(a, b), compare(losses_of(a, true), losses_of(b, true), 0)});
});

// fedbn ---------------------------------------------------------------------------------------

FL_SELFTEST("fedbn", "equals", "a model without normalising layers: FedAvg, bit for bit", [] {
  const Problem problem = classifier_problem();
  Experiment fedbn = evaluated_on_others(problem, "fedbn", kAll.lines(), 3);
  Experiment fedavg = evaluated_on_others(problem, "fedavg", kAll.lines(), 3);
  const Finished a = run_recorded(fedbn), b = run_recorded(fedavg);
  return all_of({same(a, b), compare(losses_of(a, true), losses_of(b, false), 0)});
});

// NormalisedLinear in LibTorch's own operations: parameters and running statistics by name,
// float64.
using Named = std::map<std::string, torch::Tensor>;

Named named(const torch::Tensor& row, const ParameterLayout& layout) {
  Named result;
  for (int64_t i = 0; i < std::ssize(layout.parameters()); ++i) {
    const Parameter& parameter = layout.parameters()[static_cast<size_t>(i)];
    result[parameter.name] =
        layout.view(row.view({1, -1}), i).reshape(parameter.shape).to(torch::kFloat64).clone();
  }
  return result;
}

bool is_norm(const std::string& name) { return name.starts_with("norm."); }

torch::Tensor scores_of(const Named& w, const torch::Tensor& x, const torch::Tensor& mean,
                        const torch::Tensor& var) {
  const torch::Tensor normalised = (x - mean) / torch::sqrt(var + 1e-5);
  const torch::Tensor z = normalised * w.at("norm.weight") + w.at("norm.bias");
  return torch::matmul(z, w.at("fc.weight").t()) + w.at("fc.bias");
}

Named train_normalised(Named w, const Samples& data, int64_t steps, double lr) {
  const torch::Tensor x = data.inputs.to(torch::kFloat64), mean = x.mean(0);
  const torch::Tensor var = (x - mean).square().mean(0);
  const double n = static_cast<double>(data.size());
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<torch::Tensor> leaves;
    for (const char* name : {"norm.weight", "norm.bias", "fc.weight", "fc.bias"}) {
      w[name] = w[name].detach().requires_grad_(true);
      leaves.push_back(w[name]);
    }
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(scores_of(w, x, mean, var), data.labels);
    const auto gradients = torch::autograd::grad({loss}, leaves);
    size_t i = 0;
    for (const char* name : {"norm.weight", "norm.bias", "fc.weight", "fc.bias"}) {
      w[name] = w[name].detach() - lr * gradients[i++];
    }
    w["norm.running_mean"] = 0.9 * w["norm.running_mean"] + 0.1 * mean;
    w["norm.running_var"] = 0.9 * w["norm.running_var"] + 0.1 * var * n / (n - 1);
  }
  return w;
}

// Three clients of 2, 6 and 8 samples; the last one misses a round, and so do the others.
struct NormalisedProblem {
  std::vector<std::vector<int64_t>> cohorts = {{0, 1}, {2}, {0, 1, 2}};
  std::vector<std::vector<int64_t>> lists = {
      {0, 1}, {2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}};
  Samples data = {
      torch::arange(48).mul(7).remainder(16).sub(7.5).div(8).view({16, 3}).to(torch::kFloat32),
      torch::arange(16).mul(3).remainder(5).remainder(2)};

  Samples of(int64_t k) const {
    const torch::Tensor index = torch::tensor(lists[static_cast<size_t>(k)], torch::kInt64);
    return {data.inputs.index_select(0, index), data.labels.index_select(0, index)};
  }

  // Clients evaluate on the next one's samples.
  Experiment experiment(const std::string& lines, int64_t rounds) const {
    Experiment e =
        hand_made_experiment(message(kPlain.lines(), lines, "\nrounds = ", rounds,
                                     "\ncohort = 2\nevaluate-clients = 1\nevaluate-every = 1"),
                             data, 2, lists, std::make_unique<NormalisedLinear>(3, 2));
    e.sampler = std::make_unique<FixedCohorts>(cohorts);
    e.test = make_partition({lists[1], lists[2], lists[0]});
    return e;
  }
};

Vector vector_of(const Named& w, bool norm) {
  std::vector<torch::Tensor> parts;
  for (const auto& [name, tensor] : w) {
    if (is_norm(name) == norm) parts.push_back(tensor.flatten());
  }
  return to_vector(torch::cat(parts));
}

// Li et al. 2021: what is shared is averaged by samples, each client's normalisation stays with it.
FL_SELFTEST("fedbn", "closed form", "shared layers, own normalisation and own models", [] {
  const NormalisedProblem problem;
  std::vector<Result> results;
  for (const char* lines : {"algorithm = fedbn", "algorithm = fedbn\ngroup-size = 3",
                            "algorithm = finetune\nfinetune.inner = fedbn\nfinetune.epochs = 0"}) {
    Experiment e = problem.experiment(lines, 3);
    const ParameterLayout& layout = e.network->layout();
    const Named start = named(initial_row(e, 0), layout);
    const Finished finished = run_recorded(e);

    Named global = start;
    std::map<int64_t, Named> own;
    const auto model_of = [&](int64_t k) {
      Named model = global;
      for (auto& [name, tensor] : model) {
        if (is_norm(name) && own.contains(k)) tensor = own.at(k).at(name);
      }
      return model;
    };
    size_t evaluations = 0;
    for (int64_t round = 1; round <= 3; ++round) {
      const std::vector<int64_t>& cohort = problem.cohorts[static_cast<size_t>(round - 1)];
      double samples = 0;
      for (const int64_t k : cohort) samples += static_cast<double>(problem.of(k).size());
      Named mean = start;
      for (auto& [name, tensor] : mean) tensor = torch::zeros_like(tensor);
      for (const int64_t k : cohort) {
        own[k] = train_normalised(model_of(k), problem.of(k), kPlain.steps, kPlain.lr);
        for (auto& [name, tensor] : mean) {
          tensor = tensor + own[k].at(name) * (static_cast<double>(problem.of(k).size()) / samples);
        }
      }
      for (auto& [name, tensor] : global) {
        if (!is_norm(name)) tensor = mean.at(name);
      }
      for (const ClientEvaluation& evaluation : finished.evaluations) {
        if (evaluation.round != round) continue;
        ++evaluations;
        const Named model = model_of(evaluation.client);
        const Samples test = problem.of((evaluation.client + 1) % 3);
        const torch::Tensor scores =
            scores_of(model, test.inputs.to(torch::kFloat64), model.at("norm.running_mean"),
                      model.at("norm.running_var"));
        const double loss =
            torch::nn::functional::cross_entropy(scores, test.labels).item<double>();
        results.push_back({std::abs(evaluation.personal_loss - loss), kTolerance,
                           message("client ", evaluation.client, "'s model after round ", round)});
      }
    }
    results.push_back(require(evaluations == 9, "not every client evaluates"));
    const Named trained = named(finished.server.weights[0], layout);
    results.push_back(compare(vector_of(trained, false), vector_of(global, false)));
    results.back().note = "shared layers";
    results.push_back(compare(vector_of(trained, true), vector_of(start, true), 0));
    results.back().note = "the global model's normalisation";
    for (int64_t k = 0; k < 3; ++k) {
      const torch::Tensor rows = torch::zeros({1, layout.row()}, torch::kFloat64);
      normalisation_of(layout).scatter(rows,
                                       finished.states.at(k).at("normalisation").unsqueeze(0));
      results.push_back(compare(vector_of(named(rows[0], layout), true), vector_of(own[k], true)));
      results.back().note = message("client ", k, "'s normalisation");
      results.push_back(differ(vector_of(own[k], true), vector_of(start, true), 0.01));
    }
  }
  return all_of(results);
});

// Running statistics belong to the body: FedPer shares them and LG-FedAvg keeps them.
FL_SELFTEST("fedper", "equals", "its first body is FedAvg's, running statistics included", [] {
  const NormalisedProblem problem;
  const auto after = [&](const std::string& algorithm) {
    Experiment e = problem.experiment("algorithm = " + algorithm, 1);
    return vector_of(named(run(e).server.weights[0], e.network->layout()), true);
  };
  return compare(after("fedper"), after("fedavg"), 0);
});

FL_SELFTEST(
    "lgfedavg", "mistakes", "running statistics stay at the client, as all of the body", [] {
      const NormalisedProblem problem;
      Experiment e = problem.experiment("algorithm = lgfedavg", 3);
      const Vector start = vector_of(named(initial_row(e, 0), e.network->layout()), true);
      const Finished finished = run_recorded(e);
      const RowPart body = fl_sim::head_of(*e.network).complement(e.network->layout());
      std::vector<Result> results = {compare(
          vector_of(named(finished.server.weights[0], e.network->layout()), true), start, 0)};
      for (const auto& [k, state] : finished.states) {
        const torch::Tensor rows = torch::zeros({1, e.network->layout().row()}, torch::kFloat64);
        body.scatter(rows, state.at("body").unsqueeze(0));
        const Named own = named(rows[0], e.network->layout());
        const torch::Tensor first = problem.of(k).inputs.to(torch::kFloat64).mean(0);
        const double kept = std::pow(0.9, 6);  // two rounds of three steps
        results.push_back(
            compare(to_vector(own.at("norm.running_mean")), to_vector(first * (1 - kept))));
        results.back().note = message("client ", k);
      }
      results.push_back(require(finished.states.size() == 3, "not every client keeps its body"));
      return all_of(results);
    });

}  // namespace
}  // namespace fl_sim::selftest
