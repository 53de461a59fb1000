#include "process/interruption.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>

namespace fl_sim {
namespace {

// What a handler may touch.
std::atomic<int> asked{0};
std::atomic<int64_t> first_own{0};  // nanoseconds; what others told does not count
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

void on_signal(int signal) {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const int64_t now = int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  int64_t never = 0;
  if (!first_own.compare_exchange_strong(never, now) && now - never > 1'000'000'000)
    _exit(128 + signal);
  int none = 0;
  asked.compare_exchange_strong(none, signal);
}

}  // namespace

Interruption& Interruption::get() {
  static Interruption one;
  return one;
}

void Interruption::set_grace(double seconds) {
  grace_ = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void Interruption::listen() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

bool Interruption::requested() const { return asked != 0; }

int Interruption::signal() const { return asked; }

std::string Interruption::name() const {
  switch (signal()) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    default:
      return "signal " + std::to_string(signal());
  }
}

void Interruption::request(int signal) {
  int none = 0;
  asked.compare_exchange_strong(none, signal);
}

void Interruption::look() {
  const auto now = Clock::now();
  if (now < next_look_) return;
  next_look_ = now + std::chrono::milliseconds(20);
  poll_();
  if (!requested()) return;
  if (deadline_ == Clock::time_point{}) deadline_ = now + grace_;
  if (may_abandon_ && now >= deadline_) throw Abandoned{};
}

}  // namespace fl_sim
