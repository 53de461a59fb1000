#include "learning/sub_models.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace fl_sim {

const OptionSet<WidthOptions> WidthOptions::kOptions(
    850, {{&WidthOptions::levels,
           {.name = "width.levels",
            .default_value = "1",
            .meaning = "widths of clients' models, of the whole one, each with its share of the "
                       "clients: 1:0.3, 0.25:0.7; or without shares, equally many of each: 1, 0.25",
            .read_by = "algorithm"}},
          {&WidthOptions::assign,
           {.name = "width.assign",
            .default_value = "fix",
            .meaning = "who has which width: drawn once, drawn in each round, or the slower a "
                       "client's device the narrower",
            .choices = {"fix", "dynamic", "device"},
            .read_by = "algorithm"}},
          {&WidthOptions::scaler,
           {.name = "width.scaler",
            .default_value = "true",
            .meaning = "in training, what comes out of a narrowed layer counts 1 / width times as "
                       "much",
            .read_by = "algorithm"}}});

namespace {

// A share of a layer's units may lie a little above the number that is meant.
constexpr double kShareRounding = 1e-9;

int64_t kept_of(double rate, int64_t units) {
  return std::clamp<int64_t>(
      static_cast<int64_t>(std::ceil(rate * static_cast<double>(units) - kShareRounding)), 1,
      units);
}

// The number that a word is; NaN if it is none.
double number_in(std::string word) {
  word.erase(0, word.find_first_not_of(' '));
  word.erase(word.find_last_not_of(' ') + 1);
  double value = std::nan("");
  const char* end = word.data() + word.size();
  const auto [behind, problem] = std::from_chars(word.data(), end, value);
  return problem == std::errc() && behind == end ? value : std::nan("");
}

}  // namespace

std::vector<WidthLevel> parse_width_levels(const std::string& text) {
  const auto complain = [&](bool good, const std::string& what) {
    FL_CHECK(good, "width.levels is ", text, ", ", what,
             " (must be widths above 0 up to 1 with commas between, such as 1, 0.25; or each with "
             "the share of clients that have it, such as 1:0.3, 0.25:0.7)");
  };
  std::vector<WidthLevel> levels;
  size_t with_shares = 0;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string word = text.substr(at, end - at);
    at = end + 1;
    const size_t colon = word.find(':');
    WidthLevel level{.rate = number_in(word.substr(0, colon)), .share = 1};
    complain(level.rate > 0 && level.rate <= 1, "where '" + word + "' is no width");
    if (colon != std::string::npos) {
      level.share = number_in(word.substr(colon + 1));
      complain(level.share > 0 && std::isfinite(level.share),
               "where '" + word + "' has no share above 0");
      ++with_shares;
    }
    levels.push_back(level);
  }
  complain(with_shares == 0 || with_shares == levels.size(), "where some have shares, others none");
  complain(levels.size() <= 255, message("which are ", levels.size()));
  std::sort(levels.begin(), levels.end(),
            [](const WidthLevel& a, const WidthLevel& b) { return a.rate > b.rate; });
  double all = 0;
  for (size_t i = 0; i < levels.size(); ++i) {
    complain(i == 0 || levels[i].rate < levels[i - 1].rate,
             message("where ", levels[i].rate, " stands twice"));
    all += levels[i].share;
  }
  for (WidthLevel& level : levels) level.share /= all;
  return levels;
}

SubModels::SubModels(const Algorithm::Setup& setup, Rule rule)
    : network_(setup.network),
      rule_(std::move(rule)),
      o_(read_options<WidthOptions>(setup.job)),
      levels_(parse_width_levels(o_.levels)),
      chain_(network_.chain()),
      seed_(setup.job.seed()) {
  const std::string model = "model " + setup.job.get<std::string>("model");
  FL_CHECK(!chain_.empty(), model,
           " is no plain chain of linear and convolutional layers, of which ", rule_.algorithm,
           " could leave units out (choose one that is, such as mlp, 2nn, lenet or cnn)");
  FL_CHECK(chain_.size() > 1, model, " has no hidden layer that ", rule_.algorithm,
           " could make narrower (choose another, such as 2nn)");
  const auto keeps = setup.job.values().find("local.keep-momentum");  // under Adam there is no such
  const bool others = o_.assign == "dynamic" || rule_.units;
  FL_CHECK(whole() || !others || keeps == setup.job.values().end() || keeps->second != "true",
           "local.keep-momentum is on, but ", rule_.algorithm,
           "'s clients train other parts of the model in each round (leave it off",
           rule_.units ? ")" : ", or choose width.assign fix)");
  const ParameterLayout& layout = network_.layout();
  for (const WidthLevel& level : levels_) {
    double numbers = 0, all_numbers = 0, compute = 0, all_compute = 0;
    double kept_before = 1;  // share of inputs
    for (size_t i = 0; i < chain_.size(); ++i) {
      const Parameter& weight = layout.parameters()[static_cast<size_t>(chain_[i].weight)];
      const int64_t out = weight.shape[0];
      const bool last = i + 1 == chain_.size();
      const auto kept = static_cast<double>(last ? out : kept_of(level.rate, out));
      const double share = kept / static_cast<double>(out);
      const auto biases = static_cast<double>(chain_[i].bias < 0 ? 0 : out);
      const double own = static_cast<double>(weight.size) * kept_before * share + biases * share;
      const double whole = static_cast<double>(weight.size) + biases;
      const auto places = static_cast<double>(chain_[i].places);
      numbers += own;
      all_numbers += whole;
      compute += places * own;
      all_compute += places * whole;
      kept_before = share;
    }
    size_.push_back(numbers / all_numbers);
    compute_.push_back(compute / all_compute);
  }
  assign(setup);
}

std::vector<std::string> SubModels::keys(std::vector<std::string> more) {
  for (const char* key : {"width.levels", "width.assign"}) more.emplace_back(key);
  return more;
}

int64_t SubModels::units_of(size_t layer) const {
  return network_.layout().parameters()[static_cast<size_t>(chain_[layer].weight)].shape[0];
}

// Levels from the widest: by chance, or from the fastest device; equals are told apart by chance.
void SubModels::assign(const Algorithm::Setup& setup) {
  FL_CHECK(o_.assign != "device" || setup.client_speeds,
           "width.assign is device, but devices is none (choose devices, such as --devices "
           "lognormal)");
  if (o_.assign == "dynamic" || levels_.size() == 1) return;
  std::vector<double> speeds;
  if (o_.assign == "device") speeds = setup.client_speeds();
  const int64_t clients = setup.clients + setup.job.get<int64_t>("holdout-clients");
  std::vector<int64_t> order = Rng(seed_, "width").permutation(clients);
  if (!speeds.empty()) {
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return speeds[static_cast<size_t>(a)] < speeds[static_cast<size_t>(b)];
    });
  }
  assigned_.resize(static_cast<size_t>(clients));
  double until = 0;
  int64_t place = 0;
  for (size_t level = 0; level < levels_.size(); ++level) {
    until += levels_[level].share;
    const bool last = level + 1 == levels_.size();
    const int64_t end = last ? clients : std::llround(until * static_cast<double>(clients));
    for (; place < end; ++place)
      assigned_[static_cast<size_t>(order[static_cast<size_t>(place)])] =
          static_cast<uint8_t>(level);
  }
}

size_t SubModels::level_of(int64_t client, int64_t round) const {
  if (levels_.size() == 1) return 0;
  if (!assigned_.empty()) return assigned_[static_cast<size_t>(client)];
  double left = Rng(seed_, "width", round, client).uniform();
  for (size_t level = 0; level + 1 < levels_.size(); ++level) {
    left -= levels_[level].share;
    if (left < 0) return level;
  }
  return levels_.size() - 1;
}

torch::Tensor SubModels::mask(size_t level, int64_t client, int64_t round) const {
  const ParameterLayout& layout = network_.layout();
  torch::Tensor row = torch::zeros({1, layout.row()});
  torch::Tensor before;  // of the layer before: [units], ones for those that are kept
  for (size_t i = 0; i < chain_.size(); ++i) {
    const int64_t units = units_of(i);
    torch::Tensor own = torch::ones({units});
    const int64_t kept = kept_of(levels_[level].rate, units);
    if (i + 1 < chain_.size() && kept < units) {
      own.zero_();
      if (!rule_.units) {
        own.narrow(0, 0, kept).fill_(1);
      } else {
        const std::vector<int64_t> chosen =
            rule_.units({client, round, static_cast<int64_t>(i), units, kept});
        own.index_fill_(0, torch::tensor(chosen, torch::kInt64), 1);
      }
    }
    torch::Tensor weight = layout.view(row, chain_[i].weight)[0];  // [out, in, ...]
    torch::Tensor inputs = torch::ones({weight.size(1)});
    // Of a convolution that is flattened, each unit is several inputs of a linear layer.
    if (before.defined()) inputs = before.repeat_interleave(weight.size(1) / before.size(0));
    torch::Tensor both = own.unsqueeze(1) * inputs;  // [out, in]
    while (both.dim() < weight.dim()) both = both.unsqueeze(-1);
    weight.copy_(both.expand_as(weight));
    if (chain_[i].bias >= 0) layout.view(row, chain_[i].bias)[0].copy_(own);
    before = own;
  }
  return row[0];
}

torch::Tensor SubModels::masks(const ClientGroup& group, int64_t round) const {
  std::map<size_t, torch::Tensor> by_level;
  std::vector<torch::Tensor> rows;
  for (const int64_t client : group.ids) {
    const size_t level = level_of(client, round);
    if (rule_.by_client) {
      rows.push_back(mask(level, client, round));
      continue;
    }
    torch::Tensor& row = by_level[level];
    if (!row.defined()) row = mask(level, client, round);
    rows.push_back(row);
  }
  return torch::stack(rows).to(group.rows.options());
}

// What the numbers of hidden layers count in training, [G, P]: 1 / width, with the scaler.
torch::Tensor SubModels::scales(const ClientGroup& group, int64_t round) const {
  torch::Tensor rows = torch::ones({group.size(), network_.layout().row()}, group.rows.options());
  for (int64_t k = 0; k < group.size(); ++k) {
    const double scale = 1 / rate_of(group.ids[static_cast<size_t>(k)], round);
    for (size_t i = 0; i + 1 < chain_.size(); ++i) {
      for (const int64_t index : {chain_[i].weight, chain_[i].bias}) {
        if (index >= 0) network_.layout().view(rows.narrow(0, k, 1), index).fill_(scale);
      }
    }
  }
  return rows;
}

Update SubModels::train(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
                        const LocalRule& rule) const {
  Update update;
  if (whole()) {
    update = local.train(group, global, rule);
  } else {
    const torch::Tensor mask = masks(group, global.round);
    group.rows.mul_(mask);
    update = local.train(group, global, rule);
    update.delta.mul_(mask);
    update.set_delta_norms(update.delta, local.trainable());
  }
  for (int64_t k = 0; k < group.size(); ++k) {
    update.clients[static_cast<size_t>(k)].scalars[0] =
        rate_of(group.ids[static_cast<size_t>(k)], global.round);
  }
  return update;
}

// A layer's output times s is what its weights and biases times s give. The optimiser goes on with
// the weights themselves, whose gradient is s times the one at s times the weights.
Update SubModels::train(const LocalTraining& local, ClientGroup& group, const GlobalModel& global,
                        const std::function<void(LocalStep&, Scored&)>& loss) const {
  LocalRule rule;
  rule.loss = loss;
  if (whole() || !o_.scaler) return train(local, group, global, rule);
  const torch::Tensor scale = scales(group, global.round);
  const torch::Tensor scaled = torch::empty_like(group.rows);
  rule.at = [&](LocalStep& step) {
    torch::Tensor place = step.of(scaled);
    return torch::mul_out(place, step.whole, step.of(scale));
  };
  rule.gradient = [&](LocalStep& step) {
    step.gradients.mul_(step.of(scale).narrow(1, 0, local.trainable()));
  };
  return train(local, group, global, rule);
}

torch::Tensor SubModels::mean(const Sum& sum, const torch::Tensor& outputs) const {
  if (whole() && !outputs.defined()) return sum.delta;
  using Key = std::tuple<size_t, int64_t, int64_t>;  // level, round, client
  std::map<Key, double> weights;                     // of clients with the same mask
  for (const ClientRecord& record : sum.records) {
    if (!record.counts() || !(record.weight > 0)) continue;
    const int64_t round = record.began_in();
    const size_t level = level_of(record.client, round);
    weights[{level, rule_.units ? round : 0, rule_.by_client ? record.client : 0}] += record.weight;
  }
  const ParameterLayout& layout = network_.layout();
  double all = 0;
  torch::Tensor reached = torch::zeros({layout.row()}, torch::kFloat64);
  for (const auto& [key, weight] : weights) {  // in the same order, so that whoever has all has 1
    const auto& [level, round, client] = key;
    all += weight;
    reached.add_(mask(level, client, round).to(torch::kFloat64), weight);
  }
  if (outputs.defined()) {
    torch::Tensor last = torch::zeros_like(reached).unsqueeze(0);
    for (size_t level = 0; level < levels_.size(); ++level) {
      const torch::Tensor share = outputs[static_cast<int64_t>(level)].to(torch::kFloat64).cpu();
      torch::Tensor row = mask(level, 0, 0).to(torch::kFloat64).unsqueeze(0);
      for (const int64_t index : {chain_.back().weight, chain_.back().bias}) {
        if (index < 0) continue;
        const torch::Tensor own = layout.view(row, index)[0];
        layout.view(last, index)[0].add_(own.dim() == 2 ? own * share.unsqueeze(1) : own * share);
      }
    }
    for (const int64_t index : {chain_.back().weight, chain_.back().bias}) {
      if (index >= 0)
        layout.view(reached.unsqueeze(0), index).copy_(layout.view(last, index) * all);
    }
  }
  const torch::Tensor factor = torch::where(reached > 0, torch::full_like(reached, all) / reached,
                                            torch::zeros_like(reached));
  return sum.delta * factor.to(sum.delta.options());
}

TaskCost SubModels::cost(int64_t client, int64_t round) const {
  const size_t level = level_of(client, round);
  return {.compute = compute_[level], .down = size_[level], .up = size_[level]};
}

std::vector<std::string> SubModels::warnings() const {
  if (!whole()) return {};
  return {message("width.levels is ", o_.levels,
                  ", so that every client trains the whole model "
                  "(set it, such as to 1, 0.25)")};
}

}  // namespace fl_sim
