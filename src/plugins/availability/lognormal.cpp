// Each client has its own chance in each round: FLGo's LN, after Ribero et al.
#include "base/rng.h"
#include "learning/availability.h"
#include "plugins/availability/lognormal_share.h"

namespace fl_sim {
namespace {

class LognormalAvailability final : public Availability {
 public:
  explicit LognormalAvailability(const Setup& setup)
      : seed_(setup.job.seed()), beta_(setup.job.get<double>("lognormal.beta")) {}

  static PluginInfo describe() {
    return {.summary = "a chance of each client's own in each round, lognormal over clients",
            .source =
                "Ribero et al., Federated Learning Under Intermittent Client Availability "
                "and Time-Varying Communication Constraints, IEEE JSTSP 2023; as in FLGo",
            .rule =
                "Client k can be drawn in a round with the chance q_k, whatever it was before: "
                "q_k is drawn once from LN(0, -ln(1 - beta)) and divided by the largest. For "
                "the largest we take the law's 99.9 % quantile, which a thousandth of the "
                "clients passes (they have q 1), so that no client's chance depends on who "
                "else there is; below the 0.1 % quantile q_k is what stands there.",
            .options = {{.name = "beta",
                         .type = Option::Type::kNumber,
                         .default_value = "0.5",
                         .meaning = "how much clients differ; 0: all are always there",
                         .range = from_below(0, 1)}},
            .elsewhere =
                "FLGo divides by the largest of the clients that there are, and has beta "
                "in the mode's name, LN-0.5; 0.5 is our choice"};
  }

  bool everybody() const override { return beta_ == 0; }
  bool follows_time() const override { return false; }
  bool online(int64_t client, int64_t round, Micros) const override {
    return Rng(seed_, "availability", round, client).uniform() <
           lognormal_share(seed_, client, beta_);
  }

 private:
  uint64_t seed_;
  double beta_;
};

FL_REGISTER(Availability, "lognormal", LognormalAvailability);

}  // namespace
}  // namespace fl_sim
