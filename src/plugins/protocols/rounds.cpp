// No protocol: the server waits for a cohort, round after round.
#include "base/check.h"
#include "learning/protocol.h"

namespace fl_sim {
namespace {

class Rounds final : public Protocol {
 public:
  explicit Rounds(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "synchronous rounds",
            .rule = "A cohort is drawn, trains, and its updates make the new model."};
  }

  // A run of rounds has no timetable of versions.
  void start(Course&) override { FL_CHECK(false, "rounds have no timetable of versions"); }
  void arrived(Course&, int64_t) override {}
  std::string made() const override { return "of a cohort"; }
};

FL_REGISTER(Protocol, "rounds", Rounds);

}  // namespace
}  // namespace fl_sim
