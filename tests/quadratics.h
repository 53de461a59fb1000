// The selftest's problems and its way to run them, for tests.
#pragma once

#include <torch/torch.h>

#include "any_job.h"
#include "commands/selftest/experiments.h"
#include "storage/results.h"

namespace fl_sim {
using namespace selftest;
}  // namespace fl_sim
