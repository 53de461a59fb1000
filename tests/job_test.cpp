// Jobs: where values come from, what is refused and how the message helps, and the way back from
// text.
#include "base/job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "any_job.h"
#include "storage/results.h"

namespace fl_sim {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// What every job has to say, as INI and as arguments.
const std::string kComplete =
    "dataset = fcube\nmodel = logistic\n[local]\nbatch-size = 10\nlr = 0.1\n";
const std::vector<std::string> kArguments = {
    "--dataset", "fcube", "--model", "logistic", "--local.batch-size", "10", "--local.lr", "0.1"};

std::vector<std::string> with(std::vector<std::string> first,
                              const std::vector<std::string>& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

// A file of the test's own.
class JobFile {
 public:
  explicit JobFile(const std::string& content, const std::string& name = "fl_sim_job_test.ini")
      : path_(testing::TempDir() + name) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~JobFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  Job parse(const std::vector<std::string>& arguments = {}) const {
    return Job::parse(with({"--job", path_}, arguments));
  }

 private:
  std::string path_;
};

// The default, over it the file, over that the command line.
TEST(Job, CommandLineOverFileOverDefaults) {
  EXPECT_EQ(Job::parse(kArguments).get<int64_t>("rounds"), 100);
  EXPECT_EQ(Job::parse(with(kArguments, {"--rounds", "7"})).get<int64_t>("rounds"), 7);
  EXPECT_EQ(Job::parse(with(kArguments, {"--rounds=8"})).get<int64_t>("rounds"), 8);
  const JobFile file("rounds = 20\nseed = 4\n" + kComplete);
  EXPECT_EQ(file.parse().get<int64_t>("rounds"), 20);
  const Job job = file.parse({"--rounds", "30", "--local.lr", "0.5"});
  EXPECT_EQ(job.get<int64_t>("rounds"), 30);
  EXPECT_EQ(job.get<int64_t>("seed"), 4);
  EXPECT_EQ(job.get<double>("local.lr"), 0.5);
  EXPECT_EQ(job.get<int64_t>("local.batch-size"), 10);
  EXPECT_EQ(job.get<std::string>("algorithm"), "fedavg");
}

// A section is a prefix; comments and blank lines are nothing.
TEST(Job, SectionsArePrefixes) {
  const Job sections = Job::from_text(
      "# a comment\ndataset = fcube\nmodel = logistic\n\n[local]\nlr = 0.25  # another\n"
      "batch-size = 3\n[server]\nlr = 0.5\n");
  const Job plain = Job::from_text(
      "dataset = fcube\nmodel = logistic\nlocal.lr = 0.25\nlocal.batch-size = 3\nserver.lr = 0.5");
  EXPECT_EQ(sections.values(), plain.values());
  EXPECT_EQ(sections.get<double>("local.lr"), 0.25);
  EXPECT_EQ(sections.get<double>("server.lr"), 0.5);
}

// Each value is there and of its type; flags have several spellings, numbers keep theirs.
TEST(Job, Types) {
  const Job job = Job::parse(
      with(kArguments, {"--local.momentum", "5e-1", "--local.nesterov", "yes", "--cohort", "+3"}));
  EXPECT_EQ(job.get<double>("local.momentum"), 0.5);
  EXPECT_TRUE(job.get<bool>("local.nesterov"));
  EXPECT_FALSE(job.get<bool>("quiet"));
  EXPECT_EQ(job.get<int64_t>("cohort"), 3);
  EXPECT_TRUE(Job::parse(with(kArguments, {"--quiet"})).get<bool>("quiet"));
  EXPECT_EQ(job.get<std::string>("model"), "logistic");
  EXPECT_ERROR(job.get<double>("fedprox.mu"), "this job has no key 'fedprox.mu'");
}

TEST(Job, WrongTypesAreRefused) {
  const auto error = [](const std::string& key, const std::string& value) {
    return error_of([&] { Job::parse(with(kArguments, {"--" + key + "=" + value})); });
  };
  EXPECT_THAT(error("rounds", "many"), HasSubstr("rounds is 'many' (must be a whole number)"));
  EXPECT_THAT(error("rounds", "2.5"), HasSubstr("rounds is '2.5' (must be a whole number)"));
  EXPECT_THAT(error("rounds", "99999999999999999999"),
              HasSubstr("rounds is '99999999999999999999'"));
  EXPECT_THAT(error("rounds", "10 "), HasSubstr("must be a whole number"));
  EXPECT_THAT(error("server.lr", "fast"), HasSubstr("server.lr is 'fast' (must be a number)"));
  EXPECT_THAT(error("server.lr", "0,5"), HasSubstr("server.lr is '0,5' (must be a number)"));
  EXPECT_THAT(error("local.nesterov", "maybe"), HasSubstr("must be true or false"));
  EXPECT_THAT(error("sum", "exakt"), HasSubstr("sum is 'exakt' (must be one of exact, float)"));
}

// Ranges, their open ends included; the message says the range and what the key means.
TEST(Job, RangesAreRefused) {
  const auto error = [](const std::string& key, const std::string& value) {
    return error_of([&] { Job::parse(with(kArguments, {"--" + key + "=" + value})); });
  };
  EXPECT_THAT(error("rounds", "0"), HasSubstr("rounds is 0 (must be at least 1): rounds to run"));
  EXPECT_THAT(error("cohort", "-3"), HasSubstr("cohort is -3 (must be at least 1)"));
  EXPECT_THAT(error("server.lr", "0"), HasSubstr("server.lr is 0 (must be more than 0)"));
  EXPECT_THAT(error("server.lr", "nan"), HasSubstr("server.lr is nan (must be more than 0)"));
  EXPECT_THAT(error("server.lr", "inf"), HasSubstr("server.lr is inf (must be more than 0)"));
  EXPECT_THAT(error("local.momentum", "1"),
              HasSubstr("local.momentum is 1 (must be 0 to 1, exclusive)"));
  EXPECT_THAT(error("target-accuracy", "1.5"),
              HasSubstr("target-accuracy is 1.5 (must be 0 to 1)"));
  EXPECT_THAT(error("local.lr-decay", "0"), HasSubstr("more than 0 and at most 1"));
  EXPECT_EQ(Job::parse(with(kArguments, {"--target-accuracy=1"})).get<double>("target-accuracy"),
            1);
}

// Unknown keys name the nearest known one, wherever they stand.
TEST(Job, UnknownKeysNameTheNearest) {
  EXPECT_ERROR(Job::parse(with(kArguments, {"--ruonds", "3"})),
               "unknown key 'ruonds' on the command line; did you mean 'rounds'?");
  // Of plug-ins that the job names first: others have an alpha, too.
  const auto with_alpha = [](std::vector<std::string> words) {
    words.insert(words.end(), {"--alpha", "0.5"});
    return error_of([&] { Job::parse(words); });
  };
  EXPECT_THAT(with_alpha({"--partitioner", "dirichlet"}), HasSubstr("mean 'dirichlet.alpha'?"));
  EXPECT_THAT(with_alpha({"--partitioner", "pachinko"}), HasSubstr("mean 'pachinko.alpha'?"));
  const JobFile names_it("partitioner = pachinko");
  EXPECT_THAT(with_alpha({"--job", names_it.path()}), HasSubstr("mean 'pachinko.alpha'?"));
  EXPECT_ERROR(Job::from_text(kComplete + "momentun = 0.9"), "did you mean 'local.momentum'?");
  EXPECT_ERROR(Job::from_text(kComplete + "[server]\nlearn = 1"), "unknown key 'server.learn'");
  const JobFile file("cohrot = 5\n" + kComplete);
  EXPECT_THAT(error_of([&] { file.parse(); }),
              AllOf(HasSubstr("'cohrot'"), HasSubstr(file.path()), HasSubstr("'cohort'")));
  EXPECT_THAT(error_of([] {
                Job::parse(with(kArguments, {"--xyzzyplugh", "1"}));
              }),
              AllOf(HasSubstr("unknown key 'xyzzyplugh'"), Not(HasSubstr("did you mean"))));
  EXPECT_ERROR(Job::from_text("model = logistics"),
               "there is no model 'logistics' (did you mean 'logistic'?");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--algorithm", "fedavgg"})), "did you mean 'fedavg'?");
}

// A key that a file sets twice is a mistake, while of two on the command line the last one counts;
// so are words without a key.
TEST(Job, DuplicatesAndStrayWordsAreRefused) {
  const Job twice = Job::parse(with(kArguments, {"--rounds", "3", "--rounds", "4"}));
  EXPECT_EQ(twice.get<int64_t>("rounds"), 4);
  EXPECT_THAT(twice.notes(), testing::ElementsAre("rounds is set twice on the command line, to 3 "
                                                  "and 4: the last one counts"));
  EXPECT_ERROR(Job::from_text("rounds = 3\nrounds = 4\n" + kComplete),
               "option 'rounds' is set twice");
  EXPECT_ERROR(Job::from_text(kComplete + "[local]\nlr = 0.3"), "option 'local.lr' is set twice");
  EXPECT_ERROR(Job::parse(with({"stray"}, kArguments)), "unexpected argument 'stray'");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--rounds"})), "rounds");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--round", "3"})),
               "unknown key 'round'");  // no guesses
}

// A key of a plug-in that was not chosen would be read by nobody: it is refused, and the message
// says what would read it. So is a key that only another server optimiser reads.
TEST(Job, KeysThatNobodyReadsAreRefused) {
  EXPECT_ERROR(Job::from_text("fedprox.mu = 1\n" + kComplete),
               "fedprox.mu is set, but algorithm is fedavg, which does not read it (remove it, or "
               "choose algorithm fedprox)");
  EXPECT_ERROR(Job::from_text("dirichlet.alpha = 0.5\n" + kComplete),
               "dirichlet.alpha is set, but partitioner is iid");
  EXPECT_ERROR(Job::from_text("server.beta1 = 0.5\n" + kComplete),
               "server.beta1 is set, but server.optimizer is sgd");
  const Job adam = Job::from_text("algorithm = fedadam\nserver.beta1 = 0.5\n" + kComplete);
  EXPECT_EQ(adam.get<double>("server.beta1"), 0.5);
  EXPECT_FALSE(Job::from_text(kComplete).values().contains("server.beta1"));
}

// But the command line may choose another plug-in than the file: what the file says for the old one
// is idle then, and what it says for all still holds.
TEST(Job, TheCommandLineMayChooseAnotherAlgorithm) {
  const JobFile file("algorithm = fedprox\nfedprox.mu = 1\nrounds = 9\n" + kComplete);
  EXPECT_EQ(file.parse().get<double>("fedprox.mu"), 1);
  const Job job = file.parse({"--algorithm", "scaffold"});
  EXPECT_EQ(job.get<std::string>("algorithm"), "scaffold");
  EXPECT_EQ(job.get<int64_t>("rounds"), 9);
  EXPECT_FALSE(job.values().contains("fedprox.mu"));
  EXPECT_THAT(error_of([&] {
                file.parse({"--algorithm", "fedavg", "--fedprox.mu", "2"});
              }),
              HasSubstr("fedprox.mu is set, but algorithm is fedavg"));
}

// A plug-in has defaults of its own for keys of the engine; the job goes over them.
TEST(Job, PlugInsHaveDefaultsOfTheirOwn) {
  EXPECT_EQ(Job::from_text(kComplete).get<std::string>("weighting"), "samples");
  EXPECT_EQ(Job::from_text("algorithm = scaffold\n" + kComplete).get<std::string>("weighting"),
            "uniform");
  EXPECT_EQ(Job::from_text("algorithm = scaffold\nweighting = samples\n" + kComplete)
                .get<std::string>("weighting"),
            "samples");
}

// A plug-in that is known to the catalogue for one test.
class Registered {
 public:
  Registered(std::string name, PluginInfo info, std::string kind = "algorithm")
      : kind_(std::move(kind)), name_(std::move(name)) {
    catalog()[kind_].emplace(name_, std::move(info));
  }
  ~Registered() { catalog()[kind_].erase(name_); }
  Registered(const Registered&) = delete;
  Registered& operator=(const Registered&) = delete;

 private:
  std::string kind_, name_;
};

// An algorithm around another one, which "<name>.inner" names.
PluginInfo around(std::map<std::string, std::string> defaults = {}) {
  return {.summary = "an algorithm around another",
          .options = {{.name = "inner",
                       .default_value = "fedavg",
                       .meaning = "the algorithm within",
                       .plugin_kind = "algorithm"}},
          .defaults = std::move(defaults)};
}

// Proves that a plug-in within another brings its own options, required ones included, and that
// the job that says them reads back.
TEST(Job, APlugInWithinAnotherBringsItsOptions) {
  const Registered wrap("wrap", around());
  const std::string base = "algorithm = wrap\n" + kComplete;
  EXPECT_EQ(Job::from_text(base).get<std::string>("wrap.inner"), "fedavg");
  const Job job = Job::from_text("wrap.inner = fedprox\nfedprox.mu = 0.5\n" + base);
  EXPECT_EQ(job.get<double>("fedprox.mu"), 0.5);
  EXPECT_EQ(Job::from_text(job.text()).values(), job.values());
  EXPECT_THAT(error_of([&] { Job::from_text("wrap.inner = fedprox\n" + base); }),
              AllOf(HasSubstr("the job does not say:"), HasSubstr("\n  fedprox.mu")));
  EXPECT_ERROR(Job::from_text("wrap.inner = fedprox\nfedprox.mu = -1\n" + base),
               "fedprox.mu is -1 (must be at least 0)");
  EXPECT_ERROR(
      Job::from_text("fedprox.mu = 0.5\n" + base),
      "fedprox.mu is set, but algorithm is wrap, wrap.inner is fedavg, which does not read "
      "it (remove it, or choose algorithm fedprox)");
  EXPECT_ERROR(Job::from_text("wrap.inner = fedprox\n" + kComplete),
               "wrap.inner is set, but algorithm is fedavg");
}

// Proves that a plug-in within another must exist, cannot take what it does not take, and is
// never the outer one again.
TEST(Job, APlugInWithinAnotherMustBeOne) {
  const Registered wrap("wrap", around()), twice("twice", around());
  const std::string base = "algorithm = wrap\n" + kComplete;
  EXPECT_ERROR(Job::from_text("wrap.inner = fedprx\n" + base),
               "wrap.inner is fedprx: there is no algorithm 'fedprx' (did you mean 'fedprox'?");
  EXPECT_ERROR(Job::from_text("wrap.inner = fedavg:x\n" + base),
               "wrap.inner is fedavg:x, but fedavg takes nothing behind a colon");
  EXPECT_ERROR(Job::from_text("wrap.inner = wrap\n" + base), "wrap.inner is wrap, within itself");
  EXPECT_ERROR(Job::from_text("wrap.inner = twice\ntwice.inner = wrap\n" + base),
               "twice.inner is wrap, within itself");
  const Job job =
      Job::from_text("wrap.inner = twice\ntwice.inner = fedprox\nfedprox.mu = 0.25\n" + base);
  EXPECT_EQ(job.get<double>("fedprox.mu"), 0.25);
}

// Proves the order of defaults: the engine's, over them the inner plug-in's, over them the outer
// one's, over all what the job says.
TEST(Job, DefaultsOfAnInnerPlugInLieBeneathTheOuter) {
  const Registered wrap("wrap", around()), slow("slow", around({{"server.lr", "0.03125"}}));
  const Job plain = Job::from_text("algorithm = wrap\nwrap.inner = fedadam\n" + kComplete);
  EXPECT_EQ(plain.get<std::string>("server.optimizer"), "adam");
  EXPECT_EQ(plain.get<double>("server.lr"), 0.1);
  const std::string outer = "algorithm = slow\nslow.inner = fedadam\n" + kComplete;
  EXPECT_EQ(Job::from_text(outer).get<std::string>("server.optimizer"), "adam");
  EXPECT_EQ(Job::from_text(outer).get<double>("server.lr"), 0.03125);
  EXPECT_EQ(Job::from_text("server.lr = 2\n" + outer).get<double>("server.lr"), 2);
}

// Proves that the command line may choose another inner plug-in than the file, as it may the outer.
TEST(Job, TheCommandLineMayChooseAnotherInnerAlgorithm) {
  const Registered wrap("wrap", around());
  const JobFile file("algorithm = wrap\nwrap.inner = fedprox\nfedprox.mu = 1\n" + kComplete);
  const Job job = file.parse({"--wrap.inner", "scaffold"});
  EXPECT_EQ(job.get<std::string>("weighting"), "uniform");
  EXPECT_FALSE(job.values().contains("fedprox.mu"));
  const Job without = file.parse({"--algorithm", "fedavg"});
  EXPECT_FALSE(without.values().contains("wrap.inner"));
  EXPECT_FALSE(without.values().contains("fedprox.mu"));
  EXPECT_EQ(file.parse({"--algorithm", "fedprox"}).get<double>("fedprox.mu"), 1);
  EXPECT_ERROR(file.parse({"--wrap.inner", "scaffold", "--fedprox.mu", "2"}),
               "fedprox.mu is set, but algorithm is wrap, wrap.inner is scaffold");
}

// Proves that a key which only some plug-ins read is refused with others, and that a partitioner
// that the engine has never heard of may be one of those.
TEST(Job, PlugInsSayWhichKeysOfTheEngineTheyRead) {
  EXPECT_ERROR(Job::from_text("partition.retries = 5\n" + kComplete),
               "partition.retries is set, but partitioner is iid, which does not read it (remove "
               "it, or choose dirichlet, quantity-dirichlet, semantic)");
  EXPECT_FALSE(Job::from_text(kComplete).values().contains("partition.retries"));
  const Registered redraws("redraws", {.summary = "redraws", .reads = {"partition.retries"}},
                           "partitioner");
  const std::string base = "partitioner = redraws\n" + kComplete;
  EXPECT_EQ(Job::from_text("partition.retries = 5\n" + base).get<int64_t>("partition.retries"), 5);
  EXPECT_EQ(Job::from_text(base).get<int64_t>("partition.retries"), 1000);
  EXPECT_ERROR(Job::from_text("partition.min-samples = 5\n" + base),
               "partition.min-samples is set, but partitioner is redraws");
  const JobFile file("partition.retries = 5\n" + base);
  EXPECT_FALSE(file.parse({"--partitioner", "iid"}).values().contains("partition.retries"));
}

// Samplers that a key lists, and an algorithm with such a key.
class JobListTest : public testing::Test {
 protected:
  static PluginInfo listing() {
    return {.summary = "an algorithm with a list of samplers",
            .options = {{.name = "steps",
                         .default_value = "none",
                         .meaning = "samplers, one after the other",
                         .plugin_kind = "sampler",
                         .several = true}}};
  }
  static PluginInfo step(const std::string& option, std::optional<std::string> value,
                         std::map<std::string, std::string> defaults = {}) {
    return {.summary = "a step",
            .options = {{.name = option,
                         .type = Option::Type::kNumber,
                         .default_value = std::move(value),
                         .meaning = "a number",
                         .range = at_least(0)}},
            .takes_argument = true,
            .defaults = std::move(defaults)};
  }
  static Job job(const std::string& lines) {
    return Job::from_text("algorithm = listing\n" + lines + kComplete);
  }

  const Registered listing_{"listing", listing()};
  const Registered clip_{"cut", step("norm", std::nullopt, {{"server.lr", "0.5"}}), "sampler"};
  const Registered noise_{"noise", step("scale", "1", {{"server.lr", "0.25"}}), "sampler"};
};

// Proves that a key names several plug-ins in their order, or none, that the job reads the options
// of each, those it must say included, and that it reads back.
TEST_F(JobListTest, AKeyNamesSeveralPlugIns) {
  const Job none = job("");
  EXPECT_EQ(none.get<std::string>("listing.steps"), "none");
  EXPECT_THAT(none.names("listing.steps"), testing::IsEmpty());
  EXPECT_FALSE(none.values().contains("noise.scale"));

  const Job both = job("listing.steps = noise , cut:hard\ncut.norm = 3\n");
  EXPECT_EQ(both.get<std::string>("listing.steps"), "noise,cut:hard");
  EXPECT_THAT(both.names("listing.steps"), testing::ElementsAre("noise", "cut:hard"));
  EXPECT_EQ(both.get<double>("noise.scale"), 1);
  EXPECT_EQ(both.get<double>("cut.norm"), 3);
  EXPECT_EQ(Job::from_text(both.text()).values(), both.values());

  EXPECT_ERROR(job("listing.steps = noise,cut\n"), "the job does not say:\n  cut.norm");
  EXPECT_ERROR(job("listing.steps = noise,cut\ncut.norm = -1\n"),
               "cut.norm is -1 (must be at least 0)");
}

// Proves that each name must be a plug-in's, once, and takes only what it takes.
TEST_F(JobListTest, EachNameMustBeAPlugIns) {
  EXPECT_ERROR(job("listing.steps = noise,clp\n"),
               "listing.steps is noise,clp: there is no sampler 'clp' (did you mean 'cut'?");
  EXPECT_ERROR(job("listing.steps = noise,none\n"), "there is no sampler 'none'");
  EXPECT_ERROR(job("listing.steps = noise,cut,noise\ncut.norm = 1\n"),
               "listing.steps is 'noise,cut,noise', which names noise twice (keep one)");
  EXPECT_ERROR(job("listing.steps = ,\n"),
               "listing.steps is ',' (must be names with commas between them, or none)");
  EXPECT_ERROR(job("listing.steps = noise,uniform:x\n"), "uniform takes nothing behind a colon");
}

// Proves that options of plug-ins which the list does not name are refused, and what is said then.
TEST_F(JobListTest, OptionsOfOthersAreRefused) {
  EXPECT_ERROR(job("listing.steps = noise,uniform\ncut.norm = 1\n"),
               "cut.norm is set, but listing.steps is noise,uniform, sampler is uniform, which "
               "does not read it (remove it, or choose sampler cut)");
  EXPECT_ERROR(job("cut.norm = 1\n"),
               "cut.norm is set, but sampler is uniform, which does not read it");
}

// Proves that of two defaults for one key of the engine the first plug-in's counts.
TEST_F(JobListTest, DefaultsOfTheFirstCount) {
  EXPECT_EQ(job("listing.steps = noise\n").get<double>("server.lr"), 0.25);
  EXPECT_EQ(job("listing.steps = noise,cut\ncut.norm = 1\n").get<double>("server.lr"), 0.25);
  EXPECT_EQ(job("listing.steps = cut,noise\ncut.norm = 1\n").get<double>("server.lr"), 0.5);
}

// Proves that the command line may choose another list than the file, or none, and that the
// options of those that it leaves out are then none of the job's.
TEST_F(JobListTest, TheCommandLineMayChooseAnotherList) {
  const JobFile file("algorithm = listing\nlisting.steps = cut,noise\ncut.norm = 2\n" + kComplete);
  EXPECT_EQ(file.parse().get<double>("cut.norm"), 2);
  const Job one = file.parse({"--listing.steps", "noise"});
  EXPECT_THAT(one.names("listing.steps"), testing::ElementsAre("noise"));
  EXPECT_FALSE(one.values().contains("cut.norm"));
  const Job none = file.parse({"--listing.steps", "none"});
  EXPECT_FALSE(none.values().contains("cut.norm"));
  EXPECT_FALSE(none.values().contains("noise.scale"));
  EXPECT_EQ(file.parse({"--listing.steps", "noise,cut"}).get<double>("cut.norm"), 2);
  EXPECT_ERROR(file.parse({"--listing.steps", "noise", "--cut.norm", "2"}), "cut.norm is set, but");
}

// Proves that keys which only some optimisers and schedules read are refused with the others.
TEST(Job, LocalOptimisersAndSchedulesReadTheirOwnKeys) {
  const auto job = [](const std::string& lines) { return Job::from_text(lines + kComplete); };
  EXPECT_EQ(job("local.optimizer = adam\n").get<double>("local.epsilon"), 1e-8);
  EXPECT_ERROR(job("local.optimizer = adam\nlocal.momentum = 0.9\n"),
               "local.momentum is set, but local.optimizer is adam");
  EXPECT_ERROR(job("local.beta1 = 0.5\n"), "local.beta1 is set, but local.optimizer is sgd");
  EXPECT_ERROR(job("local.lr-schedule = cosine\nlocal.lr-decay = 0.5\n"),
               "local.lr-decay is set, but local.lr-schedule is cosine");
  EXPECT_ERROR(job("local.lr-step = 5\n"), "local.lr-step is set, but local.lr-schedule is decay");
  EXPECT_EQ(job("local.lr-schedule = step\n").get<int64_t>("local.lr-step"), 10);
  EXPECT_ERROR(job("server.optimizer = yogi\nserver.momentum = 0.5\n"),
               "server.momentum is set, but server.optimizer is yogi");
  EXPECT_ERROR(job("server.optimizer = adagrad\nserver.beta2 = 0.5\n"),
               "server.beta2 is set, but server.optimizer is adagrad");
  EXPECT_ERROR(job("shift.groups = 3\n"), "shift.groups is set, but shift.kind is none");
  EXPECT_ERROR(job("shift.kind = labels\nshift.groups = 1\n"), "shift.groups is 1");
}

// Everything that a job leaves open is listed at once, with what it means.
TEST(Job, MissingKeysAreListed) {
  EXPECT_THAT(error_of([] {
                Job::parse({"--algorithm", "fedprox"});
              }),
              AllOf(HasSubstr("the job does not say:"), HasSubstr("\n  dataset"),
                    HasSubstr("\n  model"), HasSubstr("\n  local.lr"),
                    HasSubstr("\n  local.batch-size"), HasSubstr("\n  fedprox.mu")));
}

// text() is the whole resolved job, defaults written out, and reads back as the same job.
TEST(Job, TextIsTheWholeJob) {
  for (const std::string extra :
       {"", "algorithm = fedprox\nfedprox.mu = 0.01\n", "algorithm = fedadam\nserver.lr = 1e-3\n",
        "partitioner = dirichlet\ndirichlet.alpha = 0.1\nseed = 12\n"}) {
    const Job job = Job::from_text(extra + kComplete);
    EXPECT_THAT(job.text(), AllOf(HasSubstr("rounds = 100\n"), HasSubstr("[local]\n")));
    EXPECT_EQ(Job::from_text(job.text()).values(), job.values());
    EXPECT_EQ(Job::from_text(job.text()).text(), job.text());
  }
}

// The results file is named after the job file, else after what is run; "auto" does not stay.
TEST(Job, OutputIsNamedAfterTheJob) {
  EXPECT_EQ(Job::parse(kArguments).get<std::string>("output"),
            "results/fedavg-fcube-logistic-0.h5");
  EXPECT_EQ(JobFile(kComplete, "my-paper.ini").parse().get<std::string>("output"),
            "results/my-paper.h5");
  EXPECT_EQ(Job::parse(with(kArguments, {"--output", "x.h5"})).get<std::string>("output"), "x.h5");
}

// set() is how "auto" is resolved; keys that do not exist cannot be set.
TEST(Job, SetReplacesAValue) {
  Job job = Job::from_text(kComplete);
  job.set("clients", "17");
  EXPECT_EQ(job.get<int64_t>("clients"), 17);
  EXPECT_EQ(Job::from_text(job.text()).get<int64_t>("clients"), 17);
  EXPECT_ERROR(job.set("client", "17"), "this job has no key 'client'");
}

// A results file is a job: it runs the same again, under the name that the new run is given, and
// the command line goes over it.
TEST(Job, AResultsFileIsAJob) {
  const std::string path = testing::TempDir() + "fl_sim_job_test.h5";
  const Job job = Job::from_text(
      "algorithm = fedprox\nfedprox.mu = 0.5\nseed = 3\nrounds = 6\n"
      "output = elsewhere.h5\noverwrite = true\n" +
      kComplete);
  {
    Results results(path, /*overwrite=*/true);
    results.set_job(job.text(), job.values());
    results.save(/*force=*/true);
  }
  const Job again = Job::parse({"--job", path});
  std::map<std::string, std::string> expected = job.values();
  expected["output"] = "results/fl_sim_job_test.h5";
  expected["overwrite"] = "false";
  EXPECT_EQ(again.values(), expected);
  const Job changed = Job::parse({"--job", path, "--seed", "4", "--algorithm", "fedavg"});
  EXPECT_EQ(changed.get<int64_t>("seed"), 4);
  EXPECT_EQ(changed.get<int64_t>("rounds"), 6);
  std::filesystem::remove(path);
}

// A results file has every default written out. With another algorithm on the command line what was
// a default for the old one does not stay behind; what differed from it does.
TEST(Job, AResultsFileWithAnotherAlgorithm) {
  const std::string path = testing::TempDir() + "fl_sim_job_test.h5";
  const auto save = [&](const std::string& lines) {
    const Job job = Job::from_text(lines + kComplete);
    Results results(path, /*overwrite=*/true);
    results.set_job(job.text(), job.values());
    results.save(/*force=*/true);
  };
  save("algorithm = fedadam\nserver.tau = 0.01\n");
  const Job fedavg = Job::parse({"--job", path, "--algorithm", "fedavg"});
  EXPECT_EQ(fedavg.get<std::string>("server.optimizer"), "sgd");
  EXPECT_EQ(fedavg.get<double>("server.lr"), 1);
  save("algorithm = fedadam\nserver.lr = 0.25\n");
  EXPECT_EQ(Job::parse({"--job", path, "--algorithm", "fedavg"}).get<double>("server.lr"), 0.25);
  save("algorithm = scaffold\n");
  EXPECT_EQ(Job::parse({"--job", path, "--algorithm", "fedavg"}).get<std::string>("weighting"),
            "samples");
  save("algorithm = fedavg\n");
  EXPECT_EQ(Job::parse({"--job", path, "--algorithm", "scaffold"}).get<std::string>("weighting"),
            "uniform");
  std::filesystem::remove(path);
}

// Choosing another algorithm excuses the file's keys of the old one, not keys that nothing read.
TEST(Job, AnotherAlgorithmDoesNotExcuseOtherKeys) {
  const JobFile file("partition.min-samples = 3\n" + kComplete);
  EXPECT_ERROR(Job::parse({"--job", file.path(), "--algorithm", "scaffold"}),
               "partition.min-samples is set, but partitioner is");
}

// What an INI file cannot hold is refused: it would not survive the way to the other ranks.
TEST(Job, TextThatDoesNotSurviveIsRefused) {
  EXPECT_ERROR(Job::parse(with(kArguments, {"--output", "a#b.h5"})), "cannot hold '#'");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--output", " a.h5"})), "blanks at the ends");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--output", "a\nseed = 3"})), "line breaks");
  EXPECT_ERROR(Job::parse(with(kArguments, {"--output", "a.h5\t"})), "blanks at the ends");
  const JobFile zero(std::string("data-dir = a\0b\n", 15) + kComplete);
  EXPECT_ERROR(zero.parse(), "zero byte");
  EXPECT_ERROR(zero.parse(), zero.path() + ", line 1");
}

// A refusal says which line of which file it is about, be it the key that is wrong, its value or
// what it names; none where the command line says it.
TEST(Job, RefusalsNameTheLine) {
  const auto refused = [](const std::string& text, const std::vector<std::string>& arguments = {}) {
    const JobFile file("# a comment\n" + text);
    std::string what = error_of([&] { file.parse(arguments); });
    const size_t at = what.find(file.path());
    return at == std::string::npos ? what : what.replace(at, file.path().size(), "FILE");
  };
  const std::string base = "dataset = fcube\nmodel = logistic\n\n[local]\nbatch-size = 10\n";
  EXPECT_THAT(refused(base + "lr = fast\n"),
              AllOf(HasSubstr("local.lr is 'fast'"), HasSubstr("(FILE, line 7)")));
  EXPECT_THAT(refused(base + "lr = 0.1 # rate\nlearning = 1"), HasSubstr("in FILE, line 8 ("));
  EXPECT_THAT(refused("seed = 1\nseed = 2\n" + base), HasSubstr("in FILE, line 3 (keep one)"));
  EXPECT_THAT(refused(base + "\nlr\n"), HasSubstr("in FILE, line 8 ("));
  EXPECT_THAT(refused("fedprox.mu = 1\n" + base + "lr = 0.1"),
              AllOf(HasSubstr("fedprox.mu is set, but"), HasSubstr("(FILE, line 2)")));
  EXPECT_THAT(refused("algorithm = fedavgg\n" + base + "lr = 0.1"),
              AllOf(HasSubstr("did you mean 'fedavg'?"), HasSubstr("(FILE, line 2)")));
  EXPECT_THAT(refused(base),
              AllOf(HasSubstr("FILE: the job does not say:"), HasSubstr("local.lr")));
  EXPECT_THAT(refused(base + "lr = 0.1", {"--rounds", "-3"}), Not(HasSubstr("FILE")));
}

// Files that are no job: missing, a directory, garbage, a broken HDF5 file, no key = value lines.
TEST(Job, GarbageIsRefused) {
  const std::string missing = testing::TempDir() + "fl_sim_no_such_job.ini";
  EXPECT_ERROR(Job::parse({"--job", missing}), "cannot read the job file " + missing);
  EXPECT_ERROR(Job::parse({"--job", testing::TempDir()}), "cannot read the job file");
  const JobFile words("once upon a time\n");
  EXPECT_ERROR(words.parse(), words.path());
  const JobFile large("rounds = 1\n");  // not read into memory first
  std::filesystem::resize_file(large.path(), uintmax_t{1} << 40);
  EXPECT_ERROR(large.parse(), large.path() + " has 1099511627776 bytes");
  std::string bytes;
  for (int i = 0; i < 3000; ++i) bytes += static_cast<char>((i * 37 + i / 256) % 256);
  const JobFile garbage(bytes);
  EXPECT_ERROR(garbage.parse(), garbage.path());
  const JobFile broken("\x89HDF\r\n\x1a\n" + bytes);
  EXPECT_ERROR(broken.parse(), broken.path());
  EXPECT_ERROR(Job::from_text("job = other.ini\n" + kComplete),
               "a job file cannot name another job");
}

}  // namespace
}  // namespace fl_sim
