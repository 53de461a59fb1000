// A version for so many updates, whoever they are of. Nguyen et al., Federated learning with
// buffered asynchronous aggregation, AISTATS 2022 (FedBuff), Algorithm 1; with a buffer of one
// Xie et al., Asynchronous federated optimization, 2019 (FedAsync).
#include <utility>

#include "base/check.h"
#include "learning/protocol.h"

namespace fl_sim {
namespace {

class Buffered final : public Protocol {
 public:
  explicit Buffered(const Setup& setup)
      : size_(setup.job.get<int64_t>("async.buffer")),
        bound_(setup.job.get<int64_t>("async.max-staleness")),
        waits_(bound_ >= 0 && setup.job.get<std::string>("async.on-stale") == "wait") {
    const auto mixing = setup.job.get<double>("async.mixing");
    FL_CHECK(mixing == 0 || size_ == 1, "async.mixing is ", mixing,
             ", so that models are mixed, but async.buffer is ", size_,
             ": of several models those that are older would take back what others have learnt "
             "since (choose --async.buffer 1, or --async.mixing 0)");
    FL_CHECK(mixing == 0 || !waits_, "async.mixing is ", mixing,
             ", but async.on-stale is wait, so that several models would come at once (choose "
             "drop)");
  }

  static PluginInfo describe() {
    return {
        .summary = "asynchronous: a new model whenever async.buffer updates have arrived",
        .source =
            "Nguyen et al., Federated learning with buffered asynchronous aggregation, AISTATS "
            "2022, Algorithm 1",
        .rule =
            "async.concurrency clients are at work; whoever arrives is replaced by a client that "
            "starts from the newest model. Where async.on-stale is wait, no model is made, and "
            "nobody starts, before those have arrived that would be older than "
            "async.max-staleness.",
        .reads = {"async.buffer", "async.concurrency", "async.source", "async.staleness", "async.a",
                  "async.b", "async.max-staleness", "async.on-stale", "async.normalise",
                  "async.weighting", "async.mixing", "async.keep-versions"},
        .example = "--async.protocol buffered --devices halfnormal",
    };
  }

  void start(Course& course) override {
    const bool full = std::ssize(buffer_) >= size_;
    if (!waits_ || !full) course.start(course.places());
  }

  void arrived(Course& course, int64_t dispatch) override {
    buffer_.push_back(dispatch);
    make(course);
  }

  void gone(Course& course, int64_t) override { make(course); }

  std::string made() const override {
    return message("of ", size_, size_ == 1 ? " update" : " updates");
  }

 private:
  // Where nothing at work would be too old for the version after the next one.
  void make(Course& course) {
    if (std::ssize(buffer_) < size_) return;
    const std::optional<int64_t> oldest = waits_ ? course.oldest_base() : std::nullopt;
    if (oldest && course.versions() + 1 - *oldest > bound_) return;
    course.make_version(std::exchange(buffer_, {}));
  }

  const int64_t size_, bound_;
  const bool waits_;
  std::vector<int64_t> buffer_;
};

FL_REGISTER(Protocol, "buffered", Buffered);

}  // namespace
}  // namespace fl_sim
