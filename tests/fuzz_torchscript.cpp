// Mutation tests of TorchScript files. LibTorch reads them, without sanitizers, and may crash over
// a damaged one that our own look at its checksums lets through.
#include "base/check.h"
#include "fuzz.h"
#include "plugins/models/torchscript_file.h"

namespace fl_sim::fuzz {
namespace {

Case torchscript_case(bool sealed) {
  const Folder folder = folder_of("torchscript");
  torch::jit::Module fc("Fc");
  fc.register_parameter("weight", torch::ones({2, 3}), false);
  fc.register_buffer("count", torch::tensor(0));
  fc.define("def forward(self, x):\n    return torch.matmul(x, self.weight.t())\n");
  const std::string path = folder->path() / "net.pt";
  fc.save(path);
  const auto read = [path] {
    return attempt({path}, [&]() -> std::string {
      const torch::jit::Module net = load_torchscript(path);
      for (const torch::Tensor& weight : net.parameters()) {
        if (!weight.equal(torch::ones({2, 3}))) return "checksums were right, and weights differ";
      }
      return "";
    });
  };
  Case c = files_case(folder, {"net.pt"}, read);
  c.crashing_library = "libtorch";
  (void)sealed;
  return c;
}

}  // namespace

std::vector<Entry> torchscript_cases() {
  return {{"torchscript", 8, [] { return torchscript_case(true); }}};
}

}  // namespace fl_sim::fuzz
