#include "commands/questions.h"

#include <algorithm>
#include <iostream>
#include <sstream>

#include "base/check.h"
#include "base/job.h"
#include "base/results_format.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/clock_plan.h"
#include "commands/partition_plan.h"
#include "commands/provenance.h"
#include "commands/text_table.h"
#include "commands/words.h"

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

constexpr size_t kColumns = 80;  // of a terminal

// Words in lines that fit it, each behind so many blanks.
std::string wrapped(const std::string& text, size_t indent) {
  std::istringstream words(text);
  std::string out, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && indent + width_of(line) + 1 + width_of(word) > kColumns) {
      out += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + std::string(indent, ' ') + line + "\n";
}

void print_options(const std::vector<Option>& options, const std::string& prefix) {
  for (const Option& option : options) {
    const std::string usual =
        option.default_value ? "  [" + *option.default_value + "]" : "  (no default)";
    std::string line = "  --" + prefix + option.name + " " + value_name(option) + usual;
    std::string text = described(option);
    if (width_of(line) > kColumns && !option.choices.empty()) {
      line = "  --" + prefix + option.name + " word" + usual;
      text += "; one of " + list_of(option.choices);
    }
    std::cout << line << "\n" << wrapped(text, 6);
  }
}

// Keys of the engine by what they are about: whole ones, or what they begin with. A key that no
// group names stands in that of the key before it.
struct Group {
  const char* heading;
  std::vector<std::string> keys;
};
const std::vector<Group>& groups() {
  static const std::vector<Group> all = {
      {"What is simulated",
       {"algorithm", "dataset", "data-dir", "model", "init", "objective", "partitioner",
        "transforms", "aggregator", "sampler", "clients", "cohort", "rounds", "seed", "weighting"}},
      {"Clients' training", {"local."}},
      {"The server's step", {"server."}},
      {"Who holds what, and what clients see of it", {"partition.", "augment.", "shift."}},
      {"Evaluation",
       {"evaluate-", "metrics", "target-accuracy", "holdout-clients", "patience", "save-",
        "best-"}},
      {"Devices and virtual time", {"availability", "devices", "devices.", "clock."}},
      {"Clients that are absent, late or fail",
       {"availability.", "stragglers.", "on-divergence", "give-up", "inject"}},
      {"Machines and arithmetic",
       {"threads", "device", "precision", "deterministic", "group-size", "sum", "gpu-comm",
        "state-dir", "state-memory", "alone"}},
      {"Interrupted, and continued",
       {"checkpoint-", "keep-checkpoint", "resume", "grace", "stall-timeout", "on-rank-loss"}},
      {"Files and messages",
       {"output", "overwrite", "track", "quiet", "log-level", "plugin", "plugin-hash"}}};
  return all;
}

void print_groups() {
  std::vector<std::vector<Option>> by_group(groups().size());
  size_t group = 0;
  for (const Option& option : engine_options()) {
    for (size_t g = 0; g < groups().size(); ++g) {
      for (const std::string& key : groups()[g].keys) {
        const bool begins = key.ends_with('.') || key.ends_with('-');
        if (begins ? option.name.starts_with(key) : option.name == key) group = g;
      }
    }
    by_group[group].push_back(option);
  }
  for (size_t g = 0; g < groups().size(); ++g) {
    std::cout << "\n" << groups()[g].heading << ":\n";
    print_options(by_group[g], "");
  }
}

void print_help() {
  std::cout << "fl_sim " << version()
            << ": federated learning, simulated over MPI\n\n"
               "  mpirun -n K fl_sim --job FILE [--key value ...]\n\n"
               "Rank 0 aggregates, the other ranks host clients; with one rank it does both.\n"
               "The command line goes over the job file (INI, or a results file to run it\n"
               "again), and that over the defaults in brackets. Of a key that the command line\n"
               "says twice the last one counts. In paths ~ and $NAME are expanded.\n\n"
               "Plug-ins of your own are known to all of these where --plugin FILE names their\n"
               "shared object.\n\n"
               "Questions:\n"
               "  --help  --version\n"
               "  --list [KIND]          all plug-ins, or those of a kind: algorithms,\n"
               "                         partitioners, datasets, models, samplers,\n"
               "                         transforms, aggregators, availability,\n"
               "                         devices, protocols, trackers\n"
               "  --explain WORD         a plug-in's source, rule and options; a key; a value\n"
               "                         of one; a column of results files\n"
               "  --explain algorithms   all algorithms, as a page in Markdown\n"
               "  --plan                 what a run of the job would take: memory, bytes, time,\n"
               "                         how many ranks, and a batch script for Slurm; from a\n"
               "                         few local steps, without a round\n"
               "      --plan-ranks K     on so many ranks [those of mpirun; alone, as many as\n"
               "                         it keeps busy]\n"
               "  --plan partition       who would hold what in the job, as a table and a\n"
               "                         picture\n"
               "      --picture FILE     drawn by gnuplot as well, a .svg or .png\n"
               "      --picture-kind bubbles|bars\n"
               "  --plan clock           when clients would be through and rounds end in virtual\n"
               "                         time, for a job with devices; nothing is trained\n"
               "      --picture FILE     who is busy when in the first rounds, by gnuplot\n\n"
               "Commands:\n"
               "  fl_sim compare FILE...        results files side by side, over seeds:\n"
               "                                compare --help\n"
               "  fl_sim export KIND FILE...    for TensorBoard, as CSV or JSON lines:\n"
               "                                export --help\n"
               "  fl_sim selftest [ALGORITHM]   holds algorithms to their papers:\n"
               "                                selftest --help\n\n"
               "Exit status: 0 through; 1 an error; 3 no client's update ever counted, or gave\n"
               "up (--give-up); 75 stopped by a signal, --resume auto goes on.\n\n"
               "A run's options:\n"
               "  --job FILE\n      the job file\n";
  print_groups();
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

// What is in the table of columns, results/README.md, on a column; `word` may have its table's name
// before it: "/rounds/test_loss". Empty: there is none of that name.
std::string columns_called(const std::string& word) {
  const size_t slash = word.rfind('/');
  const std::string name = slash == std::string::npos ? word : word.substr(slash + 1);
  const std::string of = slash == std::string::npos ? "" : word.substr(0, slash);
  std::istringstream lines(results_readme());
  std::string found, table;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("| `/")) table = line.substr(3, line.find('`', 3) - 3);
    const size_t between = line.find(" | ", 1);
    if (!line.starts_with("| ") || line.starts_with("| `/") || between == std::string::npos)
      continue;
    if (!of.empty() && of != table && "/" + of != table) continue;
    std::istringstream names(line.substr(2, between - 2));
    std::string called;
    bool is_meant = false;
    for (std::string one; names >> one;) {
      if (!one.starts_with('`')) continue;
      one = one.substr(1, one.size() - 2);
      called += (called.empty() ? "  " : " ") + table + "/" + one;
      const bool family = one.ends_with('*');
      is_meant =
          is_meant || one == name || (family && name.starts_with(one.substr(0, one.size() - 1)));
    }
    if (!is_meant) continue;
    std::string meaning = line.substr(between + 3, line.rfind(" |") - between - 3);
    std::erase(meaning, '`');
    found += called + "\n" + (meaning.empty() ? "" : wrapped(meaning, 6));
  }
  return found;
}

constexpr const char* kHowClientsEvaluate =
    "How clients evaluate:\n"
    "  Drawn    after each round that is evaluated (evaluate-every), anew and by the\n"
    "           seed, of the clients that hold samples back (partition.test-fraction,\n"
    "           or validation-fraction; evaluate-split), or else have samples of their\n"
    "           own in the test set, as LEAF's users do; of those that may train and\n"
    "           of those that never do (holdout-clients) apart.\n"
    "  Rounded  of each of both, evaluate-clients times their number, rounded to the\n"
    "           nearest whole number, halves away from zero; at least\n"
    "           evaluate-min-clients, at most all. 0 asks nobody.\n"
    "  Weighted clients_loss and clients_accuracy by the samples that a client held\n"
    "           back; clients_mean_loss and clients_mean_accuracy every client the\n"
    "           same, as are variance, tenths and percentiles. A tenth is at least one\n"
    "           client, rounded to the nearest number. So are the metrics auc, f1 and\n"
    "           balanced-accuracy, of the clients for whom they are defined.\n";

bool explains_evaluation(const std::string& key) {
  return key.starts_with("evaluate-") || key == "holdout-clients";
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
  const auto section = [&](const std::string& heading) {
    if (found) std::cout << "\n" << heading << ":\n";
    found = true;
  };
  if (const std::vector<Option> keys = keys_of(name); !keys.empty() && !found) {
    print_options(keys, "");
    found = true;
    if (explains_evaluation(name)) std::cout << "\n" << kHowClientsEvaluate;
  }
  std::string values;
  for (const Option& option : all_options()) {
    if (std::find(option.choices.begin(), option.choices.end(), name) != option.choices.end())
      values += "  " + option.name + " = " + name + "\n" + wrapped(described(option), 6);
  }
  if (!values.empty()) {
    section("A value of keys, too");
    std::cout << values;
  }
  if (const std::string columns = columns_called(spelled); !columns.empty()) {
    section("In results files");
    std::cout << columns;
    if (columns.find("/rounds/clients_") != std::string::npos)
      std::cout << "\n" << kHowClientsEvaluate;
  }
  if (found) return;
  for (const Option& option : all_options()) {
    names.push_back(option.name);
    names.insert(names.end(), option.choices.begin(), option.choices.end());
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

// `--plan partition`, `--plan clock`.
void plan_a_part(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  const std::string what = take_option(words, "--plan").value_or("");
  FL_CHECK(what == "partition" || what == "clock", "--plan knows no '", what,
           "' (choose partition or clock, or say nothing to plan the whole run)");
  if (what == "clock") return plan_clock(arguments);
  plan_partition(arguments);
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
      FL_CHECK(!next.empty(),
               "--explain needs the name of a plug-in, a key, a value of one, or a column of "
               "results files (fl_sim --list and --help show all)");
      if (next == "algorithms") {
        explain_algorithms();
      } else {
        explain(next);
      }
      return true;
    }
    if (plans_a_part(arguments, i)) {
      plan_a_part(arguments);
      return true;
    }
    if (word == "--list") {
      std::vector<std::string> plurals;
      for (const std::string& kind : plugin_kinds()) {
        plurals.push_back(plural_of(kind));
        if (next != plural_of(kind) && next != kind && !next.empty()) continue;
        if (next.empty())
          std::cout << (kind == plugin_kinds()[0] ? "" : "\n") << plural_of(kind) << ":\n";
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
