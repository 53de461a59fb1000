#include "commands/partition_plan.h"

#include <algorithm>
#include <iostream>
#include <optional>

#include "base/check.h"
#include "base/text.h"
#include "commands/partition_picture.h"
#include "commands/progress.h"
#include "commands/words.h"
#include "engine/planned_partition.h"

namespace fl_sim {
namespace {

// A job to partition need not say how it trains.
Job parse_partial(std::vector<std::string> words) {
  try {
    return Job::parse(words);
  } catch (const Error&) {
    const std::vector<std::pair<std::string, std::string>> training = {
        {"--model", "logistic"}, {"--local.batch-size", "1"}, {"--local.lr", "1"}};
    for (const auto& [name, value] : training) {
      const std::string& key = name;
      const bool said = std::any_of(words.begin(), words.end(), [&](const std::string& word) {
        return word == key || word.starts_with(key + "=");
      });
      if (!said) words.insert(words.end(), {key, value});
    }
  }
  return Job::parse(words);
}

// "dirichlet (alpha 0.5, balanced true), 10 clients, fashion-mnist"
std::string title_of(const Job& job) {
  const std::string name = job.get<std::string>("partitioner");
  std::string options;
  for (const auto& [key, value] : job.values()) {
    if (!key.starts_with(name + ".")) continue;
    options += message(options.empty() ? "" : ", ", key.substr(name.size() + 1), " ", value);
  }
  return message(name, options.empty() ? "" : message(" (", options, ")"), ", ",
                 job.get<std::string>("clients"), " clients, ", job.get<std::string>("dataset"));
}

}  // namespace

void plan_partition(const std::vector<std::string>& arguments) {
  constexpr int kUsualColumns = 100;
  std::vector<std::string> words = arguments;
  take_option(words, "--plan");
  const std::optional<std::string> picture = take_option(words, "--picture");
  const std::optional<std::string> kind = take_option(words, "--picture-kind");
  FL_CHECK(!kind || picture, "--picture-kind needs --picture FILE");
  FL_CHECK(!kind || *kind == "bubbles" || *kind == "bars", "--picture-kind is ", kind.value_or(""),
           " (must be bubbles or bars)");

  PlannedPartition plan = make_partition_of(parse_partial(std::move(words)));
  const PartitionFacts facts{.title = title_of(plan.job),
                             .partition = plan.partition,
                             .labels = std::move(plan.labels),
                             .classes = plan.data.classes,
                             .class_names = plan.data.class_names};
  const Skew skew = measure_skew(facts.partition, facts.labels, facts.classes);
  const int columns = terminal_columns();
  std::cout << facts.title << "\n\n"
            << partition_table(facts, skew) << "\n"
            << partition_blocks(facts, columns > 0 ? columns : kUsualColumns) << std::flush;
  for (const std::string& note : plan.notes) tell("warning: " + note);
  if (!picture) return;
  draw_picture(facts, kind == "bars" ? PictureKind::kBars : PictureKind::kBubbles, *picture);
  std::cout << "\npicture         " << *picture << "\n";
}

}  // namespace fl_sim
