// Skew along a real attribute: clients hold neighbouring values of it, more or less strictly.
// flwr-datasets, ContinuousPartitioner.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class Continuous final : public Partitioner {
 public:
  explicit Continuous(const Setup& setup)
      : sigma_(setup.job.get<double>("continuous.sigma")),
        column_(setup.job.get<int64_t>("continuous.column")) {}

  static PluginInfo describe() {
    return {
        .summary = "skew along a real attribute: neighbouring values go to one client",
        .source =
            "Beutel et al., Flower: a friendly federated learning framework, 2020 "
            "(flwr-datasets, ContinuousPartitioner)",
        .rule =
            "The attribute, a column of the inputs or the label's number, is standardised to z. "
            "Samples are sorted by sigma z + (1 - sigma) e with normal e and cut into parts whose "
            "sizes differ by at most one. sigma = 1 sorts by the attribute (equal ones at random), "
            "sigma = 0 is IID.",
        .options = {
            {"sigma", Option::Type::kNumber, {}, "strictness of the order", between(0, 1)},
            {"column", Option::Type::kInteger, "-1",
             "number of a sample's value that is the attribute, counted from 0 in memory's order; "
             "-1: the label",
             at_least(-1)}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.clients <= n, "continuous: clients is ", request.clients, " (must be at most ",
             n, ", the number of training samples)");
    std::vector<double> z = attribute(request);
    standardise(z);
    std::vector<std::pair<double, double>> keys;  // by the noise among equals
    for (const double value : z) {
      const double noise = rng.normal();
      keys.emplace_back(sigma_ * value + (1 - sigma_) * noise, noise);
    }
    std::vector<int64_t> order(z.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return keys[static_cast<size_t>(a)] < keys[static_cast<size_t>(b)];
    });
    return cut(order, equal_sizes(n, request.clients));
  }

 private:
  std::vector<double> attribute(const PartitionRequest& request) const {
    if (column_ < 0) return {request.labels.begin(), request.labels.end()};
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.inputs.defined(), "continuous: there are no inputs with a column ", column_,
             " (set --continuous.column -1 for the label)");
    const torch::Tensor rows = request.inputs.reshape({n, -1});
    FL_CHECK(column_ < rows.size(1), "continuous.column is ", column_, " (must be -1 to ",
             rows.size(1) - 1, ": a sample has ", rows.size(1), " values)");
    const torch::Tensor column = rows.select(1, column_).to(torch::kFloat64).contiguous();
    return {column.data_ptr<double>(), column.data_ptr<double>() + n};
  }

  void standardise(std::vector<double>& values) const {
    const double n = static_cast<double>(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
    double squares = 0;
    for (const double value : values) squares += (value - mean) * (value - mean);
    const double deviation = std::sqrt(squares / n);
    FL_CHECK(deviation > 0, "continuous: ", column_ < 0 ? "the label" : message("column ", column_),
             " is the same for all samples (", mean,
             "), so they cannot be sorted by it; choose another --continuous.column");
    for (double& value : values) value = (value - mean) / deviation;
  }

  double sigma_;
  int64_t column_;
};

FL_REGISTER(Partitioner, "continuous", Continuous);

}  // namespace
}  // namespace fl_sim
