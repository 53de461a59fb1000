// Clustered federated learning: FedAvg that splits its clients where their updates disagree.
// Sattler et al., "Clustered federated learning: Model-agnostic distributed multi-task optimization
// under privacy constraints", IEEE Transactions on Neural Networks and Learning Systems 2020,
// Algorithms 1 (optimal bipartition) and 2, with weight updates in place of gradients.
//
// The paper has all clients in every round. A cluster is split only in a round in which all of its
// clients' updates counted, since whoever was absent could not be told from either half.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "fl_sim.h"
#include "learning/model_choice.h"

namespace fl_sim {
namespace {

// The first half (by place) of the bipartition whose largest similarity across the halves is the
// smallest: the most similar pairs are joined until two parts are left (Algorithm 1).
// `similarity` [m, m], m >= 2. True: with client 0.
std::vector<bool> optimal_bipartition(const torch::Tensor& similarity) {
  const int64_t m = similarity.size(0);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = i + 1; j < m; ++j) pairs.emplace_back(i, j);
  }
  const auto s = similarity.accessor<double, 2>();
  std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
    return s[a.first][a.second] > s[b.first][b.second];
  });
  std::vector<int64_t> part(static_cast<size_t>(m));
  std::iota(part.begin(), part.end(), int64_t{0});
  int64_t parts = m;
  for (const auto& [i, j] : pairs) {
    if (parts == 2) break;
    const int64_t from = part[static_cast<size_t>(j)], to = part[static_cast<size_t>(i)];
    if (from == to) continue;
    std::replace(part.begin(), part.end(), from, to);
    --parts;
  }
  std::vector<bool> first;
  for (const int64_t p : part) first.push_back(p == part[0]);
  return first;
}

}  // namespace

class Cfl final : public Algorithm {
 public:
  explicit Cfl(const Setup& setup)
      : local_(setup),
        full_(setup),
        optimizer_(setup),
        ids_(setup.clients + setup.job.get<int64_t>("holdout-clients")),
        capacity_(setup.job.get<int64_t>("cfl.max-clusters")),
        first_split_(setup.job.get<int64_t>("cfl.first-split")),
        eps1_(setup.job.get<double>("cfl.eps1")),
        eps2_(setup.job.get<double>("cfl.eps2")) {
    const auto cohort = setup.job.get<int64_t>("cohort");
    FL_CHECK(cohort == setup.clients, "cohort is ", cohort, " (must be ", setup.clients,
             ", all clients: cfl compares their updates of one round)");
    FL_CHECK(setup.job.get<std::string>("availability") == "chance", "availability is ",
             setup.job.get<std::string>("availability"),
             " (must be chance: cfl compares all clients' updates of one round)");
    FL_CHECK(setup.job.get<double>("availability.probability") == 1, "availability.probability is ",
             setup.job.get<double>("availability.probability"),
             " (must be 1: cfl compares all clients' updates of one round)");
  }

  static PluginInfo describe() {
    return {
        .summary = "FedAvg that splits its clients in two where their updates disagree",
        .source =
            "Sattler et al., Clustered federated learning: Model-agnostic distributed multi-task "
            "optimization under privacy constraints, IEEE TNNLS 2020, Algorithms 1 and 2",
        .rule =
            "per cluster c of clients, all in one at first: w_c+ = w_c + server.lr D_c, D_c = mean "
            "of D_k = w_k - w_c, weighted by p_k.\n"
            "If |D_c| < eps1 and max_k |D_k| > eps2, c is split into the two halves whose largest "
            "cos(D_i, D_j), i and j in different halves, is the smallest; both go on from w_c+.\n"
            "All clients take part in every round; where one of a cluster did not answer, it is "
            "not split in that round. Models that are not in use yet are copies of the first.",
        .options = {{.name = "eps1",
                     .type = Option::Type::kNumber,
                     .default_value = "0.4",
                     .meaning = "a cluster is split when the norm of its mean update is below this",
                     .range = more_than(0)},
                    {.name = "eps2",
                     .type = Option::Type::kNumber,
                     .default_value = "1.6",
                     .meaning = "and the largest norm of a client's update is above this",
                     .range = at_least(0)},
                    {.name = "max-clusters",
                     .type = Option::Type::kInteger,
                     .default_value = "4",
                     .meaning = "most clusters; room for so many models is there from the start",
                     .range = between(1, 1000)},
                    {.name = "first-split",
                     .type = Option::Type::kInteger,
                     .default_value = "1",
                     .meaning = "first round after which clusters may be split",
                     .range = at_least(1)}},
        .defaults = {{"evaluate-clients", "1"}},
        .elsewhere =
            "Sattler et al.'s code: clusters of three or more, after round 21 at the earliest; "
            "complete linkage in place of Algorithm 1; every client weighs the same;\n"
            "  the halves part with the mean updates of their own clients.",
        .example =
            "--algorithm cfl --clients 10 --cohort 10 --cfl.eps1 0.4 --cfl.eps2 0.2 "
            "--partition.test-fraction 0.2",
        .family = "personalisation"};
  }

  Needs needs() const override {
    Needs needs = local_.needs();
    needs.models = capacity_;
    needs.models_received = 1;  // the client's cluster's
    needs.splits_models = true;
    needs.keeps_deltas = true;
    needs.follows_norms = true;
    needs.personal = true;
    return needs;
  }

  // shared "cluster" [ids]: which one a client is in; -1 as long as nothing was heard of it.
  void init(ServerState& server) const override {
    optimizer_.init(server);
    server.shared["cluster"] = torch::full({ids_}, -1, server.weights.options());
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    std::vector<int64_t> models = clusters_of(group.ids, global);
    for (int64_t& model : models) model = std::max(model, int64_t{0});
    return train_models(local_, group, global, models);
  }

  bool wants_products(const ServerState& server, const Sum& sum) const override {
    return !to_split(server, sum).empty();
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    const std::vector<int64_t> splits = to_split(server, sum);
    torch::Tensor cluster = server.shared.at("cluster");
    for (const ClientRecord& record : sum.records) cluster[record.client].clamp_min_(0);
    int64_t active = clusters(server);
    for (int64_t c = 0; c < active; ++c) {
      if (sum.weight[static_cast<size_t>(c)] > 0) {
        optimizer_.step(server, sum.delta.narrow(0, c, 1), c);
      }
    }
    for (const int64_t c : splits) split(server, sum, c, active++);
    for (int64_t c = active; c < capacity_; ++c) copy_model(server, 0, c);
  }

  // A client that never trains has the model that fits it best.
  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    std::vector<int64_t> models = clusters_of(group.ids, global);
    if (std::find(models.begin(), models.end(), -1) != models.end()) {
      const std::vector<int64_t> best = best_models(full_, group, global, clusters(global));
      for (size_t k = 0; k < models.size(); ++k) {
        if (models[k] < 0) models[k] = best[k];
      }
    }
    return as_personal(global, models);
  }

 private:
  // How many there are.
  static int64_t clusters(const GlobalModel& global) {
    return std::max(int64_t{1},
                    1 + global.shared.at("cluster").max().to(torch::kInt64).item<int64_t>());
  }

  static std::vector<int64_t> clusters_of(const std::vector<int64_t>& ids,
                                          const GlobalModel& global) {
    const torch::Tensor cluster = global.shared.at("cluster").to(torch::kInt64).cpu();
    std::vector<int64_t> result;
    for (const int64_t id : ids) result.push_back(cluster[id].item<int64_t>());
    return result;
  }

  // The places of a cluster's clients in the round's records; empty if one's update is missing.
  static std::vector<int64_t> places(const Sum& sum, const torch::Tensor& cluster, int64_t c) {
    std::vector<int64_t> result;
    int64_t there = 0;
    for (int64_t i = 0; i < std::ssize(sum.records); ++i) {
      const ClientRecord& record = sum.records[static_cast<size_t>(i)];
      const auto own = std::max(int64_t{0}, cluster[record.client].item<int64_t>());
      if (own != c) continue;
      if (!record.counts()) return {};
      result.push_back(i);
    }
    // Who was not even asked.
    for (int64_t id = 0; id < cluster.size(0); ++id) there += cluster[id].item<int64_t>() == c;
    return std::ssize(result) >= there ? result : std::vector<int64_t>{};
  }

  std::vector<int64_t> to_split(const ServerState& server, const Sum& sum) const {
    std::vector<int64_t> result;
    const int64_t active = clusters(server);
    if (server.round < first_split_) return result;
    const torch::Tensor cluster = server.shared.at("cluster").to(torch::kInt64).cpu();
    for (int64_t c = 0; c < active && active + std::ssize(result) < capacity_; ++c) {
      const std::vector<int64_t> clients = places(sum, cluster, c);
      if (clients.size() < 2) continue;
      double largest = 0;
      for (const int64_t i : clients) {
        largest = std::max(largest, sum.records[static_cast<size_t>(i)].sent_norm);
      }
      const auto mean = sum.delta[c].narrow(0, 0, local_.trainable()).norm().item<double>();
      if (mean < eps1_ && largest > eps2_) result.push_back(c);
    }
    return result;
  }

  // Puts the half of cluster `c` without its first client into the new cluster `next`.
  void split(ServerState& server, const Sum& sum, int64_t c, int64_t next) const {
    torch::Tensor cluster = server.shared.at("cluster");
    const std::vector<int64_t> clients = places(sum, cluster.to(torch::kInt64).cpu(), c);
    const torch::Tensor index = torch::tensor(clients, torch::kInt64);
    const torch::Tensor products =
        sum.products.index_select(0, index).index_select(1, index);  // [m, m] float64
    const torch::Tensor norms = products.diagonal().sqrt();
    // A client that did not move has no direction: 0 to all.
    const torch::Tensor similarity = products / torch::outer(norms, norms);
    const std::vector<bool> stays =
        optimal_bipartition(torch::nan_to_num(similarity, 0, 0, 0).contiguous());
    for (size_t i = 0; i < clients.size(); ++i) {
      if (!stays[i]) cluster[sum.records[static_cast<size_t>(clients[i])].client] = next;
    }
    copy_model(server, c, next);
  }

  // With what the server's rule remembers of it.
  static void copy_model(ServerState& server, int64_t from, int64_t to) {
    server.weights[to].copy_(server.weights[from]);
    for (auto& [name, tensor] : server.hidden) tensor[to].copy_(tensor[from]);
  }

  LocalTraining local_;
  FullPass full_;
  ServerOptimizer optimizer_;
  int64_t ids_, capacity_, first_split_;
  double eps1_, eps2_;
};

FL_REGISTER(Algorithm, "cfl", Cfl);

}  // namespace fl_sim
