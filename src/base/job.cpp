#include "base/job.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/hdf5_file.h"

namespace po = boost::program_options;

namespace fl_sim {
namespace {

using Type = Option::Type;
using Values = std::map<std::string, std::string>;

template <class Number>
bool parse_number(const std::string& text, Number& value) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc() && stop == end;
}

// The value in its canonical spelling. Throws Error if it is not of the option's type or range. A
// default that is a word ("auto" for a number) is a value too.
std::string checked(const std::string& key, const Option& option, const std::string& text) {
  const auto in_range = [&](double value) {
    const Range& r = option.range;
    FL_CHECK(std::isfinite(value) && value >= r.low && value <= r.high &&
                 !(r.open_low && value == r.low) && !(r.open_high && value == r.high),
             key, " is ", text, " (must be ", range_text(r), "): ", option.meaning);
  };
  if (option.default_value == text && text == "auto") return text;
  switch (option.type) {
    case Type::kInteger: {
      int64_t value = 0;
      FL_CHECK(parse_number(text, value), key, " is '", text, "' (must be ",
               option.default_value == "auto" ? "auto or " : "",
               "a whole number): ", option.meaning);
      in_range(static_cast<double>(value));
      return std::to_string(value);
    }
    case Type::kNumber: {
      double value = 0;
      FL_CHECK(parse_number(text, value), key, " is '", text,
               "' (must be a number): ", option.meaning);
      in_range(value);
      return text;
    }
    case Type::kFlag:
      if (text == "true" || text == "1" || text == "yes" || text == "on") return "true";
      if (text == "false" || text == "0" || text == "no" || text == "off") return "false";
      throw Error(message(key, " is '", text, "' (must be true or false): ", option.meaning));
    case Type::kText:
      FL_CHECK(!text.empty(), key, " is empty: ", option.meaning);
      FL_CHECK(text.find_first_of("#\n\r") == std::string::npos && text.front() != ' ' &&
                   text.back() != ' ',
               key, " is '", text, "' (a job cannot hold '#', line breaks or blanks at the ends)");
      FL_CHECK(
          option.choices.empty() ||
              std::find(option.choices.begin(), option.choices.end(), text) != option.choices.end(),
          key, " is '", text, "' (must be one of ", list_of(option.choices), "): ", option.meaning);
      return text;
  }
  return text;
}

// `used`: plug-ins that the job names, whose keys are likelier than those of others.
std::string unknown_key(const std::string& key, const std::string& where,
                        const std::set<std::string>& used) {
  std::vector<std::string> likely = {"job"}, others;
  for (const Option& option : engine_options()) likely.push_back(option.name);
  for (const Option& option : all_options()) {
    const bool in_use = used.contains(option.name.substr(0, option.name.find('.')));
    (in_use ? likely : others).push_back(option.name);
  }
  std::string near = nearest(key, likely);
  if (near.empty()) near = nearest(key, others);
  likely.insert(likely.end(), others.begin(), others.end());
  const std::string prefix = key.substr(0, key.find('.') + 1);  // "local.", or nothing
  const bool relatives =
      !prefix.empty() && std::any_of(likely.begin(), likely.end(), [&](const std::string& known) {
        return known.starts_with(prefix);
      });
  return message("unknown key '", key, "' ", where,
                 near.empty() ? "" : message("; did you mean '", near, "'?"), " (fl_sim --",
                 relatives ? message("explain ", prefix.substr(0, prefix.size() - 1)) : "help",
                 " shows all)");
}

po::options_description boost_options() {
  po::options_description known;
  for (const Option& option : all_options()) {
    auto* value = po::value<std::string>();
    if (option.type == Type::kFlag) value->implicit_value("true");
    known.add_options()(option.name.c_str(), value, option.meaning.c_str());
  }
  known.add_options()("job", po::value<std::string>(), "job file");
  return known;
}

// The plug-ins that these options name.
std::set<std::string> named_plugins(const po::parsed_options& parsed) {
  const std::vector<std::string>& kinds = plugin_kinds();
  std::set<std::string> named;
  for (const po::option& option : parsed.options) {
    const bool names = std::find(kinds.begin(), kinds.end(), option.string_key) != kinds.end();
    if (names && !option.value.empty()) named.insert(split_name(option.value[0]).first);
  }
  return named;
}

// key = value pairs of what Boost parsed; unknown keys and stray words are errors. `used`: as for
// unknown_key, beside what these options name.
Values collect(const po::parsed_options& parsed, const std::string& where,
               std::set<std::string> used = {}) {
  std::set<std::string> flags;
  for (const Option& option : all_options()) {
    if (option.type == Type::kFlag) flags.insert(option.name);
  }
  Values values;
  for (const po::option& option : parsed.options) {
    if (option.position_key >= 0) {
      const std::string& word = option.original_tokens.at(0);
      const bool file = word.ends_with(".ini") || word.ends_with(".h5");
      throw Error(
          message("unexpected argument '", word, "' ", where, " (",
                  file ? message("a job is given by --job ", word)
                       : message("options are written --key value; fl_sim --help shows them"),
                  ")"));
    }
    if (option.unregistered) {
      used.merge(named_plugins(parsed));
      throw Error(unknown_key(option.string_key, where, used));
    }
    // A flag that is only named is on; Boost applies that later than we look.
    const bool is_flag = option.value.empty() && flags.contains(option.string_key);
    FL_CHECK(is_flag || option.value.size() == 1, "option '", option.string_key, "' ", where,
             " needs a value");
    FL_CHECK(values.emplace(option.string_key, is_flag ? "true" : option.value[0]).second,
             "option '", option.string_key, "' is set twice ", where, " (keep one)");
  }
  return values;
}

Values parse_ini(const std::string& ini, const std::string& where) {
  std::istringstream in(ini);
  try {
    const po::options_description known = boost_options();
    Values values = collect(po::parse_config_file(in, known, true), where);
    FL_CHECK(!values.contains("job"), "a job file cannot name another job (key 'job' ", where, ")");
    return values;
  } catch (const po::error& error) {
    throw Error(message(error.what(), " ", where,
                        " (lines are 'key = value', '[section]' or '# comment')"));
  }
}

struct JobFile {
  Values values;
  bool complete = false;  // a results file's: every default is written out
};

// A job file: INI, or the job inside a results file, which keeps its own output to itself.
JobFile read_job_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  FL_CHECK(in && !std::filesystem::is_directory(path), "cannot read the job file ", path,
           " (is the path right, and is it a readable file?)");
  std::ostringstream text;
  text << in.rdbuf();
  const std::string where = message("in ", path);
  if (!text.str().starts_with("\x89HDF\r\n\x1a\n")) return {parse_ini(text.str(), where)};
  Values values = parse_ini(Hdf5File::open(path).read_text("/job/text"), where);
  for (const char* own : {"output", "overwrite", "quiet", "log-level"}) values.erase(own);
  return {values, true};
}

// A plug-in that a job names, and the key that names it: "algorithm", or "pwfl.inner" for one
// within another.
struct Part {
  std::string kind, name, key;
};

// The plug-ins that a job with these values is made of, each before those within it. Throws Error
// for unknown ones.
class Parts {
 public:
  explicit Parts(const Values& values) {
    for (const std::string& kind : plugin_kinds()) {
      for (Option option : engine_options()) {
        if (option.name != kind) continue;
        // An algorithm may have a sampler of its own as its default.
        const Values presets = defaults();
        if (presets.contains(kind)) option.default_value = presets.at(kind);
        add(values, kind, kind, option, {});
      }
    }
  }

  const std::vector<Part>& list() const { return list_; }

  bool contains(const std::string& kind, const std::string& name) const {
    return std::any_of(list_.begin(), list_.end(),
                       [&](const Part& part) { return part.kind == kind && part.name == name; });
  }

  // Of engine keys; a plug-in's own go over those of the plug-ins within it.
  Values defaults() const {
    Values all;
    for (const Part& part : list_) {
      const Values& own = plugin_info(part.kind, part.name).defaults;
      all.insert(own.begin(), own.end());
    }
    return all;
  }

  // What the job says of a kind: "algorithm is pwfl, pwfl.inner is fedavg".
  std::string text(const std::string& kind) const {
    std::string text;
    for (const Part& part : list_) {
      if (part.kind == kind) text += (text.empty() ? "" : ", ") + part.key + " is " + part.name;
    }
    return text.empty() ? kind + " is not chosen" : text;
  }

 private:
  // What `key` names, within the plug-ins `outer`; nothing if the job does not say it.
  void add(const Values& values, const std::string& key, const std::string& kind,
           const Option& option, std::vector<std::string> outer) {
    const auto given = values.find(key);
    if (given == values.end() && !option.default_value) return;
    const std::string value = given != values.end() ? given->second : *option.default_value;
    const std::string name = split_name(value).first;
    const auto known = [&]() -> const PluginInfo& {
      if (outer.empty()) return plugin_info(kind, name);
      try {
        return plugin_info(kind, name);
      } catch (const Error& error) {
        throw Error(message(key, " is ", value, ": ", error.what()));
      }
    };
    const PluginInfo& info = known();
    FL_CHECK(std::find(outer.begin(), outer.end(), name) == outer.end(), key, " is ", name,
             ", within itself (choose another ", kind, ")");
    FL_CHECK(info.takes_argument || value == name, key, " is ", value, ", but ", name,
             " takes nothing behind a colon");
    list_.push_back({kind, name, key});
    outer.push_back(name);
    for (const Option& inner : info.options) {
      if (!inner.plugin_kind.empty()) {
        add(values, name + "." + inner.name, inner.plugin_kind, inner, outer);
      }
    }
  }

  std::vector<Part> list_;
};

// The plug-in of this kind that declares the key; empty if none does.
std::string declaring(const std::string& kind, const std::string& key) {
  const size_t dot = key.find('.');
  const auto found = catalog()[kind].find(key.substr(0, dot));
  if (dot == std::string::npos || found == catalog()[kind].end()) return "";
  for (const Option& option : found->second.options) {
    if (option.name == key.substr(dot + 1)) return found->first;
  }
  return "";
}

// Puts defaults under what was given, and refuses what nobody would read.
Values resolve(const Values& command_line, const JobFile& file) {
  Values given = file.values;
  for (const auto& [key, value] : command_line) given[key] = value;

  std::map<std::string, Option> read;  // the keys that this job's parts read
  for (const Option& option : engine_options()) read.emplace(option.name, option);

  std::set<std::string> rechosen;  // kinds that the command line chose over the file
  std::set<std::string> shifted;   // keys whose defaults change with that
  const Parts named(given);
  for (const Part& part : named.list()) {
    if (command_line.contains(part.key) && file.values.contains(part.key)) {
      rechosen.insert(part.kind);
    }
  }
  if (!rechosen.empty()) {
    // What was a default for the plug-ins that the file chose is none of the job's own values.
    const Values before = Parts(file.values).defaults();
    for (const Values& defaults : {before, named.defaults()}) {
      for (const auto& [key, value] : defaults) {
        shifted.insert(key);
        const auto preset = before.find(key);
        const auto usual = preset != before.end() ? preset->second : read.at(key).default_value;
        const bool untouched = file.complete && !command_line.contains(key);
        if (untouched && given.contains(key) && given.at(key) == usual) given.erase(key);
      }
    }
  }

  const Parts parts(given);
  for (const Part& part : parts.list()) {
    for (const Option& option : plugin_info(part.kind, part.name).options) {
      read.emplace(part.name + "." + option.name, option);
    }
  }
  for (const auto& [key, value] : parts.defaults()) read.at(key).default_value = value;

  // What the command line's choice of another plug-in made idle in the file.
  const auto idle = [&](const std::string& key) {
    if (command_line.contains(key)) return false;
    for (const std::string& kind : rechosen) {
      const std::string owner = declaring(kind, key);
      if (!owner.empty() && !parts.contains(kind, owner)) return true;
    }
    const auto option = read.find(key);
    if (option == read.end()) return false;
    const std::string& condition = option->second.only_with.first;
    return command_line.contains(condition) || shifted.contains(condition);
  };

  Values values;
  std::vector<std::string> missing;
  for (const auto& [key, option] : read) {
    const auto& [condition, allowed] = option.only_with;
    if (!condition.empty()) {
      const Option& decides = read.at(condition);
      if (!given.contains(condition) && !decides.default_value) continue;  // missing itself
      const std::string actual =
          checked(condition, decides,
                  given.contains(condition) ? given.at(condition) : *decides.default_value);
      if (std::find(allowed.begin(), allowed.end(), actual) == allowed.end()) {
        FL_CHECK(!given.contains(key) || idle(key), key, " is set, but ", condition, " is ", actual,
                 ", which does not read it (remove it, or choose ", list_of(allowed), ")");
        continue;
      }
    }
    if (given.contains(key)) {
      values[key] = checked(key, option, given.at(key));
    } else if (option.default_value) {
      values[key] = *option.default_value;
    } else {
      missing.push_back(message("  ", key, "  ", option.meaning));
    }
  }
  for (const auto& [key, value] : given) {
    if (read.contains(key) || idle(key)) continue;
    for (const std::string& kind : plugin_kinds()) {
      const std::string owner = declaring(kind, key);
      FL_CHECK(owner.empty(), key, " is set, but ", parts.text(kind),
               ", which does not read it (remove it, or choose ", kind, " ", owner, ")");
    }
    throw Error(unknown_key(key, "", {}));
  }
  if (!missing.empty()) {
    std::string lines;
    for (const std::string& line : missing) lines += "\n" + line;
    throw Error("the job does not say:" + lines);
  }
  return values;
}

std::string default_output(const Values& values, const std::string& job_file) {
  if (!job_file.empty())
    return message("results/", std::filesystem::path(job_file).stem().string(), ".h5");
  std::string name;
  for (const char* key : {"algorithm", "dataset", "model", "seed"}) {
    if (!name.empty()) name += "-";
    name += split_name(values.at(key)).first;
  }
  return message("results/", name, ".h5");
}

// The plug-ins that the job file on this command line names; none where it cannot be read, which is
// said later.
std::set<std::string> plugins_of_job_file(const po::parsed_options& command_line) {
  for (const po::option& option : command_line.options) {
    if (option.string_key != "job" || option.value.empty()) continue;
    std::ifstream in(option.value[0]);
    try {
      return named_plugins(po::parse_config_file(in, po::options_description(), true));
    } catch (const po::error&) {
    }
  }
  return {};
}

}  // namespace

Job Job::parse(const std::vector<std::string>& arguments) {
  Values command_line;
  try {
    namespace style = po::command_line_style;
    const po::options_description known = boost_options();
    const po::parsed_options parsed =
        po::command_line_parser(arguments)
            .options(known)
            .style(style::unix_style & ~style::allow_guessing & ~style::allow_short)
            .allow_unregistered()
            .run();
    command_line = collect(parsed, "on the command line", plugins_of_job_file(parsed));
  } catch (const po::error& error) {
    throw Error(
        message(error.what(), " (options are written --key value; fl_sim --help shows all)"));
  }
  std::string file;
  if (command_line.contains("job")) {
    file = command_line["job"];
    command_line.erase("job");
  }
  Job job(resolve(command_line, file.empty() ? JobFile{} : read_job_file(file)));
  if (job.values_["output"] == "auto") job.values_["output"] = default_output(job.values_, file);
  return job;
}

Job Job::from_text(const std::string& ini) {
  Job job(resolve({}, {parse_ini(ini, "in the job")}));
  if (job.values_["output"] == "auto") job.values_["output"] = default_output(job.values_, "");
  return job;
}

const std::string& Job::raw(const std::string& key) const {
  const auto found = values_.find(key);
  FL_CHECK(found != values_.end(), "this job has no key '", key,
           "' (its plug-ins do not declare it)");
  return found->second;
}

template <>
std::string Job::get<std::string>(const std::string& key) const {
  return raw(key);
}

template <>
int64_t Job::get<int64_t>(const std::string& key) const {
  int64_t value = 0;
  FL_CHECK(parse_number(raw(key), value), key, " is '", raw(key), "' (must be a whole number)");
  return value;
}

template <>
double Job::get<double>(const std::string& key) const {
  double value = 0;
  FL_CHECK(parse_number(raw(key), value), key, " is '", raw(key), "' (must be a number)");
  return value;
}

template <>
bool Job::get<bool>(const std::string& key) const {
  return raw(key) == "true";
}

void Job::set(const std::string& key, const std::string& value) {
  raw(key);
  values_[key] = value;
}

std::string Job::text() const {
  std::ostringstream plain, sections;
  std::string section;
  for (const auto& [key, value] : values_) {
    if (key.find('.') == std::string::npos) plain << key << " = " << value << "\n";
  }
  for (const auto& [key, value] : values_) {
    const size_t dot = key.find('.');
    if (dot == std::string::npos) continue;
    if (key.substr(0, dot) != section) {
      section = key.substr(0, dot);
      sections << "\n[" << section << "]\n";
    }
    sections << key.substr(dot + 1) << " = " << value << "\n";
  }
  return plain.str() + sections.str();
}

std::vector<Option> all_options() {
  std::vector<Option> all = engine_options();
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) {
      for (Option option : info.options) {
        option.name = name + "." + option.name;
        all.push_back(std::move(option));
      }
    }
  }
  return all;
}

}  // namespace fl_sim
