// Plug-ins by name. A plug-in is one .cpp file that ends with
//
//   FL_REGISTER(Algorithm, "fedprox", FedProx);
//
// where FedProx has a constructor from `const Algorithm::Setup&` and a `static PluginInfo
// describe()`. What describe() says is what `--list`, `--explain` and the job parser show and
// check. FL_PRESET(Algorithm, "fedyogi", FedOpt, fedyogi) makes several of one class: fedyogi() is
// the description, and FedOpt is constructed from the setup and "fedyogi". Kinds are named as the
// job's keys are, see plugin_kinds() (an interface's `kKind`).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace fl_sim {

// The values that an option takes.
struct Range {
  double low = -1e300, high = 1e300;
  bool open_low = false;  // low itself is refused
  bool open_high = false;
};
constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range more_than(double low) { return {.low = low, .open_low = true}; }
constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
constexpr Range from_below(double low, double high) {
  return {.low = low, .high = high, .open_high = true};
}

// One key of a job: `name` is the whole key for the engine's own ("local.lr"), the part behind the
// dot for a plug-in's.
struct Option {
  enum class Type { kInteger, kNumber, kFlag, kText };
  std::string name;
  Type type = Type::kText;
  std::optional<std::string> default_value;  // none: the job must say it
  std::string meaning;                       // one line
  Range range = {};                          // numbers only
  std::vector<std::string> choices = {};     // text only; empty: anything
  // Read only where the key `first` has one of the values `second`; refused elsewhere. Empty:
  // always read.
  std::pair<std::string, std::vector<std::string>> only_with = {};
  // The kind of plug-in that the value names ("algorithm"): a job with this option reads the named
  // plug-in's options too. Empty: the value names none. Such an option is always read.
  std::string plugin_kind = {};
  // The value names several of them in their order, "clip,gaussian", each once, or "none".
  bool several = false;
  // A key of the engine that only those plug-ins of this kind read that say so (PluginInfo::reads);
  // refused in jobs without one. Empty: it does not depend on that.
  std::string read_by = {};
  // False: a run that goes on from a checkpoint may have another value, and runs that differ in it
  // are the same experiment.
  bool changes_results = true;
  // A run that goes on from a checkpoint may have another value of it from there on, though runs
  // that differ in it are not the same experiment.
  bool may_change = false;
  // The value is a file or a folder: `~` and `$NAME` in it are expanded. What stands behind the
  // colon of a plug-in's name always is one.
  bool path = false;
};

struct PluginInfo {
  std::string summary;      // one line, lower case, for --list
  std::string source = {};  // authors, title, venue, algorithm number; empty where there is none
  std::string rule = {};    // what it computes, for --explain
  std::vector<Option> options = {};  // keys are "<plug-in>.<option>"
  bool takes_argument = false;       // is named with one, "torchscript:net.pt"
  // Of engine keys, where they differ for this plug-in.
  std::map<std::string, std::string> defaults = {};
  std::vector<std::string> reads = {};  // engine keys with Option::read_by that it reads
  std::string elsewhere = {};  // where papers and frameworks have other defaults; may have lines
  // A minimal job: the command line's options beside those that every job says.
  std::string example = {};
  std::string family = {};  // of algorithms, one of algorithm_families()
  // The shared object that it came from; empty: it is fl_sim's own. Set when it is registered.
  std::string file = {};
};

// Families of algorithms: name and heading, in the order in which --explain algorithms shows them.
const std::vector<std::pair<std::string, std::string>>& algorithm_families();

// Everything that is registered: kind, then name.
using Catalog = std::map<std::string, std::map<std::string, PluginInfo>>;
Catalog& catalog();

// Adds a plug-in to it. Whether that went well: describe() may throw, two may claim one name, and
// two of different kinds, who may have the same name, one key.
bool register_info(const std::string& kind, const std::string& name,
                   PluginInfo (*describe)()) noexcept;

// What went wrong since the last time, a line each. No initialiser may throw, so whoever has
// plug-ins loaded asks.
std::vector<std::string> take_registration_problems();

// What is registered from now on comes from this file; empty: it is fl_sim's own.
void register_as_from(const std::string& file);

size_t count_plugins();

// The kinds of plug-ins that a job names, in the order in which --list shows them. The engine's key
// for one is called like it, or says so by its `plugin_kind`.
const std::vector<std::string>& plugin_kinds();

// What several of a kind are called: "samplers", "devices".
std::string plural_of(const std::string& kind);

// "more than 0", "1 to 5"; empty where everything is allowed.
std::string range_text(const Range& range);

// "a, b, c"
std::string list_of(const std::vector<std::string>& words);

// The candidate with the smallest edit distance to `word`; empty if none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

// Splits "torchscript:net.pt" into name and argument.
std::pair<std::string, std::string> split_name(const std::string& value);

// The plug-ins of a kind that read an engine's key with Option::read_by.
std::vector<std::string> readers(const std::string& kind, const std::string& key);

// What describe() says of a plug-in. Throws Error, naming the nearest known one, if there is none.
const PluginInfo& plugin_info(const std::string& kind, const std::string& name);

template <class Interface>
using Factory = std::function<std::unique_ptr<Interface>(const typename Interface::Setup&)>;

// One for the program, whatever shared object asks.
template <class Interface>
[[gnu::visibility("default")]] std::map<std::string, Factory<Interface>>& factories() {
  static std::map<std::string, Factory<Interface>> all;
  return all;
}

// Builds the plug-in `name`. Throws Error if it is unknown or refuses the setup.
template <class Interface>
std::unique_ptr<Interface> make(const std::string& name, const typename Interface::Setup& setup) {
  plugin_info(Interface::kKind, name);
  const auto found = factories<Interface>().find(name);
  FL_CHECK(found != factories<Interface>().end(), Interface::kKind, " ", name,
           " is known, but cannot be made: its shared object hides its symbols (compile it without "
           "-fvisibility=hidden, as fl_sim_add_plugin does)");
  return found->second(setup);
}

// Adds a plug-in to the catalog and to those that can be made. Whether that went well.
template <class Interface>
bool register_factory(const std::string& name, PluginInfo (*describe)(),
                      Factory<Interface> factory) {
  if (!register_info(Interface::kKind, name, describe)) return false;
  factories<Interface>()[name] = std::move(factory);
  return true;
}

template <class Interface, class Plugin>
bool register_plugin(const std::string& name) {
  return register_factory<Interface>(
      name, &Plugin::describe,
      [](const typename Interface::Setup& setup) { return std::make_unique<Plugin>(setup); });
}

// A plug-in that another name and other defaults make of a class: its constructor is told the name.
template <class Interface, class Plugin>
bool register_preset(const std::string& name, PluginInfo (*describe)()) {
  return register_factory<Interface>(name, describe,
                                     [name](const typename Interface::Setup& setup) {
                                       return std::make_unique<Plugin>(setup, name);
                                     });
}

}  // namespace fl_sim

#define FL_REGISTER(Interface, name, Plugin)               \
  [[maybe_unused]] static const bool registered_##Plugin = \
      ::fl_sim::register_plugin<Interface, Plugin>(name)

#define FL_PRESET(Interface, name, Plugin, describe)         \
  [[maybe_unused]] static const bool registered_##describe = \
      ::fl_sim::register_preset<Interface, Plugin>(name, &(describe))
