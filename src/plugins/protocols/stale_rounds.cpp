// Rounds whose late updates are not lost: they join the round in which they arrive. Abdelmoniem et
// al., REFL: Resource-efficient federated learning, EuroSys 2023, section 4.2.
#include <limits>
#include <utility>

#include "learning/protocol.h"

namespace fl_sim {
namespace {

class StaleRounds final : public Protocol {
 public:
  explicit StaleRounds(const Setup& setup) {
    const Job& job = setup.job;
    const bool fastest = job.get<std::string>("clock.keep") == "fastest";
    wanted_ = fastest ? job.get<int64_t>("cohort") : std::numeric_limits<int64_t>::max();
    deadline_ = micros(job.get<double>("clock.deadline"));
  }

  static PluginInfo describe() {
    return {
        .summary = "rounds whose late updates join a later one",
        .source =
            "Abdelmoniem et al., REFL: Resource-efficient federated learning, EuroSys 2023, "
            "section 4.2",
        .rule =
            "When a version has been made, cohort times clock.over-commit clients start from it, "
            "drawn among those that are not at work. The next one is made as clock.keep ends a "
            "round: when the first cohort of them have arrived, at clock.deadline, or when nobody "
            "of them is at work any more; of those, and of all from former rounds that have "
            "arrived since the version before. At a deadline by which none of the round's own has "
            "come it goes on until one has.",
        .reads = {"async.staleness", "async.a", "async.b", "async.max-staleness", "async.normalise",
                  "async.keep-versions"},
        .example =
            "--async.protocol stale-rounds --clock.over-commit 1.3 --clock.keep fastest "
            "--devices halfnormal"};
  }

  bool closes_rounds() const override { return true; }

  void start(Course& course) override {
    if (at_work_ > 0) return;
    // Where all of a round were lost, others start from the same version.
    round_ = course.versions();
    at_work_ = std::ssize(course.start(course.drawn()));
    ends_ = deadline_ > 0 && at_work_ > 0 ? course.now() + deadline_ : kNever;
    over_ = false;
    if (ends_ != kNever) course.wake(ends_);
  }

  void arrived(Course& course, int64_t dispatch) override {
    arrived_.push_back(dispatch);
    if (course.task(dispatch).base != round_) return;
    --at_work_;
    ++fresh_;
    make(course);
  }

  void gone(Course& course, int64_t dispatch) override {
    if (course.task(dispatch).base != round_) return;
    --at_work_;
    make(course);
  }

  void woken(Course& course) override {
    if (course.now() < ends_) return;  // of a former round
    over_ = true;
    make(course);
  }

  std::string made() const override {
    return message("of ", deadline_ > 0 ? "those of a round until clock.deadline" : "a round");
  }

 private:
  void make(Course& course) {
    if (fresh_ == 0 || (fresh_ < wanted_ && at_work_ > 0 && !over_)) return;
    course.make_version(std::exchange(arrived_, {}));
    round_ = course.versions();
    at_work_ = fresh_ = 0;
    ends_ = kNever;
  }

  int64_t wanted_;                // of a round's own clients
  Micros deadline_;               // after a round's begin; 0: none
  int64_t round_ = 0;             // the version that the round's clients start from
  int64_t at_work_ = 0;           // of them
  int64_t fresh_ = 0;             // of them, arrived
  Micros ends_ = kNever;          // the round's deadline
  bool over_ = false;             // it has passed
  std::vector<int64_t> arrived_;  // since the version before, late ones of former rounds, too
};

FL_REGISTER(Protocol, "stale-rounds", StaleRounds);

}  // namespace
}  // namespace fl_sim
