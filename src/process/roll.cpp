#include "process/roll.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <new>

#include "base/check.h"
#include "base/version.h"
#include "process/leaving.h"
#include "process/watchdog.h"

namespace fl_sim {

struct Roll::Mark {
  std::atomic<int32_t> process{0}, rank{0}, left{0};
  std::atomic<uint64_t> space{0};  // the inode of its space of process ids
  char doing[104] = {};
};

namespace {

uint64_t own_space() {
  struct stat status {};
  return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

// A dead process that its parent has not asked after yet.
bool is_zombie(pid_t process) {
  std::string line;
  std::getline(std::ifstream(message("/proc/", process, "/stat")), line);
  const size_t name_end = line.rfind(')');
  return name_end != std::string::npos && name_end + 2 < line.size() &&
         (line[name_end + 2] == 'Z' || line[name_end + 2] == 'X');
}

}  // namespace

Roll::Roll(Communicator& comm) : rank_(comm.rank()), own_(comm.node_rank()) {
  for (char* slot : comm.memory().slots(sizeof(Mark)))
    marks_.push_back(reinterpret_cast<Mark*>(slot));
  if (marks_.empty()) return;
  // Zeros from before are a rank that has not come yet.
  Mark& own = *new (marks_[static_cast<size_t>(own_)]) Mark;
  own.space = own_space();
  own.rank = rank_;
  own.process = getpid();
  own_left = &own.left;
  Watchdog::get().show_in({own.doing, sizeof own.doing});
}

Roll::~Roll() {
  leave_roll();
  own_left = nullptr;
  Watchdog::get().show_in({});
}

bool Roll::is_gone(const Mark& mark, bool thoroughly) const {
  const pid_t process = mark.process;
  if (process == 0 || mark.left != 0 || mark.space != marks_[static_cast<size_t>(own_)]->space)
    return false;
  if (kill(process, 0) != 0 && errno == ESRCH) return mark.left == 0;
  return thoroughly && is_zombie(process) && mark.left == 0;
}

std::optional<Roll::Gone> Roll::gone(bool now) {
  const auto time = Clock::now();
  if (marks_.empty() || (!now && time < next_)) return {};
  next_ = time + std::chrono::milliseconds(100);
  const bool thoroughly = now || time >= next_thorough_;
  if (thoroughly) next_thorough_ = time + std::chrono::seconds(1);
  const Mark* missed = nullptr;
  bool first = true;  // of those that are left
  for (size_t place = 0; place < marks_.size(); ++place) {
    if (static_cast<int>(place) == own_) continue;
    const bool is_missed = is_gone(*marks_[place], thoroughly);
    if (is_missed && missed == nullptr) missed = marks_[place];
    if (!is_missed && static_cast<int>(place) < own_) first = false;
  }
  if (missed == nullptr) return {};
  if (missed->rank == 0 && !first) {
    if (alone_since_ == Clock::time_point{}) alone_since_ = time;
    if (time - alone_since_ < std::chrono::seconds(5)) return {};
  }
  const std::string doing(missed->doing, strnlen(missed->doing, sizeof missed->doing));
  return Gone{missed->rank,
              message("rank ", missed->rank.load(), " (process ", missed->process.load(), " on ",
                      host_name(), ") was killed or has crashed: it was ",
                      doing.empty() ? "starting" : doing,
                      " (the system's log may say more: journalctl -k, dmesg, or the batch "
                      "system's account of memory)")};
}

}  // namespace fl_sim
