#include "commands/progress.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <vector>

#include "base/check.h"
#include "base/text.h"

namespace fl_sim {
namespace {

constexpr const char* kClearLine = "\r\x1b[K";
constexpr int kUsualColumns = 80;

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// "round   7/25", the number as wide as its widest.
std::string round_text(int64_t round, int64_t rounds) {
  const std::string last = std::to_string(rounds), number = std::to_string(round);
  const size_t padding = last.size() - std::min(last.size(), number.size());
  return "round " + std::string(padding, ' ') + number + "/" + last;
}

std::string speed_text(const RoundRecord& round) {
  if (!(round.seconds > 0)) return "";
  return formatted("%.0f samples/s", static_cast<double>(round.samples) / round.seconds);
}

std::string measured(const char* format, double value) {
  return std::isnan(value) ? "" : formatted(format, value);
}

// What time it is for the clients, and what the round took of their batteries.
std::string virtual_text(const RoundRecord& round) {
  const VirtualRound& time = round.virtual_time;
  if (!time.measured()) return "";
  return message("virtual ", duration_text(time.end),
                 std::isnan(time.joules) ? "" : "  " + joules_text(time.joules));
}

// "of 10: 2 diverged, 1 late, 1 lost"; empty where all count with all of their work.
std::string attendance_text(const RoundRecord& round) {
  std::string text;
  const auto add = [&](int64_t count, const char* what) {
    if (count > 0) text += message(text.empty() ? "" : ", ", count, " ", what);
  };
  add(round.diverged, "diverged");
  add(round.stragglers, "late");
  add(round.lost, "lost");
  add(round.set_aside, "set aside");
  add(round.virtual_time.offline, "offline");
  add(round.virtual_time.not_needed, "not needed");
  add(round.virtual_time.stale, "too old");
  add(round.partial, "in part");
  return text.empty() ? "" : message("of ", round.cohort, ": ", text);
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (!part.empty()) text += (text.empty() ? "" : "  ") + part;
  }
  return text;
}

int columns_of(int descriptor) {
  winsize size = {};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

}  // namespace

LogLevel parse_log_level(const std::string& name) {
  if (name == "error") return LogLevel::kError;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "info") return LogLevel::kInfo;
  FL_CHECK(name == "debug", "log-level is ", name, " (must be error, warning, info or debug)");
  return LogLevel::kDebug;
}

int terminal_columns() {
  if (!isatty(STDOUT_FILENO)) return 0;
  if (const int columns = columns_of(STDOUT_FILENO); columns > 0) return columns;
  // Open MPI gives every rank a pseudo-terminal of no size, wherever its own output goes: ask our
  // parent's.
  const std::string parents = "/proc/" + std::to_string(getppid()) + "/fd/1";
  const int descriptor = open(parents.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return 0;
  const int columns = isatty(descriptor) ? columns_of(descriptor) : 0;
  close(descriptor);
  return columns;
}

std::string duration_text(double seconds) {
  const int64_t whole =
      std::isfinite(seconds) && seconds > 0 ? std::llround(std::min(seconds, 1e9)) : 0;
  char text[64];
  std::snprintf(text, sizeof text, "%lld:%02d:%02d", static_cast<long long>(whole / 3600),
                static_cast<int>(whole / 60 % 60), static_cast<int>(whole % 60));
  return text;
}

std::string joules_text(double joules) {
  if (!(joules >= 1000)) return formatted("%.1f J", joules);
  return joules < 1e6 ? formatted("%.1f kJ", joules / 1e3) : formatted("%.1f MJ", joules / 1e6);
}

std::string round_line(const RoundRecord& round, int64_t rounds) {
  const Metrics& metrics = round.metrics;
  double worst = kNotMeasured;  // class
  for (const double accuracy : metrics.class_accuracy) worst = std::fmin(worst, accuracy);
  return joined(
      {round_text(round.round, rounds), measured("train loss %.4f", round.train_loss),
       measured("test loss %.4f", round.test_loss), measured("accuracy %.4f", round.test_accuracy),
       measured("balanced %.4f", metrics.balanced_accuracy),
       measured("auc %.4f", metrics.area_under_curve), measured("f1 %.4f", metrics.macro_f1),
       measured("perplexity %.3f", metrics.perplexity), measured("worst class %.4f", worst),
       measured("clients %.4f", round.clients.accuracy),
       measured("own models %.4f", round.personal.accuracy), speed_text(round),
       formatted("%.1f s", round.seconds), virtual_text(round), attendance_text(round)});
}

std::string bar_line(const RoundRecord& round, int64_t rounds, double seconds_left, int columns) {
  constexpr int kWidestBar = 30, kNarrowestBar = 10, kFrame = 4;  // "[" "]" and two spaces
  // A cursor in the last column makes some terminals wrap.
  const int room = std::max(columns - 1, 0);
  std::vector<std::string> parts = {round_text(round.round, rounds),
                                    measured("train loss %.4f", round.train_loss),
                                    measured("accuracy %.4f", round.test_accuracy),
                                    speed_text(round), duration_text(seconds_left) + " left"};
  const auto fits = [&] {
    return static_cast<int>(joined(parts).size()) + kFrame + kNarrowestBar <= room;
  };
  for (const size_t dispensable : {3, 1, 4, 2}) {
    if (fits()) break;
    parts[dispensable].clear();
  }
  const std::string text = joined(parts);
  if (!fits()) return text.substr(0, static_cast<size_t>(room));
  const int width = std::min(room - kFrame - static_cast<int>(text.size()), kWidestBar);
  const double done =
      rounds > 0 ? static_cast<double>(round.round) / static_cast<double>(rounds) : 1;
  const int filled = static_cast<int>(std::clamp(done, 0.0, 1.0) * width);
  std::string bar(static_cast<size_t>(width), ' ');
  std::fill_n(bar.begin(), filled, '#');
  return message("[", bar, "]  ", text);
}

Progress::Progress(bool quiet, bool terminal, LogLevel level, int64_t rounds)
    : level_(quiet ? std::min(level, LogLevel::kWarning) : level),
      terminal_(terminal),
      rounds_(rounds) {}

void Progress::round(const RoundRecord& round) {
  ++rounds_done_;
  if (!shows(LogLevel::kInfo)) return;
  if (!terminal_) {
    std::cout << round_line(round, rounds_) << std::endl;
    return;
  }
  // The bar keeps the latest accuracy where not every round is evaluated.
  RoundRecord shown = round;
  if (std::isnan(shown.test_accuracy)) shown.test_accuracy = test_accuracy_;
  test_accuracy_ = shown.test_accuracy;
  const double left = seconds_since(start_) / static_cast<double>(rounds_done_) *
                      static_cast<double>(rounds_ - round.round);
  const int columns = terminal_columns();
  bar_ = bar_line(shown, rounds_, left, columns > 0 ? columns : kUsualColumns);
  std::cout << kClearLine << bar_ << std::flush;
}

void Progress::note(const std::string& text, LogLevel level) {
  if (!shows(level)) return;
  if (!bar_.empty()) std::cout << kClearLine << std::flush;
  if (level == LogLevel::kError) {
    tell(text);
  } else if (level == LogLevel::kWarning) {
    tell("warning: " + text);
  } else {
    std::cout << text << std::endl;
  }
  if (!bar_.empty()) std::cout << bar_ << std::flush;
}

void Progress::finish() {
  if (!bar_.empty()) std::cout << std::endl;
  bar_.clear();
}

}  // namespace fl_sim
