// Mutation tests of job files and command lines.
#include <algorithm>
#include <sstream>

#include "base/check.h"
#include "base/job.h"
#include "base/job_parts.h"
#include "fuzz.h"

namespace fl_sim::fuzz {
namespace {

const std::vector<std::string>& job_texts() {
  static const std::vector<std::string> texts = {
      "# FedAvg on images\n"
      "dataset = fashion-mnist\nmodel = cnn\nalgorithm = fedavg\npartitioner = dirichlet\n"
      "clients = 100\ncohort = 10\nrounds = 25\nevaluate-every = 2\nseed = 0\noverwrite = true\n\n"
      "[dirichlet]\nalpha = 0.5\n\n[local]\nepochs = 1\nbatch-size = 10\nlr = 0.1\n"
      "lr-decay = 0.96 # each round\n",
      "dataset = csv:table.csv\r\nmodel = torchscript:~/net.pt\r\nalgorithm = pwfl\r\n"
      "transforms = clip\r\naggregator = median\r\ninit = $HOME/w.h5\r\nrounds = 3\r\n"
      "clients = 8\r\ncohort = 4\r\nlocal.lr = 1e-2\r\nlocal.batch-size = 5\r\npwfl.inner = "
      "fedprox\r\nfedprox.mu = 0.1\r\n"
      "[csv]\r\nlabel = class\r\ntest-fraction = 0.3\r\n[clip]\r\nnorm = 1.5\r\n",
      "\xEF\xBB\xBF"
      "dataset=heart\nmodel=logistic\npartitioner=file\nfile.path=lists.json\n"
      "algorithm=scaffold\nmetrics=auc,f1\ntrack=none\ninject=client-crash@2:1,slow-client@1:2:0."
      "5\n"
      "output=results/"
      "x.h5\nrounds=4\ncohort=2\n[local]\nlr=0.05\nbatch-size=5\nmomentum=0.9\n[checkpoint]\n"};
  return texts;
}

std::string utf16(const std::string& text, bool big, bool mark) {
  std::string out;
  const auto add = [&](unsigned code) {
    const char high = static_cast<char>(code >> 8), low = static_cast<char>(code & 0xff);
    out += big ? high : low;
    out += big ? low : high;
  };
  if (mark) add(0xFEFF);
  for (const char c : text) add(static_cast<unsigned char>(c));
  return out;
}

std::string any_value(Rng& rng) {
  static const std::vector<std::string> values = {"",
                                                  "none",
                                                  "auto",
                                                  "true",
                                                  "0",
                                                  "-1",
                                                  "1e400",
                                                  "nan",
                                                  "inf",
                                                  "-0",
                                                  "0x1p3",
                                                  "+5",
                                                  "1e9",
                                                  "99999999999999999999",
                                                  "9223372036854775807",
                                                  "9223372036854775808",
                                                  ",",
                                                  ",,",
                                                  ":",
                                                  "a:b:c",
                                                  "~",
                                                  "~nobody-at-all/x",
                                                  "$",
                                                  "${",
                                                  "${HOME",
                                                  "$NOT_THERE/x",
                                                  "$HOME",
                                                  "clip,clip",
                                                  "fedavg,scaffold",
                                                  "torchscript:",
                                                  "torchscript",
                                                  "csv",
                                                  "\xff\xfe",
                                                  "\xe2\x82\xac",
                                                  "a = b",
                                                  "[x]",
                                                  "#",
                                                  "pwfl",
                                                  "pwfl.inner",
                                                  "1 2",
                                                  "'1'",
                                                  "\"1\"",
                                                  "1,5"};
  if (rng.below(40) == 0) return std::string(100000, static_cast<char>('a' + rng.below(26)));
  return values[static_cast<size_t>(rng.below(std::ssize(values)))];
}

std::string any_key(Rng& rng) {
  static const std::vector<Option> options = all_options();
  if (rng.below(8) == 0) return any_value(rng);
  return options[static_cast<size_t>(rng.below(std::ssize(options)))].name;
}

// A job as people get it wrong: lines that are twice there, below another section, with another
// value or another key.
std::string edited(const std::string& text, Rng& rng) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line + "\n");
  for (int64_t edits = 1 + rng.below(3); edits > 0 && !lines.empty(); --edits) {
    const auto at = static_cast<size_t>(rng.below(std::ssize(lines)));
    const auto place = lines.begin() + static_cast<std::ptrdiff_t>(at);
    std::string& line = lines[at];
    switch (rng.below(10)) {
      case 0:
        lines.insert(place, std::string(line));
        break;
      case 1:
        lines.erase(place);
        break;
      case 2:
        std::swap(line, lines[static_cast<size_t>(rng.below(std::ssize(lines)))]);
        break;
      case 3:
        lines.insert(place, "[" + any_key(rng) + "]\n");
        break;
      case 4:
        lines.insert(place, any_key(rng) + " = " + any_value(rng) + "\n");
        break;
      case 5:
        line = any_key(rng) + line.substr(std::min(line.size(), line.find('=')));
        break;
      case 6:
        line = mutated(line, rng);
        break;
      default:
        line = line.substr(0, line.find('=')) + "= " + any_value(rng) + "\n";
    }
  }
  std::string out;
  for (const std::string& line : lines) out += line;
  const int64_t form = rng.below(12);
  if (form == 0) return utf16(out, rng.below(2) == 0, rng.below(2) == 0);
  if (form == 1) return "\xEF\xBB\xBF" + out;
  if (form == 2) std::replace(out.begin(), out.end(), '\n', '\r');
  if (form == 3) return mutated(utf16(out, rng.below(2) == 0, rng.below(2) == 0), rng);
  return out;
}

// A job that is read says the same once it is written out.
std::string round_trip(const Job& job) {
  const Job again = Job::from_text(job.text());
  return again.values() == job.values() ? "" : "its text says another job:\n" + job.text();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A refusal names the file, and the line, unless it is about the file as a whole.
Outcome read_file(const std::string& path) {
  return attempt({path}, [&]() -> std::string {
    try {
      return round_trip(Job::parse({"--job", path}));
    } catch (const Error& error) {
      const std::string what = error.what();
      const bool whole = has(what, "the job does not say") || has(what, "UTF-16") ||
                         has(what, "UTF-32") || has(what, "is not chosen");
      if (!whole && !has(what, "line ")) return "the message names no line: " + what;
      throw;
    }
  });
}

Case job_file(const Damage& damage, size_t text) {
  const Folder folder = folder_of("jobs");
  const std::string path = folder->write("job.ini", job_texts()[text]);
  return files_case(
      folder, {"job.ini"}, [path] { return read_file(path); }, damage);
}

// Words, not a file.
Case command_line() {
  const std::vector<std::string> words = {
      "--dataset",   "heart",        "--model",      "logistic", "--algorithm",
      "fedprox",     "--fedprox.mu", "0.1",          "--rounds", "3",
      "--clients=8", "--cohort=4",   "--local.lr",   "0.1",      "--local.batch-size",
      "10",          "--overwrite",  "--transforms", "clip",     "--clip.norm",
      "1",           "--data-dir",   "/tmp"};
  auto damaged = std::make_shared<std::vector<std::string>>(words);
  const auto damage = [=](Rng& rng) -> std::string {
    std::vector<std::string>& all = *damaged;
    for (int64_t edits = 1 + rng.below(3); edits > 0 && !all.empty(); --edits) {
      const auto at = static_cast<size_t>(rng.below(std::ssize(all)));
      const auto place = all.begin() + static_cast<std::ptrdiff_t>(at);
      switch (rng.below(7)) {
        case 0:
          all.erase(place);
          break;
        case 1:
          all.insert(place, all[static_cast<size_t>(rng.below(std::ssize(all)))]);
          break;
        case 2:
          all[at] = mutated(all[at], rng);
          break;
        case 3:
          all[at] = "--" + any_key(rng);
          break;
        case 4:
          all[at] = any_value(rng);
          break;
        case 5:
          all.insert(place, "--" + any_key(rng) + (rng.below(2) == 0 ? "=" + any_value(rng) : ""));
          break;
        case 6:
          std::swap(all[at], all[static_cast<size_t>(rng.below(std::ssize(all)))]);
          break;
      }
    }
    // A command line has no zeros.
    for (std::string& word : all) word = word.substr(0, word.find('\0'));
    std::string text;
    for (const std::string& word : all) text += word + " ";
    return text;
  };
  return {damage, [=] { *damaged = words; },
          [=] {
            return attempt({}, [&]() -> std::string {
              try {
                return round_trip(Job::parse(*damaged));
              } catch (const Error& error) {
                if (std::string(error.what()).empty()) return "a refusal without a word";
                throw;
              }
            });
          },
          ""};
}

}  // namespace

std::vector<Entry> job_cases() {
  const auto edit = [](std::string bytes, Rng& rng) { return edited(bytes, rng); };
  return {{"job bytes", 20, [] { return job_file(mutated, 0); }},
          {"job lines", 40, [=] { return job_file(edit, 0); }},
          {"job lines 2", 40, [=] { return job_file(edit, 1); }},
          {"job lines 3", 40, [=] { return job_file(edit, 2); }},
          {"command line", 40, command_line}};
}

}  // namespace fl_sim::fuzz
