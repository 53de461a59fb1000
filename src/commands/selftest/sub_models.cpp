// Sub-models: heterofl, fjord, fedrolex, feddropout.
//
// The rules are computed on classifiers that really are as narrow as a client's, whose numbers are
// put back to where they came from.
#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"
#include "base/rng.h"
#include "commands/selftest/experiments.h"
#include "learning/sub_models.h"
#include "network/sequential.h"

namespace fl_sim::selftest {
namespace {

constexpr uint64_t kSeed = 5;
constexpr const char* kSeedLine = "seed = 5\n";

using Units = std::vector<size_t>;

Units first_units(size_t count) {
  Units units;
  for (size_t i = 0; i < count; ++i) units.push_back(i);
  return units;
}

size_t kept(double rate, int64_t units) {
  return static_cast<size_t>(std::ceil(rate * static_cast<double>(units)));
}

// Where the numbers of the classifier with these hidden units stand in the whole one's.
std::vector<size_t> places_of(const Classifier& whole, const Units& units) {
  const auto features = static_cast<size_t>(whole.features),
             hidden = static_cast<size_t>(whole.hidden),
             classes = static_cast<size_t>(whole.classes), head = static_cast<size_t>(whole.head());
  std::vector<size_t> places;
  for (const size_t unit : units) {
    for (size_t f = 0; f < features; ++f) places.push_back(unit * features + f);
  }
  for (const size_t unit : units) places.push_back(hidden * features + unit);
  for (size_t c = 0; c < classes; ++c) {
    for (const size_t unit : units) places.push_back(head + c * hidden + unit);
  }
  for (size_t c = 0; c < classes; ++c) places.push_back(head + classes * hidden + c);
  return places;
}

Problem narrowed(const Problem& problem, size_t units) {
  Problem narrow = problem;
  narrow.classifier->hidden = static_cast<int64_t>(units);
  return narrow;
}

Vector part_of(const Vector& w, const std::vector<size_t>& places) {
  Vector part(places.size());
  for (size_t i = 0; i < places.size(); ++i) part[i] = w[places[i]];
  return part;
}

// With the levels of clients by id: a shuffled list is dealt from the widest on.
std::vector<double> dealt(const std::vector<double>& rates, int64_t clients) {
  std::vector<double> of(static_cast<size_t>(clients));
  const std::vector<int64_t> order = Rng(kSeed, "width").permutation(clients);
  for (int64_t i = 0; i < clients; ++i) {
    const auto level = static_cast<size_t>(i * std::ssize(rates) / clients);
    of[static_cast<size_t>(order[static_cast<size_t>(i)])] = rates[level];
  }
  return of;
}

// What client k makes in round t of its sub-model: the places of its numbers, and their change.
struct Trained {
  std::vector<size_t> places;
  Vector change;
};
using Client = std::function<Trained(int64_t k, int64_t t, const Vector& w)>;

// Each number goes to the mean over those that have it.
Vector mean_of_those(const Problem& problem, int64_t rounds, bool uniform, const Client& client) {
  Vector w = problem.start;
  for (int64_t t = 1; t <= rounds; ++t) {
    Vector sum(0.0, w.size()), weight(0.0, w.size());
    for (const int64_t k : problem.survivors(t)) {
      const Trained trained = client(k, t, w);
      const double p = uniform ? 1 : static_cast<double>(problem.size(k));
      for (size_t i = 0; i < trained.places.size(); ++i) {
        sum[trained.places[i]] += p * trained.change[i];
        weight[trained.places[i]] += p;
      }
    }
    for (size_t j = 0; j < w.size(); ++j) {
      if (weight[j] > 0) w[j] += sum[j] / weight[j];
    }
  }
  return w;
}

// Local training of these units, whose outputs count `scale` times as much.
Trained train_units(const Problem& problem, int64_t k, const Vector& w, const Local& local,
                    const Units& units, double scale) {
  const std::vector<size_t> places = places_of(*problem.classifier, units);
  const Problem narrow = narrowed(problem, units.size());
  Vector factor(1.0, places.size());
  for (size_t i = 0; i < static_cast<size_t>(narrow.classifier->head()); ++i) factor[i] = scale;
  const Vector start = part_of(w, places);
  const Vector end = narrow.train(k, start, local, [&](const Vector& y) {
    return Vector(factor * narrow.gradient(k, factor * y) - narrow.gradient(k, y));
  });
  return {places, end - start};
}

Vector heterofl(const Problem& problem, const Local& local, int64_t rounds,
                const std::vector<double>& rates, bool scaler, bool uniform) {
  const std::vector<double> of = dealt(rates, problem.population());
  return mean_of_those(problem, rounds, uniform, [&](int64_t k, int64_t, const Vector& w) {
    const double rate = of[static_cast<size_t>(k)];
    return train_units(problem, k, w, local, first_units(kept(rate, problem.classifier->hidden)),
                       scaler ? 1 / rate : 1);
  });
}

// heterofl -------------------------------------------------------------------------------------

FL_CLOSED_FORM("heterofl", "two widths, with the scaler", classifier_problem(), Local{},
               message(kSeedLine, "width.levels = 1, 0.5"), heterofl, std::vector{1.0, 0.5}, true,
               true);
FL_CLOSED_FORM("heterofl", "four widths without it, weights by samples, momentum and decay",
               classifier_problem(), Local{.momentum = 0.5, .weight_decay = 0.125},
               message(kSeedLine, "width.levels = 0.25, 1, 0.5, 0.75\nwidth.scaler = false\n",
                       "weighting = samples"),
               heterofl, std::vector{1.0, 0.75, 0.5, 0.25}, false, false);
// What the scaler does to a gradient comes before it is clipped.
FL_CLOSED_FORM("heterofl", "the scaler under clipping, momentum and decay", classifier_problem(),
               Local{.momentum = 0.5, .weight_decay = 0.125, .clip = 0.25},
               message(kSeedLine, "width.levels = 1, 0.25"), heterofl, std::vector{1.0, 0.25}, true,
               true);
FL_CLOSED_FORM("heterofl", "the scaler under Adam", classifier_problem(),
               (Local{.lr = 0.03125, .adam = true, .epsilon = 0.0625}),
               message(kSeedLine, "width.levels = 1, 0.5"), heterofl, std::vector{1.0, 0.5}, true,
               true);

FL_SELFTEST("heterofl", "equals", "all widths 1: FedAvg with uniform weights, bit for bit", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const char* algorithm : {"heterofl", "fjord", "fedrolex", "feddropout"}) {
    const std::string lines = Local{.momentum = 0.5}.lines() + "weighting = uniform";
    results.push_back(compare(solve(problem, algorithm, lines + "\nwidth.levels = 1", 3),
                              solve(problem, "fedavg", lines, 3), 0));
    results.back().note = algorithm;
  }
  return all_of(results);
});

// Of the whole model the numbers that nobody has keep their bits.
FL_SELFTEST("heterofl", "equals", "one width for all: FedAvg of the narrow model", [] {
  const Problem problem = classifier_problem();
  const std::vector<size_t> places = places_of(*problem.classifier, first_units(2));
  Problem narrow = narrowed(problem, 2);
  narrow.start = part_of(problem.start, places);
  const std::string lines =
      Local{.momentum = 0.5, .weight_decay = 0.125}.lines() + "weighting = uniform\n";
  const Vector end =
      solve(problem, "heterofl", lines + "width.levels = 0.5\nwidth.scaler = false", 3);
  std::vector<Result> results = {compare(part_of(end, places), solve(narrow, "fedavg", lines, 3))};
  const std::set<size_t> inside(places.begin(), places.end());
  for (size_t j = 0; j < end.size(); ++j) {
    if (!inside.contains(j))
      results.push_back(require(end[j] == problem.start[j], message("number ", j, " has moved")));
  }
  results.push_back(require(inside.size() < end.size(), "nothing is outside"));
  return all_of(results);
});

// Convolutions, of whose channels each is several inputs of the linear layer behind.
class ConvolutionChain final : public Sequential {
 public:
  ConvolutionChain(const std::vector<int64_t>& widths, torch::Tensor row)
      : Sequential({2, 9, 8}), row_(std::move(row)) {
    conv2d("conv1", widths[0], 3, {.padding = 1});
    max_pool2d(2);
    relu();
    conv2d("conv2", widths[1], 3);
    relu();
    linear("fc1", widths[2]);
    relu();
    linear("fc2", 3);
  }

  torch::Tensor initial_row(Rng& rng) const override {
    return row_.defined() ? row_ : layout_.initial_row(rng);
  }

 private:
  torch::Tensor row_;
};

// The numbers of a row that a mask keeps, one after the other.
Vector kept_numbers(const torch::Tensor& row, const torch::Tensor& mask) {
  return to_vector(row.flatten().masked_select(mask.gt(0)));
}

FL_SELFTEST("heterofl", "equals", "a chain of convolutions: FedAvg of the narrow one", [] {
  const torch::Tensor inputs =
      torch::arange(10 * 144).mul(37).remainder(64).sub(31.5).div(32).view({10, 2, 9, 8});
  const Samples data{inputs.to(torch::kFloat32), torch::arange(10).remainder(3)};
  const auto experiment = [&](const std::string& lines, const std::vector<int64_t>& widths,
                              const torch::Tensor& row) {
    return hand_made_experiment(
        message(Local{.momentum = 0.5}.lines(), lines,
                "weighting = uniform\nrounds = 2\ncohort = 2\ngroup-size = 2"),
        data, 3, {{0, 1, 2, 3}, {4, 5, 6, 7, 8, 9}},
        std::make_unique<ConvolutionChain>(widths, row));
  };
  Rng rng(1, "weights");
  const torch::Tensor start = ConvolutionChain({5, 6, 7}, {}).initial_row(rng);
  Experiment wide = experiment("algorithm = heterofl\nwidth.levels = 0.5\nwidth.scaler = false\n",
                               {5, 6, 7}, start);
  const SubModels models({wide.job, *wide.network, 2, 10}, {.algorithm = "heterofl"});
  const torch::Tensor mask = models.mask(0, 0, 1);
  const ConvolutionChain shape({3, 3, 4}, {});
  Experiment narrow = experiment("algorithm = fedavg\n", {3, 3, 4},
                                 row_of(kept_numbers(start, mask), shape.layout()));
  const torch::Tensor end = run(wide).server.weights;
  const torch::Tensor outside = mask.eq(0);
  return all_of(
      {compare(kept_numbers(end, mask),
               numbers(run(narrow).server.weights, narrow.network->layout())),
       require(torch::equal(end[0].masked_select(outside),
                            start.to(torch::kFloat64).masked_select(outside)),
               "what is outside has moved"),
       require(models.size_share(0) == static_cast<double>(shape.layout().count()) /
                                           static_cast<double>(wide.network->layout().count()),
               "the share of numbers"),
       differ(kept_numbers(end, mask), kept_numbers(start, mask), 0.01)});
});

// Plato's sets what nobody trained to 0; others divide by all clients of a round.
FL_SELFTEST("heterofl", "mistakes", "what one client has alone is that client's", [] {
  Problem problem = classifier_problem();
  const std::vector<double> of = dealt({1.0, 0.5}, 4);
  const auto widest = std::find(of.begin(), of.end(), 1.0) - of.begin();
  const auto narrowest = std::find(of.begin(), of.end(), 0.5) - of.begin();
  problem.cohorts = {{std::min(widest, narrowest), std::max(widest, narrowest)}};
  const Local local;
  const std::string lines = local.lines() + kSeedLine + "width.scaler = false\n";
  const Vector both = solve(problem, "heterofl", lines + "width.levels = 1, 0.5", 1);
  const Vector wide = problem.train(widest, problem.start, local);
  const std::vector<size_t> common = places_of(*problem.classifier, first_units(2));
  const Trained narrow = train_units(problem, narrowest, problem.start, local, first_units(2), 1);
  Vector expected = wide;
  for (size_t i = 0; i < common.size(); ++i)
    expected[common[i]] = (wide[common[i]] + problem.start[common[i]] + narrow.change[i]) / 2;
  return all_of({compare(both, expected), differ(both, wide, 0.001)});
});

// A client that diverges, or never answers, leaves its numbers to the others.
FL_SELFTEST("heterofl", "mistakes", "who does not count, counts for no number", [] {
  Problem problem = classifier_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  const std::vector<double> of = dealt({1.0, 0.5}, 4);
  const Local local;
  std::vector<Result> results;
  for (int64_t lost = 0; lost < 4; ++lost) {
    problem.refused = {{2, lost}};
    const Vector actual = solve(
        problem, "heterofl",
        message(local.lines(), kSeedLine, "width.levels = 1, 0.5\ninject = nan-update@2:", lost),
        3);
    results.push_back(
        compare(actual, heterofl(problem, local, 3, std::vector{1.0, 0.5}, true, true)));
    results.back().note = message("without client ", lost);
  }
  return all_of(results);
});

// Whole: 3·4 + 4 + 4·3 + 3 = 31 numbers; with two of four hidden units 3·2 + 2 + 2·3 + 3 = 17, with
// one 3 + 1 + 3 + 3 = 10. In float64.
FL_SELFTEST("heterofl", "mistakes", "a sub-model's bytes are its own", [] {
  Problem problem = classifier_problem();
  std::vector<Result> results;
  for (const char* algorithm : {"heterofl", "fjord", "fedrolex", "feddropout"}) {
    Experiment e = experiment_of(
        problem, algorithm, Local().lines() + kSeedLine + "width.levels = 1, 0.5, 0.25, 0.125", 3);
    // The narrowest two have a unit each.
    const std::vector<double> of = dealt({1.0, 0.5, 0.25, 0.125}, 4);
    const Finished finished = run_recorded(e);
    for (const RoundRecord& round : finished.rounds) {
      int64_t expected = 0;
      for (const int64_t k : problem.cohort(round.round)) {
        const double rate = of[static_cast<size_t>(k)];
        expected += 8 * (rate == 1 ? 31 : rate == 0.5 ? 17 : 10);
      }
      results.push_back(require(round.bytes_down == expected && round.bytes_up == expected,
                                message(algorithm, ": ", round.bytes_down, " down, ",
                                        round.bytes_up, " up, not ", expected)));
    }
    for (const ClientRecord& client : finished.clients) {
      results.push_back(
          require(client.scalars[0] == of[static_cast<size_t>(client.client)], "its width"));
    }
  }
  return all_of(results);
});

FL_SELFTEST("heterofl", "mistakes", "under dynamic widths clients are drawn in each round", [] {
  Problem problem = classifier_problem();
  problem.cohorts = {{0, 1, 2, 3}};
  Experiment e = experiment_of(
      problem, "heterofl",
      Local().lines() + kSeedLine + "width.levels = 1:3, 0.5:1\nwidth.assign = dynamic", 6);
  std::vector<Result> results;
  std::set<double> of_client_0;
  for (const ClientRecord& client : run_recorded(e).clients) {
    const double drawn = Rng(kSeed, "width", client.round, client.client).uniform();
    results.push_back(require(client.scalars[0] == (drawn < 0.75 ? 1 : 0.5),
                              message("client ", client.client, " in round ", client.round)));
    if (client.client == 0) of_client_0.insert(client.scalars[0]);
  }
  results.push_back(require(results.size() == 24, "a record for each"));
  return all_of(results);
});

// A client's loss without the classes that it has no sample of, whose scores are 0, and their
// weights the mean over the others.
Vector heterofl_masked(const Problem& problem, const Local& local, int64_t rounds,
                       const std::vector<double>& rates, bool scaler) {
  const std::vector<double> of = dealt(rates, problem.population());
  return mean_of_those(problem, rounds, true, [&](int64_t k, int64_t, const Vector& w) {
    const double rate = of[static_cast<size_t>(k)];
    const std::vector<Point>& points = problem.clients[static_cast<size_t>(k)];
    const auto classes = static_cast<size_t>(problem.classifier->classes);
    Vector has(0.0, classes);
    for (const Point& point : points) has[static_cast<size_t>(point.label)] = 1;
    const Problem narrow = narrowed(problem, kept(rate, problem.classifier->hidden));
    const Classifier& shape = *narrow.classifier;
    const auto head = static_cast<size_t>(shape.head()), units = static_cast<size_t>(shape.hidden);
    Vector factor(1.0, static_cast<size_t>(shape.size()));
    for (size_t i = 0; i < head; ++i) factor[i] = scaler ? 1 / rate : 1;
    const std::vector<size_t> places = places_of(*problem.classifier, first_units(units));
    const Vector start = part_of(w, places);
    const Vector end = narrow.train(k, start, local, [&](const Vector& y) {
      Vector g(0.0, y.size());
      const Vector z = factor * y;
      for (const Point& point : points) {
        Vector by_scores = softmax(shape.scores(z, point.a) * has);
        by_scores[static_cast<size_t>(point.label)] -= 1;
        g += factor * shape.backward(z, point.a, Vector(by_scores * has));
      }
      return Vector(g / static_cast<double>(points.size()) - narrow.gradient(k, y));
    });
    Trained trained;
    std::vector<double> change;
    for (size_t i = 0; i < places.size(); ++i) {
      const size_t behind = i < head ? 0 : i - head;  // of the head's numbers
      const size_t label = behind < classes * units ? behind / units : behind - classes * units;
      if (i >= head && has[label] == 0) continue;
      trained.places.push_back(places[i]);
      change.push_back(end[i] - start[i]);
    }
    trained.change = Vector(change.data(), change.size());
    return trained;
  });
}

FL_CLOSED_FORM("heterofl", "masked labels, two widths with the scaler", classifier_problem(),
               Local{}, message(kSeedLine, "width.levels = 1, 0.5\nheterofl.mask-labels = true"),
               heterofl_masked, std::vector{1.0, 0.5}, true);
FL_CLOSED_FORM("heterofl", "masked labels, whole models, momentum and decay", classifier_problem(),
               Local{.momentum = 0.5, .weight_decay = 0.125},
               message(kSeedLine, "heterofl.mask-labels = true"), heterofl_masked, std::vector{1.0},
               true);

// fjord ----------------------------------------------------------------------------------------

// What a step adds to the gradient of client k's own width at y: of the width that was drawn, a
// gradient of its own numbers.
using OfDrawn = std::function<Vector(int64_t k, const Vector& y, const Problem& narrow,
                                     const Problem& drawn, const Vector& student)>;

// Each step draws one of the client's widths; `without_own`: the own one's gradient does not count.
Vector fjord_steps(const Problem& problem, const Local& local, int64_t rounds,
                   const std::vector<double>& rates, bool uniform, bool without_own,
                   const OfDrawn& gradient) {
  const std::vector<double> of = dealt(rates, problem.population());
  return mean_of_those(problem, rounds, uniform, [&](int64_t k, int64_t t, const Vector& w) {
    const double own = of[static_cast<size_t>(k)];
    const auto widest = std::find(rates.begin(), rates.end(), own) - rates.begin();
    const size_t units = kept(own, problem.classifier->hidden);
    const std::vector<size_t> places = places_of(*problem.classifier, first_units(units));
    const Problem narrow = narrowed(problem, units);
    Rng rng(kSeed, "fjord", t, k);
    const Vector start = part_of(w, places);
    // What train() goes down is the own width's cross-entropy; this comes beside it.
    const Vector end = narrow.train(k, start, local, [&](const Vector& y) {
      const auto level = widest + rng.below(std::ssize(rates) - widest);
      const size_t drawn = kept(rates[static_cast<size_t>(level)], problem.classifier->hidden);
      const std::vector<size_t> inner = places_of(*narrow.classifier, first_units(drawn));
      const Vector g = gradient(k, y, narrow, narrowed(problem, drawn), part_of(y, inner));
      Vector whole(0.0, y.size());
      for (size_t i = 0; i < inner.size(); ++i) whole[inner[i]] = g[i];
      return without_own ? Vector(whole - narrow.gradient(k, y)) : whole;
    });
    return Trained{places, end - start};
  });
}

Vector fjord(const Problem& problem, const Local& local, int64_t rounds,
             const std::vector<double>& rates, bool uniform) {
  return fjord_steps(problem, local, rounds, rates, uniform, /*without_own=*/true,
                     [](int64_t k, const Vector&, const Problem&, const Problem& drawn,
                        const Vector& student) { return drawn.gradient(k, student); });
}

FL_CLOSED_FORM("fjord", "four widths, weights by samples", classifier_problem(), Local{.steps = 4},
               message(kSeedLine, "width.levels = 1, 0.75, 0.5, 0.25"), fjord,
               std::vector{1.0, 0.75, 0.5, 0.25}, false);
FL_CLOSED_FORM("fjord", "two widths, uniform weights, momentum and decay", classifier_problem(),
               Local{.steps = 4, .momentum = 0.5, .weight_decay = 0.125},
               message(kSeedLine, "width.levels = 1, 0.5\nweighting = uniform"), fjord,
               std::vector{1.0, 0.5}, true);

// With the own width as a teacher, whose probabilities are those before the step.
Vector fjord_distilled(const Problem& problem, const Local& local, int64_t rounds,
                       const std::vector<double>& rates, double alpha, double temperature) {
  const auto gradient = [&](int64_t k, const Vector& y, const Problem& narrow, const Problem& drawn,
                            const Vector& student) {
    Vector g(0.0, student.size());
    for (const Point& point : problem.clients[static_cast<size_t>(k)]) {
      const Vector scores = drawn.classifier->scores(student, point.a);
      const Vector taught = narrow.classifier->scores(y, point.a);
      Vector by_scores = softmax(scores);
      by_scores[static_cast<size_t>(point.label)] -= 1;
      by_scores *= 1 - alpha;
      by_scores += alpha * temperature *
                   (softmax(Vector(scores / temperature)) - softmax(Vector(taught / temperature)));
      g += drawn.classifier->backward(student, point.a, by_scores);
    }
    return Vector(g / static_cast<double>(problem.size(k)));
  };
  return fjord_steps(problem, local, rounds, rates, /*uniform=*/false, /*without_own=*/false,
                     gradient);
}

FL_CLOSED_FORM("fjord", "the own width teaches, as in the paper", classifier_problem(),
               Local{.steps = 4},
               message(kSeedLine, "width.levels = 1, 0.75, 0.5, 0.25\nfjord.distill = 1"),
               fjord_distilled, std::vector{1.0, 0.75, 0.5, 0.25}, 1.0, 1.0);
FL_CLOSED_FORM("fjord", "the own width teaches a part, at a temperature", classifier_problem(),
               Local{.steps = 4, .momentum = 0.5, .weight_decay = 0.125},
               message(kSeedLine,
                       "width.levels = 1, 0.5\nfjord.distill = 0.75\nfjord.temperature = 2"),
               fjord_distilled, std::vector{1.0, 0.5}, 0.75, 2.0);

FL_SELFTEST("fjord", "equals", "one width for all: HeteroFL without the scaler, bit for bit", [] {
  const Problem problem = classifier_problem();
  const std::string lines =
      Local{.momentum = 0.5}.lines() + "weighting = uniform\nwidth.levels = 0.5";
  return compare(solve(problem, "fjord", lines, 3),
                 solve(problem, "heterofl", lines + "\nwidth.scaler = false", 3), 0);
});

// fedrolex -------------------------------------------------------------------------------------

Vector fedrolex(const Problem& problem, const Local& local, int64_t rounds,
                const std::vector<double>& rates) {
  const std::vector<double> of = dealt(rates, problem.population());
  return mean_of_those(problem, rounds, true, [&](int64_t k, int64_t t, const Vector& w) {
    const double rate = of[static_cast<size_t>(k)];
    const auto hidden = static_cast<size_t>(problem.classifier->hidden);
    Units units;
    for (size_t i = 0; i < kept(rate, problem.classifier->hidden); ++i)
      units.push_back((static_cast<size_t>(t) - 1 + i) % hidden);
    return train_units(problem, k, w, local, units, 1 / rate);
  });
}

FL_CLOSED_FORM("fedrolex", "two widths", classifier_problem(), Local{},
               message(kSeedLine, "width.levels = 1, 0.5"), fedrolex, std::vector{1.0, 0.5});
FL_CLOSED_FORM("fedrolex", "one width, which comes round again", classifier_problem(),
               Local{.momentum = 0.5}, message(kSeedLine, "width.levels = 0.75"), fedrolex,
               std::vector{0.75});

FL_SELFTEST("fedrolex", "equals", "its first round is HeteroFL's, bit for bit", [] {
  const Problem problem = classifier_problem();
  const std::string lines = Local().lines() + "width.levels = 1, 0.5";
  return all_of(
      {compare(solve(problem, "fedrolex", lines, 1), solve(problem, "heterofl", lines, 1), 0),
       differ(solve(problem, "fedrolex", lines, 2), solve(problem, "heterofl", lines, 2), 1e-3)});
});

// feddropout -----------------------------------------------------------------------------------

Vector feddropout(const Problem& problem, const Local& local, int64_t rounds,
                  const std::vector<double>& rates) {
  const std::vector<double> of = dealt(rates, problem.population());
  return mean_of_those(problem, rounds, false, [&](int64_t k, int64_t t, const Vector& w) {
    Units units;
    for (const int64_t unit :
         Rng(kSeed, "feddropout 0", t, k).permutation(problem.classifier->hidden))
      units.push_back(static_cast<size_t>(unit));
    units.resize(kept(of[static_cast<size_t>(k)], problem.classifier->hidden));
    return train_units(problem, k, w, local, units, 1);
  });
}

FL_CLOSED_FORM("feddropout", "one width", classifier_problem(), Local{},
               message(kSeedLine, "width.levels = 0.75"), feddropout, std::vector{0.75});
FL_CLOSED_FORM("feddropout", "two widths, with momentum", classifier_problem(),
               Local{.momentum = 0.5}, message(kSeedLine, "width.levels = 0.75, 0.25"), feddropout,
               std::vector{0.75, 0.25});

// Wherever a unit stands, a network of as many alike ones learns the same.
FL_SELFTEST("feddropout", "equals", "of units that are all alike it is HeteroFL's mean", [] {
  Problem problem = classifier_problem();
  problem.cohorts = {{2}};
  const auto hidden = static_cast<size_t>(problem.classifier->hidden);
  for (size_t unit = 1; unit < hidden; ++unit) {
    const std::vector<size_t> first = places_of(*problem.classifier, {0}),
                              same = places_of(*problem.classifier, {unit});
    for (size_t i = 0; i < first.size(); ++i) problem.start[same[i]] = problem.start[first[i]];
  }
  const std::string lines =
      Local().lines() + kSeedLine + "width.levels = 0.5\nwidth.scaler = false";
  const Vector drawn = solve(problem, "feddropout", lines, 1),
               ordered = solve(problem, "heterofl", lines, 1);
  const auto sorted = [](Vector v) {
    std::sort(std::begin(v), std::end(v));
    return v;
  };
  return all_of({compare(sorted(drawn), sorted(ordered)), differ(drawn, problem.start, 0.01)});
});

// What is refused ------------------------------------------------------------------------------

Result refuses(const std::string& algorithm, const Problem& problem, const std::string& lines,
               const std::string& reason) {
  try {
    experiment_of(problem, algorithm, lines, 1);
  } catch (const Error& error) {
    const std::string what = error.what();
    return require(what.find(reason) != std::string::npos,
                   message("'", lines, "' is refused for another reason: ", what));
  }
  return require(false, message("'", lines, "' is not refused"));
}

FL_SELFTEST("heterofl", "mistakes", "what has no sub-models, and what is no width", [] {
  const Problem problem = classifier_problem();
  std::vector<Result> results = {
      refuses("heterofl", example_problem(), "", "no plain chain"),
      refuses("heterofl", classifier_problem(0), "", "no hidden layer"),
      refuses("heterofl", problem, "width.levels = 1, 0.5\naggregator = median",
              "whose clients train parts of the model"),
      refuses("heterofl", problem, "width.levels = 1, 0.5\nwidth.assign = device",
              "devices is none"),
      refuses("fedrolex", problem,
              "width.levels = 0.5\nlocal.momentum = 0.5\nlocal.keep-momentum = true",
              "local.keep-momentum"),
      refuses("heterofl", problem,
              "width.levels = 1, 0.5\nwidth.assign = dynamic\nlocal.momentum = 0.5\n"
              "local.keep-momentum = true",
              "choose width.assign fix")};
  for (const char* levels : {"0, 1", "1.5", "1:0", "1, x", "1, , 0.5", "1:0.5, 0.25", "0.5, 0.5",
                             "1:nan", "nan", "1 0.5", "1:1:1"}) {
    results.push_back(refuses("heterofl", problem, message("width.levels = ", levels),
                              message("width.levels is ", levels, ", where")));
  }
  return all_of(results);
});

}  // namespace
}  // namespace fl_sim::selftest
