#include "commands/report.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <map>
#include <sstream>
#include <tuple>
#include <utility>

#include "base/engine_options.h"
#include "base/job_parts.h"
#include "base/plugin_file.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/progress.h"
#include "commands/provenance.h"
#include "engine/async_timetable.h"
#include "engine/planner.h"
#include "learning/protocol.h"

namespace fl_sim {
namespace {

std::string percent(double part, double whole) {
  return fixed(whole > 0 ? 100 * part / whole : 0, 1) + " %";
}

std::string human_bytes(int64_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1000 && unit < 4; ++unit) value /= 1000;
  return fixed(value, unit == 0 ? 0 : 1) + " " + units[unit];
}

// "key value, key value" of the job's keys that start with a prefix.
std::string settings(const Job& job, const std::string& prefix) {
  std::string out;
  for (const auto& [key, value] : job.values()) {
    if (key.starts_with(prefix))
      out += (out.empty() ? "" : ", ") + key.substr(prefix.size()) + " " + value;
  }
  return out;
}

// Who is absent, and who is late, of a job that asks for it.
std::string absence_text(const AbsenceOptions& absence) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  if (absence.available < 1)
    add(message("absent: a client can be drawn with chance ", absence.available));
  if (absence.stragglers > 0) {
    add(message("late: ", percent(absence.stragglers, 1), " of a cohort, ",
                absence.policy == "drop" ? "dropped" : "whose part counts"));
  }
  if (absence.dropout > 0)
    add(message("lost: one that was drawn never answers with chance ", absence.dropout));
  return text;
}

// "10 rounds of 10 clients", or what an asynchronous run has in their place.
std::string rounds_text(const Job& job) {
  const auto value = [&](const std::string& key) { return job.get<std::string>(key); };
  const auto o = read_options<AsyncOptions>(job);
  if (!o.on()) return message(value("rounds"), " rounds of ", value("cohort"), " clients");
  const std::string made = make<Protocol>(o.protocol, {job})->made();
  const std::string flight =
      o.drawn() ? message("up to ", o.max_staleness, " versions old")
                : message(o.concurrency > 0 ? std::to_string(o.concurrency) : value("cohort"),
                          " clients in flight");
  return message(value("rounds"), " versions of the model, ", made, ", ", flight);
}

// Values of the engine's keys that the job has from its plug-ins, where another would have another:
// "weighting uniform (else samples)".
std::string own_defaults(const Job& job) {
  std::string text;
  const Values own = Parts(job.values()).defaults();
  for (const Option& option : engine_options()) {
    const auto found = own.find(option.name);
    if (found == own.end() || found->second == option.default_value.value_or("")) continue;
    const auto value = job.values().find(option.name);
    if (value == job.values().end() || value->second != found->second) continue;
    text += message(text.empty() ? "" : ", ", option.name, " ", found->second, " (else ",
                    option.default_value.value_or("to be said"), ")");
  }
  return text;
}

// What became of the clients that were asked, where not all count with all of their work.
std::string left_out_text(const Outcome& o) {
  std::string text;
  for (const auto& [count, what] :
       {std::pair{o.diverged, "diverged"}, std::pair{o.stragglers, "late and dropped"},
        std::pair{o.lost, "lost"}, std::pair{o.set_aside, "too few for the aggregator"},
        std::pair{o.virtual_time.offline, "offline"},
        std::pair{o.virtual_time.not_needed, "not needed"},
        std::pair{o.virtual_time.stale, "too old"}}) {
    if (count > 0) text += message(text.empty() ? "" : ", ", count, " ", what);
  }
  if (!text.empty()) text = message("of ", o.asked, " clients asked: ", text);
  if (o.partial > 0)
    text += message(text.empty() ? "nobody" : "", "; ", o.partial, " late count in part");
  if (o.rounds_in_vain > 0)
    text += message("; rounds in which nobody counted: ", o.rounds_in_vain, " of ", o.rounds);
  return text;
}

// What the job asked for beside loss and accuracy, of the last round that was evaluated.
std::string metrics_text(const Metrics& m) {
  std::string text;
  for (const auto& [name, value, digits] :
       {std::tuple{"balanced accuracy ", m.balanced_accuracy, 4},
        std::tuple{"area under the curve ", m.area_under_curve, 4},
        std::tuple{"F1 ", m.macro_f1, 4}, std::tuple{"perplexity ", m.perplexity, 3}}) {
    if (!std::isnan(value)) text += message(text.empty() ? "" : ", ", name, fixed(value, digits));
  }
  return text;
}

// "0.81 0.93 - 0.77"; of many classes the worst and the best.
std::string class_text(const std::vector<double>& accuracy) {
  constexpr size_t kMostShown = 20;
  if (accuracy.empty()) return "";
  if (accuracy.size() <= kMostShown) {
    std::string text;
    for (const double a : accuracy)
      text += message(text.empty() ? "" : " ", std::isnan(a) ? "-" : fixed(a, 2));
    return text;
  }
  const auto less = [&](size_t a, size_t b) { return accuracy[a] < accuracy[b]; };
  std::vector<size_t> known;
  for (size_t c = 0; c < accuracy.size(); ++c) {
    if (!std::isnan(accuracy[c])) known.push_back(c);
  }
  if (known.empty()) return "";
  const auto [worst, best] = std::minmax_element(known.begin(), known.end(), less);
  return message("worst ", fixed(accuracy[*worst], 2), " (class ", *worst, "), best ",
                 fixed(accuracy[*best], 2), " (class ", *best, ")");
}

// Whose test samples clients evaluate on, where the test set knows.
std::string own_tests_text(const Experiment& e) {
  if (!e.own_tests) return "";
  int64_t some = 0;
  for (int64_t client = 0; client < e.test.clients(); ++client) some += e.test.size(client) > 0;
  return message("clients evaluate on what the test set has of their own: ", some, " of ",
                 e.test.clients(), " clients, ", e.test.indices.size(), " of ", e.data.test.size(),
                 " samples");
}

}  // namespace

std::string header(const Experiment& e, const Communicator& comm, const GpuComm& gpu_comm,
                   const std::vector<std::string>& places, const Skew& skew) {
  const Job& job = e.job;
  std::ostringstream out;
  const auto line = [&](const std::string& name, const std::string& text) {
    if (!text.empty()) out << "\n  " << std::left << std::setw(11) << name << text;
  };
  const auto value = [&](const std::string& key) { return job.get<std::string>(key); };
  out << "fl_sim " << version();
  line("ranks",
       message(comm.size(),
               comm.size() == 1 ? " (server and host in one)"
                                : message(": 1 server, ", comm.size() - 1,
                                          comm.size() == 2 ? " host" : " hosts"),
               " on ", comm.nodes(), comm.nodes() == 1 ? " machine" : " machines", ", ",
               value("threads"), value("threads") == "1" ? " thread each" : " threads each"));
  std::map<std::string, int> devices;
  for (const std::string& place : places) ++devices[place];
  std::string list;
  for (const auto& [place, count] : devices)
    list += (list.empty() ? "" : ", ") + message(count, " x ", place);
  line("devices", list);
  line("transport", message(gpu_comm.reason, "; sums are ", value("sum")));
  line("libraries", libraries());
  for (const PluginFile& file : plugin_files())
    line("plug-in", message(file.path, " (hash ", file.hash, ")"));
  line("data",
       message(value("dataset"), ": ", e.data.train.size(), " training samples ",
               torch::IntArrayRef(e.data.train.sample_shape()),
               e.data.values.empty()
                   ? message(" in ", e.data.classes, " classes, ")
                   : message(" with a number to predict (", e.data.classes, " different ones), "),
               e.data.test.size(), " to test; ",
               e.data.left_out.empty() ? "" : message(e.data.left_out, " left out; "),
               e.data.train.inputs.scalar_type() == torch::kUInt8 ? "uint8" : "float32", ", ",
               e.data_shared ? "once per node"
                             : "a copy per rank (the nodes' shared memory is too small)"));
  line("partition",
       message(value("partitioner"), ": ", value("clients"), " clients of ", skew.min_size, " to ",
               skew.max_size, " samples (median ", skew.median, ")",
               e.data.values.empty() ? message("; Jensen-Shannon distance of labels ",
                                               fixed(skew.mean_jensen_shannon, 3), " on average, ",
                                               fixed(skew.max_jensen_shannon, 3), " at most")
                                     : ""));
  line("", settings(job, value("partitioner") + "."));
  line("", own_tests_text(e));
  line("model", message(value("model"), ": ", e.network->layout().count(), " parameters"));
  line("algorithm", message(value("algorithm"), ", weighting ", value("weighting")));
  line("", settings(job, value("algorithm") + "."));
  line("  defaults", own_defaults(job));
  line("  local", settings(job, "local."));
  line("  server", settings(job, "server."));
  line("run",
       message(rounds_text(job), " (", value("sampler"), e.sampler->biased() ? ", biased" : "",
               "), seed ", value("seed"), ", groups of ", value("group-size"), ", ",
               value("precision"), value("deterministic") == "true" ? "" : ", not deterministic"));
  line("attendance", absence_text(read_options<AbsenceOptions>(job)));
  if (value("availability") != "chance") {
    line("available", value("availability"));
    line("", settings(job, split_name(value("availability")).first + "."));
  }
  if (value("devices") != "none") {
    line("time", message("virtual, of devices ", value("devices")));
    line("", settings(job, "devices."));
    line("", settings(job, split_name(value("devices")).first + "."));
    line("  clock", settings(job, "clock."));
  }
  if (read_options<AsyncOptions>(job).on()) line("versions", settings(job, "async."));
  line("", settings(job, split_name(value("sampler")).first + "."));
  const auto chosen = [&](const std::string& name, const std::string& key) {
    const std::vector<std::string> words = job.names(key);
    if (words == std::vector<std::string>{"none"} || words == std::vector<std::string>{"mean"})
      return;
    line(name, list_of(words));
    for (const std::string& word : words) line("", settings(job, split_name(word).first + "."));
  };
  chosen("transforms", "transforms");
  chosen("aggregator", "aggregator");
  chosen("trackers", "track");
  line("output", value("output"));
  return out.str();
}

std::string summary(const Outcome& outcome, double seconds, double target,
                    const std::string& path) {
  std::ostringstream out;
  const auto line = [&](const std::string& name, const std::string& text) {
    if (!text.empty()) out << "\n  " << std::left << std::setw(11) << name << text;
  };
  out << outcome.rounds << " rounds";
  if (outcome.rounds_of_former > 0)
    out << ", " << outcome.rounds - outcome.rounds_of_former << " of them now,";
  out << " in " << duration_text(seconds) << ", "
      << fixed(static_cast<double>(outcome.samples) / std::max(seconds, 1e-9), 0) << " samples/s";
  if (!std::isnan(outcome.last_accuracy)) {
    line("accuracy",
         "last " + fixed(outcome.last_accuracy, 4) + ", best " + fixed(outcome.best_accuracy, 4));
  } else if (!std::isnan(outcome.last_loss)) {
    line("test loss", "last " + fixed(outcome.last_loss, 4));
  }
  line("metrics", metrics_text(outcome.last_metrics));
  line("by class", class_text(outcome.last_metrics.class_accuracy));
  line("F1", class_text(outcome.last_metrics.class_f1));
  const auto clients = [&](const std::string& name, const EvaluationSummary& s) {
    if (s.clients == 0) return;
    if (std::isnan(s.accuracy)) {
      line(name, message("loss ", fixed(s.loss, 4), " of ", s.clients, " clients"));
      return;
    }
    line(name,
         message("accuracy ", fixed(s.accuracy, 4), " of ", s.clients, " clients; mean ",
                 fixed(s.mean_accuracy, 4), ", worst tenth ", fixed(s.worst_tenth, 4),
                 ", best tenth ", fixed(s.best_tenth, 4), ", variance ", fixed(s.variance, 4)));
    std::string metrics;
    for (const auto& [metric, weighted, mean] :
         {std::tuple{"balanced accuracy", s.balanced_accuracy, s.mean_balanced_accuracy},
          std::tuple{"area under the curve", s.area_under_curve, s.mean_area_under_curve},
          std::tuple{"F1", s.macro_f1, s.mean_macro_f1}}) {
      if (!std::isnan(weighted))
        metrics += message(metrics.empty() ? "" : "; ", metric, " ", fixed(weighted, 4), ", mean ",
                           fixed(mean, 4));
    }
    line("", metrics);
  };
  clients("clients", outcome.evaluated.clients);
  clients("own models", outcome.evaluated.personal);
  clients("held out", outcome.evaluated.holdout_clients);
  clients("their own", outcome.evaluated.holdout_personal);
  if (target > 0) {
    line("target",
         message(fixed(target, 4), outcome.target_reached ? " reached after " : " not reached in ",
                 outcome.rounds, " rounds, ", fixed(seconds, 1), " s, ", human_bytes(outcome.bytes),
                 " to and from clients"));
  }
  const VirtualRound& time = outcome.virtual_time;
  if (time.measured()) {
    line("virtual",
         message(duration_text(time.end), " (", fixed(time.end, 1), " s) for the clients, ",
                 fixed(time.end / static_cast<double>(outcome.rounds), 1), " s a round"));
  }
  if (!std::isnan(time.joules)) {
    line("energy",
         message(joules_text(time.joules), " of the clients, ",
                 percent(time.wasted_joules, time.joules), " of it for updates that do not count"));
  }
  line("left out", left_out_text(outcome));
  if (outcome.out_of_patience)
    line("patience", message("at its end: the best model is that of round ", outcome.best_round));
  RankRecord hosts;
  for (const RankRecord& rank : outcome.ranks) {
    const bool host = rank.rank > 0 || outcome.ranks.size() == 1;
    if (!host) continue;
    hosts.compute_seconds += rank.compute_seconds;
    hosts.wait_seconds += rank.wait_seconds;
    hosts.comm_seconds += rank.comm_seconds;
  }
  const double all = hosts.compute_seconds + hosts.wait_seconds + hosts.comm_seconds;
  const RankRecord& server = outcome.ranks.at(0);
  line("hosts", "compute " + percent(hosts.compute_seconds, all) + ", wait " +
                    percent(hosts.wait_seconds, all) + ", communicate " +
                    percent(hosts.comm_seconds, all));
  line("server", "evaluate " + percent(server.evaluate_seconds, seconds) + ", wait " +
                     percent(server.wait_seconds, seconds) + ", communicate " +
                     percent(server.comm_seconds, seconds));
  line("model", "checksum " + outcome.checksum);
  line("results", path);
  return out.str();
}

}  // namespace fl_sim
