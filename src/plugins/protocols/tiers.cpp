// Tiers of clients of one speed, each with rounds of its own: Chai et al., FedAT: A
// high-performance and communication-efficient federated learning system with asynchronous tiers,
// SC 2021.
#include <utility>

#include "base/check.h"
#include "learning/protocol.h"
#include "learning/tiers.h"

namespace fl_sim {
namespace {

class Tiers final : public Protocol {
 public:
  explicit Tiers(const Setup& setup) : rounds_(setup.job.get<int64_t>("tiers.number")) {}

  static PluginInfo describe() {
    return {
        .summary = "asynchronous: tiers of clients of one speed, each with rounds of its own",
        .source =
            "Chai et al., FedAT: A high-performance and communication-efficient federated learning "
            "system with asynchronous tiers, SC 2021",
        .rule =
            "Clients are sorted by how long their tasks usually take (an oracle, as sampler tifl "
            "has it) into tiers of equal size, the fastest first. Each tier has rounds of its own: "
            "its cohort starts from the newest model, and when all of it has arrived, or is lost, "
            "a new model is made of what has arrived; then it draws its next one. Of "
            "async.concurrency clients at work each tier has as many, the first ones one more "
            "where that leaves a rest.",
        .options = {{.name = "number",
                     .type = Option::Type::kInteger,
                     .default_value = "5",
                     .meaning = "tiers by speed",
                     .range = at_least(1)}},
        .reads = {"async.concurrency", "async.staleness", "async.a", "async.b",
                  "async.max-staleness", "async.normalise", "async.weighting", "async.mixing",
                  "async.keep-versions"},
        .example = "--async.protocol tiers --devices spread --clients 100 --cohort 50"};
  }

  void begin(Course& course) override {
    const std::vector<int64_t> clients = course.clients();
    const auto tiers = std::ssize(rounds_);
    const int64_t places = course.places();
    FL_CHECK(tiers <= std::ssize(clients), "tiers.number is ", tiers, " (must be at most ",
             clients.size(), ", the number of clients that may train)");
    FL_CHECK(tiers <= places, "tiers.number is ", tiers, ", but ", places,
             places == 1 ? " client is" : " clients are",
             " at work at a time, which leaves tiers without any (raise async.concurrency, or "
             "cohort, to at least as many as there are tiers)");
    tier_ =
        tiers_by_time(clients, tiers, [&](int64_t client) { return course.usual_seconds(client); });
    for (int64_t t = 0; t < tiers; ++t)
      rounds_[static_cast<size_t>(t)].cohort = places / tiers + (t < places % tiers ? 1 : 0);
  }

  void start(Course& course) override {
    for (size_t t = 0; t < rounds_.size(); ++t) {
      Round& round = rounds_[t];
      if (round.at_work > 0) continue;
      const std::vector<int64_t> started = course.start(round.cohort, [&](int64_t client) {
        return tier_[static_cast<size_t>(client)] == static_cast<int64_t>(t);
      });
      round.at_work = std::ssize(started);
    }
  }

  void arrived(Course& course, int64_t dispatch) override {
    round_of(course, dispatch).arrived.push_back(dispatch);
    gone(course, dispatch);
  }

  void gone(Course& course, int64_t dispatch) override {
    Round& round = round_of(course, dispatch);
    if (--round.at_work > 0 || round.arrived.empty()) return;
    course.make_version(std::exchange(round.arrived, {}), &round - rounds_.data());
  }

  std::string made() const override {
    return rounds_.size() == 1 ? "of a round of all clients' single tier"
                               : message("of a round of one of ", rounds_.size(), " tiers");
  }

 private:
  struct Round {
    int64_t cohort = 0, at_work = 0;
    std::vector<int64_t> arrived = {};
  };

  Round& round_of(const Course& course, int64_t dispatch) {
    const int64_t client = course.task(dispatch).client;
    return rounds_[static_cast<size_t>(tier_[static_cast<size_t>(client)])];
  }

  std::vector<Round> rounds_;  // that each tier is in
  std::vector<int64_t> tier_;  // by client
};

FL_REGISTER(Protocol, "tiers", Tiers);

}  // namespace
}  // namespace fl_sim
