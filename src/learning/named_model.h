// A model in a file, as PyTorch names its parts.
#pragma once

#include <string>
#include <vector>

#include "base/hdf5_file.h"
#include "learning/tracker.h"

namespace fl_sim {

// 16 hexadecimal digits: zlib's crc32, then adler32, of the tensors' little-endian bytes, one
// tensor after the other in the order of their names. In Python, with h5py:
// b"".join(f["model"][k][()].tobytes() for k in sorted(f["model"])).
std::string model_checksum(const std::vector<NamedTensor>& model);

// A float32 dataset a parameter in this group ("/model"), whose attribute `checksum` is the above.
void write_model(Hdf5File& file, const std::string& group, const std::vector<NamedTensor>& model);

}  // namespace fl_sim
