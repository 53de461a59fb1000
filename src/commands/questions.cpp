#include "commands/questions.h"

#include <algorithm>
#include <iostream>
#include <sstream>

#include "base/check.h"
#include "base/job.h"
#include "base/version.h"
#include "commands/partition_plan.h"
#include "commands/provenance.h"
#include "commands/text_table.h"

namespace fl_sim {
namespace {

using Type = Option::Type;

// What examples say beside their own options: the keys that have no default.
const char* const kCommonOptions =
    "--dataset fashion-mnist --model cnn --local.batch-size 32 --local.lr 0.05";

// An example with those of them that it does not say itself.
std::string whole_example(const std::string& example) {
  std::istringstream common(kCommonOptions);
  std::string whole = example, key, value;
  while (common >> key >> value) {
    if (example.find(key + " ") == std::string::npos) whole += message(" ", key, " ", value);
  }
  return whole;
}

void print_plugins(const std::string& kind) {
  TextTable table({{}, {}});
  for (const auto& [name, info] : catalog()[kind])
    table.add({name, info.summary + (info.file.empty() ? "" : "  (" + info.file + ")")});
  std::cout << table.text();
}

std::string value_name(const Option& option) {
  if (!option.choices.empty()) {
    std::string out;
    for (const std::string& choice : option.choices) out += (out.empty() ? "" : "|") + choice;
    return out;
  }
  if (option.several) return option.plugin_kind + ",...|none";
  if (!option.plugin_kind.empty()) return option.plugin_kind;
  switch (option.type) {
    case Type::kInteger:
      return "integer";
    case Type::kNumber:
      return "number";
    case Type::kFlag:
      return "true|false";
    case Type::kText:
      return "text";
  }
  return "";
}

// What an option means and takes: "weight of the proximal term (at least 0)".
std::string described(const Option& option) {
  std::string text = option.meaning;
  const std::string range = range_text(option.range);
  if (!range.empty()) text += " (" + range + ")";
  const auto& [condition, values] = option.only_with;
  if (!condition.empty()) text += "; only with " + condition + " " + list_of(values);
  if (!option.read_by.empty()) {
    text += "; only with " + option.read_by + " " + list_of(readers(option.read_by, option.name));
  }
  if (option.several) {
    text += "; a job with it has their options too";
  } else if (!option.plugin_kind.empty()) {
    text += "; a job with it has that one's options too";
  }
  return text;
}

void print_options(const std::vector<Option>& options, const std::string& prefix) {
  for (const Option& option : options) {
    std::cout << "  --" << prefix << option.name << " " << value_name(option);
    if (option.default_value) {
      std::cout << "  [" << *option.default_value << "]";
    } else {
      std::cout << "  (no default)";
    }
    std::cout << "\n      " << described(option) << "\n";
  }
}

void print_help() {
  std::cout
      << "fl_sim " << version()
      << ": federated learning, simulated over MPI\n\n"
         "  mpirun -n K fl_sim --job FILE [--key value ...]\n\n"
         "Rank 0 aggregates, the other ranks host clients; with one rank it does both. The "
         "command line goes over\n"
         "the job file (INI, or a results file to run it again), and that over the defaults "
         "in brackets.\n\n"
         "Plug-ins of your own are known to all of these where --plugin FILE names their shared "
         "object.\n\n"
         "Questions:\n"
         "  --help  --version\n"
         "  --list [KIND]          all plug-ins, or those of a kind: algorithms, partitioners, "
         "datasets, models,\n"
         "                         samplers, transforms, aggregators, trackers\n"
         "  --explain NAME         source, rule and options of one of them\n"
         "  --explain algorithms   all algorithms, as a page in Markdown\n"
         "  --plan                 what a run of the job would take: memory, bytes, time, how "
         "many ranks, and\n"
         "                         a batch script for Slurm; from a few local steps, without a "
         "round\n"
         "      --plan-ranks K     on so many ranks [those of mpirun; alone, as many as it keeps "
         "busy]\n"
         "  --plan partition       who would hold what in the job, as a table and a picture\n"
         "      --picture FILE     drawn by gnuplot as well, a .svg or .png\n"
         "      --picture-kind bubbles|bars\n\n"
         "Commands:\n"
         "  fl_sim compare FILE...        results files side by side, over seeds: compare --help\n"
         "  fl_sim selftest [ALGORITHM]   holds algorithms to their papers: selftest --help\n\n"
         "Options:\n"
         "  --job FILE\n      the job file\n";
  print_options(engine_options(), "");
  std::cout << "\nEach plug-in has options of its own: --explain NAME shows them.\n";
}

// "a\nb" -> "  a\n  b\n"
std::string indented(const std::string& lines) {
  std::istringstream in(lines);
  std::string out;
  for (std::string line; std::getline(in, line);) out += "  " + line + "\n";
  return out;
}

// Keys of a job that are called so, or begin so: "local.lr", "local".
std::vector<Option> keys_of(const std::string& name) {
  std::vector<Option> keys = all_options();
  std::erase_if(keys, [&](const Option& option) {
    return option.name != name && !option.name.starts_with(name + ".");
  });
  return keys;
}

// `spelled` as in a job: "csv:FILE" is csv.
void explain(const std::string& spelled) {
  const std::string name = split_name(spelled).first;
  bool found = false;
  std::vector<std::string> names;
  for (const std::string& kind : plugin_kinds()) {
    for (const auto& [known, info] : catalog()[kind]) {
      names.push_back(known);
      if (known != name) continue;
      found = true;
      std::cout << kind << " " << name << ": " << info.summary << "\n";
      if (!info.file.empty()) std::cout << "\nFrom: " << info.file << "\n";
      if (!info.source.empty()) std::cout << "\nSource: " << info.source << "\n";
      if (!info.rule.empty()) std::cout << "\n" << info.rule << "\n";
      if (!info.options.empty()) {
        std::cout << "\nOptions:\n";
        print_options(info.options, name + ".");
      }
      if (!info.defaults.empty()) {
        std::cout << "\nIts defaults for options of the engine:\n";
        for (const auto& [key, value] : info.defaults)
          std::cout << "  " << key << " = " << value << "\n";
      }
      if (!info.elsewhere.empty()) std::cout << "\nElsewhere:\n" << indented(info.elsewhere);
      if (!info.example.empty()) {
        std::cout << "\nFor example:\n  mpirun -n 4 fl_sim "
                  << (info.file.empty() ? "" : "--plugin " + info.file + " ")
                  << whole_example(info.example) << "\n";
      }
    }
  }
  if (found) return;
  if (const std::vector<Option> keys = keys_of(name); !keys.empty()) {
    print_options(keys, "");
    return;
  }
  const std::string near = nearest(name, names);
  throw Error(message("nothing is named '", name, "' (",
                      near.empty() ? "" : message("did you mean '", near, "'? "),
                      "fl_sim --list shows all)"));
}

// Text for a table in Markdown, where bars end a cell.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

// One algorithm as a section in Markdown.
void print_section(const std::string& name, const PluginInfo& info) {
  std::cout << "\n### " << name << "\n\n" << info.summary << "\n";
  if (!info.source.empty()) std::cout << "\n*" << info.source << "*\n";
  if (!info.rule.empty()) std::cout << "\n```text\n" << info.rule << "\n```\n";
  if (!info.options.empty()) {
    std::cout << "\n| option | takes | default | meaning |\n|---|---|---|---|\n";
    for (const Option& option : info.options) {
      std::cout << "| `" << name << "." << option.name << "` | " << cell(value_name(option))
                << " | "
                << (option.default_value ? message("`", *option.default_value, "`") : "none")
                << " | " << cell(described(option)) << " |\n";
    }
  }
  if (!info.defaults.empty()) {
    std::string changes;
    for (const auto& [key, value] : info.defaults) {
      changes += message(changes.empty() ? "" : ", ", "`", key, " = ", value, "`");
    }
    std::cout << "\nIts defaults for options of the engine: " << changes << ".\n";
  }
  if (!info.elsewhere.empty()) {
    std::cout << "\nElsewhere:\n\n";
    std::istringstream lines(info.elsewhere);
    for (std::string line; std::getline(lines, line);) std::cout << "- " << line << "\n";
  }
  if (!info.example.empty()) std::cout << "\n```sh\nfl_sim " << info.example << " ...\n```\n";
}

// All algorithms as one page in Markdown, family after family.
void explain_algorithms() {
  std::cout << "Each example runs beside what every job says, such as\n`" << kCommonOptions
            << "`.\n";
  std::vector<std::pair<std::string, std::string>> families = algorithm_families();
  families.emplace_back("", "Others");
  for (const auto& [family, heading] : families) {
    bool first = true;
    for (const auto& [name, info] : catalog()["algorithm"]) {
      if (info.family != family) continue;
      if (first) std::cout << "\n## " << heading << "\n";
      first = false;
      print_section(name, info);
    }
  }
}

// Whether the word at `place` asks for a plan of something; without more it asks for that of the
// whole run, which needs MPI, see run_plan.h.
bool plans_a_part(const std::vector<std::string>& arguments, size_t place) {
  if (arguments[place].starts_with("--plan=")) return true;
  return arguments[place] == "--plan" && place + 1 < arguments.size() &&
         !arguments[place + 1].starts_with("-");
}

}  // namespace

bool is_question(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--help" || word == "-h" || word == "--version" || word == "--list" ||
        word == "--explain" || plans_a_part(arguments, i))
      return true;
  }
  return false;
}

bool answer_question(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const std::string next =
        i + 1 < arguments.size() && !arguments[i + 1].starts_with("--") ? arguments[i + 1] : "";
    if (word == "--help" || word == "-h") {
      print_help();
      return true;
    }
    if (word == "--version") {
      std::cout << "fl_sim " << version() << "\n  " << libraries() << "\n";
      return true;
    }
    if (word == "--explain") {
      FL_CHECK(!next.empty(), "--explain needs the name of a plug-in (fl_sim --list shows all)");
      if (next == "algorithms") {
        explain_algorithms();
      } else {
        explain(next);
      }
      return true;
    }
    if (plans_a_part(arguments, i)) {
      plan_partition(arguments);
      return true;
    }
    if (word == "--list") {
      std::vector<std::string> plurals;
      for (const std::string& kind : plugin_kinds()) {
        plurals.push_back(kind + "s");
        if (next != kind + "s" && next != kind && !next.empty()) continue;
        if (next.empty()) std::cout << (kind == plugin_kinds()[0] ? "" : "\n") << kind << "s:\n";
        print_plugins(kind);
        if (!next.empty()) return true;
      }
      FL_CHECK(next.empty(), "--list knows no '", next, "' (choose ", list_of(plurals), ")");
      return true;
    }
  }
  return false;
}

}  // namespace fl_sim
