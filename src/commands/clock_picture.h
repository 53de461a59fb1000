// Who is busy when in virtual time, as a picture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

// What became of a client's task.
enum class TaskFate { kCounts, kLate, kNotNeeded, kOffline, kLost };

// A client's task, in virtual seconds.
struct BusyTask {
  int64_t client = 0;
  double start = 0, finish = 0;          // until it is over for the client, whatever the reason
  double down = 0, compute = 0, up = 0;  // its phases, without pauses
  TaskFate fate = TaskFate::kCounts;
};

struct BusyPicture {
  std::string title;
  std::vector<BusyTask> tasks;
  std::vector<double> ends = {};  // of rounds, seconds
  std::string end_name = "a round ends", late_name = "late";
};

// So many clients have a line of their own.
constexpr size_t kMostBusyClients = 120;

// What gnuplot is told to draw into `path`, a .svg or .png: a line a client, a bar a task, thick
// where it computes and thin where it receives and sends, coloured by what became of it, until its
// client begins another. Of more clients than there is room for some are shown.
std::string busy_script(const BusyPicture& picture, const std::string& path);

}  // namespace fl_sim
