// synthetic(alpha, beta): linear softmax data whose users differ in inputs and in models.
// Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks"
// (FedProx), MLSys 2020, section 5.1, with standard deviations alpha and beta as in the authors'
// generator (the paper says variances).
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "data/dataset.h"

namespace fl_sim {
namespace {

constexpr int64_t kFeatures = 60, kClasses = 10;

struct LinearModel {
  std::vector<double> weights = std::vector<double>(kFeatures * kClasses);  // [features, classes]
  std::vector<double> bias = std::vector<double>(kClasses);

  static LinearModel draw(double mean, Rng& rng) {
    LinearModel model;
    for (double& w : model.weights) w = mean + rng.normal();
    for (double& b : model.bias) b = mean + rng.normal();
    return model;
  }

  int64_t label(const double* x) const {
    std::vector<double> score = bias;
    for (int64_t j = 0; j < kFeatures; ++j) {
      for (int64_t c = 0; c < kClasses; ++c) score[c] += x[j] * weights[j * kClasses + c];
    }
    return std::max_element(score.begin(), score.end()) - score.begin();
  }
};

// Samples in the order in which they are appended.
struct Rows {
  std::vector<float> inputs;
  std::vector<int64_t> labels;

  Samples samples() const {
    const int64_t n = static_cast<int64_t>(labels.size());
    return {torch::tensor(inputs).reshape({n, kFeatures}), torch::tensor(labels)};
  }
};

class Synthetic final : public DatasetSource {
 public:
  explicit Synthetic(const Setup& setup)
      : seed_(setup.job.seed()),
        users_(setup.job.get<int64_t>("synthetic.users")),
        iid_(setup.job.get<bool>("synthetic.iid")),
        alpha_(iid_ ? 0 : setup.job.get<double>("synthetic.alpha")),
        beta_(iid_ ? 0 : setup.job.get<double>("synthetic.beta")) {}

  static PluginInfo describe() {
    using Type = Option::Type;
    return {
        .summary = "FedProx's synthetic(alpha, beta): 60 features, 10 classes, 30 users",
        .source =
            "Li et al., Federated optimization in heterogeneous networks, MLSys 2020, section 5.1, "
            "and the authors' generator",
        .rule =
            "User k has int(lognormal(4, 2)) + 50 samples. u_k ~ N(0, std alpha), B_k ~ N(0, std "
            "beta), "
            "v_k ~ N(B_k, 1), x ~ N(v_k, diag(j^-1.2)), W_k and b_k ~ N(u_k, 1), y = argmax(x W_k "
            "+ b_k). "
            "With iid: one W and b ~ N(0, 1) for all, v = 0. The first 90 % of each user are its "
            "training "
            "samples, the rest of all users is the test set. (alpha adds the same number to every "
            "class's "
            "score, so it does not change a label; it is there because the definition has it.)",
        .options = {
            {"alpha",
             Type::kNumber,
             {},
             "how much users' models differ; the paper: 0, 0.5, 1",
             at_least(0),
             {},
             {"synthetic.iid", {"false"}}},
            {"beta",
             Type::kNumber,
             {},
             "how much users' inputs differ; the paper: 0, 0.5, 1",
             at_least(0),
             {},
             {"synthetic.iid", {"false"}}},
            {"users", Type::kInteger, "30", "users", at_least(1)},
            {"iid", Type::kFlag, "false", "one model and one input distribution for all users"}}};
  }

  Dataset read() const override {
    Dataset data;
    data.classes = kClasses;
    Rng common_stream(seed_, "synthetic", 1);
    const LinearModel common = LinearModel::draw(0, common_stream);
    std::vector<double> deviation(kFeatures);
    for (int64_t j = 0; j < kFeatures; ++j) deviation[j] = std::sqrt(std::pow(j + 1, -1.2));

    Rows train, test;
    for (int64_t user = 0; user < users_; ++user) {
      Rng rng(seed_, "synthetic", 0, user);
      const int64_t n = static_cast<int64_t>(std::exp(4 + 2 * rng.normal())) + 50;
      const double u = alpha_ * rng.normal();
      const double centre = beta_ * rng.normal();
      std::vector<double> mean(kFeatures);
      for (double& m : mean) m = iid_ ? 0 : centre + rng.normal();
      const LinearModel model = iid_ ? common : LinearModel::draw(u, rng);

      const int64_t train_size = static_cast<int64_t>(0.9 * static_cast<double>(n));
      for (int64_t i = 0; i < n; ++i) {  // independent draws: no need to shuffle before the split
        double x[kFeatures];
        for (int64_t j = 0; j < kFeatures; ++j) x[j] = mean[j] + deviation[j] * rng.normal();
        Rows& rows = i < train_size ? train : test;
        for (const double value : x) rows.inputs.push_back(static_cast<float>(value));
        rows.labels.push_back(model.label(x));
      }
      data.owner.insert(data.owner.end(), train_size, user);
      data.test_owner.insert(data.test_owner.end(), n - train_size, user);
    }
    data.train = train.samples();
    data.test = test.samples();
    return data;
  }

 private:
  uint64_t seed_;
  int64_t users_;
  bool iid_;
  double alpha_, beta_;
};

FL_REGISTER(DatasetSource, "synthetic", Synthetic);

}  // namespace
}  // namespace fl_sim
