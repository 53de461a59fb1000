// Which clients train together, and on which rank.
//
// Groups follow from the cohort alone, so results do not depend on the number of ranks; the deal to
// ranks follows the predicted time and where client state lies.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

namespace fl_sim {

struct PlannedGroup {
  std::vector<int64_t> ids;          // most steps first, then by id
  std::vector<int64_t> limits = {};  // of each client's work, see ClientGroup; empty: none
  std::vector<double> weights = {};  // of each client's update, by the sampler; empty: by the job
  double seconds = 0;                // predicted, on a rank of speed 1
  int64_t rank = 0;
  int64_t lane = 0;
  // In an asynchronous run: the version of the model that they start from, how often they have done
  // so before, and of each client the number of its task and the version that it helps to make.
  int64_t base = -1;  // -1: the newest one
  int64_t repeat = 0;
  std::vector<int64_t> tasks = {}, due = {};
};

// A client's state that has to travel before the round.
struct StateMove {
  int64_t client, from, to;
};

// What everyone does next, as rank 0 decides it and everyone learns it: one exchange of a round,
// before it what the sampler asks clients, or clients' evaluation of the model after it.
struct RoundPlan {
  enum class Kind : int64_t { kStop, kPause, kTrain, kEvaluate, kAsk };
  Kind kind = Kind::kStop;  // kStop: the run is over; kPause: another one will go on
  int64_t round = 0, exchange = 0;
  bool new_model = true;   // the model has changed since it was broadcast last
  bool roll_back = false;  // the last round does not count
  int64_t checkpoint = 0;  // first save what there is after this round; 0: nothing
  // In the cohort, stragglers and lost clients included, by lane; and samples that these hold.
  std::vector<int64_t> clients = {}, samples = {};
  std::vector<PlannedGroup> groups = {};
  std::vector<StateMove> moves = {};
  // In an asynchronous run: versions of the model that hosts need from now on, and those of them
  // that they have to be sent.
  std::vector<int64_t> bases = {}, sends = {};

  std::string encode() const;
  // What `rank` has to know: its own groups, without predictions, and all moves.
  static RoundPlan decode(const std::string& bytes, int64_t rank);
};

// What all ranks do together with the rows that hosts keep, between an exchange's sum and the
// server's step: rank 0 decides, everyone learns.
struct Meeting {
  enum class Kind : int64_t { kNothing, kProducts, kAggregate };
  struct Set {
    std::vector<int64_t> rows;           // clients, ascending; or dispatch numbers of tasks
    std::vector<double> weights = {};    // p_k, for an aggregate
    std::vector<double> staleness = {};  // where updates are of several versions
  };
  Kind kind = Kind::kNothing;
  std::vector<Set> sets = {};  // one result each

  std::string encode() const;
  static Meeting decode(const std::string& bytes);
};

// A rank that trains. It needs seconds / speed for a group.
struct HostSpeed {
  int64_t rank;
  double speed = 1;
};

// Cuts clients into groups of `group_size`, sorted by (steps descending, id).
std::vector<PlannedGroup> make_groups(const std::vector<int64_t>& cohort, int64_t group_size,
                                      const std::function<int64_t(int64_t client)>& steps);

// Deals groups to hosts, longest first, each to the host that is through with it first; a host that
// holds the state of most of a group's clients gets it if that is at most a tenth of an even share
// later. Where clients' state lies is in `holders`, be it at one of these hosts or elsewhere, and
// is updated; returns the moves.
std::vector<StateMove> deal(std::vector<PlannedGroup>& groups, const std::vector<HostSpeed>& hosts,
                            std::unordered_map<int64_t, int64_t>* holders, bool random);

}  // namespace fl_sim
