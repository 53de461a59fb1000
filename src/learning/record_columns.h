// Which column of a results file holds what of a record: the one list of them, for whoever writes
// records or reads them.
//
// An `io` has two functions, for a list of records. `field`, of a record, is a member or a function
// that gives a reference to one:
//
//   column(path, records, field)   a number of each
//   table(path, records, field)    a list of numbers of each, which may be empty
//
// Where it writes (`kReads` is false) only columns come that some record has measured.
#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "learning/records.h"

namespace fl_sim {

// A model that several clients' evaluations are of: /rounds/<prefix>_<figure>.
template <class Io, class Rounds>
void summary_columns(Io& io, const std::string& prefix, Rounds& rounds,
                     EvaluationSummary RoundRecord::*summary, const std::set<std::string>& asked) {
  const auto measured = [&](const RoundRecord& round) { return (round.*summary).clients > 0; };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto EvaluationSummary::*member) {
    io.column(
        "/rounds/" + prefix + "_" + name,
        rounds, [=](auto& round) -> auto& { return round.*summary.*member; });
  };
  column("evaluated", &EvaluationSummary::clients);
  column("loss", &EvaluationSummary::loss);
  column("accuracy", &EvaluationSummary::accuracy);
  column("mean_loss", &EvaluationSummary::mean_loss);
  column("mean_accuracy", &EvaluationSummary::mean_accuracy);
  column("accuracy_variance", &EvaluationSummary::variance);
  column("accuracy_worst_10", &EvaluationSummary::worst_tenth);
  column("accuracy_best_10", &EvaluationSummary::best_tenth);
  column("accuracy_p10", &EvaluationSummary::percentile_10);
  column("accuracy_p50", &EvaluationSummary::percentile_50);
  column("accuracy_p90", &EvaluationSummary::percentile_90);
  const auto metric = [&](const std::string& asked_as, const std::string& name,
                          double EvaluationSummary::*weighted, double EvaluationSummary::*mean) {
    if (!Io::kReads && !asked.contains(asked_as)) return;
    column(name, weighted);
    column("mean_" + name, mean);
  };
  metric("balanced-accuracy", "balanced_accuracy", &EvaluationSummary::balanced_accuracy,
         &EvaluationSummary::mean_balanced_accuracy);
  metric("auc", "auc", &EvaluationSummary::area_under_curve,
         &EvaluationSummary::mean_area_under_curve);
  metric("f1", "f1", &EvaluationSummary::macro_f1, &EvaluationSummary::mean_macro_f1);
}

// /rounds/test_<metric>, those that the job asks for. One that is not defined, as the area under
// the curve of a single class, is a column of NaN.
template <class Io, class Rounds>
void metric_columns(Io& io, Rounds& rounds, const std::set<std::string>& asked) {
  const auto column = [&](const std::string& name, double Metrics::*member,
                          const std::string& metric) {
    const auto measured = [&](const RoundRecord& r) { return !std::isnan(r.metrics.*member); };
    if (!Io::kReads && !asked.contains(metric) &&
        std::none_of(rounds.begin(), rounds.end(), measured))
      return;
    io.column(
        "/rounds/test_" + name,
        rounds, [=](auto& round) -> auto& { return round.metrics.*member; });
  };
  column("balanced_accuracy", &Metrics::balanced_accuracy, "balanced-accuracy");
  column("auc", &Metrics::area_under_curve, "auc");
  column("f1", &Metrics::macro_f1, "f1");
  column("perplexity", &Metrics::perplexity, "perplexity");
  io.table(
      "/rounds/test_class_accuracy", rounds,
      [](auto& round) -> auto& { return round.metrics.class_accuracy; });
  io.table(
      "/rounds/test_class_f1", rounds, [](auto& round) -> auto& { return round.metrics.class_f1; });
}

// Of asynchronous runs.
template <class Io, class Rounds>
void staleness_columns(Io& io, Rounds& rounds) {
  const auto measured = [](const RoundRecord& round) { return round.virtual_time.asynchronous(); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto VirtualRound::*member) {
    io.column(
        "/rounds/" + name,
        rounds, [=](auto& round) -> auto& { return round.virtual_time.*member; });
  };
  column("stale", &VirtualRound::stale);
  column("staleness_mean", &VirtualRound::staleness_mean);
  column("staleness_max", &VirtualRound::staleness_max);
}

// Of runs with virtual time.
template <class Io, class Rounds>
void time_columns(Io& io, Rounds& rounds) {
  const auto measured = [](const RoundRecord& round) { return round.virtual_time.measured(); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), measured)) return;
  const auto column = [&](const std::string& name, auto VirtualRound::*member) {
    io.column(
        "/rounds/" + name,
        rounds, [=](auto& round) -> auto& { return round.virtual_time.*member; });
  };
  column("virtual_seconds", &VirtualRound::end);
  column("round_seconds_virtual", &VirtualRound::length);
  column("online", &VirtualRound::online);
  column("started", &VirtualRound::started);
  column("finished", &VirtualRound::finished);
  column("offline", &VirtualRound::offline);
  column("not_needed", &VirtualRound::not_needed);
  column("wasted_samples", &VirtualRound::wasted_samples);
  column("wasted_bytes_down", &VirtualRound::wasted_bytes_down);
  column("wasted_bytes_up", &VirtualRound::wasted_bytes_up);
  const auto costs = [](const RoundRecord& r) { return !std::isnan(r.virtual_time.joules); };
  if (!Io::kReads && std::none_of(rounds.begin(), rounds.end(), costs)) return;
  column("joules", &VirtualRound::joules);
  column("wasted_joules", &VirtualRound::wasted_joules);
}

template <class Io, class Rounds>
void round_columns(Io& io, Rounds& rounds, const std::set<std::string>& asked = {}) {
  io.column("/rounds/round", rounds, &RoundRecord::round);
  io.column("/rounds/seconds", rounds, &RoundRecord::seconds);
  io.column("/rounds/idle_share", rounds, &RoundRecord::idle_share);
  io.column("/rounds/train_loss", rounds, &RoundRecord::train_loss);
  io.column("/rounds/test_loss", rounds, &RoundRecord::test_loss);
  io.column("/rounds/test_accuracy", rounds, &RoundRecord::test_accuracy);
  io.column("/rounds/cohort", rounds, &RoundRecord::cohort);
  io.column("/rounds/failed", rounds, &RoundRecord::failed);
  io.column("/rounds/diverged", rounds, &RoundRecord::diverged);
  io.column("/rounds/stragglers", rounds, &RoundRecord::stragglers);
  io.column("/rounds/lost", rounds, &RoundRecord::lost);
  io.column("/rounds/set_aside", rounds, &RoundRecord::set_aside);
  io.column("/rounds/partial", rounds, &RoundRecord::partial);
  io.column("/rounds/absent", rounds, &RoundRecord::absent);
  io.column("/rounds/samples", rounds, &RoundRecord::samples);
  io.column("/rounds/bytes_down", rounds, &RoundRecord::bytes_down);
  io.column("/rounds/bytes_up", rounds, &RoundRecord::bytes_up);
  io.column("/rounds/bytes_state", rounds, &RoundRecord::bytes_state);
  time_columns(io, rounds);
  staleness_columns(io, rounds);
  summary_columns(io, "clients", rounds, &RoundRecord::clients, asked);
  summary_columns(io, "personal", rounds, &RoundRecord::personal, asked);
  summary_columns(io, "holdout", rounds, &RoundRecord::holdout_clients, asked);
  summary_columns(io, "holdout_personal", rounds, &RoundRecord::holdout_personal, asked);
  io.table("/rounds/model_test_loss", rounds, &RoundRecord::model_loss);
  io.table("/rounds/model_test_accuracy", rounds, &RoundRecord::model_accuracy);
  metric_columns(io, rounds, asked);
}

// What plug-ins add to that: NaN in rounds without it.
template <class Io, class Rounds>
void figure_columns(Io& io, const std::set<std::string>& names, Rounds& rounds) {
  for (const std::string& name : names) {
    io.column(
        "/rounds/" + name, rounds, [&](auto& round) -> auto& {
          if constexpr (Io::kReads) {
            return round.figures[name];
          } else {
            const auto found = round.figures.find(name);
            return found == round.figures.end() ? kNotMeasured : found->second;
          }
        });
  }
}

template <class Io, class Evaluations>
void evaluation_columns(Io& io, Evaluations& evaluations, const std::set<std::string>& asked) {
  io.column("/evaluations/round", evaluations, &ClientEvaluation::round);
  io.column("/evaluations/client", evaluations, &ClientEvaluation::client);
  io.column("/evaluations/rank", evaluations, &ClientEvaluation::rank);
  io.column("/evaluations/samples", evaluations, &ClientEvaluation::samples);
  io.column("/evaluations/holdout", evaluations, &ClientEvaluation::holdout);
  io.column("/evaluations/loss", evaluations, &ClientEvaluation::loss);
  io.column("/evaluations/accuracy", evaluations, &ClientEvaluation::accuracy);
  io.column("/evaluations/personal_loss", evaluations, &ClientEvaluation::personal_loss);
  io.column("/evaluations/personal_accuracy", evaluations, &ClientEvaluation::personal_accuracy);
  const auto metric = [&](const std::string& name, const std::string& column,
                          double ClientEvaluation::*shared, double ClientEvaluation::*personal) {
    if (!Io::kReads && !asked.contains(name)) return;
    io.column("/evaluations/" + column, evaluations, shared);
    io.column("/evaluations/personal_" + column, evaluations, personal);
  };
  metric("balanced-accuracy", "balanced_accuracy", &ClientEvaluation::balanced_accuracy,
         &ClientEvaluation::personal_balanced_accuracy);
  metric("auc", "auc", &ClientEvaluation::area_under_curve,
         &ClientEvaluation::personal_area_under_curve);
  metric("f1", "f1", &ClientEvaluation::macro_f1, &ClientEvaluation::personal_macro_f1);
  io.column("/evaluations/seconds", evaluations, &ClientEvaluation::seconds);
}

// What a run has beside: virtual time, energy, and versions of the model instead of rounds.
struct Further {
  bool timed, powered, asynchronous;
};
inline Further further_of(const ClientRecord& client) {
  return {.timed = !std::isnan(client.start_seconds),
          .powered = !std::isnan(client.joules),
          .asynchronous = client.dispatch >= 0};
}

template <class Io, class Clients>
void client_columns(Io& io, const std::vector<std::string>& scalars, const Further& has,
                    Clients& clients) {
  io.column("/clients/round", clients, &ClientRecord::round);
  io.column("/clients/client", clients, &ClientRecord::client);
  io.column("/clients/rank", clients, &ClientRecord::rank);
  io.column("/clients/samples", clients, &ClientRecord::samples);
  io.column("/clients/steps", clients, &ClientRecord::steps);
  io.column("/clients/samples_seen", clients, &ClientRecord::samples_seen);
  io.column("/clients/status", clients, &ClientRecord::status);
  io.column("/clients/weight", clients, &ClientRecord::weight);
  io.column("/clients/loss", clients, &ClientRecord::loss);
  io.column("/clients/loss_before", clients, &ClientRecord::loss_before);
  io.column("/clients/loss_after", clients, &ClientRecord::loss_after);
  io.column("/clients/delta_norm", clients, &ClientRecord::delta_norm);
  io.column("/clients/seconds", clients, &ClientRecord::seconds);
  io.column("/clients/model", clients, &ClientRecord::model);
  if (has.timed) {
    io.column("/clients/start_seconds", clients, &ClientRecord::start_seconds);
    io.column("/clients/finish_seconds", clients, &ClientRecord::finish_seconds);
    io.column("/clients/download_seconds", clients, &ClientRecord::download_seconds);
    io.column("/clients/compute_seconds_virtual", clients, &ClientRecord::compute_seconds);
    io.column("/clients/upload_seconds", clients, &ClientRecord::upload_seconds);
  }
  if (has.asynchronous) {
    io.column("/clients/dispatch", clients, &ClientRecord::dispatch);
    io.column("/clients/base_version", clients, &ClientRecord::base_version);
    io.column("/clients/staleness", clients, &ClientRecord::staleness);
  }
  if (has.powered) io.column("/clients/joules", clients, &ClientRecord::joules);
  for (size_t i = 0; i < scalars.size(); ++i) {
    io.column(
        "/clients/" + scalars[i],
        clients, [i](auto& client) -> auto& { return client.scalars[i]; });
  }
}

}  // namespace fl_sim
