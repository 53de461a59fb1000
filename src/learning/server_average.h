// The server's average of its models over rounds, which is evaluated and saved in place of the last
// one; training goes on from the last one. Around any algorithm.
//
//   ema   e <- d e + (1 - d) w after each round, e = w at first; d = min(decay, (1+t)/(10+t)) after
//   t
//         rounds if it is dynamic (as pfl-research has it)
//   swa   the mean of w over rounds `start`, `start` + `every`, ...; until then w itself
//         (Izmailov et al., Averaging weights leads to wider optima and better generalization, UAI
//         2018, on the server's models)
#pragma once

#include <memory>

#include "base/job.h"
#include "learning/wrapper.h"

namespace fl_sim {

// The algorithm, with such an average around it if the job wants one (server.average).
std::unique_ptr<Algorithm> with_average(std::unique_ptr<Algorithm> algorithm, const Job& job);

}  // namespace fl_sim
