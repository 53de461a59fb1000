#include "engine/server.h"

#include <numeric>
#include <string>
#include <utility>

namespace fl_sim {

Server::Server(const Experiment& experiment) : e_(experiment), needs_(e_.algorithm->needs()) {}

Meeting Server::take(const ServerState& model, int64_t lane, const WeightedSum& total,
                     std::vector<ClientRecord> records, const AsyncRounds::Mixing& mixing) {
  Sum sum{.lane = lane, .delta = {}, .weight = total.weights(), .extra = {}};
  int64_t index = 0;
  for (const std::string& name : needs_.scalars) sum.scalar_index[name] = index++;
  for (const ClientRecord& record : records) {
    sum.clients += record.counts() ? 1 : 0;
    sum.samples += record.counts() ? record.samples : 0;
  }
  sum.part = mixing.part;
  sum.records = std::move(records);
  sum_.reset();
  left_out_.clear();
  const bool enough = sum.clients >= e_.aggregator->fewest();
  if (!enough) leave_out(sum.records, std::nullopt);
  if (!enough || !(total.weight() > 0)) return {};  // the model stays
  sum_ = std::move(sum);
  torch::NoGradGuard no_grad;
  if (e_.aggregator->sees_clients()) return rows_of_models();

  std::vector<torch::Tensor> means = total.means(e_.dtype);
  sum_->delta = means[0];
  if (mixing.base >= 0 && mixing.base < model.round)
    sum_->delta.add_(model.versions.at(mixing.base).weights - model.weights);
  if (mixing.scale != 1) sum_->delta.mul_(mixing.scale);
  size_t next = 1;
  for (const auto& [name, size] : needs_.additive) sum_->extra[name] = means[next++];
  if (!needs_.keeps_deltas || !e_.algorithm->wants_products(model, *sum_)) return {};
  Meeting meeting{.kind = Meeting::Kind::kProducts, .sets = {{}}};
  for (const ClientRecord& record : sum_->records) meeting.sets[0].rows.push_back(record.client);
  return meeting;
}

// Whose updates do not count, though they were accepted: all of a model, or of all models.
void Server::leave_out(const std::vector<ClientRecord>& records, std::optional<int64_t> model) {
  for (const ClientRecord& record : records) {
    if (record.counts() && record.model == model.value_or(record.model))
      left_out_.push_back(record.client);
  }
}

// The accepted clients of each model; nobody, where too few trained it.
Meeting Server::rows_of_models() {
  bool any = false;
  Meeting meeting{.kind = Meeting::Kind::kAggregate};
  for (int64_t model = 0; model < needs_.models_in_lane(); ++model) {
    Meeting::Set set;
    for (const ClientRecord& record : sum_->records) {
      if (!record.counts() || record.model != model) continue;
      set.rows.push_back(record.dispatch < 0 ? record.client : record.dispatch);
      set.weights.push_back(record.weight);
      if (e_.aggregator->takes_stale())
        set.staleness.push_back(static_cast<double>(record.staleness));
    }
    if (std::ssize(set.rows) < e_.aggregator->fewest()) {
      leave_out(sum_->records, model);
      sum_->weight[static_cast<size_t>(model)] = 0;
      set = {};
    }
    any = any || !set.rows.empty();
    meeting.sets.push_back(std::move(set));
  }
  if (any) return meeting;
  sum_.reset();  // no model has enough of them: all stay
  return {};
}

// A model's aggregate is its delta, then the further vectors. These belong to all models: of
// several they are the mean, by the models' weights.
void Server::put_aggregates(const std::vector<torch::Tensor>& met) {
  const int64_t row = e_.network->layout().row();
  std::vector<torch::Tensor> deltas, others;
  std::vector<double> weights;
  for (size_t m = 0; m < met.size(); ++m) {
    if (!met[m].defined()) {
      deltas.push_back(torch::zeros({row}, torch::dtype(e_.dtype).device(e_.device)));
      continue;
    }
    const torch::Tensor whole = met[m].to(e_.device);
    deltas.push_back(whole.narrow(0, 0, row));
    others.push_back(whole.narrow(0, row, whole.size(0) - row));
    weights.push_back(sum_->weight[m]);
  }
  sum_->delta = torch::stack(deltas);
  torch::Tensor mean = others[0];
  if (others.size() > 1) {
    const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
    mean = torch::zeros_like(others[0]);
    for (size_t i = 0; i < others.size(); ++i) mean.add_(others[i], weights[i] / all);
  }
  int64_t offset = 0;
  for (const auto& [name, size] : needs_.additive) {
    sum_->extra[name] = mean.narrow(0, offset, size);
    offset += size;
  }
}

void Server::step(ServerState& model, const std::vector<torch::Tensor>& met) {
  if (!sum_) return;
  torch::NoGradGuard no_grad;
  if (e_.aggregator->sees_clients()) {
    put_aggregates(met);
  } else if (!met.empty()) {
    sum_->products = met[0];
  }
  if (factor_ != 1) {
    sum_->delta.mul_(factor_);
    for (auto& [name, vector] : sum_->extra) vector.mul_(factor_);
  }
  for (auto entry = e_.transforms.rbegin(); entry != e_.transforms.rend(); ++entry)
    entry->transform->finish(model, *sum_);
  e_.algorithm->aggregate(model, *sum_);
  check("the step of algorithm " + e_.job.get<std::string>("algorithm"), model);
  sum_.reset();
}

void Server::check(const std::string& who, const ServerState& model) const {
  if (shapes_) shapes_->check(who, model);
}

Figures Server::end_round(ServerState& model, const std::vector<ClientRecord>& records,
                          const std::vector<ClientRecord>& learned) const {
  torch::NoGradGuard no_grad;
  e_.algorithm->end_round(model, records);
  e_.sampler->learn(model.memory, learned);
  check("the end of a round of algorithm " + e_.job.get<std::string>("algorithm"), model);
  Figures figures = e_.algorithm->figures(model, records);
  for (const auto& [name, transform] : e_.transforms) {
    for (const auto& [figure, value] : transform->figures(model, records))
      figures[name + "." + figure] = value;
  }
  return figures;
}

}  // namespace fl_sim
