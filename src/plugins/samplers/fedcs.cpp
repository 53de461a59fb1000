// As many clients as are through before a deadline.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

class FedCs final : public Sampler {
 public:
  explicit FedCs(const Setup& setup)
      : deadline_(setup.job.get<double>("fedcs.oracle-deadline")),
        overhead_(setup.job.get<double>("fedcs.overhead")),
        asked_(setup.job.get<int64_t>("fedcs.asked")),
        parallel_(setup.job.get<std::string>("fedcs.channel") == "parallel") {
    FL_CHECK(setup.job.get<std::string>("devices") != "none",
             "sampler fedcs draws clients by how long they take, but devices is none, so that "
             "there is no time (choose devices, such as --devices lognormal)");
  }

  static PluginInfo describe() {
    return {.summary = "as many clients as are through before a deadline; an oracle of durations",
            .source =
                "Nishio & Yonetani, Client selection for federated learning with heterogeneous "
                "resources in mobile edge, ICC 2019, algorithm 3",
            .rule =
                "An oracle: it knows how long each client's task will take. Of the candidates (or "
                "of `fedcs.asked` of them, drawn uniformly) that which lengthens the round least "
                "is added, over and over, as long as the round is over before "
                "`fedcs.oracle-deadline`, and up to `cohort`. `channel sequential`: the model is "
                "sent to all at once, clients compute at the same time, and send one after the "
                "other, so that client k adds (T_d(S + k) - T_d(S)) + up_k + max(0, compute_k - "
                "Theta), where T_d is the slowest download and Theta what all uploads so far have "
                "come to. `channel parallel`: all by their own time, the fastest first. Biased: "
                "slow clients never take part, and those that do count by the job's weighting.",
            .options = {{.name = "oracle-deadline",
                         .type = Option::Type::kNumber,
                         .default_value = {},
                         .meaning = "seconds within which a round must be over",
                         .range = more_than(0)},
                        {.name = "channel",
                         .default_value = "sequential",
                         .meaning = "clients send one after the other, or all at once",
                         .choices = {"sequential", "parallel"}},
                        {.name = "overhead",
                         .type = Option::Type::kNumber,
                         .default_value = "0",
                         .meaning = "seconds of the deadline that drawing and aggregating take",
                         .range = at_least(0)},
                        {.name = "asked",
                         .type = Option::Type::kInteger,
                         .default_value = "0",
                         .meaning = "candidates among which it chooses; 0: all",
                         .range = at_least(0)}},
            .elsewhere = "SAFA's and FLASH's code: channel parallel.",
            .example = "--devices lognormal --fedcs.oracle-deadline 60"};
  }

  bool biased() const override { return true; }

  std::vector<Drawn> sample(const SampleRequest& request, Rng& rng) const override {
    struct Task {
      int64_t client;
      PlannedTask task;
    };
    std::vector<Task> tasks;
    const int64_t all = request.candidates.size();
    for (const int64_t place : draw_places(all, asked_ > 0 ? asked_ : all, rng)) {
      const int64_t id = request.candidates.id(place);
      tasks.push_back({id, request.oracle.task(id)});
    }
    rng.shuffle(std::span(tasks));  // chance decides among equals
    std::vector<int64_t> cohort;
    double slowest = 0, sent = 0;  // T_d and Theta
    while (std::ssize(cohort) < request.cohort && !tasks.empty()) {
      const auto more = [&](const PlannedTask& t) {
        if (parallel_) return t.seconds();
        return std::max(0.0, t.down - slowest) + t.up + std::max(0.0, t.compute - sent);
      };
      const auto best = std::min_element(
          tasks.begin(), tasks.end(),
          [&](const Task& a, const Task& b) { return more(a.task) < more(b.task); });
      const PlannedTask& t = best->task;
      const double until = overhead_ + (parallel_ ? t.seconds()
                                                  : std::max(slowest, t.down) + sent + t.up +
                                                        std::max(0.0, t.compute - sent));
      if (until > deadline_) {
        FL_CHECK(!cohort.empty() || request.round > 1, "no client is through before ",
                 "fedcs.oracle-deadline, ", deadline_, " s: the first one needs ", until,
                 " s (set a later one)");
        break;
      }
      sent += t.up + std::max(0.0, t.compute - sent);
      slowest = std::max(slowest, t.down);
      cohort.push_back(best->client);
      tasks.erase(best);
    }
    return cohort_of(std::move(cohort));
  }

 private:
  double deadline_, overhead_;
  int64_t asked_;
  bool parallel_;
};

FL_REGISTER(Sampler, "fedcs", FedCs);

}  // namespace
}  // namespace fl_sim
