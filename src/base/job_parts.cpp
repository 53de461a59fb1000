#include "base/job_parts.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/engine_options.h"
#include "base/files.h"
#include "base/text.h"

namespace fl_sim {
namespace {

using Type = Option::Type;

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// "torchscript:~/net.pt" → "torchscript:/home/me/net.pt"
std::string with_expanded_argument(const std::string& key, const std::string& value) {
  const size_t colon = value.find(':');
  if (colon == std::string::npos) return value;
  return value.substr(0, colon + 1) + expanded_path(key, value.substr(colon + 1));
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
  if (option.several && text != "none") {
    std::vector<std::string> names = plugin_names(key, text);
    for (std::string& name : names) name = with_expanded_argument(key, name);
    return joined(names, ",");
  }
  if (!(option.plugin_kind.empty() && kind_of(option.name).empty())) {
    if (const std::string whole = with_expanded_argument(key, text); whole != text) {
      Option plain = option;
      plain.name = plain.plugin_kind = "";
      return checked(key, plain, whole);
    }
  }
  if (option.path) {
    if (const std::string whole = expanded_path(key, text); whole != text) {
      Option plain = option;
      plain.path = false;
      return checked(key, plain, whole);
    }
  }
  switch (option.type) {
    case Type::kInteger: {
      int64_t value = 0;
      FL_CHECK(read_number(text, value), key, " is '", text, "' (must be ",
               option.default_value == "auto" ? "auto or " : "",
               "a whole number): ", option.meaning);
      in_range(static_cast<double>(value));
      return std::to_string(value);
    }
    case Type::kNumber: {
      double value = 0;
      FL_CHECK(read_number(text, value), key, " is '", text,
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
      FL_CHECK(text.find_first_of("#\n\r") == std::string::npos && text.find_first_of(" \t") != 0 &&
                   text.find_last_of(" \t") != text.size() - 1,
               key, " is '", text, "' (a job cannot hold '#', line breaks or blanks at the ends)");
      FL_CHECK(
          option.choices.empty() ||
              std::find(option.choices.begin(), option.choices.end(), text) != option.choices.end(),
          key, " is '", text, "' (must be one of ", list_of(option.choices), "): ", option.meaning);
      return text;
  }
  return text;
}

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

// The engine's key that names plug-ins of this kind; the kind, if there is none.
std::string key_of(const std::string& kind) {
  for (const Option& option : engine_options()) {
    if (kind_of(option.name) == kind) return option.name;
  }
  return kind;
}

}  // namespace

std::vector<std::string> plugin_names(const std::string& key, const std::string& value) {
  std::vector<std::string> values = split_list(value);
  FL_CHECK(!values.empty() || value == "none", key, " is '", value,
           "' (must be names with commas between them, or none)");
  std::set<std::string> names;
  for (const std::string& word : values) {
    const std::string name = split_name(word).first;
    FL_CHECK(names.insert(name).second, key, " is '", value, "', which names ", name,
             " twice (keep one)");
  }
  return values;
}

std::string kind_of(const std::string& key) {
  const std::vector<std::string>& kinds = plugin_kinds();
  if (std::find(kinds.begin(), kinds.end(), key) != kinds.end()) return key;
  for (const Option& option : engine_options()) {
    if (option.name == key) return option.plugin_kind;
  }
  return "";
}

Parts::Parts(const Values& values) {
  for (const std::string& kind : plugin_kinds()) {
    for (Option option : engine_options()) {
      if (kind_of(option.name) != kind) continue;
      // An algorithm may have a sampler of its own as its default.
      const Values presets = defaults();
      if (presets.contains(option.name)) option.default_value = presets.at(option.name);
      add(values, option.name, kind, option, {});
    }
  }
}

bool Parts::contains(const std::string& kind, const std::string& name) const {
  return std::any_of(list_.begin(), list_.end(),
                     [&](const Part& part) { return part.kind == kind && part.name == name; });
}

bool Parts::read(const std::string& kind, const std::string& key) const {
  const std::vector<std::string> names = readers(kind, key);
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return contains(kind, name); });
}

Values Parts::defaults() const {
  Values all;
  for (const Part& part : list_) {
    const Values& own = plugin_info(part.kind, part.name).defaults;
    all.insert(own.begin(), own.end());
  }
  return all;
}

std::string Parts::text(const std::string& kind) const {
  std::string text;
  std::set<std::string> said;
  for (const Part& part : list_) {
    if (part.kind != kind || !said.insert(part.key).second) continue;
    std::vector<std::string> names;  // that this key names
    for (const Part& other : list_) {
      if (other.key == part.key) names.push_back(other.name);
    }
    text += (text.empty() ? "" : ", ") + part.key + " is " + joined(names, ",");
  }
  for (const auto& [key, of] : keys_) {
    if (text.empty() && of == kind) return key + " is none";
  }
  return text.empty() ? kind + " is not chosen" : text;
}

// What `key` names, within the plug-ins `outer`; nothing if the job does not say it.
void Parts::add(const Values& values, const std::string& key, const std::string& kind,
                const Option& option, const std::vector<std::string>& outer) {
  const auto given = values.find(key);
  if (given == values.end() && !option.default_value) return;
  const std::string value = given != values.end() ? given->second : *option.default_value;
  keys_[key] = kind;
  for (const std::string& one :
       option.several ? plugin_names(key, value) : std::vector<std::string>{value}) {
    const std::string name = split_name(one).first;
    const auto known = [&]() -> const PluginInfo& {
      if (outer.empty() && !option.several) return plugin_info(kind, name);
      try {
        return plugin_info(kind, name);
      } catch (const Error& error) {
        throw Error(message(key, " is ", value, ": ", error.what()));
      }
    };
    const PluginInfo& info = known();
    FL_CHECK(std::find(outer.begin(), outer.end(), name) == outer.end(), key, " is ", name,
             ", within itself (choose another ", kind, ")");
    FL_CHECK(info.takes_argument || one == name, key, " is ", value, ", but ", name,
             " takes nothing behind a colon");
    list_.push_back({kind, name, key});
    std::vector<std::string> within = outer;
    within.push_back(name);
    for (const Option& inner : info.options) {
      if (!inner.plugin_kind.empty()) {
        add(values, name + "." + inner.name, inner.plugin_kind, inner, within);
      }
    }
  }
}

Values resolve(const Values& command_line, const JobFile& file) {
  Values given = file.values;
  for (const auto& [key, value] : command_line) given[key] = value;

  std::map<std::string, Option> read;  // the keys that this job's parts read
  for (const Option& option : engine_options()) read.emplace(option.name, option);

  std::set<std::string> rechosen;  // kinds that the command line chose over the file
  std::set<std::string> shifted;   // keys whose defaults change with that
  const Parts named(given);
  for (const auto& [key, kind] : named.keys()) {
    if (command_line.contains(key) && file.values.contains(key)) rechosen.insert(kind);
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
    const std::string condition = option->second.read_by.empty() ? option->second.only_with.first
                                                                 : key_of(option->second.read_by);
    return command_line.contains(condition) || shifted.contains(condition);
  };

  Values values;
  std::vector<std::string> missing;
  for (const auto& [key, option] : read) {
    if (!option.read_by.empty() && !parts.read(option.read_by, key)) {
      FL_CHECK(!given.contains(key) || idle(key), key, " is set, but ", parts.text(option.read_by),
               ", which does not read it (remove it, or choose ",
               list_of(readers(option.read_by, key)), ")");
      continue;
    }
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
               ", which does not read it (remove it, or choose ", key_of(kind), " ", owner, ")");
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

void check_declared(const std::string& kind, const std::string& name, const PluginInfo& info) {
  const std::string who = kind + " '" + name + "'";
  const bool fit = name.find_first_not_of(
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                       "0123456789_-") == std::string::npos;
  // One of fl_sim's own may be what "none" means.
  const bool taken = name == "auto" || (name == "none" && !info.file.empty());
  FL_CHECK(fit && !name.empty() && !taken, who,
           " has a name that no job can say (letters, digits, '-' and '_', not none or auto)");
  const auto& families = algorithm_families();
  FL_CHECK(
      info.family.empty() || std::any_of(families.begin(), families.end(),
                                         [&](const auto& f) { return f.first == info.family; }),
      who, " is of the family '", info.family,
      "', which there is not (see "
      "algorithm_families(); empty: none of them)");
  std::map<std::string, Option> engine, own;
  std::vector<std::string> engine_keys;
  for (const Option& option : engine_options()) {
    engine.emplace(option.name, option);
    engine_keys.push_back(option.name);
  }
  const auto own_value = [&](const std::string& key, const Option& option,
                             const std::string& value) {
    try {
      checked(key, option, value);
    } catch (const Error& error) {
      throw Error(message("a default of ", who, " is no value of its key: ", error.what()));
    }
  };
  const auto of_engine = [&](const std::string& key, const std::string& what) -> const Option& {
    const auto found = engine.find(key);
    const std::string near = nearest(key, engine_keys);
    FL_CHECK(found != engine.end(), who, " ", what, " '", key, "', which is no key of fl_sim's",
             near.empty() ? "" : " (did you mean '" + near + "'?)");
    return found->second;
  };
  for (const Option& option : info.options) {
    const std::string key = name + "." + option.name;
    FL_CHECK(!option.name.empty() && option.name.find_first_of(" =.,#\n\r") == std::string::npos,
             who, " has an option that is called '", option.name,
             "' (a word without dots, commas, '=', '#' and blanks)");
    FL_CHECK(!engine.contains(key), "the key ", key, " of ", who,
             " is one of fl_sim's own (give the plug-in or its option another name)");
    FL_CHECK(own.emplace(key, option).second, who, " declares the key ", key, " twice");
    if (option.default_value) own_value(key, option, *option.default_value);
  }
  for (const auto& [key, option] : own) {
    const std::string& condition = option.only_with.first;
    if (!condition.empty() && !own.contains(condition))
      of_engine(condition, "has the key " + key + " only with");
  }
  for (const auto& [key, value] : info.defaults)
    own_value(key, of_engine(key, "has a default for"), value);
  for (const std::string& key : info.reads) {
    const std::string& read_by = of_engine(key, "says that it reads").read_by;
    FL_CHECK(read_by == kind, who, " says that it reads ", key,
             ", but its kind has no say in that: ",
             read_by.empty() ? "every job has it" : "it is of " + plural_of(read_by));
  }
}

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
  // A section of a job file goes on until the next one begins.
  const std::string below = prefix.empty() ? "" : key.substr(prefix.size());
  const size_t inner_dot = below.find('.');
  if (where.starts_with("in ") && std::find(likely.begin(), likely.end(), below) != likely.end()) {
    return message("unknown key '", key, "' ", where, ": ", below, " stands below [",
                   prefix.substr(0, prefix.size() - 1), "], which makes it that (put it ",
                   inner_dot == std::string::npos
                       ? std::string("above the first [section])")
                       : message("above the first [section], or as ", below.substr(inner_dot + 1),
                                 " below [", below.substr(0, inner_dot), "])"));
  }
  const bool relatives =
      !prefix.empty() && std::any_of(likely.begin(), likely.end(), [&](const std::string& known) {
        return known.starts_with(prefix);
      });
  return message("unknown key '", key, "' ", where,
                 near.empty() ? "" : message("; did you mean '", near, "'?"), " (fl_sim --",
                 relatives ? message("explain ", prefix.substr(0, prefix.size() - 1)) : "help",
                 " shows all)");
}

}  // namespace fl_sim
