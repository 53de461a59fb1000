// PWFL, parallel weights: several sets of global weights, each trained by a cohort of its own at
// the same time as the others.
//
// In every round the cohort is drawn as M disjoint parts of floor(m/M) clients, one for each set,
// so that no client trains two sets at once. Each set is trained by an algorithm that knows nothing
// of the others: it sees a cohort of floor(m/M) clients and one model. What that algorithm keeps on
// the server and at a client, it keeps for each set apart. Ranks are shared out among the sets, and
// the server aggregates one while the others are still being trained.
#include <cmath>

#include "fl_sim.h"

namespace fl_sim {

class Pwfl final : public Algorithm {
 public:
  explicit Pwfl(const Setup& setup)
      : models_(setup.job.get<int64_t>("pwfl.models")),
        merge_(setup.job.get<std::string>("pwfl.merge")),
        distinct_(setup.job.get<std::string>("pwfl.init") == "different"),
        job_(job_of_one_model(setup)) {
    if (merge_ != "none") merge_every_ = setup.job.get<int64_t>("pwfl.merge-every");
    const auto file = setup.job.get<std::string>("init");
    FL_CHECK(!distinct_ || file == "random", "pwfl.init is different, but init is ", file,
             ", with which all models start (set pwfl.init to same)");
    const auto name = setup.job.get<std::string>("pwfl.inner");
    try {
      inner_ = make<Algorithm>(
          name, {job_, setup.network, setup.clients, setup.samples, setup.client_speeds});
    } catch (const Error& error) {
      if (models_ == 1) throw;
      throw Error(message("pwfl.inner is ", name, ", in cohorts of ", job_.get<int64_t>("cohort"),
                          ": ", error.what()));
    }
    const auto refuse = [&](bool refused, const char* reason) {
      FL_CHECK(!refused, "pwfl.inner is ", name, ", which ", reason,
               " (choose another algorithm, such as fedavg)");
    };
    const Needs inner = inner_->needs();
    refuse(inner.models > 1 || inner.lanes > 1, "has several models of its own");
    refuse(inner.keeps_deltas, "compares the clients of the whole cohort with one another");
    refuse(inner.pooled, "has no clients");
  }

  static PluginInfo describe() {
    return {
        .summary = "several global models at once, trained by disjoint cohorts",
        .rule =
            "The cohort is cut by chance into M disjoint parts of floor(m/M) clients; part j "
            "trains "
            "model j by the inner algorithm, whose state is kept apart for each model.\n"
            "After every merge-every rounds: average, w_j+ = (1/M) sum_i w_i; or best, w_j+ = w_b "
            "with b the model of the lowest mean training loss in the round, by samples.\n"
            "A merge replaces the weights; what the inner algorithm keeps stays with its model. "
            "The test figures are those of the mixture, the mean of the models' predicted "
            "probabilities, and of each model. M 1 is the inner algorithm.",
        .options = {{.name = "models",
                     .type = Option::Type::kInteger,
                     .default_value = "2",
                     .meaning = "M, the number of global models",
                     .range = at_least(1)},
                    {.name = "inner",
                     .default_value = "fedavg",
                     .meaning = "the algorithm that trains each model",
                     .plugin_kind = "algorithm"},
                    {.name = "merge",
                     .default_value = "none",
                     .meaning = "what becomes of the models: none, their average, or the best one "
                                "for all",
                     .choices = {"none", "average", "best"}},
                    {.name = "merge-every",
                     .type = Option::Type::kInteger,
                     .default_value = "1",
                     .meaning = "rounds from one merge to the next",
                     .range = at_least(1),
                     .only_with = {"pwfl.merge", {"average", "best"}}},
                    {.name = "init",
                     .default_value = "same",
                     .meaning = "whether all models start with the same random weights",
                     .choices = {"same", "different"}}},
        .example = "--algorithm pwfl --pwfl.models 2 --pwfl.inner scaffold",
        .family = "parallel"};
  }

  Needs needs() const override {
    Needs needs = inner_->needs();
    needs.models = needs.lanes = models_;
    needs.distinct_models = distinct_;
    const VectorSizes one = std::exchange(needs.client_state, {});
    for (int64_t model = 0; model < models_; ++model) {
      for (const auto& [name, size] : one) needs.client_state[own(model, name)] = size;
    }
    if (!one.empty()) needs.client_state[kKnown] = models_;  // 1 where there is a state
    return needs;
  }

  void init(ServerState& server) const override {
    for (int64_t model = 0; model < models_; ++model) {
      for_model(server, model, [&](ServerState& view) { inner_->init(view); });
    }
  }

  TaskCost task_cost(int64_t client, int64_t round) const override {
    return inner_->task_cost(client, round);
  }

  Update train(ClientGroup& group, const GlobalModel& global) const override {
    const int64_t model = group.model;
    ClientGroup view = view_of(group, model);
    Update update = inner_->train(view, view_of(global, model));
    State state;
    for (const auto& [name, tensor] : update.state) state[own(model, name)] = tensor;
    const auto known = group.state.find(kKnown);
    if (!state.empty() && known != group.state.end()) {
      state[kKnown] = known->second.clone();
      state[kKnown].select(1, model).fill_(1);
    }
    update.state = std::move(state);
    return update;
  }

  void aggregate(ServerState& server, const Sum& sum) const override {
    Sum one = sum;
    one.lane = 0;
    one.records = records_of(sum.records, sum.lane);
    for_model(server, sum.lane, [&](ServerState& view) { inner_->aggregate(view, one); });
  }

  void end_round(ServerState& server, const std::vector<ClientRecord>& records) const override {
    for (int64_t model = 0; model < models_; ++model) {
      for_model(server, model,
                [&](ServerState& view) { inner_->end_round(view, records_of(records, model)); });
    }
    if (merge_every_ > 0 && server.round % merge_every_ == 0) merge(server, records);
  }

  // A client's own model is the mixture of those that the inner algorithm has for it, one for each
  // global model, as the global one is the mixture of these.
  std::vector<std::string> warnings() const override { return inner_->warnings(); }

  std::vector<PersonalModel> personalize(ClientGroup& group,
                                         const GlobalModel& global) const override {
    std::vector<PersonalModel> mixtures(group.ids.size());
    for (int64_t model = 0; model < models_; ++model) {
      ClientGroup view = view_of(group, model);
      view.rows = global.model(model).expand({group.size(), -1}).clone();
      const std::vector<PersonalModel> all = inner_->personalize(view, view_of(global, model));
      if (models_ == 1) return all;
      for (size_t k = 0; k < all.size(); ++k) {
        for (size_t i = 0; i < all[k].rows.size(); ++i) {
          const double share = all[k].weights.empty() ? 1 / static_cast<double>(all[k].rows.size())
                                                      : all[k].weights[i];
          mixtures[k].rows.push_back(all[k].rows[i]);
          mixtures[k].weights.push_back(share / static_cast<double>(models_));
        }
      }
    }
    return mixtures;
  }

 private:
  static constexpr const char* kKnown = "known";

  // The job as the inner algorithm is to see it: with the cohort of one model.
  static Job job_of_one_model(const Setup& setup) {
    const auto models = setup.job.get<int64_t>("pwfl.models");
    const auto cohort = setup.job.get<int64_t>("cohort");
    FL_CHECK(models <= cohort, "pwfl.models is ", models, ", but cohort is ", cohort,
             " (each model needs a client in every round: a larger cohort or fewer models)");
    Job job = setup.job;
    job.set("cohort", std::to_string(cohort / models));
    return job;
  }

  static std::string own(int64_t model, const std::string& name) {
    return message(model, "/", name);
  }
  // One model's part, under the inner algorithm's names.
  static State part_of(const State& all, int64_t model) {
    const std::string prefix = own(model, "");
    State part;
    for (auto it = all.lower_bound(prefix); it != all.end() && it->first.starts_with(prefix); ++it)
      part[it->first.substr(prefix.size())] = it->second;
    return part;
  }

  static GlobalModel view_of(const GlobalModel& global, int64_t model) {
    return {.round = global.round,
            .exchange = global.exchange,
            .weights = global.model(model),
            .shared = part_of(global.shared, model)};
  }

  // The same clients, with what they keep for one model.
  static ClientGroup view_of(const ClientGroup& group, int64_t model) {
    ClientGroup view = group;
    view.model = 0;
    view.state = part_of(group.state, model);
    const auto known = group.state.find(kKnown);
    if (known == group.state.end()) return view;
    const torch::Tensor flags = known->second.select(1, model).cpu();
    for (int64_t k = 0; k < group.size(); ++k)
      view.fresh[static_cast<size_t>(k)] = flags[k].item<double>() == 0;
    return view;
  }

  // Lets the inner algorithm work on one model as if there were no other.
  template <class Work>
  static void for_model(ServerState& server, int64_t model, const Work& work) {
    ServerState view{view_of(server, model), part_of(server.hidden, model)};
    work(view);
    const torch::Tensor row = server.model(model);
    if (view.weights.data_ptr() != row.data_ptr()) row.copy_(view.weights);
    for (const auto& [name, tensor] : view.shared) server.shared[own(model, name)] = tensor;
    for (const auto& [name, tensor] : view.hidden) server.hidden[own(model, name)] = tensor;
  }

  // The records of one model's clients, which the inner algorithm takes for all there are.
  std::vector<ClientRecord> records_of(const std::vector<ClientRecord>& all, int64_t model) const {
    std::vector<ClientRecord> records;
    for (ClientRecord record : all) {
      if (models_ > 1 && record.model != model) continue;
      record.model = 0;
      records.push_back(record);
    }
    return records;
  }

  void merge(ServerState& server, const std::vector<ClientRecord>& records) const {
    torch::Tensor merged;  // [1, P]
    if (merge_ == "average") {
      merged = server.model(0).clone();
      for (int64_t model = 1; model < models_; ++model) merged.add_(server.model(model));
      merged.div_(static_cast<double>(models_));
    } else {
      const int64_t best = best_model(records);
      if (best < 0) return;
      merged = server.model(best).clone();
    }
    server.weights.copy_(merged.expand_as(server.weights));
  }

  // By the clients' training losses; -1 if nobody trained.
  int64_t best_model(const std::vector<ClientRecord>& records) const {
    int64_t best = -1;
    double lowest = 0;
    for (int64_t model = 0; model < models_; ++model) {
      double loss = 0, samples = 0;
      for (const ClientRecord& record : records_of(records, model)) {
        if (!record.counts() || record.steps == 0) continue;
        loss += record.loss * static_cast<double>(record.samples);
        samples += static_cast<double>(record.samples);
      }
      if (samples == 0 || !std::isfinite(loss)) continue;
      if (best >= 0 && loss / samples >= lowest) continue;
      best = model;
      lowest = loss / samples;
    }
    return best;
  }

  int64_t models_;
  std::string merge_;
  int64_t merge_every_ = 0;  // 0: never
  bool distinct_;
  Job job_;
  std::unique_ptr<Algorithm> inner_;
};

FL_REGISTER(Algorithm, "pwfl", Pwfl);

}  // namespace fl_sim
