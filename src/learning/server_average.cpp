#include "learning/server_average.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/option_set.h"

namespace fl_sim {
namespace {

struct AverageOptions {
  std::string kind;  // "none", "ema" or "swa"
  double decay = 0;
  bool dynamic = false;
  std::string start;
  int64_t every = 1;
  static const OptionSet<AverageOptions> kOptions;
};

const OptionSet<AverageOptions> AverageOptions::kOptions(
    840, {{&AverageOptions::kind,
           {.name = "server.average",
            .default_value = "none",
            .meaning = "average of the server's models that is evaluated and saved in their place: "
                       "ema, which forgets; swa, of the last rounds",
            .choices = {"none", "ema", "swa"}}},
          {&AverageOptions::decay,
           {.name = "server.average-decay",
            .default_value = "0.99",
            .meaning = "what the average keeps of itself in a round",
            .range = from_below(0, 1),
            .only_with = {"server.average", {"ema"}}}},
          {&AverageOptions::dynamic,
           {.name = "server.average-dynamic",
            .default_value = "false",
            .meaning = "the decay is at most (1 + t) / (10 + t) after t rounds",
            .only_with = {"server.average", {"ema"}}}},
          {&AverageOptions::start,
           {.name = "server.average-start",
            .default_value = "auto",
            .meaning = "first round that goes into the average; auto: three quarters of the rounds",
            .only_with = {"server.average", {"swa"}}}},
          {&AverageOptions::every,
           {.name = "server.average-every",
            .default_value = "1",
            .meaning = "rounds from one that goes into the average to the next",
            .range = at_least(1),
            .only_with = {"server.average", {"swa"}}}}});

// Both in ServerState::memory.
constexpr const char* kAverage = "average.weights";  // [M, P]
constexpr const char* kRounds = "average.rounds";    // [1] int64: how many went into it

class Averaged : public Wrapper {
 public:
  // `follows_length`: as of Needs.
  explicit Averaged(std::unique_ptr<Algorithm> algorithm, std::string follows_length = {})
      : Wrapper(std::move(algorithm)), follows_length_(std::move(follows_length)) {}

  Needs needs() const final {
    Needs needs = inner().needs();
    needs.evaluates_apart = true;
    if (!follows_length_.empty()) needs.follows_length = follows_length_;
    return needs;
  }

  void init(ServerState& server) const final {
    inner().init(server);
    server.memory[kAverage] = server.weights.clone();
    server.memory[kRounds] = torch::zeros({1}, torch::kInt64);
  }

  void end_round(ServerState& server, const std::vector<ClientRecord>& records) const final {
    inner().end_round(server, records);
    int64_t& rounds = *server.memory.at(kRounds).data_ptr<int64_t>();
    const double share = share_of(server.round, rounds);
    if (share == 0) return;
    torch::Tensor& average = server.memory.at(kAverage);
    average.add_(server.weights - average, share);
    if (share == 1) average.copy_(server.weights);  // to the last bit
    ++rounds;
  }

 protected:
  // What the model after a round weighs in the new average of `rounds` models before it.
  virtual double share_of(int64_t round, int64_t rounds) const = 0;
  static int64_t rounds_in(const ServerState& server) {
    return server.memory.at(kRounds).item<int64_t>();
  }

 private:
  const std::string follows_length_;
};

class Ema final : public Averaged {
 public:
  Ema(std::unique_ptr<Algorithm> algorithm, const AverageOptions& options)
      : Averaged(std::move(algorithm)), decay_(options.decay), dynamic_(options.dynamic) {}

  torch::Tensor evaluated(const ServerState& server) const override {
    return server.memory.at(kAverage);
  }

 private:
  double share_of(int64_t, int64_t rounds) const override {
    const auto t = static_cast<double>(rounds);
    return 1 - (dynamic_ ? std::min(decay_, (1 + t) / (10 + t)) : decay_);
  }

  double decay_;
  bool dynamic_;
};

class Swa final : public Averaged {
 public:
  Swa(std::unique_ptr<Algorithm> algorithm, const AverageOptions& options, int64_t rounds)
      : Averaged(std::move(algorithm),
                 options.start == "auto" ? "server.average-start is auto" : ""),
        every_(options.every) {
    const std::string& start = options.start;
    if (start == "auto") {
      start_ = std::max<int64_t>(1, (3 * rounds + 3) / 4);  // three quarters of them
      return;
    }
    const bool digits = !start.empty() && start.size() < 18 &&
                        start.find_first_not_of("0123456789") == std::string::npos;
    FL_CHECK(digits && std::stoll(start) >= 1 && std::stoll(start) <= rounds,
             "server.average-start is '", start, "' (must be auto or a round, 1 to ", rounds, ")");
    start_ = std::stoll(start);
  }

  torch::Tensor evaluated(const ServerState& server) const override {
    return rounds_in(server) == 0 ? inner().evaluated(server) : server.memory.at(kAverage);
  }

 private:
  double share_of(int64_t round, int64_t rounds) const override {
    if (round < start_ || (round - start_) % every_ != 0) return 0;
    return 1 / static_cast<double>(rounds + 1);
  }

  int64_t every_, start_ = 1;
};

}  // namespace

std::unique_ptr<Algorithm> with_average(std::unique_ptr<Algorithm> algorithm, const Job& job) {
  const auto options = read_options<AverageOptions>(job);
  FL_CHECK(options.kind == "none" || !algorithm->needs().splits_models, "server.average is ",
           options.kind, ", but algorithm ", job.get<std::string>("algorithm"),
           " makes new models in the middle of a run, which have no average yet (must be none)");
  if (options.kind == "ema") return std::make_unique<Ema>(std::move(algorithm), options);
  if (options.kind == "swa")
    return std::make_unique<Swa>(std::move(algorithm), options, job.get<int64_t>("rounds"));
  return algorithm;
}

}  // namespace fl_sim
