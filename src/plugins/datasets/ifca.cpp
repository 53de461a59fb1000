// The linear models of IFCA's synthetic experiment: clients of a cluster share one.
// Ghosh, Chung, Yin, Ramchandran, "An efficient framework for clustered federated learning",
// NeurIPS 2020, section 6.1.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "plugins/datasets/files.h"

namespace fl_sim {
namespace {

class Ifca final : public DatasetSource {
 public:
  explicit Ifca(const Setup& setup)
      : seed_(setup.job.seed()),
        clusters_(setup.job.get<int64_t>("ifca-mixture.clusters")),
        users_(setup.job.get<int64_t>("ifca-mixture.users")),
        samples_(setup.job.get<int64_t>("ifca-mixture.samples")),
        features_(setup.job.get<int64_t>("ifca-mixture.features")),
        test_(setup.job.get<int64_t>("ifca-mixture.test-samples")),
        radius_(setup.job.get<double>("ifca-mixture.radius")),
        noise_(setup.job.get<double>("ifca-mixture.noise")) {
    FL_CHECK(clusters_ <= users_, "ifca-mixture.clusters is ", clusters_, " (must be at most ",
             users_, ", the number of users)");
  }

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "IFCA's synthetic mixture: linear regression, one model a cluster of users",
        .source =
            "Ghosh, Chung, Yin, Ramchandran, An efficient framework for clustered federated "
            "learning, NeurIPS 2020, section 6.1",
        .rule =
            "Cluster j has a model theta_j, coordinates Bernoulli(1/2), rescaled to the norm "
            "radius. User i belongs to cluster i mod clusters; its samples are x ~ N(0, I), y = "
            "<x, theta_j> + N(0, std noise), a number to be predicted. Natural clients: the users. "
            "Test samples come from the clusters in turn.",
        .options = {
            {"clusters", Type::kInteger, "4", "clusters", between(1, 1e6)},
            {"users", Type::kInteger, "100", "users; the paper: 100 and more", between(1, 1e6)},
            {"samples", Type::kInteger, "100", "samples of a user", between(1, 1e6)},
            {"features", Type::kInteger, "1000", "numbers in a sample", between(1, 1e6)},
            {"test-samples", Type::kInteger, "2000", "test samples", between(1, 1e8)},
            {"radius",
             Type::kNumber,
             {},
             "norm of the models: how far clusters differ",
             more_than(0)},
            {"noise", Type::kNumber, {}, "standard deviation of the noise in y", at_least(0)}}};
  }

  Dataset read() const override {
    const std::vector<double> models = draw_models();
    Dataset data;
    std::vector<double> train, test;  // y
    const int64_t n = users_ * samples_;
    data.train.inputs = torch::empty({n, features_});
    for (int64_t user = 0; user < users_; ++user) {
      Rng rng(seed_, "ifca-mixture", 0, user);
      for (int64_t i = 0; i < samples_; ++i) {
        float* x = data.train.inputs.data_ptr<float>() + (user * samples_ + i) * features_;
        train.push_back(draw(x, models, user % clusters_, rng));
        data.owner.push_back(user);
      }
    }
    data.test.inputs = torch::empty({test_, features_});
    Rng rng(seed_, "ifca-mixture", 1);
    for (int64_t i = 0; i < test_; ++i) {
      float* x = data.test.inputs.data_ptr<float>() + i * features_;
      test.push_back(draw(x, models, i % clusters_, rng));
    }

    data.values = train;
    data.values.insert(data.values.end(), test.begin(), test.end());
    std::sort(data.values.begin(), data.values.end());
    data.values.erase(std::unique(data.values.begin(), data.values.end()), data.values.end());
    data.classes = std::ssize(data.values);
    const auto places = [&](const std::vector<double>& y) {
      std::vector<int64_t> labels;
      for (const double value : y) {
        labels.push_back(std::lower_bound(data.values.begin(), data.values.end(), value) -
                         data.values.begin());
      }
      return to_tensor(std::move(labels), {std::ssize(y)});
    };
    data.train.labels = places(train);
    data.test.labels = places(test);
    return data;
  }

 private:
  // [clusters, features]
  std::vector<double> draw_models() const {
    std::vector<double> models(static_cast<size_t>(clusters_ * features_));
    for (int64_t j = 0; j < clusters_; ++j) {
      Rng rng(seed_, "ifca-mixture", 2, j);
      double* model = models.data() + j * features_;
      double ones = 0;
      while (ones == 0) {  // a model of zeros has no direction; with few features it is drawn again
        for (int64_t k = 0; k < features_; ++k) {
          model[k] = rng.uniform() < 0.5 ? 0 : 1;
          ones += model[k];
        }
      }
      for (int64_t k = 0; k < features_; ++k) model[k] *= radius_ / std::sqrt(ones);
    }
    return models;
  }

  // Writes a sample's inputs; returns y.
  double draw(float* x, const std::vector<double>& models, int64_t cluster, Rng& rng) const {
    const double* model = models.data() + cluster * features_;
    double y = 0;
    for (int64_t k = 0; k < features_; ++k) {
      x[k] = static_cast<float>(rng.normal());
      y += static_cast<double>(x[k]) * model[k];
    }
    return y + noise_ * rng.normal() + 0.0;
  }

  uint64_t seed_;
  int64_t clusters_, users_, samples_, features_, test_;
  double radius_, noise_;
};

FL_REGISTER(DatasetSource, "ifca-mixture", Ifca);

}  // namespace
}  // namespace fl_sim
