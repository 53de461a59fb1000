#include "commands/batch_script.h"

#include <torch/cuda.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "engine/rank_loss.h"
#include "network/arithmetic.h"

namespace fl_sim {
namespace {

// What a shell takes for one word.
std::string shell_word(const std::string& word) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("_-./:=,@%+", c);
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// "1-02:30:00"
std::string slurm_time(double seconds) {
  const auto minutes = static_cast<int64_t>(std::ceil(seconds / 60));
  char text[64];
  std::snprintf(text, sizeof text, "%02lld:%02lld:00", static_cast<long long>(minutes / 60 % 24),
                static_cast<long long>(minutes % 60));
  return (minutes >= 1440 ? message(minutes / 1440, "-") : std::string()) + text;
}

}  // namespace

std::string batch_script(const Job& job, const std::vector<std::string>& words, int ranks,
                         int64_t bytes, double seconds) {
  const auto arithmetic = read_options<Arithmetic>(job);
  const auto warning =
      std::max<int64_t>(120, 60 + std::llround(read_options<SurvivalOptions>(job).grace));
  // Half as long again, the start and the warning; in steps of ten minutes.
  const double limit = 600 * std::ceil((1.5 * seconds + 120 + static_cast<double>(warning)) / 600);
  std::ostringstream out;
  const auto option = [&](const std::string& text) { out << "#SBATCH --" << text << "\n"; };
  out << "#!/usr/bin/env bash\n";
  std::string name = std::filesystem::path(job.get<std::string>("output")).stem().string();
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' ? c : '-';
  option("job-name=" + name);
  option("nodes=1");
  option(message("ntasks=", ranks));
  if (arithmetic.cuda()) {  // as many as there are here: ranks can share one
    const int here =
        torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
    const int hosts = std::max(1, ranks - 1);
    option(message("gpus-per-node=", here > 0 ? std::min(hosts, here) : hosts));
  }
  option(message("cpus-per-task=", arithmetic.threads));
  option(message("mem=", (bytes + bytes / 4) / (100 * (int64_t{1} << 20)) * 100 + 100, "M"));
  option("time=" + slurm_time(limit));
  option("output=%x-%j.out");
  option("open-mode=append");
  option("requeue");
  option(message("signal=B:USR1@", warning));
  out << "set -euo pipefail\n"
         "source \"${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh\"\n\nbegin --";
  for (const std::string& word : words) out << " " << shell_word(word);
  out << "\nrun_fl_sim \"$SLURM_NTASKS\" \"${options[@]}\"\n";
  return out.str();
}

}  // namespace fl_sim
