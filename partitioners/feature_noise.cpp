// Feature skew by noise: clients' inputs are more and more noisy.
// Li, Diao, Chen, He, "Federated learning on non-IID data silos: an experimental study", ICDE 2022
// (NIID-Bench's homo partition with --noise). Its text and its README call sigma a variance, and
// FedBench uses it as one; its code uses it as a standard deviation, and so do we unless told.
#include <cmath>

#include "base/check.h"
#include "data/dealing.h"
#include "data/partitioner.h"

namespace fl_sim {
namespace {

class FeatureNoise final : public Partitioner {
 public:
  explicit FeatureNoise(const Setup& setup)
      : sigma_(setup.job.get<double>("feature-noise.sigma")),
        variance_(setup.job.get<std::string>("feature-noise.scale") == "variance") {}

  static PluginInfo describe() {
    return {
        .summary = "feature skew: equal random parts, noise that grows from client to client",
        .source =
            "Li, Diao, Chen, He, Federated learning on non-IID data silos: an experimental "
            "study, ICDE 2022 (NIID-Bench, noise)",
        .rule =
            "A random permutation of the samples is cut into parts whose sizes differ by at most "
            "one. Client i = 0, ..., N - 1 sees its training inputs with normal noise of standard "
            "deviation sigma i / (N - 1), or of variance sigma (i + 1) / N, drawn anew at each "
            "access; test inputs stay clean.",
        .options = {{"sigma", Option::Type::kNumber, "0.1",
                     "scale of the last client's noise, of what a network sees", at_least(0)},
                    {.name = "scale",
                     .type = Option::Type::kText,
                     .default_value = "deviation",
                     .meaning = "what sigma is: a standard deviation, as in NIID-Bench's code, or "
                                "a variance, as in its text and in FedBench",
                     .choices = {"deviation", "variance"}}}};
  }

  Partition split(const PartitionRequest& request, Rng& rng) const override {
    const int64_t n = std::ssize(request.labels);
    FL_CHECK(request.clients <= n, "feature-noise: clients is ", request.clients,
             " (must be at most ", n, ", the number of training samples)");
    return cut(rng.permutation(n), equal_sizes(n, request.clients));
  }

  ClientView view(int64_t client, int64_t clients, const std::vector<int64_t>&) const override {
    const auto i = static_cast<double>(client), n = static_cast<double>(clients);
    if (variance_) return {.noise = std::sqrt(sigma_ * (i + 1) / n)};
    if (clients < 2) return {};
    return {.noise = sigma_ * i / (n - 1)};
  }
  bool has_views() const override { return true; }

 private:
  double sigma_;
  bool variance_;
};

FL_REGISTER(Partitioner, "feature-noise", FeatureNoise);

}  // namespace
}  // namespace fl_sim
