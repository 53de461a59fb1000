// Options of the engine as a struct, declared beside the code that reads them:
//
//   struct RateOptions {
//     double lr = 0, decay = 1;
//     static const OptionSet<RateOptions> kOptions;
//   };
//   const OptionSet<RateOptions> RateOptions::kOptions(
//       520, {{&RateOptions::lr, {.name = "local.lr", .meaning = "local learning rate"}},
//             {&RateOptions::decay, {.name = "local.lr-decay", .default_value = "1", ...}}});
//
//   const auto rate = read_options<RateOptions>(job);
//
// An option's type is that of its member: int64_t, double, bool or std::string.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/engine_options.h"
#include "base/job.h"

namespace fl_sim {

template <class Struct>
class OptionSet {
 public:
  struct Field {
    template <class T>
    Field(T Struct::*member, Option an_option) : option(std::move(an_option)) {
      option.type = std::is_same_v<T, int64_t>  ? Option::Type::kInteger
                    : std::is_same_v<T, double> ? Option::Type::kNumber
                    : std::is_same_v<T, bool>   ? Option::Type::kFlag
                                                : Option::Type::kText;
      // Where another key's value or plug-in makes it idle, a job does not have it.
      const bool may_be_idle = !option.only_with.first.empty() || !option.read_by.empty();
      read = [member, may_be_idle, key = option.name](const Job& job, Struct& into) {
        if (!may_be_idle || job.values().contains(key)) into.*member = job.get<T>(key);
      };
    }
    Option option;
    std::function<void(const Job&, Struct&)> read;
  };

  // Declares them: keys of every job from now on. `place`: of two sets --help shows the one with
  // the lower place first.
  OptionSet(int place, std::vector<Field> fields) : fields_(std::move(fields)) {
    std::vector<Option> options;
    for (const Field& field : fields_) options.push_back(field.option);
    declare_engine_options(place, std::move(options));
  }

  // What is idle in this job stays as it is.
  void read(const Job& job, Struct& into) const {
    for (const Field& field : fields_) field.read(job, into);
  }

 private:
  std::vector<Field> fields_;
};

template <class Struct>
Struct read_options(const Job& job) {
  Struct options;
  Struct::kOptions.read(job, options);
  return options;
}

}  // namespace fl_sim
