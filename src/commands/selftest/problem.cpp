#include "commands/selftest/problem.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace fl_sim::selftest {
namespace {

// out[i] = Σ_j weight[i, j] x[j] + bias[i], with the weights and then the bias from w[begin] on.
Vector linear(const Vector& w, int64_t begin, const Vector& x, int64_t outputs) {
  const auto inputs = std::ssize(x);
  Vector out(static_cast<size_t>(outputs));
  for (int64_t i = 0; i < outputs; ++i) {
    double sum = w[static_cast<size_t>(begin + outputs * inputs + i)];
    for (int64_t j = 0; j < inputs; ++j) {
      sum += w[static_cast<size_t>(begin + i * inputs + j)] * x[static_cast<size_t>(j)];
    }
    out[static_cast<size_t>(i)] = sum;
  }
  return out;
}

// Its gradients: by the weights into `gradient`; by x is returned.
Vector linear_backward(const Vector& w, int64_t begin, const Vector& x, const Vector& by_output,
                       Vector& gradient) {
  const auto inputs = std::ssize(x), outputs = std::ssize(by_output);
  Vector by_x(0.0, x.size());
  for (int64_t i = 0; i < outputs; ++i) {
    const double d = by_output[static_cast<size_t>(i)];
    gradient[static_cast<size_t>(begin + outputs * inputs + i)] += d;
    for (int64_t j = 0; j < inputs; ++j) {
      gradient[static_cast<size_t>(begin + i * inputs + j)] += d * x[static_cast<size_t>(j)];
      by_x[static_cast<size_t>(j)] += d * w[static_cast<size_t>(begin + i * inputs + j)];
    }
  }
  return by_x;
}

}  // namespace

double distance(const Vector& a, const Vector& b) {
  FL_CHECK(a.size() == b.size(), "vectors of ", a.size(), " and ", b.size(),
           " numbers cannot be compared");
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    if (!(d <= largest)) largest = d;  // a NaN as well
    if (std::isnan(d)) break;
  }
  return largest;
}

double norm(const Vector& v) { return v.size() == 0 ? 0 : std::sqrt((v * v).sum()); }

std::string Local::lines() const {
  const std::string both =
      message("local.epochs = ", steps, "\nlocal.batch-size = 1000000\nlocal.lr = ", lr,
              "\nlocal.weight-decay = ", weight_decay, "\nlocal.clip-norm = ", clip, "\n");
  if (adam) {
    return message(both, "local.optimizer = adam\nlocal.beta1 = ", beta1, "\nlocal.beta2 = ", beta2,
                   "\nlocal.epsilon = ", epsilon, "\n");
  }
  return message(both, "local.momentum = ", momentum,
                 "\nlocal.nesterov = ", nesterov ? "true" : "false", "\n");
}

Vector Classifier::representation(const Vector& w, const Vector& x) const {
  if (hidden == 0) return x;
  Vector z = linear(w, 0, x, hidden);
  for (double& value : z) value = std::max(value, 0.0);
  return z;
}

Vector Classifier::scores(const Vector& w, const Vector& x) const {
  return linear(w, head(), representation(w, x), classes);
}

Vector Classifier::backward(const Vector& w, const Vector& x, const Vector& by_scores,
                            const Vector& by_representation) const {
  Vector gradient(0.0, static_cast<size_t>(size()));
  const Vector z = representation(w, x);
  Vector by_z = linear_backward(w, head(), z, by_scores, gradient);
  if (by_representation.size() > 0) by_z += by_representation;
  if (hidden == 0) return gradient;
  for (size_t i = 0; i < z.size(); ++i) {
    if (z[i] <= 0) by_z[i] = 0;
  }
  linear_backward(w, 0, x, by_z, gradient);
  return gradient;
}

Vector softmax(const Vector& scores) {
  const Vector e = std::exp(scores - scores.max());
  return e / e.sum();
}

int64_t Problem::samples() const {
  int64_t total = 0;
  for (const auto& points : clients) total += std::ssize(points);
  return total;
}

const std::vector<int64_t>& Problem::cohort(int64_t round) const {
  return cohorts[std::min(static_cast<size_t>(round - 1), cohorts.size() - 1)];
}

std::vector<int64_t> Problem::survivors(int64_t round) const {
  std::vector<int64_t> result;
  for (const int64_t k : cohort(round)) {
    if (!refused.contains({round, k})) result.push_back(k);
  }
  return result;
}

double Problem::share(int64_t k, const std::vector<int64_t>& clients_of_round) const {
  double total = 0;
  for (const int64_t other : clients_of_round) total += static_cast<double>(size(other));
  return static_cast<double>(size(k)) / total;
}

double Problem::loss(const Point& point, const Vector& w) const {
  if (!classifier) return (point.curvature * (w - point.a) * (w - point.a)).sum() / 2;
  return -std::log(softmax(classifier->scores(w, point.a))[static_cast<size_t>(point.label)]);
}

Vector Problem::gradient(const Point& point, const Vector& w) const {
  if (!classifier) return point.curvature * (w - point.a);
  Vector by_scores = softmax(classifier->scores(w, point.a));
  by_scores[static_cast<size_t>(point.label)] -= 1;
  return classifier->backward(w, point.a, by_scores);
}

double Problem::loss(int64_t k, const Vector& w) const {
  double total = 0;
  for (const Point& point : clients[static_cast<size_t>(k)]) total += loss(point, w);
  return total / static_cast<double>(size(k));
}

Vector Problem::gradient(int64_t k, const Vector& w) const {
  Vector total(0.0, w.size());
  for (const Point& point : clients[static_cast<size_t>(k)]) total += gradient(point, w);
  return total / static_cast<double>(size(k));
}

Vector Problem::train(int64_t k, const Vector& w, const Local& local, const Hook& hook) const {
  Vector y = w, velocity(0.0, w.size()), square(0.0, w.size());
  for (int64_t step = 0; step < local.steps; ++step) {
    Vector g = gradient(k, y);
    if (hook) g += hook(y);
    if (local.clip > 0) g *= std::min(1.0, local.clip / (norm(g) + 1e-6));
    g += local.weight_decay * y;
    if (local.adam) {
      velocity = local.beta1 * velocity + (1 - local.beta1) * g;
      square = local.beta2 * square + (1 - local.beta2) * g * g;
      const auto t = static_cast<double>(step + 1);
      const Vector m = velocity / (1 - std::pow(local.beta1, t)),
                   v = square / (1 - std::pow(local.beta2, t));
      y -= local.lr * m / (std::sqrt(v) + local.epsilon);
      continue;
    }
    velocity = local.momentum * velocity + g;
    if (local.nesterov) g += local.momentum * velocity;
    y -= local.lr * (local.nesterov ? g : velocity);
  }
  return y;
}

Problem example_problem() {
  Problem problem{
      .clients = {}, .start = {1, -0.5, 0.25}, .cohorts = {{0, 1, 2}, {0, 1}, {0, 1, 2, 3}}};
  int seed = 0;
  for (const int size : {1, 3, 4, 8}) {
    std::vector<Point> points;
    for (int i = 0; i < size; ++i, ++seed) {
      Point point{Vector(3), Vector(3)};
      for (size_t d = 0; d < 3; ++d) {
        point.a[d] = ((seed * 7 + static_cast<int>(d) * 5) % 16 - 8) / 4.0;         // -2 to 1.75
        point.curvature[d] = ((seed * 5 + static_cast<int>(d) * 3) % 8 + 1) / 4.0;  // 0.25 to 2
      }
      points.push_back(point);
    }
    problem.clients.push_back(points);
  }
  return problem;
}

Problem drifting_problem() {
  const Point flat{{1}, {0.5}}, steep{{0}, {1.125}};
  return {.clients = {std::vector<Point>(20, flat), std::vector<Point>(2, steep)},
          .start = {0},
          .cohorts = {{0, 1}}};
}

std::string drifting_lines(double lr) {
  return message("local.epochs = 1\nlocal.batch-size = 1\nweighting = uniform\nlocal.lr = ", lr,
                 "\n");
}

Problem classifier_problem(int64_t hidden) {
  const Classifier classifier{.features = 3, .hidden = hidden, .classes = 3};
  Problem problem{.clients = {},
                  .start = Vector(static_cast<size_t>(classifier.size())),
                  .cohorts = {{0, 1, 2}, {0, 1}, {0, 1, 2, 3}},
                  .classifier = classifier};
  for (size_t i = 0; i < problem.start.size(); ++i) {
    problem.start[i] = (static_cast<double>(i * 11 % 16) - 7.5) / 8;  // -15/16 to 15/16
  }
  int64_t seed = 0;
  for (const int64_t size : {2, 2, 4, 8}) {
    const auto k = std::ssize(problem.clients);
    std::vector<Point> points;
    for (int64_t i = 0; i < size; ++i, ++seed) {
      Point point{Vector(3), {}, (k + 1 + i % 2) % 3};
      for (int64_t d = 0; d < 3; ++d) {
        point.a[static_cast<size_t>(d)] =
            static_cast<double>((seed * 7 + d * 5) % 16 - 8) / 8 + (d == point.label ? 0.5 : 0);
      }
      points.push_back(point);
    }
    problem.clients.push_back(points);
  }
  return problem;
}

}  // namespace fl_sim::selftest
