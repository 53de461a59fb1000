// The tables of a results file: which column holds what of a record. The list of columns is the
// same for writing and for reading.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/hdf5_file.h"
#include "learning/records.h"
#include "storage/record_log.h"

namespace fl_sim {

// /rounds. RoundRecord::figures are columns beside the others, of the rounds that have them; NaN
// elsewhere. `asked`: what the job's `metrics` name; such a column is there even where nothing
// could be measured. A column that is not there leaves the records as they are.
void write_rounds(Hdf5File& file, const std::vector<RoundRecord>& rounds,
                  const std::set<std::string>& asked = {});
std::vector<RoundRecord> read_rounds(const Hdf5File& file);

// /clients. `scalars`: what the columns of ClientRecord::scalars are called. Reading: into an empty
// log.
void write_clients(Hdf5File& file, const RecordLog<ClientRecord>& clients,
                   const std::vector<std::string>& scalars);
void read_clients(const Hdf5File& file, const std::vector<std::string>& scalars,
                  RecordLog<ClientRecord>& clients);
// What a file's scalars are called: columns of /clients that are no others, eight at most.
std::vector<std::string> scalars_in(const Hdf5File& file);

// /evaluations, with the metrics that were asked for.
void write_evaluations(Hdf5File& file, const RecordLog<ClientEvaluation>& evaluations,
                       const std::set<std::string>& asked = {});
void read_evaluations(const Hdf5File& file, RecordLog<ClientEvaluation>& evaluations);

// /ranks.
void write_ranks(Hdf5File& file, const std::vector<RankRecord>& ranks);
// Without the names of hosts and devices.
std::vector<RankRecord> read_ranks(const Hdf5File& file);

// Throw Error if a name cannot be that of a column, or is another column's.
void check_figures(const std::map<std::string, double>& figures);
void check_scalars(const std::vector<std::string>& scalars);

}  // namespace fl_sim
