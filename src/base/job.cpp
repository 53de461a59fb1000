#include "base/job.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "base/hdf5_file.h"
#include "base/job_parts.h"
#include "base/results_format.h"
#include "base/text.h"

namespace po = boost::program_options;

namespace fl_sim {
namespace {

po::options_description boost_options() {
  po::options_description known;
  for (const Option& option : all_options()) {
    auto* value = po::value<std::string>();
    if (option.type == Option::Type::kFlag) value->implicit_value("true");
    known.add_options()(option.name.c_str(), value, option.meaning.c_str());
  }
  known.add_options()("job", po::value<std::string>(), "job file");
  return known;
}

// The plug-ins that these options name.
std::set<std::string> named_plugins(const po::parsed_options& parsed) {
  std::set<std::string> named;
  for (const po::option& option : parsed.options) {
    if (option.value.empty() || kind_of(option.string_key).empty()) continue;
    for (const std::string& value : split_list(option.value[0]))
      named.insert(split_name(value).first);
  }
  return named;
}

// Where something stands: "in net.ini, line 7".
using Where = std::function<std::string(const std::string& key)>;

// key = value pairs of what Boost parsed; unknown keys and stray words are errors. `used`: as for
// unknown_key, beside what these options name. `notes`: where of two equal keys the last one counts
// and that is said; without it they are an error.
Values collect(const po::parsed_options& parsed, const Where& where_is,
               std::set<std::string> used = {}, std::vector<std::string>* notes = nullptr) {
  std::set<std::string> flags;
  for (const Option& option : all_options()) {
    if (option.type == Option::Type::kFlag) flags.insert(option.name);
  }
  Values values;
  for (const po::option& option : parsed.options) {
    const auto where = [&] { return where_is(option.string_key); };
    if (option.position_key >= 0) {
      const std::string& word = option.original_tokens.at(0);
      const bool file = word.ends_with(".ini") || word.ends_with(".h5");
      throw Error(
          message("unexpected argument '", word, "' ", where(), " (",
                  file ? message("a job is given by --job ", word)
                       : message("options are written --key value; fl_sim --help shows them"),
                  ")"));
    }
    if (option.unregistered) {
      used.merge(named_plugins(parsed));
      throw Error(unknown_key(option.string_key, where(), used));
    }
    // A flag that is only named is on; Boost applies that later than we look.
    const bool is_flag = option.value.empty() && flags.contains(option.string_key);
    FL_CHECK(is_flag || option.value.size() == 1, "option '", option.string_key, "' ", where(),
             " needs a value");
    const auto [place, first] =
        values.emplace(option.string_key, is_flag ? "true" : option.value[0]);
    if (!first && option.string_key == "plugin") {  // a list
      place->second += "," + option.value[0];
      continue;
    }
    FL_CHECK(first || notes != nullptr, "option '", option.string_key, "' is set twice ", where(),
             " (keep one)");
    if (first) continue;
    const std::string last = is_flag ? "true" : option.value[0];
    notes->push_back(message(option.string_key, " is set twice ", where(), ", to ", place->second,
                             " and ", last, ": the last one counts"));
    place->second = last;
  }
  return values;
}

// The numbers of a text's lines, from 1: of keys the last one that sets them.
struct IniLines {
  std::map<std::string, int64_t> of_key;
  int64_t wrong = 0;  // the first that is none of INI; 0: there is none
};

// As Boost takes them.
IniLines lines_of_ini(const std::string& ini) {
  const auto trimmed = [](const std::string& text) {
    const size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return std::string();
    return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
  };
  IniLines lines;
  std::istringstream in(ini);
  std::string prefix;
  int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const size_t equals = line.find('=');
    if (line.front() == '[' && line.back() == ']') {
      prefix = line.substr(1, line.size() - 2);
      if (!prefix.ends_with('.')) prefix += '.';
    } else if (equals != std::string::npos) {
      lines.of_key[prefix + trimmed(line.substr(0, equals))] = number;
    } else if (lines.wrong == 0) {
      lines.wrong = number;
    }
  }
  return lines;
}

std::string line_text(int64_t number) { return number == 0 ? "" : message(", line ", number); }

int64_t line_of(const IniLines& lines, const std::string& key) {
  const auto found = lines.of_key.find(key);
  return found == lines.of_key.end() ? 0 : found->second;
}

Values parse_ini(const std::string& ini, const std::string& where) {
  // Lines are counted where something is refused.
  const auto where_is = [&](const std::string& key) {
    return where + line_text(line_of(lines_of_ini(ini), key));
  };
  std::istringstream in(ini);
  try {
    const po::options_description known = boost_options();
    Values values = collect(po::parse_config_file(in, known, true), where_is);
    FL_CHECK(!values.contains("job"), "a job file cannot name another job (key 'job' ",
             where_is("job"), ")");
    return values;
  } catch (const po::error& error) {
    throw Error(message(error.what(), " ", where, line_text(lines_of_ini(ini).wrong),
                        " (lines are 'key = value', '[section]' or '# comment')"));
  }
}

// The INI of a job file, which a results file has inside.
struct Ini {
  std::string text;
  bool of_results = false;
};

Ini read_ini(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  FL_CHECK(in && !std::filesystem::is_directory(path), "cannot read the job file ", path,
           " (is the path right, and is it a readable file?)");
  static const std::string kHdf5 = "\x89HDF\r\n\x1a\n";
  std::string begin(kHdf5.size(), '\0');
  in.read(begin.data(), std::ssize(begin));
  if (begin != kHdf5) {
    constexpr uintmax_t kMost = 1 << 26;
    std::error_code unknown;  // of a pipe: 0 bytes
    const uintmax_t size = std::filesystem::file_size(path, unknown);
    FL_CHECK(unknown || size <= kMost, path, " has ", size,
             " bytes (a job file is a text of some lines, or a results file)");
    std::ostringstream text;
    text << begin.substr(0, static_cast<size_t>(in.gcount()));
    if (in) text << in.rdbuf();
    std::string plain = plain_text(text.str(), path);
    const size_t zero = plain.find('\0');
    FL_CHECK(zero == std::string::npos, path, ", line ",
             1 + std::count(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(zero), '\n'),
             " has a zero byte (a job file is text; is it damaged?)");
    return {std::move(plain)};
  }
  const Hdf5File file = Hdf5File::open(path);
  check_results_format(file, path);
  return {file.read_text("/job/text"), true};
}

// What INI says of a key; nothing too if it cannot be understood.
std::optional<std::string> value_in(const std::string& ini, const std::string& key) {
  std::istringstream in(ini);
  try {
    for (const auto& option : po::parse_config_file(in, po::options_description(), true).options) {
      if (option.string_key == key && !option.value.empty()) return option.value[0];
    }
  } catch (const po::error&) {
  }
  return {};
}

// What a job file says; a results file keeps its own output to itself.
JobFile values_of(const Ini& ini, const std::string& path) {
  Values values = parse_ini(ini.text, message("in ", path));
  if (!ini.of_results) return {values};
  for (const char* own : {"output", "overwrite", "quiet", "log-level"}) values.erase(own);
  return {values, true};
}

// What is wrong with the values of a job, and which line of its file says so, if one does: messages
// begin with the key, or are of a plug-in that there is not.
std::string with_place(const std::string& what, const Values& command_line, const JobFile& file,
                       const Ini& ini, const std::string& path) {
  std::string key = what.substr(0, what.find(' '));
  if (command_line.contains(key)) return what;
  if (!file.values.contains(key)) {
    const auto named = std::find_if(file.values.begin(), file.values.end(), [&](const auto& value) {
      return !command_line.contains(value.first) && !kind_of(value.first).empty() &&
             what.starts_with(message("there is no ", kind_of(value.first), " '",
                                      split_name(value.second).first, "'"));
    });
    if (named == file.values.end()) {
      return what.starts_with("the job does not say") ? message(path, ": ", what)
                                                      : message(what, " (job file ", path, ")");
    }
    key = named->first;
  }
  return message(what, " (", path, line_text(line_of(lines_of_ini(ini.text), key)), ")");
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
    try {
      std::istringstream in(read_ini(expanded_path("job", option.value[0])).text);
      return named_plugins(po::parse_config_file(in, po::options_description(), true));
    } catch (const po::error&) {
    } catch (const Error&) {
    }
  }
  return {};
}

}  // namespace

Job Job::parse(const std::vector<std::string>& arguments) {
  Values command_line;
  std::vector<std::string> notes;
  try {
    namespace style = po::command_line_style;
    const po::options_description known = boost_options();
    const po::parsed_options parsed =
        po::command_line_parser(arguments)
            .options(known)
            .style(style::unix_style & ~style::allow_guessing & ~style::allow_short)
            .allow_unregistered()
            .run();
    command_line = collect(
        parsed, [](const std::string&) { return std::string("on the command line"); },
        plugins_of_job_file(parsed), &notes);
  } catch (const po::error& error) {
    throw Error(
        message(error.what(), " (options are written --key value; fl_sim --help shows all)"));
  }
  std::string file;
  if (command_line.contains("job")) {
    file = expanded_path("job", command_line["job"]);
    command_line.erase("job");
  }
  const Ini ini = file.empty() ? Ini{} : read_ini(file);
  const JobFile said = file.empty() ? JobFile{} : values_of(ini, file);
  Job job;
  try {
    job = Job(resolve(command_line, said));
  } catch (const Error& error) {
    if (file.empty()) throw;
    throw Error(with_place(error.what(), command_line, said, ini, file));
  }
  if (job.values_["output"] == "auto") job.values_["output"] = default_output(job.values_, file);
  job.notes_ = std::move(notes);
  return job;
}

Job Job::from_text(const std::string& ini) {
  try {
    Job job(resolve({}, {parse_ini(ini, "in the job")}));
    if (job.values_["output"] == "auto") job.values_["output"] = default_output(job.values_, "");
    return job;
  } catch (const Error& error) {
    const std::string files = value_in(ini, "plugin").value_or("none");
    if (files == "none") throw;
    throw Error(message(error.what(), " (this job was run with --plugin ", files, ")"));
  }
}

Values values_in_text(const std::string& ini) {
  Values values;
  std::istringstream in(ini);
  try {
    for (const auto& option : po::parse_config_file(in, po::options_description(), true).options)
      values[option.string_key] = option.value.empty() ? "" : option.value[0];
  } catch (const po::error& error) {
    throw Error(message("is no job (", error.what(), ")"));
  }
  return values;
}

std::optional<std::string> job_file_value(const std::string& path, const std::string& key) {
  try {
    return value_in(read_ini(expanded_path("job", path)).text, key);
  } catch (const Error&) {
    return {};
  }
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
  FL_CHECK(read_number(raw(key), value), key, " is '", raw(key), "' (must be a whole number)");
  return value;
}

template <>
double Job::get<double>(const std::string& key) const {
  double value = 0;
  FL_CHECK(read_number(raw(key), value), key, " is '", raw(key), "' (must be a number)");
  return value;
}

template <>
bool Job::get<bool>(const std::string& key) const {
  return raw(key) == "true";
}

uint64_t Job::seed() const { return static_cast<uint64_t>(get<int64_t>("seed")); }

std::vector<std::string> Job::names(const std::string& key) const {
  return plugin_names(key, raw(key));
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

}  // namespace fl_sim
