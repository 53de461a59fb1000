// Who is drawn: rules of papers against their numbers, chances against frequencies, and mistakes
// that other simulators make.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "any_job.h"
#include "learning/selection.h"

namespace fl_sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Sizes = std::vector<int64_t>;
using Clients = std::vector<int64_t>;
// Chances of cohorts.
using Law = std::map<Clients, double>;

Partition partition_of(const Sizes& sizes) {
  std::vector<std::vector<int64_t>> lists;
  int64_t next = 0;
  for (const int64_t size : sizes) {
    lists.emplace_back();
    for (int64_t i = 0; i < size; ++i) lists.back().push_back(next++);
  }
  return make_partition(std::move(lists));
}

// A sampler with a memory and a population, and what its oracle says.
struct World {
  World(const std::string& name, const std::string& lines, Sizes sizes, int64_t cohort)
      : partition(partition_of(sizes)), clients(std::ssize(sizes)), m(cohort), all(clients) {
    job.emplace(any_job(
        message("sampler = ", name, "\nclients = ", clients, "\ncohort = ", cohort, "\n", lines)));
    sampler = make<Sampler>(name, {*job, clients});
    sampler->init(memory, clients);
  }

  SampleRequest request(const Candidates& who) const {
    SampleRequest r{.round = round,
                    .cohort = m,
                    .candidates = who,
                    .partition = partition,
                    .memory = memory,
                    .population = &all,
                    .now = now,
                    .answers = answers,
                    .anytime = anytime};
    if (!seconds.empty()) {
      r.oracle.task = [this](int64_t client) {
        return PlannedTask{.down = 0,
                           .compute = seconds[static_cast<size_t>(client)],
                           .up = 0,
                           .samples = partition.size(client)};
      };
      r.oracle.usual = r.oracle.task;
    }
    return r;
  }

  std::vector<Drawn> draw(const Candidates& who) const {
    Rng rng(seed, "sampler", round);
    return sampler->sample(request(who), rng);
  }
  std::vector<Drawn> draw() const { return draw(all); }
  Clients drawn(const Candidates& who) const {
    Clients ids;
    for (const Drawn& one : draw(who)) ids.push_back(one.client);
    return ids;
  }
  Clients drawn() const { return drawn(all); }

  // A client that has trained on all its samples, in a round that lasted `took` seconds for it.
  static ClientRecord report(int64_t client, int64_t at, int64_t samples, double loss,
                             double took = kNotMeasured) {
    ClientRecord record;
    record.client = client;
    record.round = at;
    record.samples = record.samples_seen = samples;
    record.loss = loss;
    record.squared_loss = loss * loss;
    record.start_seconds = 0;
    record.finish_seconds = took;
    return record;
  }

  // Frequencies of cohorts in `draws` rounds; the round goes on, the memory does not.
  std::map<Clients, int64_t> frequencies(int64_t draws, const Candidates& who) {
    std::map<Clients, int64_t> counts;
    for (int64_t i = 0; i < draws; ++i) {
      seed = static_cast<uint64_t>(i);
      ++counts[drawn(who)];
    }
    return counts;
  }

  std::optional<Job> job;
  Partition partition;
  int64_t clients, m;
  Candidates all;
  std::unique_ptr<Sampler> sampler;
  State memory;
  int64_t round = 1;
  bool anytime = false;
  uint64_t seed = 7;
  double now = kNotMeasured;
  std::vector<double> seconds;  // of tasks; empty: no virtual time
  std::map<int64_t, double> answers;
};

constexpr int64_t kDraws = 100000;

// That cohorts come as often as the law has it: Pearson's statistic against the quantile that one
// in 10^5 true laws exceeds (Wilson & Hilferty).
void expect_law(const std::map<Clients, int64_t>& counts, const Law& law) {
  double statistic = 0, all = 0, chance = 0;
  for (const auto& [cohort, count] : counts) {
    all += static_cast<double>(count);
    ASSERT_TRUE(law.contains(cohort)) << testing::PrintToString(cohort) << " cannot be drawn";
  }
  for (const auto& [cohort, p] : law) {
    const auto found = counts.find(cohort);
    const double observed = found == counts.end() ? 0 : static_cast<double>(found->second);
    chance += p;
    if (p > 0) statistic += (observed - all * p) * (observed - all * p) / (all * p);
  }
  EXPECT_NEAR(chance, 1, 1e-9);
  const auto degrees = static_cast<double>(law.size() - 1);
  if (degrees == 0) return;
  const double z = 4.265, a = 2 / (9 * degrees);
  EXPECT_LT(statistic, degrees * std::pow(1 - a + z * std::sqrt(a), 3));
}

// Every cohort of m among `ids`.
void subsets(const Clients& ids, int64_t m, const std::function<void(const Clients&)>& each) {
  const auto n = std::ssize(ids);
  for (int64_t mask = 0; mask < (int64_t{1} << n); ++mask) {
    Clients one;
    for (int64_t k = 0; k < n; ++k) {
      if ((mask >> k & 1) != 0) one.push_back(ids[static_cast<size_t>(k)]);
    }
    if (m < 0 || std::ssize(one) == m) each(one);
  }
}

Law uniform_law(const Clients& ids, int64_t m) {
  Law law;
  subsets(ids, m, [&](const Clients& one) { law[one] = 0; });
  for (auto& [cohort, chance] : law) chance = 1 / static_cast<double>(law.size());
  return law;
}

// Draws one after the other in proportion to weights.
void successive(const std::vector<double>& weights, int64_t m, std::set<int64_t> taken, double p,
                Law& law) {
  if (std::ssize(taken) == m) {
    law[Clients(taken.begin(), taken.end())] += p;
    return;
  }
  double left = 0;
  for (int64_t k = 0; k < std::ssize(weights); ++k)
    left += taken.contains(k) ? 0 : weights[static_cast<size_t>(k)];
  for (int64_t k = 0; k < std::ssize(weights); ++k) {
    if (taken.contains(k)) continue;
    std::set<int64_t> more = taken;
    more.insert(k);
    successive(weights, m, more, p * weights[static_cast<size_t>(k)] / left, law);
  }
}

// Independent draws.
Law poisson_law(const std::vector<double>& chances) {
  Clients ids(chances.size());
  std::iota(ids.begin(), ids.end(), int64_t{0});
  Law law;
  subsets(ids, -1, [&](const Clients& one) {
    double p = 1;
    for (size_t k = 0; k < chances.size(); ++k) {
      const bool in = std::find(one.begin(), one.end(), static_cast<int64_t>(k)) != one.end();
      p *= in ? chances[k] : 1 - chances[k];
    }
    if (p > 0) law[one] = p;
  });
  return law;
}

// Of urns from each of which one is drawn.
void urn_law(const std::vector<std::vector<double>>& urns, size_t next, std::set<int64_t> taken,
             double p, Law& law) {
  if (next == urns.size()) {
    law[Clients(taken.begin(), taken.end())] += p;
    return;
  }
  for (size_t k = 0; k < urns[next].size(); ++k) {
    if (urns[next][k] == 0) continue;
    std::set<int64_t> more = taken;
    more.insert(static_cast<int64_t>(k));
    urn_law(urns, next + 1, more, p * urns[next][k], law);
  }
}

void expect_near(const std::vector<double>& values, const std::vector<double>& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], 1e-12) << i;
}

// Rules and their numbers ------------------------------------------------------------------------

// Proves Fraboni's algorithm 1 by its example: sizes 6, 3, 1 in two urns of 10.
TEST(Selection, ClusteredUrns) {
  const auto urns = clustered_urns({6, 3, 1}, 2);
  expect_near(urns[0], {1, 0, 0});
  expect_near(urns[1], {0.2, 0.6, 0.2});
  // The order of clients does not matter, and sums over urns are m p_k.
  const auto others = clustered_urns({1, 6, 3}, 2);
  expect_near(others[0], {0, 1, 0});
  expect_near(others[1], {0.2, 0.2, 0.6});
}

// Proves Chen's chances by two examples, in any order; no chance is more than 1 (FedLab's sampler
// gives the last of 1, 1, 1, 9 a chance of 3), and all of them come to m.
TEST(Selection, OptimalChances) {
  expect_near(optimal_chances({1, 2, 3, 4}, 2), {0.2, 0.4, 0.6, 0.8});
  expect_near(optimal_chances({1, 1, 1, 9}, 2), {1.0 / 3, 1.0 / 3, 1.0 / 3, 1});
  expect_near(optimal_chances({9, 1, 1, 1}, 2), {1, 1.0 / 3, 1.0 / 3, 1.0 / 3});
  expect_near(optimal_chances({5, 0, 5}, 3), {1, 1, 1});
  expect_near(optimal_chances({0, 0, 0, 0}, 1), {0.25, 0.25, 0.25, 0.25});
  expect_near(optimal_chances({0, 0, 7}, 2), {0.5, 0.5, 1});
  for (const int64_t m : {1, 2, 3, 4}) {
    const auto chances = optimal_chances({0.1, 7, 2, 30, 2}, m);
    EXPECT_NEAR(std::accumulate(chances.begin(), chances.end(), 0.0), static_cast<double>(m),
                1e-12);
    for (const double p : chances) EXPECT_LE(p, 1);
  }
}

// Proves AOCS: without rescaling what does not fit is lost; with four of them the chances come
// near to the best ones.
TEST(Selection, ApproximateChances) {
  expect_near(approximate_chances({1, 2, 3, 4}, 2, 4), {0.2, 0.4, 0.6, 0.8});
  expect_near(approximate_chances({1, 1, 1, 9}, 2, 0), {1.0 / 6, 1.0 / 6, 1.0 / 6, 1});
  expect_near(approximate_chances({1, 1, 1, 9}, 2, 4), {1.0 / 3, 1.0 / 3, 1.0 / 3, 1});
}

// Proves TiFL's chances: by ascending accuracy 5, 4, 3, 2, 1 fifteenths.
TEST(Selection, TierChances) {
  const auto chances = tier_chances({.5, .7, .6, .9, .8}, std::vector<bool>(5, true));
  expect_near(chances, {5 / 15.0, 3 / 15.0, 4 / 15.0, 1 / 15.0, 2 / 15.0});
  expect_near(tier_chances({.5, .7, .6}, {true, false, true}), {2 / 3.0, 0, 1 / 3.0});
}

TEST(Selection, OortUtility) {
  EXPECT_NEAR(oort_utility(10, 10, 1, 4, 2, 2), 2.619963, 5e-7);
  EXPECT_NEAR(oort_utility(4, 10, 9, 1, 2, 2), 4.159951, 5e-7);
  EXPECT_DOUBLE_EQ(oort_utility(4, 10, 9, kNotMeasured, 2, 2), oort_utility(4, 10, 9, 1, 2, 2));
}

// Proves the race that draws without replacement: cohorts come as by draws one after the other.
TEST(Selection, DrawsInProportion) {
  const std::vector<double> weights = {1, 2, 3, 6};
  Law law;
  successive(weights, 2, {}, 1, law);
  std::map<Clients, int64_t> counts;
  for (int64_t i = 0; i < kDraws; ++i) {
    Rng rng(3, "test", i);
    ++counts[draw_in_proportion(weights, 2, rng)];
  }
  expect_law(counts, law);
  Rng rng(3, "test");
  // A weight of 0 comes last; there are no more than there are.
  EXPECT_THAT(draw_in_proportion(std::vector<double>{0, 1, 0, 2}, 2, rng), ElementsAre(1, 3));
  EXPECT_THAT(draw_in_proportion(std::vector<double>{0, 1}, 5, rng), ElementsAre(0, 1));
}

// Chances and weights ----------------------------------------------------------------------------

TEST(Samplers, ComeAsOftenAsTheyShould) {
  const Sizes sizes = {6, 3, 1, 2, 4};
  const Clients everybody = {0, 1, 2, 3, 4};
  const Candidates four(Clients{0, 1, 3, 4});
  {
    World world("uniform", "uniform.weights = unbiased", sizes, 2);
    expect_law(world.frequencies(kDraws, world.all), uniform_law(everybody, 2));
  }
  {
    World world("poisson", "", sizes, 2);
    expect_law(world.frequencies(kDraws, world.all), poisson_law(std::vector<double>(5, 0.4)));
    World more("poisson", "", sizes, 5);
    EXPECT_EQ(more.drawn(), everybody);
  }
  {
    World world("clustered", "", sizes, 3);
    Law law;
    urn_law(clustered_urns(sizes, 3), 0, {}, 1, law);
    expect_law(world.frequencies(kDraws, world.all), law);
    Law of_four;
    urn_law(clustered_urns({6, 3, 0, 2, 4}, 3), 0, {}, 1, of_four);
    expect_law(world.frequencies(kDraws, four), of_four);
  }
  {
    World world("cyclic", "cyclic.groups = 2", sizes, 1);
    const auto first = world.frequencies(kDraws, world.all);
    world.round = 2;
    const auto second = world.frequencies(kDraws, world.all);
    Clients of_first, of_second;
    for (const auto& [cohort, count] : first) of_first.push_back(cohort[0]);
    for (const auto& [cohort, count] : second) of_second.push_back(cohort[0]);
    EXPECT_EQ(of_first.size() + of_second.size(), 5u);
    expect_law(first, uniform_law(of_first, 1));
    expect_law(second, uniform_law(of_second, 1));
    world.round = 3;
    for (const auto& [cohort, count] : world.frequencies(1000, world.all))
      EXPECT_TRUE(first.contains(cohort));
  }
  {  // all that are asked are drawn: in proportion to samples
    World world("poc", "poc.d = 2\npoc.variant = rpow", sizes, 2);
    expect_law(world.frequencies(kDraws, world.all), uniform_law(everybody, 2));  // at first
    world.sampler->learn(world.memory, std::vector<ClientRecord>());
    Law law;
    successive({6, 3, 1, 2, 4}, 2, {}, 1, law);
    expect_law(world.frequencies(kDraws, world.all), law);
  }
  {
    World world("optimal", "weighting = uniform", {1, 1, 1, 1}, 2);
    world.answers = {{0, 1}, {1, 2}, {2, 3}, {3, 4}};
    expect_law(world.frequencies(kDraws, world.all), poisson_law({.2, .4, .6, .8}));
  }
  {  // two tiers of two, the fast and the slow ones
    World world("tifl", "devices = spread\ntifl.policy = uniform\ntifl.tiers = 2", {1, 1, 1, 1}, 1);
    world.seconds = {5, 1, 7, 2};
    expect_law(world.frequencies(kDraws, world.all), uniform_law({0, 1, 2, 3}, 1));
    World both("tifl", "devices = spread\ntifl.policy = uniform\ntifl.tiers = 2", {1, 1, 1, 1}, 2);
    both.seconds = {5, 1, 7, 2};
    expect_law(both.frequencies(kDraws, both.all), {{{1, 3}, 0.5}, {{0, 2}, 0.5}});
    // Where one tier cannot be reached, the other one is drawn.
    EXPECT_THAT(both.drawn(Candidates(Clients{1, 3})), ElementsAre(1, 3));
    World fast("tifl", "devices = spread\ntifl.policy = fast\ntifl.tiers = 2", {1, 1, 1, 1}, 1);
    fast.seconds = {5, 1, 7, 2};
    expect_law(fast.frequencies(kDraws, fast.all), uniform_law({1, 3}, 1));
    EXPECT_THAT(fast.drawn(Candidates(Clients{0})), ElementsAre(0));
  }
}

// Proves E[sum_k weight_k x_k] = sum_k p_k x_k on fixed vectors, within five standard errors, of
// all samplers that say so; over all candidates and over those that can be reached.
TEST(Samplers, EstimateTheSum) {
  const Sizes sizes = {6, 3, 1, 2, 4};
  const std::vector<double> x = {1, -2, 5, 0.5, 3};
  struct Way {
    std::string name, lines;
    std::map<int64_t, double> answers = {};
    bool by_samples = true;
  };
  const std::vector<Way> ways = {
      {"uniform", "uniform.weights = unbiased"},
      {"uniform", "uniform.weights = unbiased\nweighting = uniform", {}, false},
      {"multinomial", ""},
      {"poisson", ""},
      {"poisson", "weighting = uniform", {}, false},
      {"clustered", ""},
      {"optimal", "", {{0, 1}, {1, 2}, {2, 3}, {3, 0.1}, {4, 7}}},
      {"optimal", "optimal.chances = approximate", {{0, 1}, {1, 2}, {2, 3}, {3, 0.1}, {4, 7}}},
      {"tifl", "devices = spread\ntifl.policy = uniform\ntifl.tiers = 2\ntifl.weights = unbiased"}};
  for (const Way& way : ways) {
    SCOPED_TRACE(way.name + " " + way.lines);
    World world(way.name, way.lines, sizes, 2);
    world.answers = way.answers;
    world.seconds = {5, 1, 7, 2, 3};
    EXPECT_TRUE(world.sampler->weighs());
    EXPECT_FALSE(world.sampler->biased());
    for (const Candidates& who : {Candidates(5), Candidates(Clients{0, 2, 3, 4})}) {
      if (!who.everybody() && !way.answers.empty()) continue;
      double expected = 0, all = 0;
      for (int64_t place = 0; place < who.size(); ++place) {
        const auto k = static_cast<size_t>(who.id(place));
        const double p = way.by_samples ? static_cast<double>(sizes[k]) : 1;
        expected += p * x[k];
        all += p;
      }
      expected /= all;
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < kDraws; ++i) {
        world.seed = static_cast<uint64_t>(i);
        double estimate = 0;
        for (const Drawn& one : world.draw(who))
          estimate += one.weight * x[static_cast<size_t>(one.client)];
        sum += estimate;
        squares += estimate * estimate;
      }
      const double mean = sum / kDraws, variance = squares / kDraws - mean * mean;
      EXPECT_NEAR(mean, expected, 5 * std::sqrt(variance / kDraws) + 1e-9);
    }
  }
}

TEST(Samplers, RefuseWhatTheyCannotDo) {
  const auto refused = [](const std::string& name, const std::string& lines) {
    return error_of([&] { World(name, lines, {1, 1, 1, 1}, 2); });
  };
  EXPECT_THAT(refused("poisson", "weighting = loss"), HasSubstr("weighting is loss, but sampler"));
  EXPECT_THAT(refused("clustered", "weighting = uniform"), HasSubstr("weighting is uniform"));
  EXPECT_THAT(refused("poc", "poc.d = 5"), HasSubstr("poc.d is 5 (must be 2 to 4"));
  EXPECT_THAT(refused("poc", "poc.d = 1"), HasSubstr("poc.d is 1 (must be 2 to 4"));
  EXPECT_THAT(refused("cyclic", "cyclic.groups = 5"), HasSubstr("cyclic.groups is 5"));
  EXPECT_THAT(refused("oort", "devices = spread"), HasSubstr("oort.step is 0, but there is"));
  EXPECT_THAT(refused("tifl", ""), HasSubstr("devices is none"));
  EXPECT_THAT(refused("tifl", "devices = spread\ntifl.tiers = 2"),
              HasSubstr("evaluate-clients is 0"));
  EXPECT_THAT(
      refused("tifl",
              "devices = spread\ntifl.policy = fast\ntifl.tiers = 2\ntifl.weights = unbiased"),
      HasSubstr("other tiers are never drawn"));
  EXPECT_THAT(refused("refl", ""), HasSubstr("devices is none"));
  EXPECT_THAT(refused("fedcs", "fedcs.oracle-deadline = 1"), HasSubstr("devices is none"));
  EXPECT_THAT(refused("optimal", "optimal.candidates = 1"), HasSubstr("optimal.candidates is 1"));
}

// Active ------------------------------------------------------------------------------------------

// Proves V = sqrt(n) times the mean loss (Plato: loss / sqrt(n)), and that those whose value is low
// are left out of this draw alone (in Plato they stay out).
TEST(Active, ValuesLossesAndSamples) {
  World world("active", "active.lowest = 0.75\nactive.uniform = 0", {1, 4, 9, 16}, 1);
  const auto learn = [&](const std::vector<double>& losses) {
    std::vector<ClientRecord> records;
    for (int64_t k = 0; k < 4; ++k)
      records.push_back(World::report(k, 1, 1, losses[static_cast<size_t>(k)]));
    world.sampler->learn(world.memory, records);
  };
  // Values 2, 2.4, 2.1, 2: the second has the highest.
  learn({2, 1.2, 0.7, 0.5});
  EXPECT_THAT(world.drawn(), ElementsAre(1));
  learn({5, 1.2, 0.7, 0.5});
  EXPECT_THAT(world.drawn(), ElementsAre(0));
  // Late clients have said nothing of themselves.
  ClientRecord late = World::report(3, 2, 16, 100);
  late.status = static_cast<int64_t>(ClientStatus::kStraggler);
  world.sampler->learn(world.memory, std::vector<ClientRecord>{late});
  EXPECT_THAT(world.drawn(), ElementsAre(0));
}

// In proportion to e^(alpha V) among those that are not left out; the rest from all others.
TEST(Active, DrawsByItsLaw) {
  World world("active", "active.lowest = 0.5\nactive.sharpness = 1\nactive.uniform = 0.5",
              {1, 1, 1, 1}, 2);
  std::vector<ClientRecord> records;
  for (int64_t k = 0; k < 4; ++k)
    records.push_back(World::report(k, 1, 1, static_cast<double>(k) * std::log(3.0)));
  world.sampler->learn(world.memory, records);
  // The first of two is 2 or 3, with chances 1/4 and 3/4, the second any other one.
  const Law law = {{{0, 2}, .25 / 3},
                   {{1, 2}, .25 / 3},
                   {{2, 3}, 1.0 / 3},
                   {{0, 3}, .75 / 3},
                   {{1, 3}, .75 / 3}};
  expect_law(world.frequencies(kDraws, world.all), law);
}

// Power of choice ---------------------------------------------------------------------------------

// Proves that the clients are drawn whose losses are largest, not those at the losses' places among
// all clients (FLGo), and nobody else than who was asked.
TEST(PowerOfChoice, TakesTheLargestLosses) {
  World world("poc", "poc.d = 4", {5, 5, 5, 5, 5, 5, 5, 5}, 2);
  EXPECT_EQ(world.sampler->question(), Sampler::Question::kLoss);
  Rng first(1, "asked");
  EXPECT_TRUE(world.sampler->ask(world.request(world.all), first).empty());  // uniform
  world.sampler->learn(world.memory, std::vector<ClientRecord>());
  std::set<int64_t> ever;
  for (world.round = 2; world.round < 50; ++world.round) {
    Rng rng(1, "asked", world.round);
    const Clients asked = world.sampler->ask(world.request(world.all), rng);
    ASSERT_EQ(asked.size(), 4u);
    EXPECT_TRUE(std::is_sorted(asked.begin(), asked.end()));
    ever.insert(asked.begin(), asked.end());
    world.answers = {{asked[0], 2}, {asked[1], 9}, {asked[2], 1}, {asked[3], 3}};
    EXPECT_THAT(world.drawn(), ElementsAre(asked[1], asked[3]));
  }
  EXPECT_EQ(ever.size(), 8u);
}

// With d = N those with the largest losses of all; who has not trained yet comes first (rpow-d).
TEST(PowerOfChoice, OfAllClients) {
  World world("poc", "poc.d = 5\npoc.variant = rpow", {1, 2, 3, 4, 5}, 2);
  EXPECT_EQ(world.sampler->question(), Sampler::Question::kNothing);
  std::vector<ClientRecord> records;
  for (const auto& [client, loss] : std::map<int64_t, double>{{0, 3}, {1, 1}, {2, 8}, {4, 2}})
    records.push_back(World::report(client, 1, 1, loss));
  world.sampler->learn(world.memory, records);
  EXPECT_THAT(world.drawn(), ElementsAre(2, 3));
  world.sampler->learn(world.memory, std::vector<ClientRecord>{World::report(3, 2, 1, 0.1)});
  EXPECT_THAT(world.drawn(), ElementsAre(0, 2));
}

// Equal losses are a matter of chance.
TEST(PowerOfChoice, EqualLosses) {
  World world("poc", "poc.d = 4", {1, 1, 1, 1}, 2);
  world.sampler->learn(world.memory, std::vector<ClientRecord>());
  world.answers = {{0, 1}, {1, 1}, {2, 1}, {3, 1}};
  expect_law(world.frequencies(kDraws, world.all), uniform_law({0, 1, 2, 3}, 2));
}

// Oort --------------------------------------------------------------------------------------------

// Utilities of clients that reported in round 1.
World oort_world(const std::string& lines, Sizes sizes, int64_t m,
                 const std::map<int64_t, std::pair<double, double>>& loss_and_seconds) {
  World world("oort", lines, std::move(sizes), m);
  std::vector<ClientRecord> records;
  for (const auto& [client, report] : loss_and_seconds)
    records.push_back(
        World::report(client, 1, world.partition.size(client), report.first, report.second));
  world.sampler->learn(world.memory, records);
  world.round = 2;
  return world;
}

const Sizes kTen(10, 5);

// Proves the table's equality: everybody unexplored, of equal speed, and eps 1: uniform cohorts.
// Somebody has reported, so that it is not the first round's.
TEST(Oort, UnexploredOfEqualSpeed) {
  for (const char* by : {"oracle-speed", "oracle-size", "uniform"}) {
    World world = oort_world(message("devices = spread\noort.step = 1\noort.exploration = 1\n",
                                     "oort.exploration-decay = 1\noort.explore = ", by),
                             {5, 5, 5, 5, 5}, 2, {{4, {1, 1}}});
    world.seconds = {3, 3, 3, 3, 3};
    expect_law(world.frequencies(kDraws, Candidates(Clients{0, 1, 2, 3})),
               uniform_law({0, 1, 2, 3}, 2));
  }
}

// By speed: in proportion to 1 / seconds.
TEST(Oort, UnexploredBySpeed) {
  World world = oort_world(
      "devices = spread\noort.step = 1\noort.exploration = 1\n"
      "oort.exploration-decay = 1",
      {5, 5, 5, 5}, 1, {{3, {1, 1}}});
  world.seconds = {1, 2, 4, 1};
  expect_law(world.frequencies(kDraws, Candidates(Clients{0, 1, 2})),
             {{{0}, 4.0 / 7}, {{1}, 2.0 / 7}, {{2}, 1.0 / 7}});
}

TEST(Oort, FirstRoundIsUniform) {
  World world("oort", "devices = spread\noort.step = 1", {1, 9, 9, 9}, 2);
  world.seconds = {100, 1, 1, 1};
  expect_law(world.frequencies(kDraws, world.all), uniform_law({0, 1, 2, 3}, 2));
}

const char* const kExploit =
    "oort.exploration = 0\noort.exploration-min = 0\noort.clip = 1\noort.cut = 0\n";

// Draws in proportion to utility, with the bonus of the round and the penalty of time.
TEST(Oort, DrawsByUtility) {
  World world = oort_world(std::string(kExploit) + "devices = spread\noort.step = 2", {5, 5, 5}, 1,
                           {{0, {2, 4}}, {1, {1, 1}}, {2, {0.5, 2}}});
  world.round = 7;
  const std::vector<double> u = {oort_utility(10, 7, 1, 4, 2, 2), oort_utility(5, 7, 1, 1, 2, 2),
                                 oort_utility(2.5, 7, 1, 2, 2, 2)};
  const double all = u[0] + u[1] + u[2];
  expect_law(world.frequencies(kDraws, world.all),
             {{{0}, u[0] / all}, {{1}, u[1] / all}, {{2}, u[2] / all}});
}

// Without its system term durations do not matter; with it they do.
TEST(Oort, AlphaZeroKnowsNoTime) {
  for (const auto& [alpha, same] : {std::pair{0, true}, {2, false}}) {
    const std::string lines =
        message(kExploit, "devices = spread\noort.step = 2\noort.alpha = ", alpha);
    const World slow = oort_world(lines, {5, 5, 5}, 1, {{0, {2, 900}}, {1, {1, 1}}, {2, {1, 4}}});
    const World fast = oort_world(lines, {5, 5, 5}, 1, {{0, {2, 1}}, {1, {1, 1}}, {2, {1, 1}}});
    bool equal = true;
    for (uint64_t seed = 0; seed < 200; ++seed) {
      World a = oort_world(lines, {5, 5, 5}, 1, {{0, {2, 900}}, {1, {1, 1}}, {2, {1, 4}}});
      World b = oort_world(lines, {5, 5, 5}, 1, {{0, {2, 1}}, {1, {1, 1}}, {2, {1, 1}}});
      a.seed = b.seed = seed;
      equal = equal && a.drawn() == b.drawn();
    }
    EXPECT_EQ(equal, same);
  }
}

// Who has less than the share of the last one's utility is not drawn; FedScale keeps ten times the
// places. Utilities above the quantile are those at it.
TEST(Oort, CutPoolAndClip) {
  std::map<int64_t, std::pair<double, double>> reports;
  for (int64_t k = 0; k < 10; ++k) reports[k] = {static_cast<double>(10 - k), kNotMeasured};
  const std::string base = "oort.exploration = 0\noort.exploration-min = 0\n";
  const auto ever = [&](const std::string& lines) {
    World world = oort_world(base + lines, kTen, 2, reports);
    std::set<int64_t> clients;
    for (const auto& [cohort, count] : world.frequencies(2000, world.all))
      clients.insert(cohort.begin(), cohort.end());
    return Clients(clients.begin(), clients.end());
  };
  EXPECT_THAT(ever("oort.cut = 0.95\noort.clip = 1"), ElementsAre(0, 1));
  EXPECT_THAT(ever("oort.cut = 0.7\noort.clip = 1"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(ever("oort.cut = 1\noort.clip = 1\noort.pool = 2.5"), ElementsAre(0, 1, 2, 3, 4));
  // All of the upper half are worth the same.
  EXPECT_THAT(ever("oort.cut = 1\noort.clip = 0.5"), ElementsAre(0, 1, 2, 3, 4));
}

// Proves that |B| is the samples that were gone through, and that scaled utilities lie in [0, 1].
TEST(Oort, UtilityOfReports) {
  World world("oort", "", {5, 5}, 1);
  ClientRecord record = World::report(0, 1, 5, 2);
  record.samples_seen = 3;  // of five
  ClientRecord epochs = World::report(1, 1, 5, 2);
  epochs.samples_seen = 50;  // ten times all
  world.sampler->learn(world.memory, std::vector<ClientRecord>{record, epochs});
  const double* u = world.memory.at("oort.utility").data_ptr<double>();
  EXPECT_DOUBLE_EQ(u[0], 3 * 2);
  EXPECT_DOUBLE_EQ(u[1], 5 * 2);
}

// FedScale: when nobody unexplored is there, last round's explorers come again, twice or from
// offline, and the cohort stays short. Here it is filled up, once each, from who can be reached.
TEST(Oort, NobodyIsUnexplored) {
  std::map<int64_t, std::pair<double, double>> reports;
  for (int64_t k = 0; k < 8; ++k) reports[k] = {1, kNotMeasured};
  World world = oort_world("", kTen, 4, reports);  // 8 and 9 are unexplored, but away
  const Candidates who(Clients{0, 1, 2, 3, 4, 5});
  for (world.seed = 0; world.seed < 500; ++world.seed) {
    const Clients cohort = world.drawn(who);
    ASSERT_EQ(cohort.size(), 4u);
    EXPECT_EQ(std::set<int64_t>(cohort.begin(), cohort.end()).size(), 4u);
    for (const int64_t id : cohort) EXPECT_TRUE(who.contains(id));
  }
}

// FedScale: an index error where all scored clients are wanted.
TEST(Oort, AllAreWanted) {
  std::map<int64_t, std::pair<double, double>> reports;
  for (int64_t k = 0; k < 10; ++k) reports[k] = {1 + static_cast<double>(k), kNotMeasured};
  const World world = oort_world(kExploit, kTen, 10, reports);
  EXPECT_EQ(world.drawn().size(), 10u);
  const World fewer = oort_world("", kTen, 10, {{0, {1, kNotMeasured}}});
  EXPECT_EQ(fewer.drawn().size(), 10u);
}

// FedScale: stragglers that never trained get the mean utility, and count as explored.
TEST(Oort, StragglersHaveSaidNothing) {
  World world("oort", "", {5, 5, 5, 5, 5}, 1);
  std::vector<ClientRecord> records = {World::report(0, 1, 5, 2)};
  for (const ClientStatus status : {ClientStatus::kStraggler, ClientStatus::kLost,
                                    ClientStatus::kOffline, ClientStatus::kNotNeeded}) {
    ClientRecord absent;
    absent.client = std::ssize(records);
    absent.round = 1;
    absent.samples = 5;
    absent.status = static_cast<int64_t>(status);
    absent.start_seconds = 0;
    absent.finish_seconds = 3;
    records.push_back(absent);
  }
  world.sampler->learn(world.memory, records);
  const double* u = world.memory.at("oort.utility").data_ptr<double>();
  const double* t = world.memory.at("oort.seconds").data_ptr<double>();
  EXPECT_DOUBLE_EQ(u[0], 10);
  for (int k = 1; k < 5; ++k) {
    EXPECT_TRUE(std::isnan(u[k])) << k;
    EXPECT_TRUE(std::isnan(t[k])) << k;
  }
  // An algorithm that measures no squared losses is named, not credited with anything.
  ClientRecord unmeasured = World::report(1, 2, 5, 2);
  unmeasured.squared_loss = kNotMeasured;
  EXPECT_ERROR(world.sampler->learn(world.memory, std::vector<ClientRecord>{unmeasured}),
               "sampler oort needs the squared losses");
}

// FedScale's oracle knows durations of clients that were never seen: here T* is a quantile of those
// that reported.
TEST(Oort, UnseenDurationsAreUnknown) {
  const auto drawn = [](double unseen) {
    World world = oort_world(std::string(kExploit) +
                                 "devices = spread\noort.step = 5\noort.pacer = "
                                 "quantile\noort.quantile = 50",
                             {5, 5, 5, 5}, 1, {{0, {2, 10}}, {1, {2, 20}}});
    world.seconds = {10, 20, unseen, unseen};
    std::vector<Clients> all;
    for (world.seed = 0; world.seed < 200; ++world.seed)
      all.push_back(world.drawn(Candidates(Clients{0, 1})));
    return all;
  };
  EXPECT_EQ(drawn(0.001), drawn(1000));
}

// Plato moves its pacer every round, and leaves the bonus as it was when a client reported.
TEST(Oort, PacerMovesAfterWindows) {
  World world("oort", "devices = spread\noort.step = 3\noort.window = 2", {5, 5}, 1);
  const auto preferred = [&] { return world.memory.at("oort.pace")[3].item<double>(); };
  const auto learn = [&](double loss) {
    world.sampler->learn(world.memory,
                         std::vector<ClientRecord>{World::report(0, world.round++, 5, loss, 1)});
    return preferred();
  };
  std::vector<double> times;
  for (const double loss : {4, 4, 3, 3, 2, 9, 1, 1, 5, 5}) times.push_back(learn(loss));
  // After rounds 4 (6 < 8), 6 (11 > 6), 8 (2 < 11), 10 (10 > 2).
  EXPECT_THAT(times, ElementsAre(3, 3, 3, 6, 6, 6, 6, 9, 9, 9));

  World quantile("oort", "devices = spread\noort.step = 5\noort.window = 1\noort.pacer = quantile",
                 {5, 5}, 1);
  times.clear();
  for (const double loss : {1., 1.05, 8., 8., 100., 150.}) {
    quantile.sampler->learn(
        quantile.memory, std::vector<ClientRecord>{World::report(0, quantile.round++, 5, loss, 1)});
    times.push_back(quantile.memory.at("oort.pace")[3].item<double>());
  }
  EXPECT_THAT(times, ElementsAre(10, 15, 10, 15, 10, 10));
}

TEST(Oort, BonusFollowsTheRound) {
  // Client 1 reported last in round 1, client 0 in round 90: in the end its bonus is all there is.
  World world("oort", std::string(kExploit) + "oort.exploration-decay = 1", {1, 1}, 1);
  world.sampler->learn(world.memory, std::vector<ClientRecord>{World::report(1, 1, 1, 1e-9)});
  world.sampler->learn(world.memory, std::vector<ClientRecord>{World::report(0, 90, 1, 1e-9)});
  world.round = 100;
  const double a = oort_utility(1e-9, 100, 90, kNotMeasured, 1, 2),
               b = oort_utility(1e-9, 100, 1, kNotMeasured, 1, 2);
  expect_law(world.frequencies(kDraws, world.all), {{{0}, a / (a + b)}, {{1}, b / (a + b)}});
}

// Fairness: with f 1 who was drawn least, and a cap that nobody passes as long as others are there.
TEST(Oort, Fairness) {
  std::map<int64_t, std::pair<double, double>> reports;
  for (int64_t k = 0; k < 4; ++k) reports[k] = {1 + static_cast<double>(k), kNotMeasured};
  const std::string exploit = "oort.exploration = 0\noort.exploration-min = 0\noort.cut = 1\n";
  World fair = oort_world(exploit + "fair.weight = 1", {5, 5, 5, 5}, 1, reports);
  for (const int64_t client : {0, 1, 3})
    fair.sampler->learn(fair.memory, std::vector<ClientRecord>{World::report(client, 2, 5, 9)});
  EXPECT_THAT(fair.drawn(), ElementsAre(2));
  World capped = oort_world(exploit + "fair.cap = 2", {5, 5, 5, 5}, 1, reports);
  EXPECT_THAT(capped.drawn(), ElementsAre(3));
  capped.sampler->learn(capped.memory, std::vector<ClientRecord>{World::report(3, 2, 5, 9)});
  EXPECT_THAT(capped.drawn(), ElementsAre(2));
}

// Time --------------------------------------------------------------------------------------------

// Proves both channels on four clients: all at once by their own time, or one upload after another.
TEST(FedCs, FillsTheRound) {
  const auto drawn = [](const std::string& lines, int64_t m, double deadline) {
    World world("fedcs",
                message("devices = spread\nfedcs.oracle-deadline = ", deadline, "\n", lines),
                {1, 1, 1, 1}, m);
    SampleRequest request = world.request(world.all);
    // down, compute, up
    const std::vector<PlannedTask> tasks = {{1, 2, 3, 1}, {1, 4, 3, 1}, {1, 9, 1, 1}, {2, 1, 5, 1}};
    request.oracle.task = [&](int64_t client) { return tasks[static_cast<size_t>(client)]; };
    Rng rng(1, "sampler");
    Clients ids;
    for (const Drawn& one : world.sampler->sample(request, rng)) ids.push_back(one.client);
    return ids;
  };
  // Times 6, 8, 11, 8.
  EXPECT_THAT(drawn("fedcs.channel = parallel", 4, 8), ElementsAre(0, 1, 3));
  EXPECT_THAT(drawn("fedcs.channel = parallel", 4, 7), ElementsAre(0));
  EXPECT_THAT(drawn("fedcs.channel = parallel", 1, 20), ElementsAre(0));
  // One after another: client 0 (Theta 5, until 6), then 2 would add 1 + 4 (until 11), 1 adds 3
  // (Theta 8, until 9), then 2 adds 1 + 1 (Theta 10, until 11), then 3: Theta 15, until 17.
  EXPECT_THAT(drawn("", 4, 8.9), ElementsAre(0));
  EXPECT_THAT(drawn("", 4, 9), ElementsAre(0, 1));
  EXPECT_THAT(drawn("", 4, 11), ElementsAre(0, 1, 2));
  EXPECT_THAT(drawn("", 4, 16.9), ElementsAre(0, 1, 2));
  EXPECT_THAT(drawn("", 4, 17), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(drawn("fedcs.overhead = 1", 4, 17), ElementsAre(0, 1, 2));
  EXPECT_THAT(error_of([&] { drawn("", 4, 5); }),
              HasSubstr("no client is through before fedcs.oracle-deadline, 5 s: the first one "
                        "needs 6 s"));
}

// One tier is uniform; and tiers change when the accuracy of the last one has not risen.
TEST(Tifl, Tiers) {
  World one("tifl", "devices = spread\ntifl.policy = uniform\ntifl.tiers = 1", {1, 1, 1, 1}, 2);
  one.seconds = {4, 1, 3, 2};
  expect_law(one.frequencies(kDraws, one.all), uniform_law({0, 1, 2, 3}, 2));

  World world("tifl",
              "devices = spread\ntifl.tiers = 2\ntifl.every = 1\nevaluate-clients = 1\n"
              "rounds = 8",
              {1, 1}, 1);
  world.seconds = {1, 2};
  const auto evaluated = [&](double first, double second) {
    std::vector<ClientEvaluation> all(2);
    all[1].client = 1;
    all[0].samples = all[1].samples = 10;
    all[0].accuracy = first;
    all[1].accuracy = second;
    world.sampler->learn_evaluations(world.memory, all);
  };
  const auto chances = [&] {
    const double* c = world.memory.at("tifl.chances").data_ptr<double>();
    return std::vector<double>(c, c + 2);
  };
  const auto round = [&](int64_t client) {
    (void)world.drawn();
    world.sampler->learn(world.memory, std::vector<ClientRecord>{World::report(client, 1, 1, 1)});
  };
  round(0);
  evaluated(0.5, 0.2);
  expect_near(chances(), {0.5, 0.5});
  round(0);
  evaluated(0.6, 0.2);  // risen
  expect_near(chances(), {0.5, 0.5});
  round(0);
  evaluated(0.6, 0.7);  // not risen: tier 0 is the worse one
  expect_near(chances(), {2 / 3.0, 1 / 3.0});
  round(0);  // its fourth and last credit
  evaluated(0.6, 0.7);
  expect_near(chances(), {0, 1});
  EXPECT_THAT(world.drawn(), ElementsAre(1));
}

// Who will be away after this round comes first, as clients forecast it.
TEST(Refl, PrefersWhoWillBeAway) {
  const auto frequencies = [](double accuracy) {
    World world(
        "refl",
        message("devices = spread\navailability = sessions\nrefl.oracle-accuracy = ", accuracy),
        {1, 1, 1, 1}, 1);
    ClientRecord record = World::report(0, 1, 1, 1);
    record.start_seconds = 100;
    world.sampler->learn(world.memory, std::vector<ClientRecord>{record});
    world.round = 2;
    world.now = 110;  // D is 10
    std::map<Clients, int64_t> counts;
    for (int64_t i = 0; i < kDraws; ++i) {
      world.round = i + 2;
      SampleRequest request = world.request(world.all);
      request.oracle.online = [](int64_t client, double from, double to) {
        EXPECT_NEAR(to - from, 10, 1e-9);
        return client == 2 ? to <= 120 : true;  // the others are always there
      };
      Rng rng(static_cast<uint64_t>(i), "sampler");
      Clients ids;
      for (const Drawn& one : world.sampler->sample(request, rng)) ids.push_back(one.client);
      ++counts[ids];
    }
    return counts;
  };
  EXPECT_EQ(frequencies(1), (std::map<Clients, int64_t>{{{2}, kDraws}}));
  // Client 2 is seen with chance a^2, each other one with a (1 - a); of those that are seen one is
  // drawn, and if there are none, anybody.
  const double a = 0.75, own = a * a, other = a * (1 - a);
  Law law = {{{0}, 0}, {{1}, 0}, {{2}, 0}, {{3}, 0}};
  subsets({0, 1, 2, 3}, -1, [&](const Clients& seen) {
    double p = 1;
    for (int64_t k = 0; k < 4; ++k) {
      const bool in = std::find(seen.begin(), seen.end(), k) != seen.end();
      const double chance = k == 2 ? own : other;
      p *= in ? chance : 1 - chance;
    }
    for (int64_t k = 0; k < 4; ++k) {
      if (seen.empty()) law[{k}] += p / 4;
    }
    for (const int64_t k : seen) law[{k}] += p / static_cast<double>(seen.size());
  });
  expect_law(frequencies(a), law);
}

Candidates some_of(int64_t places, std::function<bool(int64_t)> among) {
  return Candidates({.places = places,
                     .id = [](int64_t place) { return 10 * place; },
                     .among = std::move(among)});
}

// Proves that candidates without a list are those that a list would have.
TEST(Candidates, AreListedWhenSomebodyAsks) {
  const auto among = [](int64_t id) { return id % 20 == 10; };
  const Candidates who = some_of(7, among);
  EXPECT_TRUE(who.contains(30));
  for (const int64_t id : {0, 15, 31, 70, -10}) EXPECT_FALSE(who.contains(id)) << id;
  EXPECT_FALSE(who.none());
  EXPECT_NE(who.unlisted(), nullptr);
  EXPECT_EQ(who.size(), 3);
  EXPECT_EQ(who.unlisted(), nullptr);
  EXPECT_THAT(ids_of(who), ElementsAre(10, 30, 50));
  EXPECT_TRUE(who.contains(30));
  EXPECT_FALSE(who.contains(20));
  EXPECT_TRUE(some_of(7, [](int64_t) { return false; }).none());
}

// Proves that uniform draws without a list have the law of those from one: pairs of four in eight,
// which rejection finds now and then, within five standard errors of a sixth each; all of them,
// where more are wanted.
TEST(Candidates, DrawsWithoutAListAreUniform) {
  constexpr int kDraws = 30000;
  std::map<Clients, int> seen;
  int listed = 0;
  for (int i = 0; i < kDraws; ++i) {
    const Candidates who = some_of(8, [](int64_t id) { return id % 20 == 0; });
    Rng rng(1, "test", i);
    ++seen[draw_clients(who, 2, rng)];
    listed += who.unlisted() == nullptr ? 1 : 0;
  }
  EXPECT_GT(listed, kDraws / 10);
  EXPECT_LT(listed, kDraws * 9 / 10);
  EXPECT_EQ(seen.size(), 6U);
  const double expected = kDraws / 6.0, error = std::sqrt(expected * 5 / 6);
  for (const auto& [pair, times] : seen) EXPECT_NEAR(times, expected, 5 * error);
  Rng rng(1, "test");
  EXPECT_THAT(draw_clients(some_of(8, [](int64_t id) { return id % 20 == 0; }), 9, rng),
              ElementsAre(0, 20, 40, 60));
}

// At any time ------------------------------------------------------------------------------------

// Shares of one place at a time are met on average; of a round's cohort they are rounded down, and
// cost no draw.
TEST(Samplers, SharesOfSinglePlaces) {
  const World world("uniform", "", kTen, 1);
  SampleRequest request = world.request(world.all);
  Rng rng(3, "places"), same(3, "places");
  EXPECT_EQ(places_for(request, 2.9, rng), 2);
  EXPECT_EQ(places_for(request, 3, rng), 3);
  EXPECT_EQ(rng.bits64(), same.bits64());
  request.anytime = true;
  EXPECT_EQ(places_for(request, 3, rng), 3);
  EXPECT_EQ(places_for(request, 0, rng), 0);
  int64_t sum = 0;
  constexpr int64_t kDraws = 40'000;
  for (int64_t i = 0; i < kDraws; ++i) sum += places_for(request, 1.3, rng);
  EXPECT_NEAR(static_cast<double>(sum) / kDraws, 1.3, 5 * std::sqrt(0.3 * 0.7 / kDraws));
}

// With one place at a time half of the draws explore. Rounded down, no share of one place ever
// would, and the two that have reported would be drawn for ever.
TEST(Oort, ExploresOnePlaceAtATime) {
  World world = oort_world("oort.exploration = 0.5\noort.exploration-decay = 1", kTen, 1,
                           {{3, {1, kNotMeasured}}, {5, {2, kNotMeasured}}});
  world.anytime = true;
  constexpr int64_t kDraws = 4000;
  int64_t explored = 0;
  for (const auto& [cohort, count] : world.frequencies(kDraws, world.all)) {
    ASSERT_EQ(cohort.size(), 1u);
    explored += cohort[0] == 3 || cohort[0] == 5 ? count : 0;
  }
  EXPECT_NEAR(static_cast<double>(explored) / kDraws, 0.5, 5 * std::sqrt(0.25 / kDraws));
}

// The best by far, but in a fifth of the draws anybody: 0.8 + 0.2 / 10.
TEST(Active, DrawsOnePlaceAtATimeUniformlyAtTimes) {
  World world("active", "active.lowest = 0\nactive.sharpness = 100\nactive.uniform = 0.2", kTen, 1);
  std::vector<ClientRecord> records;
  for (int64_t k = 0; k < 10; ++k) records.push_back(World::report(k, 1, 5, k == 4 ? 9 : 1));
  world.sampler->learn(world.memory, records);
  world.anytime = true;
  constexpr int64_t kDraws = 4000;
  const auto best = static_cast<double>(world.frequencies(kDraws, world.all)[{4}]);
  EXPECT_NEAR(best / kDraws, 0.82, 5 * std::sqrt(0.82 * 0.18 / kDraws));
}

TEST(Samplers, DrawAtAnyTimeIfTheyAskNobody) {
  for (const auto& [variant, may] :
       {std::pair{"pow", false}, std::pair{"cpow", false}, std::pair{"rpow", true}}) {
    const World world("poc", message("poc.d = 3\npoc.variant = ", variant), kTen, 1);
    EXPECT_EQ(world.sampler->draws_anytime(), may) << variant;
  }
}

// Pisces ------------------------------------------------------------------------------------------

ClientRecord stale_report(int64_t client, double loss, int64_t staleness) {
  ClientRecord record = World::report(client, 1, 5, loss);
  record.staleness = staleness;
  return record;
}

// U = 5 sqrt(loss^2): 10, 15, 5, over (1 + s)^beta of mean staleness 0, 3, 0.
TEST(Pisces, TakesTheGreatestUtility) {
  const auto order = [](double beta) {
    World world("pisces", message("pisces.beta = ", beta), {5, 5, 5}, 1);
    world.sampler->learn(world.memory,
                         std::vector<ClientRecord>{stale_report(0, 2, 0), stale_report(1, 3, 4),
                                                   stale_report(1, 3, 2), stale_report(2, 1, 0)});
    Clients all = {0, 1, 2}, order;
    while (!all.empty()) {
      order.push_back(world.drawn(Candidates(all)).at(0));
      std::erase(all, order.back());
    }
    return order;
  };
  EXPECT_THAT(order(0), ElementsAre(1, 0, 2));    // 10, 15, 5
  EXPECT_THAT(order(0.5), ElementsAre(0, 1, 2));  // 10, 7.5, 5
  EXPECT_THAT(order(1), ElementsAre(0, 2, 1));    // 10, 3.75, 5
}

TEST(Pisces, ForgetsStalenessAfterFiveUpdates) {
  World world("pisces", "pisces.beta = 1", {5, 5}, 1);
  std::vector<ClientRecord> records = {stale_report(0, 2, 100), stale_report(1, 2, 1)};
  for (int i = 0; i < 4; ++i) records.push_back(stale_report(0, 2, 0));
  world.sampler->learn(world.memory, records);
  EXPECT_THAT(world.drawn(), ElementsAre(1));  // 10/21 against 10/2
  world.sampler->learn(world.memory, std::vector<ClientRecord>{stale_report(0, 2, 0)});
  EXPECT_THAT(world.drawn(), ElementsAre(0));  // 10 against 10/2
}

TEST(Pisces, BeginsWithWhoHasNotReported) {
  World world("pisces", "pisces.beta = 0", kTen, 3);
  std::vector<ClientRecord> records;
  for (int64_t k = 0; k < 8; ++k) records.push_back(stale_report(k, 1 + static_cast<double>(k), 0));
  ClientRecord lost;
  lost.client = 8;
  lost.status = static_cast<int64_t>(ClientStatus::kLost);
  records.push_back(lost);
  world.sampler->learn(world.memory, records);
  EXPECT_THAT(world.drawn(), ElementsAre(7, 8, 9));
  EXPECT_THAT(world.drawn(Candidates(Clients{0, 4, 5, 6})), ElementsAre(4, 5, 6));

  World few("pisces", "pisces.beta = 0\npisces.exploration = 0.25", kTen, 1);
  few.sampler->learn(few.memory, records);
  few.anytime = true;
  constexpr int64_t kDraws = 4000;
  const auto best = static_cast<double>(few.frequencies(kDraws, few.all)[{7}]);
  EXPECT_NEAR(best / kDraws, 0.75, 5 * std::sqrt(0.75 * 0.25 / kDraws));
}

}  // namespace
}  // namespace fl_sim
