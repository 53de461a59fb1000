// Federated problems whose every round can be written down in double precision: quadratics, and
// classifiers for the algorithms that need labels. Plain C++, which knows nothing of the engine.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <valarray>
#include <vector>

namespace fl_sim::selftest {

using Vector = std::valarray<double>;

// The largest difference of two vectors. Throws Error if their lengths differ.
double distance(const Vector& a, const Vector& b);

// The Euclidean norm.
double norm(const Vector& v);

// A sample, representable in floats. Of a quadratic: its loss is ½ (w-a)' A (w-a) with A the
// diagonal matrix of `curvature`. Of a classifier: inputs `a` and a label.
struct Point {
  Vector a, curvature = {};
  int64_t label = 0;
};

// Local training as the rules compute it, and as a job says it. Full batches: one step an epoch.
struct Local {
  int64_t steps = 3;
  double lr = 0.125;
  double momentum = 0, weight_decay = 0, clip = 0;
  bool nesterov = false;
  bool adam = false;  // Kingma & Ba's instead, without momentum
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  std::string lines() const;
};

// A softmax classifier with a layer of ReLUs, or without (hidden = 0). Its weights, one after the
// other: fc1.weight [hidden, features], fc1.bias [hidden], and the head: fc2.weight [classes,
// hidden], fc2.bias [classes].
struct Classifier {
  int64_t features, hidden, classes;

  int64_t inputs_of_head() const { return hidden > 0 ? hidden : features; }
  int64_t head() const { return hidden * (features + 1); }  // where the head begins
  int64_t size() const { return head() + classes * (inputs_of_head() + 1); }

  Vector representation(const Vector& w, const Vector& x) const;  // what goes into the head
  Vector scores(const Vector& w, const Vector& x) const;          // [classes]
  // The gradient by the weights of a loss with these gradients by its scores and, beside them, by
  // its representation.
  Vector backward(const Vector& w, const Vector& x, const Vector& by_scores,
                  const Vector& by_representation = {}) const;
};

Vector softmax(const Vector& scores);

struct Problem {
  std::vector<std::vector<Point>> clients;
  Vector start;
  std::vector<std::vector<int64_t>> cohorts;  // of rounds 1, 2, ...; the last one again after that
  std::set<std::pair<int64_t, int64_t>> refused = {};  // (round, client): updates that do not count
  std::optional<Classifier> classifier = {};           // without: quadratics

  int64_t size(int64_t k) const { return std::ssize(clients[static_cast<size_t>(k)]); }
  int64_t population() const { return std::ssize(clients); }
  int64_t samples() const;
  const std::vector<int64_t>& cohort(int64_t round) const;
  std::vector<int64_t> survivors(int64_t round) const;

  // n_k over the samples of these clients.
  double share(int64_t k, const std::vector<int64_t>& clients_of_round) const;

  // Of one sample, and the means over client k's.
  double loss(const Point& point, const Vector& w) const;
  Vector gradient(const Point& point, const Vector& w) const;
  double loss(int64_t k, const Vector& w) const;
  Vector gradient(int64_t k, const Vector& w) const;

  // What client k makes of `w`. `hook` is added to the gradient before clipping, weight decay and
  // momentum.
  using Hook = std::function<Vector(const Vector& y)>;
  Vector train(int64_t k, const Vector& w, const Local& local, const Hook& hook = {}) const;
};

// Four clients in three dimensions with 1, 3, 4 and 8 samples. Rounds: three of them, two, then
// all: what is wrong with the state that a part of them keeps cancels where all take part. The
// weights n_k / n are sums of powers of two, so that float weights are exact.
Problem example_problem();

// Two scalar quadratics, 20 local steps on the one at 1 and 2 on the other: minibatches of one
// sample, all samples of a client alike. The optimum of their mean is 4/13 = 0.3077.
Problem drifting_problem();
std::string drifting_lines(double lr = 0.125);

// Four clients with 2, 2, 4 and 8 samples of 3 features and 3 classes, client k lacking class
// k mod 3; cohorts as in example_problem(). `hidden` as in Classifier.
Problem classifier_problem(int64_t hidden = 4);

}  // namespace fl_sim::selftest
