#include "learning/model_choice.h"

#include <limits>

namespace fl_sim {

std::vector<int64_t> best_models(const FullPass& full, const ClientGroup& group,
                                 const GlobalModel& global, int64_t count) {
  std::vector<int64_t> best(group.ids.size(), 0);
  if (count == 1) return best;
  std::vector<double> least(group.ids.size(), std::numeric_limits<double>::infinity());
  for (int64_t model = 0; model < count; ++model) {
    const std::vector<double> losses = full.losses(group, global.model(model));
    for (size_t k = 0; k < losses.size(); ++k) {
      if (losses[k] < least[k]) best[k] = model, least[k] = losses[k];
    }
  }
  return best;
}

Update train_models(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
                    const std::vector<int64_t>& models) {
  const torch::Tensor index = torch::tensor(models, torch::kInt64).to(group.rows.device());
  const torch::Tensor received = global.weights.index_select(0, index);  // [G, P]
  group.rows.copy_(received);
  Update update = local.train(group, global);
  torch::NoGradGuard no_grad;
  update.delta = group.rows - received;
  update.set_delta_norms(update.delta, local.trainable());
  for (size_t k = 0; k < update.clients.size(); ++k) update.clients[k].model = models[k];
  return update;
}

std::vector<PersonalModel> as_personal(const GlobalModel& global,
                                       const std::vector<int64_t>& models) {
  std::vector<PersonalModel> own;
  for (const int64_t model : models)
    own.push_back({.rows = {global.weights[model]}, .weights = {}});
  return own;
}

}  // namespace fl_sim
