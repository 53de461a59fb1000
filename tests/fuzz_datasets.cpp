// Mutation tests of every reader of data files.
#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/job.h"
#include "data/dataset.h"
#include "data/partition_file.h"
#include "fuzz.h"
#include "plugins/datasets/cifar.h"
#include "small_sets.h"
#ifdef FL_SIM_WEBP
#include <webp/encode.h>
#endif

namespace fl_sim::fuzz {
namespace {

// All but the data set is as small as can be.
Job job_of(const std::string& lines) {
  return Job::from_text(
      "model = logistic\nrounds = 1\ncohort = 1\nlocal.lr = 0.1\nlocal.batch-size = 10\n" + lines);
}

bool same(const Dataset& a, const Dataset& b) {
  const auto equal = [](const torch::Tensor& x, const torch::Tensor& y) {
    return x.scalar_type() == y.scalar_type() && torch::equal(x, y);
  };
  return equal(a.train.inputs, b.train.inputs) && equal(a.train.labels, b.train.labels) &&
         equal(a.test.inputs, b.test.inputs) && equal(a.test.labels, b.test.labels) &&
         a.owner == b.owner;
}

std::function<Dataset()> reader_of(const SmallSet& set, const Folder& folder) {
  const std::string argument = set.argument, dataset = set.dataset;  // found within data-dir
  const Job job = job_of("dataset = " + dataset + (argument.empty() ? "" : ":" + argument) +
                         "\ndata-dir = " + folder->path().string() + "\n" + set.options);
  return [dataset, job, argument] { return make<DatasetSource>(dataset, {job, argument})->read(); };
}

// What is read is whole, and the same as before if checksums cover it.
std::function<Outcome()> checked(const std::string& name, const Folder& folder, bool sealed,
                                 const std::function<Dataset()>& read) {
  const auto valid = std::make_shared<Dataset>(read());
  return [=] {
    return attempt({folder->path().string()}, [&]() -> std::string {
      const Dataset data = read();
      try {
        check_dataset(data, name);
      } catch (const Error& error) {
        return message("read, but not whole: ", error.what());
      }
      return sealed && !same(data, *valid) ? "checksums were right, and samples differ" : "";
    });
  };
}

using MakeSet = SmallSet (*)(const TemporaryFolder&);

Entry entry_of(const std::string& name, int64_t weight, MakeSet make_set) {
  return {name, weight, [=] {
            const Folder folder = folder_of("datasets");
            const SmallSet set = make_set(*folder);
            return files_case(folder, set.files,
                              checked(name, folder, set.sealed, reader_of(set, folder)));
          }};
}

// The same, damaged behind checksums and compression: `damage` makes a whole file of other
// contents.
Entry inside(const std::string& name, int64_t weight, MakeSet make_set, const Damage& damage) {
  return {name, weight, [=] {
            const Folder folder = folder_of("datasets");
            const SmallSet set = make_set(*folder);
            return files_case(folder, set.files,
                              checked(name, folder, false, reader_of(set, folder)), damage);
          }};
}

// CIFAR's own plug-ins want 10,000 records a file; their reader takes any number.
Case cifar_case() {
  const Folder folder = folder_of("datasets");
  std::string records;
  for (int i = 0; i < 3; ++i)
    records += std::string{static_cast<char>(i), static_cast<char>(i + 1)} + pixels_of(i, 3072);
  const std::string path = folder->write("train.bin", records);
  return files_case(folder, {"train.bin"}, checked("cifar", folder, false, [path] {
                      const CifarRecords read = read_cifar({path}, {3, 100, 20});
                      Dataset data;
                      data.classes = 100;
                      data.train = data.test = read.samples;
                      return data;
                    }));
}

std::string inflated(const std::string& bytes, int window_bits) {
  z_stream stream{};
  inflateInit2(&stream, window_bits);
  std::string out(1 << 16, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  inflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  inflateEnd(&stream);
  return out;
}

std::string inside_gzip(std::string bytes, Rng& rng) {
  return gzipped(mutated(inflated(bytes, 16 + MAX_WBITS), rng));
}

// Members of an archive are damaged, renamed, twice there, or not at all.
std::string inside_zip(std::string, Rng& rng) {
  auto arrays = small_arrays();
  const auto member = static_cast<size_t>(rng.below(std::ssize(arrays)));
  const int64_t kind = rng.below(10);
  if (kind == 0) {
    arrays.erase(arrays.begin() + static_cast<std::ptrdiff_t>(member));
  } else if (kind == 1) {
    arrays.push_back(arrays[member]);
  } else if (kind == 2) {
    arrays[member].first = mutated(arrays[member].first, rng);
  } else if (kind == 3) {
    std::swap(arrays[member].second, arrays[0].second);
  } else {
    arrays[member].second = mutated(arrays[member].second, rng);
  }
  return zip(arrays, rng.below(2) == 0);
}

std::string png_chunk(const std::string& type, const std::string& data) {
  return big_endian(static_cast<uint32_t>(data.size())) + type + data +
         big_endian(crc_of(type + data));
}

// What chunks hold is damaged, what packs them is right: their checksums, and the rows' zlib.
std::string inside_png(std::string bytes, Rng& rng) {
  struct Chunk {
    std::string type, data;
  };
  std::vector<Chunk> chunks;
  for (size_t at = 8; at + 12 <= bytes.size();) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[at + i]); };
    const size_t length = size_t{byte(2)} << 8 | byte(3);
    chunks.push_back({bytes.substr(at + 4, 4), bytes.substr(at + 8, length)});
    at += 12 + length;
  }
  for (int64_t edits = 1 + rng.below(2); edits > 0; --edits) {
    const auto at = static_cast<size_t>(rng.below(std::ssize(chunks)));
    const auto place = chunks.begin() + static_cast<std::ptrdiff_t>(at);
    Chunk& chunk = chunks[at];
    switch (rng.below(6)) {
      case 0: {
        const Chunk copy = chunk;
        chunks.insert(place, copy);
        break;
      }
      case 1:
        if (chunks.size() > 1) chunks.erase(place);
        break;
      case 2:
        std::swap(chunk, chunks[static_cast<size_t>(rng.below(std::ssize(chunks)))]);
        break;
      case 3: {
        static const std::vector<Chunk> others = {{"gAMA", big_endian(100000)},
                                                  {"tRNS", std::string(6, '\x7f')},
                                                  {"tRNS", std::string(300, '\1')},
                                                  {"iCCP", "x"},
                                                  {"sRGB", "\1"},
                                                  {"PLTE", std::string(768, 'p')},
                                                  {"bKGD", "bk"},
                                                  {"eXIf", "MM"},
                                                  {"acTL", std::string(8, '\0')},
                                                  {"QRST", "critical"},
                                                  {"tEXt", "a text"}};
        chunks.insert(place, others[static_cast<size_t>(rng.below(std::ssize(others)))]);
        break;
      }
      default:
        chunk.data = chunk.type == "IDAT"
                         ? deflated(mutated(inflated(chunk.data, MAX_WBITS), rng), MAX_WBITS)
                         : mutated(chunk.data, rng);
    }
  }
  std::string out = bytes.substr(0, 8);
  for (const Chunk& chunk : chunks) out += png_chunk(chunk.type, chunk.data);
  return out;
}

// All kinds of PNG files: palette, transparency, 1 and 16 bits, interlaced, and chunks that say how
// the numbers are meant.
SmallSet kinds_of_png(const TemporaryFolder& folder) {
  SmallSet set{"png kinds", "images", "kinds", "images.test-fraction = 0.4\n", {}, false};
  const auto write = [&](const std::string& name, const std::string& header,
                         const std::string& chunks, const std::string& rows) {
    set.files.push_back("kinds/" + name);
    folder.write(set.files.back(),
                 "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", big_endian(4) + big_endian(2) + header) +
                     chunks + png_chunk("IDAT", deflated(rows, MAX_WBITS)) + png_chunk("IEND", ""));
  };
  using std::string;
  const string filter(1, '\0');
  const auto two_rows = [&](const string& row) { return filter + row + filter + row; };
  write("a/palette.png", string("\x08\x03\0\0\0", 5),
        png_chunk("PLTE", "abcdefghijkl") + png_chunk("tRNS", "\x01\xff\x80"),
        two_rows(string("\0\1\2\3", 4)));
  write("a/bits.png", string("\x01\0\0\0\0", 5), "", two_rows("\xa0"));
  write("a/grey16.png", string("\x10\0\0\0\0", 5),
        png_chunk("gAMA", big_endian(45455)) + png_chunk("tRNS", "ab"), two_rows("abcdefgh"));
  write("b/alpha.png", string("\x08\x06\0\0\0", 5), png_chunk("sRGB", string(1, '\0')),
        two_rows("abcdefghijklmnop"));
  write("b/colour16.png", string("\x10\x02\0\0\0", 5),
        png_chunk("iCCP", string("name\0\0", 6) + deflated("profile", MAX_WBITS)) +
            png_chunk("cHRM", string(32, '\1')),
        two_rows(string(24, 'c')));
  // Adam7 of 4 x 2 pixels: passes of 1, 1, 2 and 4 of them.
  write("b/interlaced.png", string("\x08\0\0\0\1", 5), "",
        filter + "a" + filter + "b" + filter + "cd" + filter + "efgh");
  return set;
}

// CMYK with Adobe's marker, grey, and sampled at half the size.
SmallSet kinds_of_jpeg(const TemporaryFolder& folder) {
  SmallSet set{"jpeg kinds", "images", "jpegs", "images.test-fraction = 0.5\n", {}, false};
  const std::string pixels = pixels_of(3, 16 * 16 * 4);
  const auto write = [&](const std::string& name, int format, int sampling) {
    unsigned char* bytes = nullptr;
    unsigned long size = 0;
    tjhandle encoder = tjInitCompress();
    tjCompress2(encoder, reinterpret_cast<const unsigned char*>(pixels.data()), 16, 0, 16, format,
                &bytes, &size, sampling, 80, name[2] == 'p' ? TJFLAG_PROGRESSIVE : 0);
    set.files.push_back("jpegs/" + name);
    folder.write(set.files.back(), {reinterpret_cast<const char*>(bytes), size});
    tjFree(bytes);
    tjDestroy(encoder);
  };
  write("a/inks.jpg", TJPF_CMYK, TJSAMP_444);
  write("a/grey.jpg", TJPF_GRAY, TJSAMP_GRAY);
  write("b/half.jpg", TJPF_RGB, TJSAMP_420);
  write("b/progressive.jpg", TJPF_RGB, TJSAMP_422);
  return set;
}

#ifdef FL_SIM_WEBP
// With and without losses, and with transparency.
SmallSet small_webp(const TemporaryFolder& folder) {
  SmallSet set{"webp", "images", "webp", "images.test-fraction = 0.5\n", {}, false};
  const std::string pixels = pixels_of(3, 8 * 8 * 4);
  const auto* data = reinterpret_cast<const uint8_t*>(pixels.data());
  const auto write = [&](const std::string& name, uint8_t* bytes, size_t size) {
    set.files.push_back("webp/" + name);
    folder.write(set.files.back(), {reinterpret_cast<const char*>(bytes), size});
    WebPFree(bytes);
  };
  uint8_t* out = nullptr;
  size_t size = WebPEncodeRGB(data, 8, 8, 24, 80, &out);
  write("a/1.webp", out, size);
  size = WebPEncodeRGBA(data, 8, 8, 32, 80, &out);
  write("a/2.webp", out, size);
  size = WebPEncodeLosslessRGB(data, 8, 8, 24, &out);
  write("b/1.webp", out, size);
  size = WebPEncodeLosslessRGBA(data, 8, 8, 32, &out);
  write("b/2.webp", out, size);
  return set;
}
#endif

SmallSet small_celeba(const TemporaryFolder& folder) {
  SmallSet set{"leaf files", "leaf", "faces", "", {}, false};
  for (const std::string part : {"train", "test"}) {
    set.files.push_back("faces/data/" + part + "/all.json");
    folder.write(set.files.back(), leaf_json({{"7", "[\"1.png\", \"2.png\"]", "[0, 1]", 2},
                                              {"9", "[\"2.png\"]", "[1]", 1}}));
  }
  for (const std::string name : {"1.png", "2.png"}) {
    set.files.push_back("faces/data/raw/img_align_celeba/" + name);
    folder.write(set.files.back(), png(2, 2, 3, pixels_of(name[0], 12)));
  }
  return set;
}

SmallSet pixel_table(const TemporaryFolder& folder) {
  SmallSet set{
      "csv pixels",
      "csv",
      "digits.csv",
      "csv.label = label\ncsv.shape = 1x2x2\ncsv.scale = 0.00392157\ncsv.test-fraction = 0.3\n",
      {"digits.csv"},
      false};
  folder.write("digits.csv",
               "\xEF\xBB\xBFlabel,p0,p1,p2,p3\n3,0,255,7,9\n1,1,2,3,4\n3,9,9,9,9\n1,0,0,0,255\n");
  return set;
}

SmallSet libsvm_numbers(const TemporaryFolder& folder) {
  SmallSet set{"libsvm numbers", "libsvm",
               "rows",           "libsvm.regression = true\nlibsvm.test-fraction = 0.4\n",
               {"rows"},         false};
  folder.write("rows", "1.5 1:0.5 3:2\n-2e1 2:-1.5e0\n7 4:1\n0.25 1:1 2:1\n3 1:2\n");
  return set;
}

// As MedMNIST has it: n x height x width under its own names.
SmallSet small_medmnist(const TemporaryFolder& folder) {
  SmallSet set{"npz names", "npz", "med.npz", "", {"med.npz"}, false};
  folder.write("med.npz",
               zip({{"train_images.npy", npy("|u1", "(4, 3, 3)", pixels_of(0, 36))},
                    {"train_labels.npy", npy("|u1", "(4, 1)", std::string("\0\1\0\1", 4))},
                    {"test_images.npy", npy("|u1", "(2, 3, 3)", pixels_of(9, 18))},
                    {"test_labels.npy", npy("|u1", "(2, 1)", std::string("\1\0", 2))}},
                   false));
  return set;
}

// HDF5's readers try each file in a process of its own, which takes a hundred times as long here.
constexpr int64_t kSlow = 1, kUsual = 30;

Entry objects_of(const std::string& name, MakeSet make_set) {
  return {name, kSlow, [=] {
            const Folder folder = folder_of("datasets");
            const SmallSet set = make_set(*folder);
            Case c =
                files_case(folder, set.files, checked(name, folder, false, reader_of(set, folder)));
            c.damage = [=](Rng& rng) {
              const auto file = static_cast<size_t>(rng.below(std::ssize(set.files)));
              damage_hdf5(folder->path() / set.files[file], rng);
              return set.files[file];
            };
            std::vector<std::string> originals;
            for (const std::string& file : set.files)
              originals.push_back(bytes_of(folder->path() / file));
            c.restore = [=] {
              for (size_t i = 0; i < originals.size(); ++i)
                folder->write(set.files[i], originals[i]);
            };
            return c;
          }};
}

SavedPartition small_partition() {
  return {.partition = make_partition({{5, 1}, {0, 4, 2}, {3}}),
          .samples = 7,
          .label_checksum = label_checksum(std::vector<int64_t>{0, 1, 2, 0, 1, 2, 0}),
          .partitioner = "dirichlet",
          .options = "dirichlet.alpha = 0.5\n",
          .seed = "3"};
}

// A saved partition that is read is one of the samples that there are.
std::function<Outcome()> partition_reader(const std::string& path) {
  return [path] {
    return attempt({path}, [&] {
      const SavedPartition saved = read_partition(path);
      check_saved(saved, path, std::vector<int64_t>{0, 1, 2, 0, 1, 2, 0});
      return std::string();
    });
  };
}

Case partition_lists() {
  const Folder folder = folder_of("partitions");
  folder->write("lists.json", "{\"0\": [5, 1], \"1\": [0, 4, 2], \"2\": [3]}");
  return files_case(folder, {"lists.json"}, partition_reader(folder->path() / "lists.json"));
}

Case partition_objects() {
  const Folder folder = folder_of("partitions");
  const std::string path = folder->path() / "saved.h5";
  save_partition(path, small_partition(), true);
  const std::string original = bytes_of(path);
  return {[=](Rng& rng) {
            damage_hdf5(path, rng);
            return path;
          },
          [=] { folder->write("saved.h5", original); }, partition_reader(path), ""};
}

Case partition_bytes() {
  const Folder folder = folder_of("partitions");
  const std::string path = folder->path() / "saved.h5";
  save_partition(path, small_partition(), true);
  Case c = files_case(folder, {"saved.h5"}, partition_reader(path));
  c.crashing_library = "libhdf5";
  return c;
}

}  // namespace

std::vector<Entry> dataset_cases() {
  std::vector<Entry> entries;
  for (const MakeSet make_set : small_sets()) {
    const TemporaryFolder folder("fuzz_names");
    const SmallSet set = make_set(folder);
    const bool slow = set.files[0].ends_with(".h5");
    entries.push_back(entry_of(set.name, slow ? kSlow : kUsual, make_set));
    if (slow) entries.push_back(objects_of(set.name + " objects", make_set));
  }
  entries.push_back({"cifar", kUsual, cifar_case});
  entries.push_back(inside("idx in gz", kUsual, small_emnist, inside_gzip));
  entries.push_back(inside("npy in npz", kUsual, small_npz, inside_zip));
  entries.push_back(entry_of("npz names", kUsual, small_medmnist));
  entries.push_back(inside("png chunks", kUsual, small_png, inside_png));
  entries.push_back(entry_of("png kinds", kUsual, kinds_of_png));
  entries.push_back(inside("png kinds chunks", kUsual, kinds_of_png, inside_png));
  entries.push_back(entry_of("jpeg kinds", kUsual, kinds_of_jpeg));
#ifdef FL_SIM_WEBP
  entries.push_back(entry_of("webp", kUsual, small_webp));
#endif
  entries.push_back(entry_of("leaf files", kUsual, small_celeba));
  entries.push_back(entry_of("csv pixels", kUsual, pixel_table));
  entries.push_back(entry_of("libsvm numbers", kUsual, libsvm_numbers));
  entries.push_back({"partition lists", kUsual, partition_lists});
  entries.push_back({"partition objects", kUsual, partition_objects});
  entries.push_back({"partition bytes", 10, partition_bytes});
  return entries;
}

}  // namespace fl_sim::fuzz
