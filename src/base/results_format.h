// The form of results files, which others read, and so do a job (--job x.h5), a model (--init
// x.h5), a comparison and a run that goes on.
#pragma once

#include <cstdint>
#include <string>

#include "base/hdf5_file.h"

namespace fl_sim {

// /provenance/format; files without it are of format 1. It is counted up when something that is
// there changes its meaning, or goes; what is added only leaves it as it is.
constexpr int64_t kResultsFormat = 1;

// results/README.md, whose tables say what each column means.
const char* results_readme();

// Throws Error if the file is a results file of a later form.
void check_results_format(const Hdf5File& file, const std::string& path);

}  // namespace fl_sim
