#include "process/interruption.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <fstream>

#include "process/leaving.h"

namespace fl_sim {
namespace {

// What a handler may touch.
std::atomic<int> asked{0};
std::atomic<int> sender{0};         // process id of whoever sent that; 0: not known
std::atomic<int64_t> first_own{0};  // nanoseconds; what others told does not count
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

// Some come over and over, without anybody's wish to end at once.
bool comes_again(int signal) { return signal == SIGPIPE || signal == SIGXCPU; }

void on_signal(int signal, siginfo_t* info, void*) {
  const int error = errno;
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const int64_t now = int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  int64_t never = 0;
  if (!comes_again(signal) && !first_own.compare_exchange_strong(never, now) &&
      now - never > 1'000'000'000) {
    constexpr char kWords[] = "fl_sim: a second signal ends the run at once\n";
    [[maybe_unused]] const ssize_t said = write(STDERR_FILENO, kWords, sizeof kWords - 1);
    leave_roll();
    _exit(128 + signal);
  }
  int none = 0;
  if (asked.compare_exchange_strong(none, signal) && info->si_code == SI_USER)
    sender = info->si_pid;
  errno = error;
}

// What a process is called; empty if it is gone, or another machine's.
std::string name_of(int process) {
  std::string name;
  std::getline(std::ifstream("/proc/" + std::to_string(process) + "/comm"), name);
  return name;
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
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  // Who starts a run by nohup, or with its output in a pipe that may close, says that these are no
  // reason to stop.
  for (const int signal : {SIGHUP, SIGPIPE, SIGXCPU}) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
  std::signal(SIGXFSZ, SIG_IGN);  // write() says so, and then we do
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
    case SIGHUP:
      return "SIGHUP";
    case SIGPIPE:
      return "SIGPIPE";
    case SIGXCPU:
      return "SIGXCPU";
    default:
      return "signal " + std::to_string(signal());
  }
}

std::string Interruption::origin() const {
  switch (signal()) {
    case SIGPIPE:
      return "SIGPIPE (nobody reads this run's output any more)";
    case SIGHUP:
      return "SIGHUP (the terminal or the connection is closed; nohup starts what is to outlive "
             "it)";
    case SIGXCPU:
      return "SIGXCPU (the limit of processor time is reached)";
    default:
      break;
  }
  if (sender == 0) return name();
  const std::string from = name_of(sender);
  return name() + " (from " + (from.empty() ? "" : from + ", ") + "process " +
         std::to_string(sender) + ")";
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
