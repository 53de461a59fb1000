// The weighted mean, which the exact sum is: nothing of clients' rows is kept, and an exchange
// costs one reduction.
#include "learning/aggregator.h"

namespace fl_sim {
namespace {

class Mean final : public Aggregator {
 public:
  explicit Mean(const Setup&) {}

  static PluginInfo describe() {
    return {.summary = "the mean, weighted as the job says",
            .source =
                "McMahan et al., Communication-efficient learning of deep networks from "
                "decentralized data, AISTATS 2017, Algorithm 1",
            .rule = "sum_k p_k x_k / sum_k p_k over the clients that were accepted."};
  }

  bool sees_clients() const override { return false; }
  std::string obstacle(const Needs&) const override { return ""; }
};

FL_REGISTER(Aggregator, "mean", Mean);

}  // namespace
}  // namespace fl_sim
