// A version every so many seconds, of whatever has arrived: Fraboni et al., A general theory for
// federated optimization with asynchronous and heterogeneous clients updates, 2022 (FedFix).
#include <utility>

#include "learning/protocol.h"

namespace fl_sim {
namespace {

class Interval final : public Protocol {
 public:
  explicit Interval(const Setup& setup) : seconds_(setup.job.get<double>("async.interval")) {}

  static PluginInfo describe() {
    return {
        .summary = "asynchronous: a new model every async.interval seconds",
        .source =
            "Fraboni et al., A general theory for federated optimization with asynchronous and "
            "heterogeneous clients updates, 2022",
        .rule =
            "async.concurrency clients are at work; whoever arrives is replaced by a client that "
            "starts from the newest model. A model is made of whatever has arrived since the one "
            "before, if anything has.",
        .reads = {"async.interval", "async.concurrency", "async.staleness", "async.a", "async.b",
                  "async.max-staleness", "async.normalise", "async.weighting",
                  "async.keep-versions"},
        .example = "--async.protocol interval --async.interval 10 --devices halfnormal",
    };
  }

  void begin(Course& course) override { course.wake(course.now() + micros(seconds_)); }
  void start(Course& course) override { course.start(course.places()); }
  void arrived(Course&, int64_t dispatch) override { arrived_.push_back(dispatch); }

  void woken(Course& course) override {
    course.make_version(std::exchange(arrived_, {}));
    course.wake(course.now() + micros(seconds_));
  }

  std::string made() const override { return message("one every ", seconds_, " virtual seconds"); }

 private:
  const double seconds_;
  std::vector<int64_t> arrived_;
};

FL_REGISTER(Protocol, "interval", Interval);

}  // namespace
}  // namespace fl_sim
