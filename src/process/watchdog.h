// Notices that a rank makes no progress: its own main thread, from a thread beside it, and other
// ranks, by what was heard of them last.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace fl_sim {

// One for the process. Main thread only, but for state() and beat(), which any thread may call.
class Watchdog {
 public:
  static Watchdog& get();

  // What this rank does from now on. `phase` must live as long as the process. -1: no round, or no
  // client.
  void enter(const char* phase, int64_t round = -1, int64_t client = -1);
  void beat() { beats_.fetch_add(1, std::memory_order_relaxed); }

  // "training client 17 in round 3"
  std::string state() const;

  // From now on what it does is shown there, too, ended by a zero; for other processes to read.
  void show_in(std::span<char> place) { shown_ = place; }

  // Watches this rank: `alarm` is called, in the watching thread, when it has not come to a beat()
  // for so many seconds; 0: never.
  void start(double timeout_seconds, std::function<void(const std::string&)> alarm);
  void stop();
  bool watching() const { return timeout_.count() > 0; }

  // Of others. Their silence counts from the first call on; a time in which this rank was stopped
  // itself does not.
  void heard_of(int rank, std::string state);
  // "rank 2 has been silent for 12 s: it was training client 17 in round 3"; empty: nobody has been
  // for so long. Of the ranks `first` to `last`.
  std::string silent(int first, int last);

  // Whether it is time to tell others that this rank lives.
  bool due();

 private:
  using Clock = std::chrono::steady_clock;
  struct Other {
    Clock::time_point heard;
    std::string state;
  };

  ~Watchdog() { stop(); }
  void watch();

  std::atomic<uint64_t> beats_{0};
  std::atomic<const char*> phase_{"starting"};
  std::atomic<int64_t> round_{-1}, client_{-1};
  Clock::duration timeout_{};
  std::function<void(const std::string&)> alarm_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::vector<Other> others_;
  std::span<char> shown_;
  Clock::time_point looked_{}, told_{};
};

}  // namespace fl_sim
