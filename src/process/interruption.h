// A run that is asked to stop before its end: by a signal to any of its ranks, which tells the
// others. The round under way may be finished within a time of grace, and is dropped after it.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>

namespace fl_sim {

// One for the process. Main thread only; the handler of signals touches nothing of it.
class Interruption {
 public:
  static Interruption& get();

  // A run's exit status: it has stopped at a safe point and may be started again (EX_TEMPFAIL).
  static constexpr int kExitCode = 75;

  // From now on SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGPIPE and SIGXCPU ask to stop, and a second one
  // of the first four, later than a second after the first, ends the process at once. (A launcher
  // and a user may well send the same one.) A file that may not grow is an error of who writes it.
  void listen();
  void set_grace(double seconds);

  bool requested() const;
  int signal() const;        // that asked; 0: none
  std::string name() const;  // "SIGUSR1"
  std::string origin()
      const;  // with who sent it, or what it means: "SIGTERM (from mpirun, process 7)"
  void request(int signal);  // as another rank says

  // What at_step() does now and then: looks for messages.
  void set_poll(std::function<void()> poll) { poll_ = std::move(poll); }

  struct Abandoned {};  // thrown by at_step()

  // While one lives, at_step() may give up what is under way.
  class MayAbandon {
   public:
    explicit MayAbandon(bool may) { get().may_abandon_ = may; }
    ~MayAbandon() { get().may_abandon_ = false; }
    MayAbandon(const MayAbandon&) = delete;
    MayAbandon& operator=(const MayAbandon&) = delete;
  };

  // In everything that takes long, at every step.
  void at_step() {
    if (poll_) look();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void look();

  std::function<void()> poll_;
  bool may_abandon_ = false;
  Clock::duration grace_ = {};
  Clock::time_point next_look_ = {}, deadline_ = {};
};

}  // namespace fl_sim
