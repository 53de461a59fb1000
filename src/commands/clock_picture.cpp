#include "commands/clock_picture.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "commands/gnuplot.h"

namespace fl_sim {
namespace {

struct FateLook {
  const char* name;
  const char* colour;
};
constexpr std::array<FateLook, 5> kFates = {{{"counts", "#2ca02c"},
                                             {"late", "#ff7f0e"},
                                             {"not needed", "#1f77b4"},
                                             {"went offline", "#9467bd"},
                                             {"lost", "#d62728"}}};
constexpr double kThick = 0.42, kThin = 0.14;  // half of a bar, in lines

// Those that have a line, ascending: all, or evenly some.
std::vector<int64_t> clients_in(const BusyPicture& picture) {
  std::set<int64_t> all;
  for (const BusyTask& task : picture.tasks) all.insert(task.client);
  std::vector<int64_t> clients(all.begin(), all.end());
  if (clients.size() <= kMostBusyClients) return clients;
  std::vector<int64_t> some;
  for (size_t i = 0; i < kMostBusyClients; ++i)
    some.push_back(clients[i * clients.size() / kMostBusyClients]);
  return some;
}

}  // namespace

std::string busy_script(const BusyPicture& picture, const std::string& path) {
  const std::vector<int64_t> clients = clients_in(picture);
  std::set<int64_t> all;
  for (const BusyTask& task : picture.tasks) all.insert(task.client);
  std::set<std::pair<int64_t, double>> starts;  // of tasks, by client
  for (const BusyTask& task : picture.tasks) starts.emplace(task.client, task.start);
  const auto lines = static_cast<int64_t>(clients.size());
  const int64_t height = std::clamp<int64_t>(lines * 13, 200, 1500) + 120;
  // Of tasks that outlast the last of these rounds by far only the beginning.
  double last = 0;
  for (const BusyTask& task : picture.tasks) last = std::max(last, task.finish);
  if (!picture.ends.empty()) last = std::min(last, 1.15 * picture.ends.back());
  last = std::max(last, 1e-6);
  std::ostringstream out;
  out.precision(12);
  out << gnuplot_head(path, 1200, height) << "set title " << gnuplot_quoted(picture.title) << "\n"
      << "set xlabel 'virtual seconds'\nset ylabel "
      << gnuplot_quoted(clients.size() < all.size()
                            ? message("client (", clients.size(), " of ", all.size(), " are shown)")
                            : std::string("client"))
      << "\nset border 3 lc rgb '#606060'\nset xtics nomirror out\nset style fill solid 1 "
         "noborder\n"
         "set key outside right top vertical Left reverse samplen 1 spacing 1.3\n"
      << "set yrange [" << lines << ":-1]\nset xrange [0:" << last << "]\nset ytics nomirror out (";
  const int64_t step = lines <= 40 ? 1 : (lines + 29) / 30;
  for (int64_t i = 0; i < lines; i += step)
    out << (i == 0 ? "" : ", ") << "'" << clients[static_cast<size_t>(i)] << "' " << i;
  out << ")\n";
  for (const double end : picture.ends) {
    out << "set arrow from first " << end << ", graph 0 to first " << end
        << ", graph 1 nohead back lc rgb '#b0b0b0' dt 2\n";
  }
  // Bars of each fate: middle, line, left, right, lower, upper.
  std::array<bool, kFates.size()> there{};
  for (size_t fate = 0; fate < kFates.size(); ++fate) {
    out << "$fate" << fate << " << EOD\n";
    for (const BusyTask& task : picture.tasks) {
      if (static_cast<size_t>(task.fate) != fate) continue;
      const auto found = std::lower_bound(clients.begin(), clients.end(), task.client);
      if (found == clients.end() || *found != task.client) continue;
      there[fate] = true;
      const auto line = static_cast<double>(found - clients.begin());
      const auto next = starts.upper_bound({task.client, task.start});
      const double until = next != starts.end() && next->first == task.client
                               ? std::min(task.finish, next->second)
                               : task.finish;
      const auto bar = [&](double from, double to, double half) {
        to = std::min(to, until);
        if (to <= from) return;
        out << (from + to) / 2 << " " << line << " " << from << " " << to << " " << line - half
            << " " << line + half << "\n";
      };
      const double computes = task.start + task.down, sends = computes + task.compute;
      constexpr double kRounding = 1e-5;                // phases are rounded, each
      if (task.finish > sends + task.up + kRounding) {  // it paused, now or then
        bar(task.start, task.finish, (kThick + kThin) / 2);
      } else {
        bar(task.start, computes, kThin);
        bar(computes, sends, kThick);
        bar(sends, sends + task.up, kThin);
      }
    }
    out << "EOD\n";
  }
  std::string plots;
  for (size_t fate = 0; fate < kFates.size(); ++fate) {
    if (!there[fate]) continue;
    plots +=
        message(plots.empty() ? "plot " : ", ", "$fate", fate,
                " using 1:2:3:4:5:6 with boxxyerror lc rgb '", kFates[fate].colour, "' title ",
                gnuplot_quoted(static_cast<TaskFate>(fate) == TaskFate::kLate ? picture.late_name
                                                                              : kFates[fate].name));
  }
  if (!picture.ends.empty()) {
    plots += message(plots.empty() ? "plot " : ", ", "NaN with lines dt 2 lc rgb '#b0b0b0' title ",
                     gnuplot_quoted(picture.end_name));
  }
  out << (plots.empty() ? "plot NaN notitle" : plots) << "\n";
  return out.str();
}

}  // namespace fl_sim
