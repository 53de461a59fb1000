#include "learning/local_training.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/check.h"
#include "network/arithmetic.h"
#include "process/interruption.h"

namespace fl_sim {

const OptionSet<RateOptions> RateOptions::kOptions(
    810, {{&RateOptions::lr,
           {.name = "local.lr",
            .default_value = {},
            .meaning = "local learning rate",
            .range = more_than(0)}},
          {&RateOptions::schedule,
           {.name = "local.lr-schedule",
            .default_value = "decay",
            .meaning = "the local learning rate over the rounds: times lr-decay after each, times "
                       "lr-decay after every lr-step, or along a cosine that would be 0 after the "
                       "last",
            .choices = {"decay", "step", "cosine"}}},
          {&RateOptions::decay,
           {.name = "local.lr-decay",
            .default_value = "1",
            .meaning = "factor on the local learning rate after every round, or every lr-step "
                       "rounds",
            .range = {.low = 0, .high = 1, .open_low = true},
            .only_with = {"local.lr-schedule", {"decay", "step"}}}},
          {&RateOptions::step,
           {.name = "local.lr-step",
            .default_value = "10",
            .meaning = "rounds between the steps of the local learning rate",
            .range = at_least(1),
            .only_with = {"local.lr-schedule", {"step"}}}}});

namespace {

void apply(const AffineCorrection& affine, LocalStep& step) {
  // A tensor of one row serves all clients.
  const auto own = [&](const torch::Tensor& t) {
    return t.dim() == 2 && t.size(0) > 1 ? step.of(t) : t;
  };
  if (affine.pull != 0) step.gradients.add_(step.rows - own(affine.anchor), affine.pull);
  if (affine.shift.defined()) step.gradients.add_(own(affine.shift));
}

// What an affine correction adds to a row in every step, whatever the row is: lr * (pull * anchor -
// shift), [T]. Undefined if nothing.
torch::Tensor folded_part(const AffineCorrection& affine, double lr) {
  torch::Tensor part;
  if (affine.pull != 0) part = affine.anchor * (lr * affine.pull);
  if (affine.shift.defined()) part = part.defined() ? part - affine.shift * lr : affine.shift * -lr;
  return part.defined() ? part.contiguous() : part;
}

// The group in another order, `from[i]` the place that the new i-th client has now.
ClientGroup reordered(const ClientGroup& group, const std::vector<int64_t>& from) {
  const torch::Tensor index = torch::tensor(from, torch::kInt64).to(group.rows.device());
  ClientGroup result{.ids = {}, .data = group.data, .seed = group.seed, .model = group.model};
  result.squared_losses = group.squared_losses;
  for (const int64_t i : from) {
    result.ids.push_back(group.ids[static_cast<size_t>(i)]);
    if (!group.fresh.empty()) result.fresh.push_back(group.fresh[static_cast<size_t>(i)]);
    result.limits.push_back(group.limit(i));
  }
  result.rows = group.rows.index_select(0, index);
  for (const auto& [name, tensor] : group.state) result.state[name] = tensor.index_select(0, index);
  return result;
}

}  // namespace

torch::Tensor LocalStep::gradient(const torch::Tensor& other_rows, int64_t batch,
                                  const LossRule& loss) {
  torch::AutoGradMode with_gradients(true);  // hooks are called without
  // Zeros in the gaps between parameters, which no gradient is written to.
  torch::Tensor result = torch::zeros_like(gradients);
  passes_.at(static_cast<size_t>(batch)).gradient(other_rows, result, loss);
  return result;
}

Scored LocalStep::forward(const torch::Tensor& other_rows, bool representation) {
  return passes_[0].forward(other_rows, representation);
}

AffineCorrection::~AffineCorrection() = default;

LocalTraining::LocalTraining(const Algorithm::Setup& setup)
    : network_(setup.network),
      plan_(setup.job),
      optimizer_(setup.job),
      rate_(read_options<RateOptions>(setup.job)),
      rounds_(setup.job.get<int64_t>("rounds")),
      one_thread_(read_options<Arithmetic>(setup.job).one_thread()),
      product_type_(product_type(setup.job)) {}

Needs LocalTraining::needs() const {
  Needs needs;
  if (rate_.schedule == "cosine") needs.follows_length = "local.lr-schedule is cosine";
  if (optimizer_.keeps_momentum()) needs.client_state[kMomentumState] = trainable();
  return needs;
}

double LocalTraining::learning_rate(int64_t round) const {
  const auto before = static_cast<double>(round - 1);
  if (rate_.schedule == "cosine")
    return rate_.lr / 2 * (1 + std::cos(std::numbers::pi * before / static_cast<double>(rounds_)));
  double decays = before;
  if (rate_.schedule == "step") {
    const int64_t whole = (round - 1) / rate_.step;
    decays = static_cast<double>(whole);
  }
  return rate_.lr * std::pow(rate_.decay, decays);
}

LocalPlan LocalTraining::plan_for(const LocalRule& rule) const {
  LocalPlan plan = plan_;
  if (rule.epochs) plan.epochs = *rule.epochs, plan.steps = 0;
  if (rule.steps) plan.steps = *rule.steps;
  return plan;
}

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global,
                            const AffineCorrection& affine) const {
  return train(group, global, LocalRule{.affine = affine});
}

Update LocalTraining::train(ClientGroup& group, const GlobalModel& global,
                            const LocalRule& rule) const {
  const LocalPlan plan = plan_for(rule);
  std::vector<int64_t> steps;
  for (int64_t k = 0; k < group.size(); ++k) {
    const int64_t samples = group.data.partition->size(group.ids[static_cast<size_t>(k)]);
    const bool none = rule.steps == 0 || (rule.epochs == 0 && !rule.steps);
    // A straggler's limit is in the job's unit, which need not be the rule's.
    const bool in_steps = plan_.steps > 0 && plan.steps == 0;
    const int64_t limit = group.limit(k);
    const int64_t own = none ? 0 : plan.steps_of(samples, in_steps ? 0 : limit);
    steps.push_back(in_steps && limit > 0 ? std::min(own, limit) : own);
  }
  return run(group, global, rule, steps);
}

// Clients of a group come sorted by the steps of the job; with other numbers of epochs their order
// may be another one.
Update LocalTraining::run(ClientGroup& group, const GlobalModel& global, const LocalRule& rule,
                          const std::vector<int64_t>& steps) const {
  if (std::is_sorted(steps.rbegin(), steps.rend())) return run_sorted(group, global, rule, steps);
  const auto common = [](const torch::Tensor& t) {  // one row for all clients, in whatever order
    return !t.defined() || t.dim() == 1 || t.size(0) == 1;
  };
  FL_CHECK(common(rule.affine.anchor) && common(rule.affine.shift) && !rule.gradient && !rule.at &&
               !rule.loss && !rule.displacement.defined(),
           "clients of a group must come with the most steps first");
  std::vector<int64_t> from(steps.size());
  std::iota(from.begin(), from.end(), int64_t{0});
  std::stable_sort(from.begin(), from.end(), [&](int64_t a, int64_t b) {
    return steps[static_cast<size_t>(a)] > steps[static_cast<size_t>(b)];
  });
  ClientGroup sorted = reordered(group, from);
  std::vector<int64_t> sorted_steps;
  for (const int64_t i : from) sorted_steps.push_back(steps[static_cast<size_t>(i)]);
  Update done = run_sorted(sorted, global, rule, sorted_steps);

  std::vector<int64_t> back(from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    back[static_cast<size_t>(from[i])] = static_cast<int64_t>(i);
  }
  const torch::Tensor index = torch::tensor(back, torch::kInt64).to(group.rows.device());
  group.rows.copy_(sorted.rows.index_select(0, index));
  done.delta = done.delta.index_select(0, index);
  for (auto& [name, tensor] : done.state) tensor = tensor.index_select(0, index);
  std::vector<ClientOutcome> clients;
  for (const int64_t place : back) clients.push_back(done.clients[static_cast<size_t>(place)]);
  done.clients = std::move(clients);
  return done;
}

Update LocalTraining::run_sorted(ClientGroup& group, const GlobalModel& global,
                                 const LocalRule& rule, const std::vector<int64_t>& steps) const {
  const int64_t clients = group.size(), trained = trainable();
  const torch::TensorOptions options = group.rows.options();
  const double lr = rule.lr.value_or(learning_rate(global.round));
  const int64_t longest = steps.front();
  const AffineCorrection& affine = rule.affine;
  const bool corrected = affine.pull != 0 || affine.shift.defined();
  const bool hooked = rule.gradient || rule.at || rule.loss || rule.frozen != nullptr ||
                      rule.displacement.defined();
  Update update;
  for (const int64_t n : steps) {
    ClientOutcome& client = update.clients.emplace_back();
    client.steps = n;
    client.step_weight = optimizer_.step_weight(n, lr * affine.pull);
  }

  std::vector<BatchPass> passes;  // none if nobody has a step to do
  for (int64_t i = 0; i <= rule.more_batches && longest > 0; ++i) {
    const std::string suffix = i == 0 ? "" : message(".", i);
    passes.emplace_back(
        BatchPass::Setup{network_, one_thread_, product_type_}, group,
        Batches(group, rule.batches + suffix, global.round, plan_for(rule), steps),
        rule.batches == "shuffle" ? "dropout" + suffix : message("dropout ", rule.batches, suffix),
        global.round);
  }
  const bool direct = longest > 0 && passes[0].is_direct();

  // Without momentum, clipping and hooks a step is folded into the direct pass's kernels:
  //   row += plus - decay * row - lr * gradient.
  const bool linear = optimizer_.linear() && !hooked;
  const bool plain = linear && !corrected && optimizer_.weight_decay() == 0;
  const bool folded = direct && linear;
  torch::Tensor plus;
  if (folded && corrected) plus = folded_part(affine, lr);
  GradientTarget fold{.row = nullptr,
                      .scale = static_cast<float>(-lr),
                      .plus = plus.defined() ? plus.data_ptr<float>() : nullptr,
                      .add = true,
                      .decay = static_cast<float>(lr * (optimizer_.weight_decay() + affine.pull))};

  torch::Tensor gradients, kept;
  if (!(plain || folded)) gradients = torch::zeros({clients, trained}, options);
  LocalOptimizer::Memory memory = optimizer_.start(clients, trained, options);
  const bool keeps = optimizer_.keeps_momentum() && rule.batches == "shuffle";
  FL_CHECK(!keeps || group.state.contains(kMomentumState),
           "local.keep-momentum is on, but the algorithm does not keep it (its needs() must begin "
           "with those of its LocalTraining)");
  if (keeps) memory.velocity.copy_(group.state.at(kMomentumState));
  RowPart frozen;  // of the gradients
  if (rule.frozen != nullptr) {
    kept = rule.frozen->gather(group.rows);
    frozen = rule.frozen->trainable(network_.layout());
  }
  // [steps, G]; it stays on the device, so that no step waits for it.
  torch::Tensor losses =
      torch::zeros({longest, clients}, direct ? options.dtype(torch::kFloat64) : options);

  torch::Tensor squares;  // [steps, G]
  if (group.squared_losses && longest > 0) {
    squares = torch::zeros({longest, clients}, options.dtype(torch::kFloat64));
    passes[0].keep_squares();
  }
  const auto keep_squares = [&](int64_t step, int64_t active) {
    if (squares.defined()) squares[step].narrow(0, 0, active).copy_(passes[0].squares());
  };

  for (int64_t index = 0; index < longest; ++index) {
    Interruption::get().at_step();
    for (BatchPass& pass : passes) pass.select(index);
    BatchPass& main = passes[0];
    const int64_t active = main.batch().clients;
    if (folded) {
      float* row = group.rows.data_ptr<float>();
      DirectPass& pass = main.direct();
      pass.forward(row);
      losses.data_ptr<double>()[index] = pass.loss();
      if (squares.defined()) squares.data_ptr<double>()[index] = sum_of_squares(pass);
      fold.row = row;
      pass.backward(row, fold);
      continue;
    }
    const torch::Tensor whole = group.rows.narrow(0, 0, active);
    if (plain) {
      losses[index].narrow(0, 0, active).copy_(main.descend(whole, lr));
      keep_squares(index, active);
      continue;
    }

    LocalStep step(index, lr, whole, whole.narrow(1, 0, trained), gradients.narrow(0, 0, active),
                   passes);
    LossRule loss;
    if (rule.loss) {
      loss = {[&](Scored& scored) { rule.loss(step, scored); }, rule.representation};
    }
    torch::Tensor place = whole;
    if (rule.at) {
      torch::NoGradGuard no_grad;
      place = rule.at(step);
    }
    losses[index].narrow(0, 0, active).copy_(main.gradient(place, step.gradients, loss));
    keep_squares(index, active);
    torch::NoGradGuard no_grad;
    if (rule.gradient) rule.gradient(step);
    if (corrected) apply(affine, step);
    if (!frozen.empty()) frozen.zero(step.gradients);
    optimizer_.step(step.rows, step.gradients, memory, lr);
    if (rule.displacement.defined()) {
      torch::Tensor rows = step.rows;
      rows.sub_(rule.displacement.narrow(0, 0, active), lr);
    }
    if (rule.frozen != nullptr) rule.frozen->scatter(whole, kept.narrow(0, 0, active));
  }

  torch::NoGradGuard no_grad;
  update.delta = group.rows - global.weights.narrow(0, group.model, 1);
  if (keeps) update.state[kMomentumState] = memory.velocity;
  update.set_delta_norms(update.delta, trained);
  losses = losses.to(torch::kFloat64).cpu();
  const double* loss_log = losses.data_ptr<double>();
  if (squares.defined()) squares = squares.sum(0).cpu();  // a client's later steps are 0
  for (int64_t c = 0; c < clients; ++c) {
    double total = 0;
    int64_t seen = 0;
    const int64_t own = steps[static_cast<size_t>(c)];
    for (int64_t step = 0; step < own; ++step) {
      const int64_t count = passes[0].batches().at(step).counts[c];
      total += loss_log[step * clients + c] * static_cast<double>(count);
      seen += count;
    }
    ClientOutcome& client = update.clients[static_cast<size_t>(c)];
    client.samples_seen = seen;
    if (own > 0) {
      client.loss = total / static_cast<double>(seen);
      if (squares.defined())
        client.squared_loss = squares[c].item<double>() / static_cast<double>(seen);
      client.loss_before = loss_log[c];
      client.loss_after = loss_log[(own - 1) * clients + c];
    }
  }
  return update;
}

}  // namespace fl_sim
