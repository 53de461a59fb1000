// MIFA, FedVARP and FedStale: clients that are not there count with the last update that they sent.
// Gu et al., "Fast federated learning in the presence of arbitrary device unavailability", NeurIPS
// 2021, Algorithm 1. Jhunjhunwala et al., "FedVARP: Tackling the variance due to partial client
// participation in federated learning", UAI 2022, Algorithm 1. Rodio & Neglia, "FedStale:
// Leveraging stale client updates in federated learning", ECAI 2024.
//
// The papers' servers hold all h_k. Here a client's lies where it trains, and what it returns is
// the difference to it, so that the server keeps nothing but the mean of all.
#include <string>

#include "fl_sim.h"

namespace fl_sim {
namespace {

class Recalling final : public Algorithm {
 public:
  Recalling(const Setup& setup, const std::string& name)
      : local_(setup),
        optimizer_(setup),
        clients_(setup.clients),
        samples_(setup.samples),
        uniform_(setup.job.get<std::string>("weighting") == "uniform"),
        lr_(setup.job.get<double>("local.lr")),
        mean_alone_(name == "mifa"),
        of_those_seen_(mean_alone_ && setup.job.get<std::string>("mifa.over") == "seen"),
        beta_(name == "fedstale" ? setup.job.get<double>("fedstale.beta") : 1) {
    if (beta_ > 0) refuse(setup, name);
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    if (beta_ == 0) return needs;
    needs.client_state["update"] = local_.trainable();
    if (beta_ < 1) needs.additive["update_change"] = local_.trainable();
    if (of_those_seen_) needs.scalars = {"first"};
    return needs;
  }

  void init(ServerState& server) const override {
    optimizer_.init(server);
    if (beta_ == 0) return;
    server.hidden["mean_update"] =
        torch::zeros_like(server.weights.narrow(1, 0, local_.trainable()));
    if (of_those_seen_) server.hidden["seen"] = torch::zeros({1}, torch::kInt64);
  }

  // A server that holds all h_k needs the new update alone.
  TaskCost task_cost(int64_t, int64_t) const override {
    if (beta_ == 0 || beta_ == 1) return {};
    const ParameterLayout& layout = local_.network().layout();
    const auto whole = static_cast<double>(RowPart().complement(layout).numbers(layout));
    return {.up = whole / (whole + static_cast<double>(layout.count()))};
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    Update update = local_.train(group, global);
    const double rate = rate_in(global.round);
    if (beta_ == 0) return update;
    const torch::Tensor& former = group.state.at("update");               // h_k [G, T]
    torch::Tensor delta = update.delta.narrow(1, 0, local_.trainable());  // [G, T]
    if (rate > 0) update.state["update"] = delta / rate;
    if (beta_ < 1) update.extra["update_change"] = delta - rate * former;
    delta.sub_(former, beta_ * rate);
    for (int64_t k = 0; of_those_seen_ && k < group.size(); ++k) {
      const auto index = static_cast<size_t>(k);
      update.clients[index].scalars[0] = group.fresh[index] ? 1 : 0;
    }
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    if (beta_ == 0) return optimizer_.step(server, sum.delta);
    const double rate = rate_in(server.round);
    torch::Tensor delta = sum.delta.clone();                         // [1, P]
    torch::Tensor trained = delta.narrow(1, 0, local_.trainable());  // [1, T]
    torch::Tensor mean = server.hidden.at("mean_update");            // [1, T]
    const torch::Tensor former = mean.clone();
    const torch::Tensor change = beta_ < 1 ? sum.extra.at("update_change").unsqueeze(0)
                                           : sum.delta.narrow(1, 0, local_.trainable());
    if (rate > 0) mean.add_(change, share_of(sum.clients, sum.samples) / rate);
    if (mean_alone_) {
      trained.copy_(mean).mul_(rate / share_seen(server, sum));
    } else {
      trained.add_(former, beta_ * rate);
    }
    optimizer_.step(server, delta);
  }

 private:
  // What the mean over the population cannot be made of.
  static void refuse(const Setup& setup, const std::string& name) {
    const Job& job = setup.job;
    FL_CHECK(job.get<std::string>("weighting") != "loss", "weighting is loss, but ", name,
             " weighs clients that are not there, whose loss "
             "nobody knows (choose uniform or samples)");
    const auto sampler = job.get<std::string>("sampler");
    FL_CHECK(!make<Sampler>(split_name(sampler).first, {job, setup.clients})->weighs(),
             "sampler is ", sampler, ", which weighs the clients that it draws, but ", name,
             " remembers them by the job's weighting (choose sampler uniform, with uniform.weights "
             "cohort)");
    const auto aggregator = job.get<std::string>("aggregator");
    FL_CHECK(aggregator == "mean", "aggregator is ", aggregator, ", but ", name,
             " keeps the mean of what clients sent (choose aggregator mean)");
    const auto transforms = job.get<std::string>("transforms");
    FL_CHECK(transforms == "none", "transforms is ", transforms,
             ", which changes what is sent after ", name,
             " has remembered it: the server's mean and the clients' memory would part (leave it "
             "out)");
  }

  // Updates are remembered over this: the local learning rate, as a multiple of the job's.
  double rate_in(int64_t round) const { return local_.learning_rate(round) / lr_; }

  // Of the population.
  double share_of(int64_t clients, int64_t samples) const {
    return uniform_ ? static_cast<double>(clients) / static_cast<double>(clients_)
                    : static_cast<double>(samples) / static_cast<double>(samples_);
  }

  // Of all those that have ever counted, this round's among them; 1 where it does not matter.
  double share_seen(ServerState& server, const Sum& sum) const {
    if (!of_those_seen_) return 1;
    torch::Tensor seen = server.hidden.at("seen");  // clients, or their samples
    for (const ClientRecord& record : sum.records) {
      if (record.counts() && sum.scalar(record, "first") > 0)
        seen.add_(uniform_ ? 1 : record.samples);
    }
    const auto count = seen.item<int64_t>();
    return share_of(count, count);
  }

  LocalTraining local_;
  ServerOptimizer optimizer_;
  int64_t clients_, samples_;
  bool uniform_;
  double lr_;
  bool mean_alone_;     // MIFA's step
  bool of_those_seen_;  // whose mean is over those that took part
  double beta_;
};

constexpr const char* kHeld =
    "h_k: client k's last update that counted, 0 before; over the local learning rate that it was "
    "made with, where that changes. With weighting = samples clients weigh n_k/n instead of 1/N, "
    "and n_k/n_S instead of 1/m.";

PluginInfo mifa() {
  return {.summary = "clients that are not there count with their last update",
          .source =
              "Gu et al., Fast federated learning in the presence of arbitrary device "
              "unavailability, NeurIPS 2021, Algorithm 1",
          .rule = message("h_k+ = w_k - w for the cohort S;  w+ = w + server.lr (1/N) sum_k h_k+ "
                          "over all N clients.\n",
                          kHeld, " A round in which nobody counts changes nothing."),
          .options = {{.name = "over",
                       .default_value = "all",
                       .meaning = "whose mean: of all clients, those never seen with 0, or of "
                                  "those that have taken part so far",
                       .choices = {"all", "seen"}}},
          .defaults = {{"weighting", "uniform"}},
          .elsewhere =
              "Gu et al. have all clients take part in round 1, where both are the same.\n"
              "APPFL: those never seen count 0.",
          .example = "--algorithm mifa",
          .family = "global"};
}

PluginInfo fedvarp() {
  return {.summary = "the cohort's news over the mean of everybody's last update",
          .source =
              "Jhunjhunwala et al., FedVARP: Tackling the variance due to partial client "
              "participation in federated learning, UAI 2022, Algorithm 1",
          .rule = message("w+ = w + server.lr [(1/m) sum_S (w_k - w - h_k) + (1/N) sum_k h_k] over "
                          "the cohort S and all N clients;  then h_k+ = w_k - w for S.\n",
                          kHeld),
          .defaults = {{"weighting", "uniform"}},
          .example = "--algorithm fedvarp",
          .family = "global"};
}

PluginInfo fedstale() {
  return {.summary = "between fedavg and fedvarp: last updates count in part",
          .source =
              "Rodio & Neglia, FedStale: Leveraging stale client updates in federated learning, "
              "ECAI 2024",
          .rule = message("w+ = w + server.lr [(1/m) sum_S (w_k - w - beta h_k) + (beta/N) sum_k "
                          "h_k] over the cohort S and all N clients;  then h_k+ = w_k - w for S. "
                          "beta 0 is fedavg with uniform weights, beta 1 fedvarp.\n",
                          kHeld),
          .options = {{.name = "beta",
                       .type = Option::Type::kNumber,
                       .default_value = {},
                       .meaning = "how much of the last updates counts; the less alike clients' "
                                  "data and the more alike their participation, the more",
                       .range = between(0, 1)}},
          .defaults = {{"weighting", "uniform"}},
          .elsewhere =
              "The authors' code gives each client of the cohort 1 / (N p_k) in place of 1/m, p_k "
              "its known chance to take part.",
          .example = "--algorithm fedstale --fedstale.beta 0.5",
          .family = "global"};
}

}  // namespace

FL_PRESET(Algorithm, "mifa", Recalling, mifa);
FL_PRESET(Algorithm, "fedvarp", Recalling, fedvarp);
FL_PRESET(Algorithm, "fedstale", Recalling, fedstale);

}  // namespace fl_sim
