#include "learning/availability.h"

#include <algorithm>

namespace fl_sim {

Micros Availability::after_work(int64_t client, Micros time, Micros work) const {
  while (work > 0) {
    const Micros on = next_on(client, time);
    if (on > kEndOfTime) return kNever;
    const Micros off = next_off(client, on);
    const Micros done = off == kNever ? work : std::min(work, off - on);
    work -= done;
    time = on + done;
  }
  return time;
}

}  // namespace fl_sim
