// FedAT: tiers of clients of one speed, each with a model and rounds of its own, and a global model
// in which those that come seldom count more. Chai et al., SC 2021, Algorithm 2.
#include "fl_sim.h"
#include "learning/tiers.h"

namespace fl_sim {

class FedAt final : public Algorithm {
 public:
  explicit FedAt(const Setup& setup)
      : local_(setup),
        mu_(setup.job.get<double>("fedat.mu")),
        of_trained_(setup.job.get<std::string>("fedat.start") == "trained") {
    const auto value = [&](const std::string& key) { return setup.job.get<std::string>(key); };
    FL_CHECK(value("async.protocol") == "tiers", "async.protocol is ", value("async.protocol"),
             ", but algorithm fedat has tiers (choose tiers, or another algorithm)");
    tiers_ = setup.job.get<int64_t>("tiers.number");
    FL_CHECK(setup.job.get<double>("async.mixing") == 1 && value("async.staleness") == "constant",
             "async.mixing is ", value("async.mixing"), " and async.staleness is ",
             value("async.staleness"),
             ", but fedat takes tiers' models as they are, and weighs them by how many there were "
             "(leave both out, or choose algorithm fedavg)");
    FL_CHECK(value("server.optimizer") == "sgd" && setup.job.get<double>("server.lr") == 1,
             "server.optimizer is ", value("server.optimizer"), " and server.lr is ",
             value("server.lr"), ", but fedat says itself what the next model is (leave both out)");
  }

  static PluginInfo describe() {
    return {
        .summary =
            "asynchronous tiers: each has rounds and a model of its own, and those that "
            "come seldom count more",
        .source =
            "Chai et al., FedAT: A high-performance and communication-efficient federated learning "
            "system with asynchronous tiers, SC 2021, Algorithm 2",
        .rule =
            "Tiers j = 1, ..., M are made by speed, the fastest first (async.protocol tiers). When "
            "one ends a round, its model becomes the mean of its clients' models, w_j = sum_k p_k "
            "w_k, and the global one w = sum_j (T_(M+1-j) / T) w_j, T_j = rounds so far of tier j, "
            "T of all together; its next round starts from that. All w_j are the initial model at "
            "first. As the formula says it, what the fast half of the tiers learns does not count "
            "before one of the slow half has ended a round; `start trained` makes tiers count when "
            "they have, and the formula is over those. Local gradient g + mu (y - w).",
        .options = {{.name = "mu",
                     .type = Option::Type::kNumber,
                     .default_value = "0.4",
                     .meaning = "weight of the clients' proximal term; 0: none",
                     .range = at_least(0)},
                    {.name = "start",
                     .default_value = "formula",
                     .meaning = "which tiers count at first: all, as the formula says, or those "
                                "that have ended a round",
                     .choices = {"formula", "trained"}}},
        .defaults = {{"async.protocol", "tiers"},
                     {"async.mixing", "1"},
                     {"async.staleness", "constant"}},
        .elsewhere =
            "Chai et al.: 5 tiers, as many clients in each tier's round as a round without "
            "tiers would have (async.concurrency 5 times the cohort), and updates "
            "compressed, which is not part of it here.",
        .example = "--algorithm fedat --tiers.number 2 --devices spread",
        .family = "global"};
  }

  Needs needs() const override { return local_.needs(); }

  // The tiers' models, [M, P], and how many rounds each has ended, [M].
  void init(ServerState& server) const override {
    server.hidden["fedat.models"] = server.weights.repeat({tiers_, 1});
    server.hidden["fedat.rounds"] = torch::zeros({tiers_}, torch::kInt64);
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    if (mu_ == 0) return local_.train(group, global);
    const torch::Tensor received = global.weights.narrow(1, 0, local_.trainable());
    return local_.train(group, global, AffineCorrection{.pull = mu_, .anchor = received});
  }

  // The mean of the clients' models is w + delta, since async.mixing is 1.
  void aggregate(ServerState& server, const Sum& sum) const override {
    torch::Tensor& models = server.hidden.at("fedat.models");
    int64_t* rounds = server.hidden.at("fedat.rounds").data_ptr<int64_t>();
    models[sum.part].copy_(server.weights[0] + sum.delta[0]);
    ++rounds[sum.part];
    const std::vector<double> weights = fedat_weights({rounds, rounds + tiers_}, of_trained_);
    server.weights.zero_();
    for (int64_t tier = 0; tier < tiers_; ++tier)
      server.weights[0].add_(models[tier], weights[static_cast<size_t>(tier)]);
  }

 private:
  LocalTraining local_;
  double mu_;
  bool of_trained_;
  int64_t tiers_ = 0;
};

FL_REGISTER(Algorithm, "fedat", FedAt);

}  // namespace fl_sim
