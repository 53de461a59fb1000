#include "learning/server_average.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace fl_sim {
namespace {

// Both in ServerState::memory.
constexpr const char* kAverage = "average.weights";  // [M, P]
constexpr const char* kRounds = "average.rounds";    // [1] int64: how many went into it

class Averaged : public Wrapper {
 public:
  using Wrapper::Wrapper;

  Needs needs() const final {
    Needs needs = inner().needs();
    needs.evaluates_apart = true;
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
};

class Ema final : public Averaged {
 public:
  Ema(std::unique_ptr<Algorithm> algorithm, const Job& job)
      : Averaged(std::move(algorithm)),
        decay_(job.get<double>("server.average-decay")),
        dynamic_(job.get<bool>("server.average-dynamic")) {}

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
  Swa(std::unique_ptr<Algorithm> algorithm, const Job& job)
      : Averaged(std::move(algorithm)), every_(job.get<int64_t>("server.average-every")) {
    const auto rounds = job.get<int64_t>("rounds");
    const auto start = job.get<std::string>("server.average-start");
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
  const auto kind = job.get<std::string>("server.average");
  FL_CHECK(kind == "none" || !algorithm->needs().splits_models, "server.average is ", kind,
           ", but algorithm ", job.get<std::string>("algorithm"),
           " makes new models in the middle of a run, which have no average yet (must be none)");
  if (kind == "ema") return std::make_unique<Ema>(std::move(algorithm), job);
  if (kind == "swa") return std::make_unique<Swa>(std::move(algorithm), job);
  return algorithm;
}

}  // namespace fl_sim
