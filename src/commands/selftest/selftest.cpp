#include "commands/selftest/selftest.h"

#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <set>

#include "base/check.h"
#include "base/clock.h"
#include "base/registry.h"
#include "base/text.h"
#include "commands/selftest/experiments.h"
#include "commands/selftest/small_jobs.h"
#include "commands/selftest/suite.h"
#include "commands/text_table.h"
#include "network/arithmetic.h"
#include "process/communicator.h"
#include "process/launcher.h"

namespace fl_sim {
namespace {

using selftest::Check;
using selftest::Result;

constexpr const char* kHelp =
    "fl_sim selftest [ALGORITHM...] [options]: holds each algorithm to what is known of it\n\n"
    "  --device cpu|cuda   where to compute  [cpu]\n"
    "  --only PROPERTY     this column of the table only; several times for several\n"
    "  --skip PROPERTY     all columns but this one\n"
    "  --list              what is checked, without checking it\n"
    "  --verbose           every check with its deviation and its time\n"
    "  --plugin FILE       also the algorithms of this shared object; several times for several\n"
    "  --checksums         print the checksum of each algorithm's small jobs instead, on as many\n"
    "                      ranks as it was started with: equal for every number of ranks\n\n"
    "Exit code 1 if a check fails. Algorithms are those of fl_sim --list algorithms, and engine.\n";

struct Arguments {
  std::set<std::string> algorithms, properties;  // to be checked
  bool list = false, verbose = false, checksums = false, help = false;

  bool wants(const Check& check) const {
    return algorithms.contains(check.algorithm) && properties.contains(check.property);
  }
};

std::string title_of(const Check& check) {
  return message(check.algorithm, ", ", check.property, ": ", check.text);
}

std::vector<std::string> known_algorithms() {
  std::vector<std::string> names;
  for (const auto& [name, info] : catalog()["algorithm"]) names.push_back(name);
  names.push_back("engine");
  return names;
}

const std::string& one_of(const std::string& word, const std::vector<std::string>& known,
                          const std::string& what) {
  const std::string near = nearest(word, known);
  FL_CHECK(std::find(known.begin(), known.end(), word) != known.end(), "selftest knows no ", what,
           " '", word, "' (", near.empty() ? "" : message("did you mean '", near, "'? "),
           "choose of ", list_of(known), ")");
  return word;
}

const std::string& algorithm_of(const std::string& word) {
  const std::vector<std::string> known = known_algorithms();
  const bool is_known = std::find(known.begin(), known.end(), word) != known.end();
  for (const std::string& kind : plugin_kinds()) {
    FL_CHECK(is_known || !catalog()[kind].contains(word), "'", word, "' is of kind ", kind,
             ", and selftest holds algorithms to their rules (run a job with it on 1 and on 3 "
             "ranks: the attribute checksum of /model has to be the same)");
  }
  return one_of(word, known, "algorithm");
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  std::set<std::string> skipped;
  const std::vector<std::string>& columns = selftest::properties();
  for (size_t i = 0; i < words.size(); ++i) {
    const auto value = [&] {
      FL_CHECK(i + 1 < words.size(), words[i], " needs a value (fl_sim selftest --help)");
      return words[++i];
    };
    if (words[i] == "--help" || words[i] == "-h") {
      arguments.help = true;
    } else if (words[i] == "--list") {
      arguments.list = true;
    } else if (words[i] == "--verbose") {
      arguments.verbose = true;
    } else if (words[i] == "--checksums") {
      arguments.checksums = true;
    } else if (words[i] == "--only") {
      arguments.properties.insert(one_of(value(), columns, "property"));
    } else if (words[i] == "--skip") {
      skipped.insert(one_of(value(), columns, "property"));
    } else if (words[i] == "--device") {
      const std::string device = one_of(value(), {"cpu", "cuda"}, "device");
      FL_CHECK(device == "cpu" || torch::cuda::is_available(),
               "device is cuda, but LibTorch sees no CUDA device here");
      if (device == "cuda") selftest::device() = torch::kCUDA;
    } else {
      FL_CHECK(!words[i].starts_with("-"), "selftest has no option ", words[i],
               " (fl_sim selftest --help)");
      arguments.algorithms.insert(algorithm_of(words[i]));
    }
  }
  if (arguments.algorithms.empty()) {
    for (const std::string& name : known_algorithms()) arguments.algorithms.insert(name);
  }
  if (arguments.properties.empty()) arguments.properties = {columns.begin(), columns.end()};
  for (const std::string& property : skipped) arguments.properties.erase(property);
  return arguments;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", value);
  return text;
}

// Of all checks of an algorithm and property: what the cell of the table says.
struct Cell {
  int checks = 0;
  std::string failed;  // the deviation of the first one that did
};

void print_table(const std::map<std::string, std::map<std::string, Cell>>& cells,
                 const Arguments& arguments, bool ranks_missing) {
  std::vector<std::string> columns;
  for (const std::string& property : selftest::properties()) {
    if (arguments.properties.contains(property)) columns.push_back(property);
  }
  std::vector<TextTable::Column> widths(columns.size() + 1, {.least = 12});
  widths[0].least = 0;
  TextTable table(widths);
  std::vector<std::string> heading = {""};
  heading.insert(heading.end(), columns.begin(), columns.end());
  table.add(heading);
  for (const std::string& name : known_algorithms()) {
    if (!arguments.algorithms.contains(name)) continue;
    std::vector<std::string> row = {name};
    for (const std::string& column : columns) {
      std::string text = "-";
      if (cells.contains(name) && cells.at(name).contains(column)) {
        const Cell& cell = cells.at(name).at(column);
        text = cell.failed.empty() ? "pass" : cell.failed;
      } else if (column == "ranks" && ranks_missing && name != "engine") {
        text = "needs mpirun";
      }
      row.push_back(text);
    }
    table.add(row);
  }
  std::cout << table.text();
}

}  // namespace

int run_selftest(const std::vector<std::string>& words) {
  Arguments arguments;
  try {
    arguments = parse(words);
  } catch (const Error&) {
    if (launched_as_root()) throw;
    return 1;
  }
  if (arguments.help) {
    if (launched_as_root()) std::cout << kHelp;
    return 0;
  }
  if (arguments.list) {
    for (const Check& check : selftest::checks()) {
      if (arguments.wants(check) && launched_as_root()) std::cout << title_of(check) << "\n";
    }
    return 0;
  }
  at::set_num_threads(1);
  std::vector<std::string> names = {arguments.algorithms.begin(), arguments.algorithms.end()};
  std::erase(names, "engine");
  if (arguments.checksums) {
    selftest::print_checksums(names);
    return 0;
  }
  if (Communicator everyone(selftest::start_mpi()); everyone.size() > 1) {
    FL_CHECK(everyone.rank() != 0, "the selftest was started with ", everyone.size(),
             " ranks (start it without mpirun: it starts the ranks that it needs; --checksums "
             "wants to be started with several)");
    return 1;
  }
  selftest::choose_for_ranks(names);
  const bool ranks_missing = find_launcher().empty();
  set_arithmetic(selftest::hand_made_job(""));

  std::map<std::string, std::map<std::string, Cell>> cells;
  std::vector<std::string> failures;
  int passed = 0;
  for (const Check& check : selftest::checks()) {
    if (!arguments.wants(check)) continue;
    const std::string title = title_of(check);
    if (check.property == "ranks" && ranks_missing) continue;
    const auto start = Clock::now();
    const Result result = selftest::run_check(check);
    const double seconds = seconds_since(start);
    const std::string found =
        message(number(result.deviation), " (at most ", number(result.tolerance), ")");
    Cell& cell = cells[check.algorithm][check.property];
    ++cell.checks;
    if (result.passed()) {
      ++passed;
    } else {
      failures.push_back(message(title, "\n    deviation ", found,
                                 result.note.empty() ? "" : "\n    " + result.note));
      if (cell.failed.empty()) {
        cell.failed = std::isnan(result.deviation) ? "error" : number(result.deviation);
      }
    }
    if (arguments.verbose) {
      std::cout << (result.passed() ? "pass  " : "FAIL  ") << title << "\n      " << found << ", "
                << fixed(seconds, 2) << " s\n";
    }
  }
  if (arguments.verbose) std::cout << "\n";
  print_table(cells, arguments, ranks_missing);
  std::cout << "\n" << passed << " checks passed, " << failures.size() << " failed\n";
  for (const std::string& failure : failures) std::cout << "\n" << failure << "\n";
  return failures.empty() ? 0 : 1;
}

}  // namespace fl_sim
