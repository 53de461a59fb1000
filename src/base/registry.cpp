#include "base/registry.h"

#include <algorithm>
#include <numeric>

namespace fl_sim {
namespace {

std::vector<std::string>& registration_problems() {
  static std::vector<std::string> problems;
  return problems;
}

std::string& registering_file() {
  static std::string file;
  return file;
}

std::string origin(const PluginInfo& info) {
  return info.file.empty() ? "fl_sim's own" : "of " + info.file;
}

// What is wrong with the keys of a plug-in beside those of the same name and another kind: a job's
// key says name and option, but no kind. Empty: nothing.
std::string clash(const std::string& kind, const std::string& name, const PluginInfo& info) {
  for (const auto& [other_kind, plugins] : catalog()) {
    const auto other = plugins.find(name);
    if (other_kind == kind || other == plugins.end()) continue;
    for (const Option& option : info.options) {
      for (const Option& taken : other->second.options) {
        if (option.name != taken.name) continue;
        return message("the key ", name, ".", option.name, " is declared by ", kind, " '", name,
                       "', ", origin(info), ", and by ", other_kind, " '", name, "', ",
                       origin(other->second), " (give one of them another name)");
      }
    }
  }
  return "";
}

}  // namespace

Catalog& catalog() {
  static Catalog all;
  return all;
}

bool register_info(const std::string& kind, const std::string& name,
                   PluginInfo (*describe)()) noexcept {
  try {
    PluginInfo info = describe();
    info.file = registering_file();
    if (std::string problem = clash(kind, name, info); !problem.empty()) {
      registration_problems().push_back(std::move(problem));
      return false;
    }
    const auto [place, added] = catalog()[kind].emplace(name, std::move(info));
    if (added) return true;
    const std::string& holder = place->second.file;
    registration_problems().push_back(message(
        "the name of ", kind, " '", name, "' is taken",
        holder.empty() ? " by one of fl_sim's own" : " by that of " + holder, " (choose another)"));
  } catch (const std::exception& error) {
    registration_problems().push_back(
        message(kind, " '", name, "' throws while it is registered: ", error.what()));
  } catch (...) {
    registration_problems().push_back(message(kind, " '", name, "' throws while it is registered"));
  }
  return false;
}

std::vector<std::string> take_registration_problems() {
  return std::exchange(registration_problems(), {});
}

void register_as_from(const std::string& file) { registering_file() = file; }

size_t count_plugins() {
  size_t count = 0;
  for (const auto& [kind, plugins] : catalog()) count += plugins.size();
  return count;
}

const std::vector<std::string>& plugin_kinds() {
  static const std::vector<std::string> kinds = {
      "algorithm", "partitioner", "dataset",      "model",   "sampler",
      "transform", "aggregator",  "availability", "devices", "protocol",
      "tracker"};
  return kinds;
}

std::string plural_of(const std::string& kind) {
  return kind.ends_with('s') || kind.ends_with('y') ? kind : kind + "s";
}

const std::vector<std::pair<std::string, std::string>>& algorithm_families() {
  static const std::vector<std::pair<std::string, std::string>> families = {
      {"global", "Global optimisation"},
      {"fairness", "Fairness"},
      {"parallel", "Parallel weights"},
      {"personalisation", "Personalisation"},
      {"baseline", "Baselines"}};
  return families;
}

std::string range_text(const Range& range) {
  std::ostringstream out;
  const bool low = range.low > -1e299, high = range.high < 1e299;
  if (low && high) {
    out << (range.open_low ? "more than " : "") << range.low
        << (range.open_low ? " and at most " : " to ") << range.high
        << (range.open_high ? ", exclusive" : "");
  } else if (low) {
    out << (range.open_low ? "more than " : "at least ") << range.low;
  } else if (high) {
    out << (range.open_high ? "less than " : "at most ") << range.high;
  }
  return out.str();
}

std::string list_of(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) {
    if (!out.empty()) out += ", ";
    out += word;
  }
  return out;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  const auto distance = [](const std::string& a, const std::string& b) {  // Levenshtein
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= a.size(); ++i) {
      size_t diagonal = std::exchange(row[0], i);
      for (size_t j = 1; j <= b.size(); ++j) {
        const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
        diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
      }
    }
    return row.back();
  };
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  // Words of other lengths are never near, and one from a damaged file may be of any length.
  const auto distance_below_best = [&](const std::string& candidate) {
    const size_t longer = std::max(word.size(), candidate.size());
    const bool far = longer - std::min(word.size(), candidate.size()) >= best_distance;
    return far ? best_distance : distance(word, candidate);
  };
  for (const std::string& candidate : candidates) {
    // "lr" stands for "local.lr": the part behind the dot counts as well.
    const std::string tail = candidate.substr(candidate.rfind('.') + 1);
    const size_t d = std::min(distance_below_best(candidate), distance_below_best(tail));
    if (d < best_distance) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}

std::pair<std::string, std::string> split_name(const std::string& value) {
  const size_t colon = value.find(':');
  if (colon == std::string::npos) return {value, ""};
  return {value.substr(0, colon), value.substr(colon + 1)};
}

std::vector<std::string> readers(const std::string& kind, const std::string& key) {
  std::vector<std::string> names;
  for (const auto& [name, info] : catalog()[kind]) {
    if (std::find(info.reads.begin(), info.reads.end(), key) != info.reads.end())
      names.push_back(name);
  }
  return names;
}

const PluginInfo& plugin_info(const std::string& kind, const std::string& name) {
  const auto& known = catalog()[kind];
  const auto found = known.find(name);
  if (found != known.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known_name, info] : known) names.push_back(known_name);
  const std::string near = nearest(name, names);
  throw Error(message("there is no ", kind, " '", name, "' (",
                      near.empty() ? "" : message("did you mean '", near, "'? "), "fl_sim --list ",
                      kind, "s shows all)"));
}

}  // namespace fl_sim
