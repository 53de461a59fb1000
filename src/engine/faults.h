// Faults that a job asks for (key `inject`), to see what comes of them: in tests, and in research
// on algorithms that have to live with them.
//
//   client-crash@ROUND:CLIENT        the client is drawn, but never answers
//   nan-update@ROUND:CLIENT          its update is not a number
//   slow-client@ROUND:CLIENT:SECONDS it takes so much longer
//   rank-crash@ROUND:RANK            the rank is killed; not in a run that was continued
//   rank-error@ROUND:RANK            the rank has an error; not in a run that was continued
//   rank-stall@ROUND:RANK            the rank stops, as by SIGSTOP; not in a run that was continued
//   slow-rank@ROUND:RANK:FACTOR      from this round on the rank takes so many times as long
//
// Several have commas between them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fl_sim {

struct Faults {
  enum class Kind {
    kClientCrash,
    kNanUpdate,
    kSlowClient,
    kRankCrash,
    kRankError,
    kRankStall,
    kSlowRank
  };
  struct Fault {
    Kind kind;
    int64_t round;
    int64_t whom;  // client or rank
    double amount = 0;
  };
  std::vector<Fault> all;

  // Throws Error if the text cannot be understood; "none" is no faults.
  static Faults parse(const std::string& text);

  bool has(Kind kind, int64_t round, int64_t whom) const;
  double seconds(int64_t round, int64_t client) const;  // of slow-client; 0 without
  double slowness(int64_t round, int64_t rank) const;   // of slow-rank; 1 without
};

}  // namespace fl_sim
