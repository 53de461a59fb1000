#include "engine/faults.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "base/check.h"

namespace fl_sim {
namespace {

struct Form {
  const char* name;
  Faults::Kind kind;
  const char* rest;
  bool has_amount;
};
constexpr std::array<Form, 7> kForms = {{
    {"client-crash", Faults::Kind::kClientCrash, "ROUND:CLIENT", false},
    {"nan-update", Faults::Kind::kNanUpdate, "ROUND:CLIENT", false},
    {"slow-client", Faults::Kind::kSlowClient, "ROUND:CLIENT:SECONDS", true},
    {"rank-crash", Faults::Kind::kRankCrash, "ROUND:RANK", false},
    {"rank-error", Faults::Kind::kRankError, "ROUND:RANK", false},
    {"rank-stall", Faults::Kind::kRankStall, "ROUND:RANK", false},
    {"slow-rank", Faults::Kind::kSlowRank, "ROUND:RANK:FACTOR", true},
}};

}  // namespace

Faults Faults::parse(const std::string& text) {
  Faults faults;
  if (text == "none") return faults;
  std::istringstream in(text);
  std::string item;
  while (std::getline(in, item, ',')) {
    item.erase(0, item.find_first_not_of(' '));
    const std::string name = item.substr(0, item.find('@'));
    const auto form = std::find_if(kForms.begin(), kForms.end(),
                                   [&](const Form& one) { return name == one.name; });
    std::string names;
    for (const Form& one : kForms) names += message(names.empty() ? "" : ", ", one.name);
    FL_CHECK(form != kForms.end(), "inject has '", item, "' (faults are ", names, ")");
    Fault fault{form->kind, 0, -1};
    char colon = 0;
    std::istringstream rest(item.substr(std::min(item.size(), name.size() + 1)));
    bool good = static_cast<bool>(rest >> fault.round >> colon >> fault.whom) && colon == ':';
    if (good && form->has_amount)
      good = static_cast<bool>(rest >> colon >> fault.amount) && colon == ':';
    const double least = form->kind == Kind::kSlowRank ? 1 : 0;
    good = good && (rest >> std::ws).eof() && fault.round >= 1 && fault.whom >= 0 &&
           std::isfinite(fault.amount) && (!form->has_amount || fault.amount >= least);
    FL_CHECK(good, "inject has '", item, "' (must be ", form->name, "@", form->rest,
             ", rounds from 1, clients and ranks from 0",
             form->kind == Kind::kSlowRank ? ", a factor of at least 1)" : ")");
    faults.all.push_back(fault);
  }
  return faults;
}

bool Faults::has(Kind kind, int64_t round, int64_t whom) const {
  return std::any_of(all.begin(), all.end(), [&](const Fault& fault) {
    return fault.kind == kind && fault.round == round && fault.whom == whom;
  });
}

double Faults::seconds(int64_t round, int64_t client) const {
  double total = 0;
  for (const Fault& fault : all) {
    if (fault.kind == Kind::kSlowClient && fault.round == round && fault.whom == client)
      total += fault.amount;
  }
  return total;
}

double Faults::slowness(int64_t round, int64_t rank) const {
  double factor = 1;
  for (const Fault& fault : all) {
    if (fault.kind == Kind::kSlowRank && fault.round <= round && fault.whom == rank)
      factor *= fault.amount;
  }
  return factor;
}

}  // namespace fl_sim
