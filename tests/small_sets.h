// A small valid data set of each format, as files in a folder: what the tests of readers start
// from.
#pragma once

#include <turbojpeg.h>

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/hdf5_file.h"
#include "data_files.h"

namespace fl_sim {

struct SmallSet {
  std::string name;      // of the case
  std::string dataset;   // the plug-in
  std::string argument;  // behind its colon, within data-dir
  std::string options;   // lines of a job, beside data-dir
  std::vector<std::string> files;
  // Checksums cover what the files say: a damaged file is refused or gives the same samples.
  bool sealed = false;
};

// Image i of a set: pixel p is (31 i + 7 p) mod 256.
inline std::string pixels_of(int i, int count) {
  std::string out;
  for (int p = 0; p < count; ++p) out += static_cast<char>(31 * i + 7 * p);
  return out;
}

// n images of 28 x 28 with labels i mod 10, plus `first`.
inline std::pair<std::string, std::string> idx_pair(uint32_t n, int first) {
  std::string images = idx_header(8, {n, 28, 28}), labels = idx_header(8, {n});
  for (uint32_t i = 0; i < n; ++i) {
    images += pixels_of(static_cast<int>(i), 28 * 28);
    labels += static_cast<char>(i % 10 + static_cast<uint32_t>(first));
  }
  return {images, labels};
}

inline SmallSet small_idx(const TemporaryFolder& folder) {
  SmallSet set{"idx", "mnist", "", "", {}};
  for (const auto& [part, n] : {std::pair{"train", 12u}, std::pair{"t10k", 5u}}) {
    const auto [images, labels] = idx_pair(n, 0);
    for (const auto& [kind, bytes] :
         {std::pair{"-images-idx3-ubyte", images}, std::pair{"-labels-idx1-ubyte", labels}}) {
      set.files.push_back(std::string("mnist/") + part + kind);
      folder.write(set.files.back(), bytes);
    }
  }
  return set;
}

inline SmallSet small_emnist(const TemporaryFolder& folder) {
  SmallSet set{"idx.gz", "emnist", "", "emnist.split = letters\n", {}, true};
  for (const auto& [part, n] : {std::pair{"train", 12u}, std::pair{"test", 5u}}) {
    const auto [images, labels] = idx_pair(n, 1);
    for (const auto& [kind, bytes] :
         {std::pair{"-images-idx3-ubyte.gz", images}, std::pair{"-labels-idx1-ubyte.gz", labels}}) {
      set.files.push_back(std::string("emnist/gzip/emnist-letters-") + part + kind);
      folder.write(set.files.back(), gzipped(bytes));
    }
  }
  return set;
}

// Writers w0, w1, w2 with 2, 1, 3 training images and one test image each; pixel p of writer w's
// image i is 1 - ((31 (10 w + i) + 7 p) mod 256) / 255, its label 20 w + i.
inline SmallSet small_fed_emnist(const TemporaryFolder& folder) {
  SmallSet set{"fed-emnist", "fed-emnist", "", "", {}};
  std::filesystem::create_directories(folder.path() / "fed-emnist");
  for (const std::string part : {"train", "test"}) {
    set.files.push_back("fed-emnist/fed_emnist_" + part + ".h5");
    Hdf5File file = Hdf5File::create(folder.path() / set.files.back());
    for (const auto& [writer, images] : {std::pair{0, 2}, std::pair{1, 1}, std::pair{2, 3}}) {
      const int n = part == "train" ? images : 1;
      std::vector<float> pixels;
      std::vector<int64_t> labels;
      for (int i = 0; i < n; ++i) {
        for (const char c : pixels_of(10 * writer + i, 28 * 28))
          pixels.push_back(1 - static_cast<float>(static_cast<unsigned char>(c)) / 255);
        labels.push_back(20 * writer + i);
      }
      const std::string group = "/examples/w" + std::to_string(writer);
      file.write(group + "/pixels", pixels, {n, 28, 28});
      file.write(group + "/label", labels,
                 writer == 1 ? std::vector<int64_t>{n, 1} : std::vector<int64_t>{n});
    }
    file.close();
  }
  return set;
}

// Clients 0 and 1 with 2 images each, the test client 7 with one; value v of client c's image i, in
// the file's order (row, column, channel), is (31 (10 c + i) + 7 v) mod 256.
inline SmallSet small_fed_cifar(const TemporaryFolder& folder) {
  SmallSet set{"fed-cifar100", "fed-cifar100", "", "", {}};
  std::filesystem::create_directories(folder.path() / "fed_cifar100");
  for (const std::string part : {"train", "test"}) {
    set.files.push_back("fed_cifar100/fed_cifar100_" + part + ".h5");
    Hdf5File file = Hdf5File::create(folder.path() / set.files.back());
    const std::vector<int> clients = part == "train" ? std::vector<int>{0, 1} : std::vector<int>{7};
    for (const int client : clients) {
      const int n = part == "train" ? 2 : 1;
      std::vector<int64_t> image, labels;
      for (int i = 0; i < n; ++i) {
        for (const char c : pixels_of(10 * client + i, 32 * 32 * 3))
          image.push_back(static_cast<unsigned char>(c));
        labels.push_back(30 * client % 100 + i);
      }
      const std::string group = "/examples/" + std::to_string(client);
      file.write(group + "/image", image, {n, 32, 32, 3});
      file.write(group + "/label", labels);
    }
    file.close();
  }
  return set;
}

inline const std::vector<std::string>& small_snippets() {
  static const std::vector<std::string> snippets = {"To be, or not to be", std::string(79, 'a'),
                                                    std::string(200, 'b') + "~",
                                                    "Now is the winter\nof our discontent"};
  return snippets;
}

inline SmallSet small_fed_shakespeare(const TemporaryFolder& folder) {
  SmallSet set{"fed-shakespeare", "fed-shakespeare", "", "", {}};
  std::filesystem::create_directories(folder.path() / "shakespeare");
  for (const std::string part : {"train", "test"}) {
    set.files.push_back("shakespeare/shakespeare_" + part + ".h5");
    Hdf5File file = Hdf5File::create(folder.path() / set.files.back());
    const std::vector<std::string>& all = small_snippets();
    file.write("/examples/HAMLET/snippets", std::span(all).subspan(0, 3));
    file.write("/examples/RICHARD/snippets", std::span(all).subspan(3, 1));
    file.close();
  }
  return set;
}

// A LEAF file of these users: the lists of x and y as JSON.
struct LeafUser {
  std::string name, x, y;
  int samples;
};
inline std::string leaf_json(const std::vector<LeafUser>& users) {
  std::string names, counts, data;
  for (const LeafUser& user : users) {
    const std::string comma = names.empty() ? "" : ", ";
    names += comma + "\"" + user.name + "\"";
    counts += comma + std::to_string(user.samples);
    data += comma + "\"" + user.name + "\": {\"x\": " + user.x + ", \"y\": " + user.y + "}";
  }
  return "{\"users\": [" + names + "], \"num_samples\": [" + counts +
         "], \"hierarchies\": [[\"a\", {\"b\": null}], 1.5, true], \"user_data\": {" + data + "}}";
}

// Two files whose users have to be merged and sorted: d, b and c, a.
inline SmallSet small_leaf(const TemporaryFolder& folder) {
  SmallSet set{"leaf numbers", "leaf", "numbers", "", {}};
  const auto write = [&](const std::string& name, const std::vector<LeafUser>& users) {
    set.files.push_back("numbers/" + name);
    folder.write(set.files.back(), leaf_json(users));
  };
  write("train/0.json",
        {{"d", "[[1.5, -2, 3e-1], [4, 5, 6]]", "[2, 0]", 2}, {"b", "[[7, 8, 9]]", "[1]", 1}});
  write("train/1.json",
        {{"c", "[[10, 11, 12]]", "[1.0]", 1}, {"a", "[[13, 14, 15], [0, 0, 0]]", "[0, 1]", 2}});
  write("test/0.json", {{"a", "[[1, 2, 3]]", "[2]", 1}, {"e", "[]", "[]", 0}});
  return set;
}

inline SmallSet small_leaf_text(const TemporaryFolder& folder) {
  SmallSet set{"leaf text", "leaf", "shakespeare", "", {}};
  const auto text = [](char c) { return message('"', std::string(79, c), "\\n\""); };
  for (const std::string part : {"train", "test"}) {
    set.files.push_back("shakespeare/data/" + part + "/all_data.json");
    folder.write(
        set.files.back(),
        leaf_json({{"ROMEO", "[" + text('a') + ", " + text('Z') + "]", "[\"b\", \"}\"]", 2},
                   {"JULIET", "[" + text(' ') + "]", "[\"!\"]", 1}}));
  }
  return set;
}

// Images as LEAF's FEMNIST has them: 784 numbers k / 255.
inline SmallSet small_leaf_images(const TemporaryFolder& folder) {
  SmallSet set{"leaf images", "leaf", "femnist", "leaf.classes = 62\n", {}};
  for (const std::string part : {"train", "test"}) {
    std::vector<LeafUser> users;
    for (int user = 0; user < 2; ++user) {
      std::ostringstream x;
      x.precision(17);
      for (const char c : pixels_of(user, 28 * 28))
        x << (x.tellp() > 0 ? ", " : "[[") << static_cast<unsigned char>(c) / 255.0;
      users.push_back({message("f", user), x.str() + "]]", message("[", 60 + user, "]"), 1});
    }
    set.files.push_back("leaf/femnist/data/" + part + "/all.json");
    folder.write(set.files.back(), leaf_json(users));
  }
  return set;
}

inline SmallSet small_csv(const TemporaryFolder& folder) {
  SmallSet set{"csv",
               "csv",
               "table.csv",
               "csv.label = class\ncsv.client = clinic\ncsv.onehot = colour\ncsv.drop = name\n"
               "csv.missing = ?,empty\ncsv.standardise = client\ncsv.test-fraction = 0.3\n",
               {"table.csv"}};
  folder.write("table.csv",
               "name,size,colour,class,weight,clinic\r\n"
               "\"a, \"\"b\"\"\",1.5,red,yes,10,north\r\n"
               "c,2.5,blue,no,-20,north\r\n"
               "d,3.5,red,yes,3e1,north\r\n"
               "e,?,red,yes,3e1,south\r\n"
               "f,1,green,no,4,south\r\n"
               "g,2,\"blue\",no,,south\r\n"
               "h,3,blue,yes,6,south\r\n"
               "\"i\nj\",4,red,no,8,south\r\n");
  return set;
}

inline SmallSet small_regression(const TemporaryFolder& folder) {
  SmallSet set{"csv regression",
               "csv",
               "numbers.tsv",
               "csv.label = -1\ncsv.header = false\ncsv.separator = space\ncsv.regression = true\n"
               "csv.test = test.tsv\n",
               {"numbers.tsv", "test.tsv"}};
  folder.write("numbers.tsv", "1 2 3.5\n 4\t5   -6.25\n7 8 3.50\n");
  folder.write("test.tsv", "0 1 100\n2 3 3.5\n");
  return set;
}

inline SmallSet small_libsvm(const TemporaryFolder& folder) {
  SmallSet set{"libsvm", "libsvm", "rows", "libsvm.test = rows.t\n", {"rows", "rows.t"}};
  folder.write("rows", "-1 1:0.5 3:2 \n+1 2:-1.5e0\n-1 # nothing\n+1 1:1 2:1 3:1\n");
  folder.write("rows.t", "+1 4:7\n-1 1:3\n");
  return set;
}

// 12 rows of each hospital, the 2nd and 5th of those that are kept being test rows. Row i of
// hospital h: numbers that a test can compute again.
inline std::string heart_row(int hospital, int i) {
  std::ostringstream row;
  row << 40 + i << "," << i % 2 << "," << 1 + (i + hospital) % 4 << "," << 120 + 3 * i << ","
      << 200 + 7 * i << "," << (i + 1) % 2 << "," << (i + hospital) % 3 << "," << 150 - i << ","
      << i % 2 << "," << 0.1 * i << ",?,?,?," << (i + hospital) % 5;
  return row.str();
}
inline SmallSet small_heart(const TemporaryFolder& folder) {
  SmallSet set{"heart", "heart", "", "", {}};
  int hospital = 0;
  std::string rows = "{";
  for (const std::string name : {"cleveland", "hungarian", "switzerland", "va"}) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      text += heart_row(hospital, i) + "\n";
      if (i == 3) text += "50,1,1,?,200,0,0,150,0,1,?,?,?,0\n";  // left out
    }
    set.files.push_back("heart/processed." + name + ".data");
    folder.write(set.files.back(), text);
    rows += (hospital > 0 ? ", \"" : "\"") + name + "\": [1, 4]";
    ++hospital;
  }
  set.files.push_back("heart/test_rows.json");
  folder.write(set.files.back(), rows + "}");
  return set;
}

inline SmallSet small_png(const TemporaryFolder& folder) {
  SmallSet set{"png", "images", "png", "", {}, true};
  int i = 0;
  for (const std::string name :
       {"train/cat/1.png", "train/cat/2.PNG", "train/dog/1.png", "test/dog/9.png"}) {
    set.files.push_back("png/" + name);
    folder.write(set.files.back(), png(3, 2, 3, pixels_of(i++, 2 * 3 * 3)));
  }
  return set;
}

inline std::string jpeg(int width, int height, const std::string& rgb) {
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  tjhandle encoder = tjInitCompress();
  tjCompress2(encoder, reinterpret_cast<const unsigned char*>(rgb.data()), width, 0, height,
              TJPF_RGB, &bytes, &size, TJSAMP_444, 100, TJFLAG_ACCURATEDCT);
  const std::string out(reinterpret_cast<const char*>(bytes), size);
  tjFree(bytes);
  tjDestroy(encoder);
  return out;
}

inline SmallSet small_jpeg(const TemporaryFolder& folder) {
  SmallSet set{"jpeg", "images", "jpeg", "images.colour = grey\nimages.test-fraction = 0.5\n", {}};
  for (const std::string name : {"a/1.jpg", "a/2.jpeg", "b/1.JPG", "b/2.jpg"}) {
    set.files.push_back("jpeg/" + name);
    folder.write(set.files.back(), jpeg(8, 8, std::string(8 * 8 * 3, name[0] == 'a' ? 'A' : 'z')));
  }
  return set;
}

inline SmallSet small_fedscale(const TemporaryFolder& folder) {
  SmallSet set{"fedscale",
               "fedscale",
               "fs",
               "fedscale.size = 2x2\n",
               {"fs/client_data_mapping/train.csv", "fs/client_data_mapping/test.csv",
                "fs/train/a.png", "fs/train/sub/b.png", "fs/test/c.png"}};
  folder.write(set.files[0],
               "client_id,sample_path,label_name,label_id\n"
               "9,a.png,cat,1\n4,sub/b.png,dog,0\n9,sub/b.png,dog,0\n");
  folder.write(set.files[1], "client_id,sample_path,label_name,label_id\n1,c.png,bird,2\n");
  folder.write(set.files[2], png(2, 2, 3, pixels_of(1, 12)));
  folder.write(set.files[3], png(4, 4, 1, std::string(16, '\x40')));
  folder.write(set.files[4], png(2, 2, 4, std::string(16, '\xff')));
  return set;
}

// x is [4, 2, 3] bytes, y [4], client [4]; x_test and y_test of one sample.
inline std::vector<std::pair<std::string, std::string>> small_arrays() {
  return {{"x.npy", npy("|u1", "(4, 2, 3)", pixels_of(0, 24))},
          {"y.npy", npy("<i8", "(4,)", raw<int64_t>({0, 2, 1, 0}))},
          {"client.npy", npy(">i2", "(4,)", std::string("\0\x07\xff\xff\0\x07\0\x01", 8))},
          {"x_test.npy", npy("|u1", "(1, 2, 3)", pixels_of(5, 6))},
          {"y_test.npy", npy("<u4", "(1, 1)", raw<uint32_t>({2}))}};
}

inline SmallSet small_npz(const TemporaryFolder& folder) {
  SmallSet set{"npz", "npz", "arrays.npz", "", {"arrays.npz"}, true};
  folder.write("arrays.npz", zip(small_arrays(), true));
  return set;
}

inline SmallSet small_npy(const TemporaryFolder& folder) {
  SmallSet set{"npy", "npz", "arrays", "npz.regression = true\n", {}};
  const std::vector<float> y = {0.5f, -1, 0.5f, 3, 2, 1, 7, 8, 9, 10};
  std::vector<double> x;
  for (int i = 0; i < 20; ++i) x.push_back(0.25 * i);
  for (const auto& [name, bytes] : {std::pair{"x.npy", npy("<f8", "(10, 2)", raw(x), true)},
                                    std::pair{"y.npy", npy("<f4", "(10,)", raw(y))}}) {
    set.files.push_back(std::string("arrays/") + name);
    folder.write(set.files.back(), bytes);
  }
  return set;
}

inline std::vector<SmallSet (*)(const TemporaryFolder&)> small_sets() {
  return {small_idx,    small_emnist,    small_fed_emnist,  small_fed_cifar, small_fed_shakespeare,
          small_leaf,   small_leaf_text, small_leaf_images, small_csv,       small_regression,
          small_libsvm, small_heart,     small_png,         small_jpeg,      small_fedscale,
          small_npz,    small_npy};
}

}  // namespace fl_sim
