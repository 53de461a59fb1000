// What is "auto" in a job is made definite, so that the job in the results file says what was run.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/job.h"
#include "data/dataset.h"
#include "network/network.h"

namespace fl_sim {

// As many clients as the partitioner knows of, else 100.
void resolve_clients(Job& job, const Dataset& data);

// After resolve_clients().
void resolve_cohort(Job& job);

// Notes if a GPU is left alone that somebody may count on.
void resolve_device(Job& job, std::vector<std::string>& notes);

// Clients per group: on a CPU one client's weights stay in the cache; a GPU wants a large stack, of
// at most 2^28 numbers with gradients and momentum, at most 4,096 samples a step, whose activations
// have to fit as well, and no more clients than the cohort has. Throws Error if the model cannot
// train that many at a time. After the other ones.
void resolve_group_size(Job& job, const Network& network);

// All of these without the job's data; nothing where a GPU is asked for. Clients that are the
// data's own are as many as in `former`, a job that was resolved with its data.
std::optional<Job> resolved_without_data(Job job, const std::map<std::string, std::string>& former);

}  // namespace fl_sim
