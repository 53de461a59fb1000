#include "commands/compare.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "base/job.h"
#include "base/results_format.h"
#include "base/text.h"
#include "commands/gnuplot.h"
#include "commands/text_table.h"
#include "commands/time_to_target.h"
#include "learning/records.h"
#include "storage/checkpoint.h"

namespace fl_sim {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

constexpr const char* kHelp =
    "fl_sim compare FILE... [options]: results files side by side\n\n"
    "Files whose jobs differ in nothing but the seed are one row, mean ± standard deviation over\n"
    "its seeds. With two rows or more, each is compared with the first one, seed by seed, by a\n"
    "paired t test. Where clients' updates diverged, a column counts them.\n\n"
    "  --metric NAME      a column of /rounds  [test_accuracy]; personal_accuracy of clients' own\n"
    "                     models, for files without them the global model's on the same samples\n"
    "  --take last|best   its value after the last evaluated round, or the best one  [last]\n"
    "  --target VALUE     also rounds, and bytes a client link carried, until the best value so\n"
    "                     far reaches this, on straight lines between evaluations; losses are to\n"
    "                     fall to it\n"
    "  --by WORD,...      time to the target in rounds (round), virtual seconds (virtual), "
    "samples\n"
    "                     that clients went through (samples), bytes to and from them (bytes):\n"
    "                     until the end of the round whose evaluation first reaches it. Of seeds\n"
    "                     the median (least to most); >X: not within X. Without --target it is\n"
    "                     the best value that the worst run reaches\n"
    "  --smooth N         with --by, of the mean of the last N evaluations  [1]\n"
    "  --picture FILE     the metric by these, drawn by gnuplot: a .svg or .png\n"
    "  --markdown         as a table for Markdown\n"
    "  --plugin FILE      plug-ins that the files' jobs name; several times for several\n";

struct Run {
  std::string path;
  std::map<std::string, std::string> job;  // but for keys that do not matter
  int64_t seed = 0;
  double value = kNone, rounds_to_target = kNone, bytes_to_target = kNone;
  int64_t rounds = 0, diverged = 0;
  // With --by: the metric, its sign such that more is better, at evaluations, and what had passed
  // until each, by axis.
  std::vector<double> evaluations = {};
  std::vector<std::vector<double>> passed = {};
};

// Clients' updates that were left out because they diverged.
int64_t diverged_in(const Hdf5File& file, const std::string& path) {
  int64_t all = 0;
  if (file.has("/rounds/diverged")) {
    for (const int64_t count : file.read_integers("/rounds/diverged")) {
      FL_CHECK(count >= 0 && count < int64_t{1} << 32, path, ": /rounds/diverged holds ", count,
               " (must be numbers of clients; damaged?)");
      all += count;
    }
  } else if (file.has("/clients/status")) {  // by an earlier fl_sim
    for (const double status : file.read_doubles("/clients/status"))
      all += status == static_cast<double>(ClientStatus::kDiverged) ? 1 : 0;
  }
  return all;
}

// The length of /rounds/round.
int64_t rounds_in_file(const Hdf5File& file, const std::string& path) {
  const std::vector<int64_t> shape = file.shape("/rounds/round");
  FL_CHECK(shape.size() == 1, path, ": /rounds/round is no column (damaged?)");
  return shape[0];
}

struct Arguments {
  std::vector<std::string> files;
  std::string metric = "test_accuracy", take = "last";
  double target = kNone;
  bool markdown = false, help = false;
  std::vector<Axis> by;  // time to the target; empty: the table of values
  int64_t smooth = 1;
  std::string picture;
};

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    const auto value = [&] {
      FL_CHECK(i + 1 < words.size(), words[i], " needs a value (fl_sim compare --help)");
      return words[++i];
    };
    if (words[i] == "--help" || words[i] == "-h") {
      arguments.help = true;
    } else if (words[i] == "--metric") {
      arguments.metric = value();
    } else if (words[i] == "--take") {
      arguments.take = value();
      FL_CHECK(arguments.take == "last" || arguments.take == "best", "--take is '", arguments.take,
               "' (must be last or best)");
    } else if (words[i] == "--target") {
      const std::string text = value();
      size_t used = 0;
      try {
        arguments.target = std::stod(text, &used);
      } catch (const std::exception&) {
      }
      FL_CHECK(used == text.size() && std::isfinite(arguments.target), "--target is '", text,
               "' (must be a number)");
    } else if (words[i] == "--by") {
      for (const std::string& word : split_list(value())) {
        const Axis& axis = axis_called(word);
        const bool twice =
            std::any_of(arguments.by.begin(), arguments.by.end(),
                        [&](const Axis& other) { return std::string(other.word) == axis.word; });
        FL_CHECK(!twice, "--by has ", word, " twice (keep one)");
        arguments.by.push_back(axis);
      }
      FL_CHECK(!arguments.by.empty(), "--by is empty (must be round, virtual, samples or bytes)");
    } else if (words[i] == "--smooth") {
      const std::string text = value();
      FL_CHECK(read_number(text, arguments.smooth) && arguments.smooth >= 1, "--smooth is '", text,
               "' (must be a number of evaluations, at least 1)");
    } else if (words[i] == "--picture") {
      arguments.picture = value();
    } else if (words[i] == "--markdown") {
      arguments.markdown = true;
    } else {
      FL_CHECK(!words[i].starts_with("--"), "unknown option ", words[i],
               " (fl_sim compare --help shows all)");
      arguments.files.push_back(words[i]);
    }
  }
  const bool share = arguments.metric.find("accuracy") != std::string::npos;
  FL_CHECK(!share || std::isnan(arguments.target) || arguments.target <= 1, "--target is ",
           arguments.target, ", but ", arguments.metric, " is a share (0 to 1)");
  FL_CHECK(arguments.help || !arguments.files.empty(),
           "compare needs results files (fl_sim compare --help)");
  FL_CHECK(arguments.smooth == 1 || !arguments.by.empty(),
           "--smooth is of time to a target (say --by round as well)");
  FL_CHECK(arguments.picture.empty() || !arguments.by.empty(),
           "--picture shows the metric by something (say --by round as well, or --by virtual)");
  return arguments;
}

// Of losses and perplexity the smallest is best.
bool falls(const std::string& metric) {
  return metric.find("loss") != std::string::npos || metric.find("perplexity") != std::string::npos;
}

Job job_of_file(const Hdf5File& file, const std::string& path) {
  const std::string text = file.read_text("/job/text");
  try {
    return Job::from_text(text);
  } catch (const Error& error) {
    throw Error(message(path, ": its /job/text cannot be understood: ", error.what()));
  }
}

// The evaluations among a column's values, smoothed, and what had passed until each.
void take_curve(const Hdf5File& file, const std::vector<double>& values, double sign,
                const Arguments& arguments, Run& run) {
  std::vector<double> evaluations;
  for (const double value : values) {
    if (!std::isnan(value)) evaluations.push_back(sign * value);
  }
  const int64_t window = arguments.smooth;
  FL_CHECK(std::ssize(evaluations) >= window, run.path, " has ", evaluations.size(),
           " evaluations of ", arguments.metric, " (must be at least ", window,
           window > 1 ? ", which --smooth takes the mean of)" : ")");
  run.evaluations = smoothed(evaluations, window);
  for (const Axis& axis : arguments.by) {
    const std::vector<double> all = passed_by_round(file, run.path, axis);
    std::vector<double> passed;
    int64_t n = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isnan(values[i]) && ++n >= window) passed.push_back(all[i]);
    }
    run.passed.push_back(std::move(passed));
  }
}

Run read(const std::string& path, const Arguments& arguments) {
  const Hdf5File file = Hdf5File::open(path);
  FL_CHECK(file.has("/job/text") && file.has("/rounds/round"), path,
           " is no results file of fl_sim (it has no /job/text or /rounds)");
  check_results_format(file, path);
  Run run;
  run.path = path;
  const Job job = job_of_file(file, path);
  run.seed = job.get<int64_t>("seed");
  for (const auto& [key, text] : job.values()) {
    if (key != "seed" && !may_differ(key)) run.job[key] = text;
  }
  if (!file.has_attribute("/provenance", "end")) {
    tell(message("warning: ", path, " is of a run that is not through: ",
                 rounds_in_file(file, path), " of ", job.get<int64_t>("rounds"), " rounds"));
  }
  std::string column = "/rounds/" + arguments.metric;
  const std::string own = "personal_", clients = "clients_";
  if (!file.has(column) && arguments.metric.starts_with(own)) {
    const std::string same = "/rounds/" + clients + arguments.metric.substr(own.size());
    if (file.has(same)) {
      tell(message("note: clients have no models of their own in ", path, ": ", clients,
                   arguments.metric.substr(own.size()),
                   ", of the global model on the same samples, is taken"));
      column = same;
    }
  }
  if (arguments.metric == "test_accuracy" && file.has("/rounds/personal_accuracy")) {
    tell(message("note: clients have models of their own in ", path,
                 ", and test_accuracy is the global model's (--metric personal_accuracy)"));
  }
  FL_CHECK(file.has(column), path, " has no column ", column, " (it has ",
           list_of(file.names("/rounds")), ")");
  std::vector<double> values = file.read_doubles(column);
  const std::vector<double> rounds = file.read_doubles("/rounds/round"),
                            down = file.read_doubles("/rounds/bytes_down"),
                            up = file.read_doubles("/rounds/bytes_up");
  FL_CHECK(
      values.size() == rounds.size() && down.size() == rounds.size() && up.size() == rounds.size(),
      path, ": ", column, " has ", values.size(), " values for ", rounds.size(),
      " rounds (a table cannot be compared)");
  run.rounds = std::ssize(rounds);
  run.diverged = diverged_in(file, path);
  const double sign = falls(arguments.metric) ? -1 : 1;
  std::vector<double> places, signed_values, bytes;
  double carried = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    carried += down[i] + up[i];
    if (std::isnan(values[i])) continue;  // not evaluated
    places.push_back(rounds[i]);
    bytes.push_back(carried);
    signed_values.push_back(sign * values[i]);
  }
  if (!arguments.by.empty()) take_curve(file, values, sign, arguments, run);
  if (places.empty()) return run;
  run.value = sign * (arguments.take == "last"
                          ? signed_values.back()
                          : *std::max_element(signed_values.begin(), signed_values.end()));
  if (!std::isnan(arguments.target)) {
    run.rounds_to_target = first_crossing(places, signed_values, sign * arguments.target);
    run.bytes_to_target = first_crossing(bytes, signed_values, sign * arguments.target);
  }
  return run;
}

struct Summary {
  double mean = kNone, deviation = kNone;
};
// Of n numbers, with n - 1 in the deviation.
Summary summarise(const std::vector<double>& numbers) {
  if (numbers.empty()) return {};
  const auto n = static_cast<double>(numbers.size());
  Summary s;
  s.mean = std::accumulate(numbers.begin(), numbers.end(), 0.0) / n;
  double squares = 0;
  for (const double x : numbers) squares += (x - s.mean) * (x - s.mean);
  s.deviation = numbers.size() > 1 ? std::sqrt(squares / (n - 1)) : kNone;
  return s;
}

std::string number(double value, const char* format) {
  if (std::isnan(value)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string with_deviation(const Summary& s, const char* format) {
  const std::string mean = number(s.mean, format);
  return std::isnan(s.deviation) ? mean : mean + " ± " + number(s.deviation, format);
}

// Rows of files whose jobs differ in the seed only, in the order of the arguments.
std::vector<std::vector<Run>> grouped(const std::vector<Run>& runs) {
  std::vector<std::vector<Run>> rows;
  for (const Run& run : runs) {
    const auto row =
        std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r[0].job == run.job; });
    if (row == rows.end()) {
      rows.push_back({run});
      continue;
    }
    for (const Run& other : *row) {
      FL_CHECK(other.seed != run.seed, run.path, " and ", other.path,
               " are the same job with the same seed ", run.seed, " (leave one out)");
    }
    row->push_back(run);
  }
  return rows;
}

// What tells a row apart: its algorithm, and the keys in which jobs differ.
struct Title {
  std::string algorithm;
  std::vector<std::string> differences;  // "local.lr=0.1"

  std::string text() const {
    std::string text = algorithm;
    for (const std::string& word : differences) text += " " + word;
    return text;
  }
};

std::vector<Title> titles(const std::vector<std::vector<Run>>& rows) {
  std::set<std::string> keys, differing;
  for (const auto& row : rows) {
    for (const auto& [key, value] : row[0].job) keys.insert(key);
  }
  const auto value_of = [](const Run& run, const std::string& key) {
    const auto found = run.job.find(key);
    return found == run.job.end() ? std::string() : found->second;
  };
  for (const std::string& key : keys) {
    for (const auto& row : rows) {
      if (value_of(row[0], key) != value_of(rows[0][0], key)) differing.insert(key);
    }
  }
  std::vector<Title> result;
  for (const auto& row : rows) {
    Title title{value_of(row[0], "algorithm"), {}};
    for (const std::string& key : differing) {
      const std::string value = value_of(row[0], key);
      if (key != "algorithm" && !value.empty())
        title.differences.push_back(message(key, "=", value));
    }
    result.push_back(title);
  }
  return result;
}

// What the numbered rows are, below the table.
void print_legend(const std::vector<Title>& titles, bool markdown) {
  constexpr size_t kColumns = 100;
  std::cout << "\n";
  for (size_t r = 0; r < titles.size(); ++r) {
    std::string line = message(markdown ? "- " : "", r + 1, " ", titles[r].algorithm, ":");
    for (const std::string& word : titles[r].differences) {
      if (!markdown && line.size() + 1 + word.size() > kColumns) {
        std::cout << line << "\n";
        line = "   ";
      }
      line += " " + word;
    }
    std::cout << line << "\n";
  }
}

std::vector<double> column(const std::vector<Run>& row, double Run::*member) {
  std::vector<double> values;
  for (const Run& run : row) {
    if (!std::isnan(run.*member)) values.push_back(run.*member);
  }
  return values;
}

std::string reached(const std::vector<Run>& row, double Run::*member, double unit,
                    const char* format) {
  std::vector<double> values = column(row, member);
  for (double& value : values) value /= unit;
  std::string text = with_deviation(summarise(values), format);
  if (values.size() < row.size()) text += message(" (", values.size(), " of ", row.size(), ")");
  return text;
}

// What stands before a row's figures.
struct RowNames {
  std::vector<Title> titles;
  bool numbered;  // of jobs that have little in common, and described below

  explicit RowNames(const std::vector<std::vector<Run>>& rows) : titles(fl_sim::titles(rows)) {
    constexpr size_t kWidestTitle = 60;
    numbered = std::any_of(titles.begin(), titles.end(), [](const Title& title) {
      return width_of(title.text()) > kWidestTitle;
    });
  }
  std::string name(size_t row) const {
    return numbered ? message(row + 1, " ", titles[row].algorithm) : titles[row].text();
  }
};

// "1,2,3"
std::string seeds_text(const std::vector<Run>& row) {
  std::string seeds;
  std::vector<int64_t> numbers;
  for (const Run& run : row) numbers.push_back(run.seed);
  std::sort(numbers.begin(), numbers.end());
  for (const int64_t seed : numbers) seeds += message(seeds.empty() ? "" : ",", seed);
  return seeds;
}

std::string rounds_text(const std::vector<Run>& row) {
  const auto [shortest, longest] = std::minmax_element(
      row.begin(), row.end(), [](const Run& a, const Run& b) { return a.rounds < b.rounds; });
  return shortest->rounds == longest->rounds ? message(longest->rounds)
                                             : message(shortest->rounds, "-", longest->rounds);
}

int64_t diverged_in(const std::vector<Run>& row) {
  int64_t all = 0;
  for (const Run& run : row) all += run.diverged;
  return all;
}

void print(const TextTable& table, const RowNames& names, bool markdown) {
  std::cout << (markdown ? table.markdown() : table.text());
  if (names.numbered) print_legend(names.titles, markdown);
}

// What is to be reached, its sign such that more is better.
struct Target {
  double value;
  std::string text;

  Target(const std::vector<Run>& runs, const Arguments& arguments) {
    const double sign = falls(arguments.metric) ? -1 : 1;
    value = sign * arguments.target;
    const bool given = !std::isnan(arguments.target);
    const std::string* worst = nullptr;
    for (const Run& run : runs) {
      const double best = *std::max_element(run.evaluations.begin(), run.evaluations.end());
      if (given || value <= best) continue;
      value = best;
      worst = &run.path;
    }
    text = message(arguments.metric, " ", number(sign * value, "%.4f"));
    if (worst != nullptr) text += message(", the best that the worst run reaches (", *worst, ")");
    if (arguments.smooth > 1)
      text += message("; means of ", arguments.smooth, " evaluations in a row");
  }
};

// What gnuplot is told to draw: a panel an axis, a colour a row, a line a run.
std::string curves_script(const std::vector<std::vector<Run>>& rows, const RowNames& names,
                          const Target& target, const Arguments& arguments) {
  constexpr int64_t kPanel = 460, kHeight = 380, kLine = 17;
  const int64_t panels = std::ssize(arguments.by), legend = std::ssize(rows) * kLine + 20;
  const int64_t width = panels * kPanel + 60, height = kHeight + legend;
  const double bottom = static_cast<double>(legend + 55) / static_cast<double>(height);
  const double sign = falls(arguments.metric) ? -1 : 1;
  std::string script = gnuplot_head(arguments.picture, width, height);
  int64_t run_number = 0;
  for (const auto& row : rows) {
    for (const Run& run : row) {
      script += message("$run", run_number++, " << EOD\n");
      for (size_t i = 0; i < run.evaluations.size(); ++i) {
        for (int64_t a = 0; a < panels; ++a) {
          const auto axis = static_cast<size_t>(a);
          script += message(run.passed[axis][i] / arguments.by[axis].unit, " ");
        }
        script += message(sign * run.evaluations[i], "\n");
      }
      script += "EOD\n";
    }
  }
  script += message(
      "set border 3 lc rgb '#606060'\nset tics nomirror out\nset grid lc rgb '#e4e4e4' lt 1\n"
      "set key at screen 0.02, screen 0.01 left bottom Left reverse vertical maxrows ",
      rows.size(), " samplen 2\nset multiplot layout 1,", panels, " margins screen ",
      92.0 / static_cast<double>(width), ",", 1 - 28.0 / static_cast<double>(width), ",", bottom,
      ",0.94 spacing screen ", 60.0 / static_cast<double>(width), "\nset ylabel ",
      gnuplot_quoted(arguments.metric), "\n");
  for (int64_t a = 0; a < panels; ++a) {
    script += message("set xlabel ", gnuplot_quoted(arguments.by[static_cast<size_t>(a)].title),
                      "\nset xrange [0:*]\nplot ", sign * target.value,
                      " with lines dt 3 lc rgb '#909090' notitle");
    run_number = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < rows[r].size(); ++i) {
        script += message(", $run", run_number++, " using ", a + 1, ":", panels + 1,
                          " with lines lw ", rows[r].size() > 1 ? 1 : 1.6, " lc rgb '",
                          gnuplot_colour(static_cast<int64_t>(r)), "' ",
                          i == 0 && a == 0 ? "title " + gnuplot_quoted(names.name(r)) : "notitle");
      }
    }
    script += "\nunset ylabel\n";
  }
  return script + "unset multiplot\n";
}

// Time to the target, by each axis.
void compare_times(const std::vector<std::vector<Run>>& rows, const std::vector<Run>& runs,
                   const Arguments& arguments) {
  const RowNames names(rows);
  const Target target(runs, arguments);
  std::cout << "until " << target.text << "\n\n";
  const bool diverged =
      std::any_of(runs.begin(), runs.end(), [](const Run& run) { return run.diverged > 0; });
  std::vector<std::string> heading = {"", "seeds", "rounds",
                                      arguments.take + " " + arguments.metric};
  if (diverged) heading.emplace_back("diverged");
  for (const Axis& axis : arguments.by) {
    heading.push_back(message(axis.heading, " to it"));
    if (rows.size() > 1) heading.emplace_back("speed-up");
  }
  std::vector<TextTable::Column> columns(heading.size(), {.right = true});
  columns[0].right = false;
  TextTable table(columns);
  table.add(heading);
  std::vector<Length> first;  // by axis: the first row's medians
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<Run>& row = rows[r];
    std::vector<std::string> line = {names.name(r), seeds_text(row), rounds_text(row),
                                     with_deviation(summarise(column(row, &Run::value)), "%.4f")};
    if (diverged) line.push_back(message(diverged_in(row)));
    for (size_t a = 0; a < arguments.by.size(); ++a) {
      std::vector<Length> lengths;
      for (const Run& run : row)
        lengths.push_back(length_to(run.passed[a], run.evaluations, target.value));
      line.push_back(lengths_text(lengths, arguments.by[a]));
      if (r == 0) first.push_back(median_of(lengths));
      if (rows.size() > 1)
        line.push_back(r == 0 ? "" : speed_up_text(first[a], median_of(lengths)));
    }
    table.add(line);
  }
  print(table, names, arguments.markdown);
  if (arguments.picture.empty()) return;
  draw_by_gnuplot(curves_script(rows, names, target, arguments), arguments.picture);
  std::cout << "\npicture  " << arguments.picture << "\n";
}

}  // namespace

PairedTest paired_test(const std::vector<double>& differences) {
  PairedTest test{.n = std::ssize(differences)};
  const Summary s = summarise(differences);
  test.mean = s.mean;
  if (test.n < 2) {
    test.t = test.p = kNone;
    return test;
  }
  if (s.deviation == 0) {
    test.t = s.mean == 0 ? 0 : std::copysign(std::numeric_limits<double>::infinity(), s.mean);
    test.p = s.mean == 0 ? 1 : 0;
    return test;
  }
  test.t = s.mean / (s.deviation / std::sqrt(static_cast<double>(test.n)));
  const boost::math::students_t distribution(static_cast<double>(test.n - 1));
  test.p = 2 * boost::math::cdf(boost::math::complement(distribution, std::abs(test.t)));
  return test;
}

double first_crossing(const std::vector<double>& positions, const std::vector<double>& values,
                      double target) {
  double best = -std::numeric_limits<double>::infinity(), place = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= target) {
      if (i == 0 || best == -std::numeric_limits<double>::infinity()) return positions[i];
      return place + (positions[i] - place) * (target - best) / (values[i] - best);
    }
    if (values[i] > best || i == 0) best = std::max(best, values[i]);
    place = positions[i];
  }
  return kNone;
}

int run_compare(const std::vector<std::string>& words) {
  const Arguments arguments = parse(words);
  if (arguments.help) {
    std::cout << kHelp;
    return 0;
  }
  std::vector<Run> runs;
  for (const std::string& path : arguments.files) runs.push_back(read(path, arguments));
  const std::vector<std::vector<Run>> rows = grouped(runs);
  if (!arguments.by.empty()) {
    compare_times(rows, runs, arguments);
    return 0;
  }
  const RowNames names(rows);
  const bool diverged =
      std::any_of(runs.begin(), runs.end(), [](const Run& run) { return run.diverged > 0; });
  const bool targeted = !std::isnan(arguments.target);

  std::vector<std::string> heading = {"", "seeds", "rounds",
                                      arguments.take + " " + arguments.metric};
  if (diverged) heading.emplace_back("diverged");
  if (targeted) {
    heading.push_back(message("rounds to ", arguments.target));
    heading.push_back("MB to it");
  }
  if (rows.size() > 1) {
    for (const char* title : {"difference", "pairs", "t", "p"}) heading.push_back(title);
  }
  std::vector<TextTable::Column> columns(heading.size(), {.right = true});
  columns[0].right = false;
  TextTable table(columns);
  table.add(heading);
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<Run>& row = rows[r];
    std::vector<std::string> line = {names.name(r), seeds_text(row), rounds_text(row),
                                     with_deviation(summarise(column(row, &Run::value)), "%.4f")};
    if (diverged) line.push_back(message(diverged_in(row)));
    if (targeted) {
      line.push_back(reached(row, &Run::rounds_to_target, 1, "%.1f"));
      line.push_back(reached(row, &Run::bytes_to_target, 1e6, "%.1f"));
    }
    if (rows.size() > 1) {
      std::vector<double> differences;
      for (const Run& run : row) {
        for (const Run& other : rows[0]) {
          if (other.seed == run.seed && r > 0 && !std::isnan(run.value) && !std::isnan(other.value))
            differences.push_back(run.value - other.value);
        }
      }
      const PairedTest test = paired_test(differences);
      line.push_back(differences.empty() ? "" : number(test.mean, "%+.4f"));
      line.push_back(r == 0 ? "" : message(test.n));
      line.push_back(differences.empty() ? "" : number(test.t, "%.2f"));
      line.push_back(differences.empty() ? "" : number(test.p, "%.3g"));
    }
    table.add(line);
  }
  print(table, names, arguments.markdown);
  return 0;
}

}  // namespace fl_sim
