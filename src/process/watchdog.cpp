#include "process/watchdog.h"

#include <algorithm>

#include "base/check.h"

namespace fl_sim {
namespace {

int64_t whole_seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration_cast<std::chrono::seconds>(time).count();
}

}  // namespace

Watchdog& Watchdog::get() {
  static Watchdog one;
  return one;
}

void Watchdog::enter(const char* phase, int64_t round, int64_t client) {
  phase_ = phase;
  round_ = round;
  client_ = client;
  beat();
  if (shown_.empty()) return;
  const size_t length = state().copy(shown_.data(), shown_.size() - 1);
  shown_[length] = '\0';
}

std::string Watchdog::state() const {
  std::string text = phase_.load();
  if (client_ >= 0) text += message(" client ", client_.load());
  if (round_ >= 0) text += message(" in round ", round_.load());
  return text;
}

void Watchdog::start(double timeout_seconds, std::function<void(const std::string&)> alarm) {
  stop();
  timeout_ =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_seconds));
  if (!watching()) return;
  alarm_ = std::move(alarm);
  others_.clear();
  looked_ = told_ = Clock::now();
  ends_ = false;
  thread_ = std::thread([this] { watch(); });
}

void Watchdog::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  thread_.join();
  timeout_ = {};
}

void Watchdog::watch() {
  const Clock::duration pause = std::min<Clock::duration>(timeout_ / 8, std::chrono::seconds(1));
  uint64_t beats = beats_;
  Clock::time_point last = Clock::now(), before = last;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, pause, [this] { return ends_; })) {
    const Clock::time_point now = Clock::now();
    // After a time in which the whole process was stopped the main thread has its chance again.
    if (now - before > timeout_ / 2) last = now;
    before = now;
    if (beats_ != beats) {
      beats = beats_;
      last = now;
    } else if (now - last > timeout_) {
      alarm_(message("no progress for ", whole_seconds(now - last), " s: ", state()));
      return;
    }
  }
}

void Watchdog::heard_of(int rank, std::string state) {
  const auto place = static_cast<size_t>(rank);
  if (others_.size() <= place) others_.resize(place + 1, {Clock::now(), "starting"});
  others_[place] = {Clock::now(), std::move(state)};
}

std::string Watchdog::silent(int first, int last) {
  const Clock::time_point now = Clock::now();
  const bool was_stopped = now - looked_ > timeout_ / 2;
  looked_ = now;
  if (others_.size() <= static_cast<size_t>(last))
    others_.resize(static_cast<size_t>(last) + 1, {now, "starting"});
  // Others may be silent because they wait for the one that was first.
  int longest = first;
  for (int rank = first; rank <= last; ++rank) {
    Other& other = others_[static_cast<size_t>(rank)];
    if (was_stopped) other.heard = now;
    if (other.heard < others_[static_cast<size_t>(longest)].heard) longest = rank;
  }
  const Other& other = others_[static_cast<size_t>(longest)];
  if (now - other.heard <= timeout_) return {};
  return message("rank ", longest, " has been silent for ", whole_seconds(now - other.heard),
                 " s: it was ", other.state);
}

bool Watchdog::due() {
  const Clock::time_point now = Clock::now();
  if (!watching() || now - told_ < timeout_ / 4) return false;
  told_ = now;
  return true;
}

}  // namespace fl_sim
