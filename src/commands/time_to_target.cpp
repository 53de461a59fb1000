#include "commands/time_to_target.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/statistics.h"
#include "base/text.h"

namespace fl_sim {
namespace {

const std::array<Axis, 4> kAxes = {
    {{"round", "rounds", "round", 1, "%.0f"},
     {"virtual", "virtual s", "virtual seconds", 1, "%.1f"},
     {"samples", "k samples", "samples that clients went through (thousands)", 1e3, "%.1f"},
     {"bytes", "MB", "MB to and from clients", 1e6, "%.1f"}}};

std::string formatted_as(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

double median_of_numbers(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  // Where two are infinite there is nothing between them.
  const double low = numbers[(numbers.size() - 1) / 2], high = numbers[numbers.size() / 2];
  return low == high ? low : percentile(numbers, 0.5);
}

}  // namespace

const Axis& axis_called(const std::string& word) {
  const auto* const found =
      std::find_if(kAxes.begin(), kAxes.end(), [&](const Axis& axis) { return word == axis.word; });
  FL_CHECK(found != kAxes.end(), "--by is '", word,
           "' (must be round, virtual, samples or bytes, or several with commas between)");
  return *found;
}

std::vector<double> passed_by_round(const Hdf5File& file, const std::string& path,
                                    const Axis& axis) {
  const std::vector<double> rounds = file.read_doubles("/rounds/round");
  const auto column = [&](const std::string& name) {
    std::vector<double> values = file.read_doubles("/rounds/" + name);
    FL_CHECK(values.size() == rounds.size(), path, ": /rounds/", name, " has ", values.size(),
             " values for ", rounds.size(), " rounds (damaged?)");
    return values;
  };
  const std::string by = axis.word;
  if (by == "round") return rounds;
  if (by == "virtual") {
    FL_CHECK(file.has("/rounds/virtual_seconds"), path,
             " has no virtual time: its job has no devices (compare --by round, samples or bytes, "
             "or run it with devices, such as --devices lognormal)");
    return column("virtual_seconds");
  }
  // Late clients' work and bytes, too, which stand apart where there is virtual time.
  std::vector<std::string> parts =
      by == "samples" ? std::vector<std::string>{"samples", "wasted_samples"}
                      : std::vector<std::string>{"bytes_down", "bytes_up", "wasted_bytes_up"};
  std::vector<double> all(rounds.size());
  for (const std::string& part : parts) {
    if (part.starts_with("wasted_") && !file.has("/rounds/" + part)) continue;
    const std::vector<double> values = column(part);
    for (size_t i = 0; i < all.size(); ++i) all[i] += values[i];
  }
  std::partial_sum(all.begin(), all.end(), all.begin());
  return all;
}

Length length_to(const std::vector<double>& positions, const std::vector<double>& values,
                 double target) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= target) return {positions[i], true};
  }
  return {positions.back(), false};
}

// The least that it can be, and whether it is no more even if what is not reached never is.
Length median_of(std::vector<Length> lengths) {
  std::vector<double> low, high;
  for (const Length& length : lengths) {
    low.push_back(length.value);
    high.push_back(length.reached ? length.value : std::numeric_limits<double>::infinity());
  }
  const double least = median_of_numbers(std::move(low));
  return {least, median_of_numbers(std::move(high)) == least};
}

Length least_of(const std::vector<Length>& lengths) {
  const auto before = [](const Length& a, const Length& b) {
    return a.value < b.value || (a.value == b.value && a.reached && !b.reached);
  };
  return *std::min_element(lengths.begin(), lengths.end(), before);
}

Length most_of(const std::vector<Length>& lengths) {
  Length most = lengths[0];
  for (const Length& length : lengths) {
    most.value = std::max(most.value, length.value);
    most.reached = most.reached && length.reached;
  }
  return most;
}

std::vector<double> smoothed(const std::vector<double>& values, int64_t window) {
  std::vector<double> means;
  for (auto last = values.begin() + (window - 1); last < values.end(); ++last) {
    means.push_back(std::accumulate(last - (window - 1), last + 1, 0.0) /
                    static_cast<double>(window));
  }
  return means;
}

std::string length_text(const Length& length, const Axis& axis) {
  return message(length.reached ? "" : ">", formatted_as(axis.format, length.value / axis.unit));
}

std::string lengths_text(const std::vector<Length>& lengths, const Axis& axis) {
  const std::string median = length_text(median_of(lengths), axis);
  if (lengths.size() == 1) return median;
  return message(median, " (", length_text(least_of(lengths), axis), " to ",
                 length_text(most_of(lengths), axis), ")");
}

std::string speed_up_text(const Length& first, const Length& second) {
  if ((!first.reached && !second.reached) || second.value <= 0) return "-";
  const char* bound = !first.reached ? ">" : !second.reached ? "<" : "";
  return message(bound, fixed(first.value / second.value, 2));
}

}  // namespace fl_sim
