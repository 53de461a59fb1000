#include "engine/best_model.h"

#include <cmath>

#include "base/check.h"
#include "engine/evaluation_plan.h"

namespace fl_sim {

const OptionSet<BestOptions> BestOptions::kOptions(
    420, {{&BestOptions::metric,
           {.name = "best-metric",
            .default_value = "auto",
            .meaning = "column of /rounds by which models are compared for save-best and patience; "
                       "clients' are of evaluate-clients, on their test or validation samples as "
                       "evaluate-split says; auto: test_accuracy, or test_loss of numbers",
            .choices = {"auto", "test_accuracy", "test_loss", "clients_accuracy", "clients_loss",
                        "personal_accuracy", "personal_loss"},
            .changes_results = false}},
          {&BestOptions::save,
           {.name = "save-best",
            .default_value = "false",
            .meaning = "keep the best model so far, as /best_model beside the last one",
            .changes_results = false}},
          {&BestOptions::patience,
           {.name = "patience",
            .default_value = "0",
            .meaning = "end the run when no model of so many rounds was better than the best "
                       "before; 0: never",
            .range = at_least(0),
            .may_change = true}}});

namespace {

bool smaller_is_better(const std::string& metric) { return metric.ends_with("_loss"); }

double metric_of(const RoundRecord& record, const std::string& metric) {
  if (metric == "test_accuracy") return record.test_accuracy;
  if (metric == "test_loss") return record.test_loss;
  if (metric == "clients_accuracy") return record.clients.accuracy;
  if (metric == "clients_loss") return record.clients.loss;
  if (metric == "personal_accuracy") return record.personal.accuracy;
  return record.personal.loss;
}

}  // namespace

BestModel::BestModel(const Job& job, bool classifies) : options_(read_options<BestOptions>(job)) {
  std::string& metric = options_.metric;
  if (metric == "auto") metric = classifies ? "test_accuracy" : "test_loss";
  if (!options_.save && options_.patience == 0) return;
  const auto evaluation = read_options<EvaluationPlan>(job);
  FL_CHECK(classifies || smaller_is_better(metric), "best-metric is ", metric,
           ", but the model predicts a number, which has no accuracy (choose test_loss)");
  FL_CHECK(metric.starts_with("test_") || evaluation.share > 0, "best-metric is ", metric,
           ", but no client evaluates (set evaluate-clients)");
  FL_CHECK(options_.patience == 0 || evaluation.every_seconds > 0 ||
               (evaluation.every > 0 && options_.patience >= evaluation.every),
           "patience is ", options_.patience, ", but evaluate-every is ", evaluation.every,
           ": no model would be looked at in that time (set evaluate-every to ", options_.patience,
           " or less)");
}

bool BestModel::take(const RoundRecord& record) {
  const double value = metric_of(record, options_.metric);
  const bool better =
      std::isfinite(value) &&
      (round_ == 0 || (smaller_is_better(options_.metric) ? value < value_ : value > value_));
  if (better) {
    round_ = record.round;
    value_ = value;
  }
  exhausted_ = options_.patience > 0 && record.round - round_ >= options_.patience;
  return better;
}

}  // namespace fl_sim
