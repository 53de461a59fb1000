// HDF5 files that are whole, and not what is expected of them.
#include <hdf5.h>

#include <array>
#include <limits>

#include "base/check.h"
#include "fuzz.h"

namespace fl_sim::fuzz {
namespace {

template <class T>
const T& one_of(const std::vector<T>& all, Rng& rng) {
  return all[static_cast<size_t>(rng.below(std::ssize(all)))];
}

const std::vector<double>& strange_numbers() {
  static const std::vector<double> all = {0,
                                          -1,
                                          1,
                                          0.5,
                                          3,
                                          1e300,
                                          -1e300,
                                          9.3e18,
                                          std::numeric_limits<double>::quiet_NaN(),
                                          std::numeric_limits<double>::infinity(),
                                          4294967296,
                                          1e-320};
  return all;
}

// Everything in the file: "/rounds", "/rounds/loss".
std::vector<std::string> objects_of(hid_t file) {
  std::vector<std::string> names;
  H5Lvisit(
      file, H5_INDEX_NAME, H5_ITER_NATIVE,
      [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->push_back(std::string("/") + name);
        return 0;
      },
      &names);
  return names;
}

std::vector<std::string> attributes_of(hid_t object) {
  std::vector<std::string> names;
  H5Aiterate2(
      object, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr,
      [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->push_back(name);
        return 0;
      },
      &names);
  return names;
}

// A type of any class, for H5Tclose, and whether it is text.
std::pair<hid_t, bool> any_type(Rng& rng) {
  switch (rng.below(9)) {
    case 0:
      return {H5Tcopy(H5T_STD_I64LE), false};
    case 1:
      return {H5Tcopy(H5T_IEEE_F64LE), false};
    case 2:
      return {H5Tcopy(H5T_IEEE_F32BE), false};
    case 3:
      return {H5Tcopy(H5T_STD_U8LE), false};
    case 4: {
      const hid_t type = H5Tcopy(H5T_C_S1);
      H5Tset_size(type, H5T_VARIABLE);
      return {type, true};
    }
    case 5: {  // of a fixed length, with an end or without one
      const hid_t type = H5Tcopy(H5T_C_S1);
      H5Tset_size(type, one_of<size_t>({1, 7, 200, 60000}, rng));
      H5Tset_strpad(type,
                    one_of<H5T_str_t>({H5T_STR_NULLTERM, H5T_STR_NULLPAD, H5T_STR_SPACEPAD}, rng));
      return {type, true};
    }
    case 6: {
      const hid_t type = H5Tcreate(H5T_COMPOUND, 16);
      H5Tinsert(type, "a", 0, H5T_STD_I64LE);
      H5Tinsert(type, "b", 8, H5T_IEEE_F64LE);
      return {type, false};
    }
    case 7:
      return {H5Tcreate(H5T_OPAQUE, 5), false};
    default: {
      const hsize_t three[] = {3};
      return {H5Tarray_create2(H5T_IEEE_F64LE, 1, three), false};
    }
  }
}

// One with up to three dimensions, or nothing at all.
hid_t any_space(Rng& rng) {
  const int64_t kind = rng.below(6);
  if (kind == 0) return H5Screate(H5S_NULL);
  if (kind == 1) return H5Screate(H5S_SCALAR);
  std::array<hsize_t, 3> sizes{};
  for (hsize_t& size : sizes) size = one_of<hsize_t>({0, 1, 2, 3, 4, 5, 6, 100}, rng);
  return H5Screate_simple(static_cast<int>(1 + rng.below(3)), sizes.data(), nullptr);
}

// What fills such a type and space.
std::vector<char> any_values(hid_t type, hid_t space, bool text, Rng& rng) {
  const auto count =
      static_cast<size_t>(std::max<hssize_t>(0, H5Sget_simple_extent_npoints(space)));
  if (text && H5Tis_variable_str(type) > 0) {
    static const std::vector<std::string> texts = {"",
                                                   "1",
                                                   "nan",
                                                   "Float",
                                                   "99999999999999999999",
                                                   "\xff\xfe",
                                                   "rounds = 3\n",
                                                   "\n[",
                                                   std::string(70000, 'x')};
    std::vector<const char*> pointers(count);
    for (const char*& pointer : pointers) pointer = one_of(texts, rng).c_str();
    const char* begin = reinterpret_cast<const char*>(pointers.data());
    return {begin, begin + count * sizeof(char*)};
  }
  constexpr size_t kMost = 1 << 18;  // what is larger stays unset
  if (count * H5Tget_size(type) > kMost) return {};
  std::vector<char> bytes(count * H5Tget_size(type));
  const double number = one_of(strange_numbers(), rng);
  const bool doubles = H5Tequal(type, H5T_IEEE_F64LE) > 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = doubles ? reinterpret_cast<const char*>(&number)[i % 8]
                       : static_cast<char>(rng.below(4) > 0 ? rng.below(5) : rng.below(256));
  return bytes;
}

void make_dataset(hid_t file, const std::string& name, Rng& rng) {
  const auto [type, text] = any_type(rng);
  if (rng.below(6) == 0) {  // it claims far more than there is
    const hsize_t sizes[] = {one_of<hsize_t>({1u << 20, 1u << 25, hsize_t{1} << 40}, rng), 3};
    const hid_t space = H5Screate_simple(static_cast<int>(1 + rng.below(2)), sizes, nullptr);
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[] = {64, 3};
    H5Pset_chunk(list, H5Sget_simple_extent_ndims(space), chunk);
    const hid_t made = H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (made >= 0) H5Dclose(made);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(type);
    return;
  }
  const hid_t space = any_space(rng);
  const hid_t made =
      H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const std::vector<char> values = any_values(type, space, text, rng);
  if (made >= 0 && !values.empty())
    H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  if (made >= 0) H5Dclose(made);
  H5Sclose(space);
  H5Tclose(type);
}

void make_attribute(hid_t object, const std::string& name, Rng& rng) {
  const auto [type, text] = any_type(rng);
  const hid_t space = rng.below(2) == 0 ? H5Screate(H5S_SCALAR) : any_space(rng);
  const std::vector<char> values = any_values(type, space, text, rng);
  const hid_t made = H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT);
  if (made >= 0 && !values.empty()) H5Awrite(made, type, values.data());
  if (made >= 0) H5Aclose(made);
  H5Sclose(space);
  H5Tclose(type);
}

// Other numbers in a dataset of the same type and shape.
void change_numbers(hid_t file, const std::string& name, Rng& rng) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (dataset < 0) return;
  const hid_t space = H5Dget_space(dataset), type = H5Dget_type(dataset);
  const auto count = H5Sget_simple_extent_npoints(space);
  if (H5Tget_class(type) != H5T_STRING && count > 0 && count < (1 << 20)) {
    std::vector<double> numbers(static_cast<size_t>(count));
    H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data());
    for (int64_t edits = 1 + rng.below(3); edits > 0; --edits)
      numbers[static_cast<size_t>(rng.below(count))] = one_of(strange_numbers(), rng);
    H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data());
  } else if (H5Tis_variable_str(type) > 0 && count == 1) {
    char* text = nullptr;
    H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &text);
    const std::string other = mutated(text == nullptr ? "" : text, rng);
    const char* pointer = other.c_str();
    H5free_memory(text);
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &pointer);
  }
  H5Tclose(type);
  H5Sclose(space);
  H5Dclose(dataset);
}

void change_object(hid_t file, const std::string& name, const std::string& other, Rng& rng) {
  switch (rng.below(8)) {
    case 0:
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      break;
    case 1:
      H5Lmove(file, name.c_str(), file, (name + one_of<std::string>({"x", "/", " "}, rng)).c_str(),
              H5P_DEFAULT, H5P_DEFAULT);
      break;
    case 2:
    case 3:
      change_numbers(file, name, rng);
      break;
    case 4:
    case 5:
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      make_dataset(file, name, rng);
      break;
    case 6:  // something more
      if (rng.below(2) == 0) {
        make_dataset(file, name + "/extra", rng);
      } else {
        make_dataset(file, name.substr(0, name.rfind('/')) + "/extra", rng);
      }
      break;
    default:  // another object, a group, or what is nowhere
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      const int64_t kind = rng.below(5);
      if (kind == 0) H5Lcreate_soft("/nowhere", file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      if (kind == 1) H5Lcreate_soft(name.c_str(), file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      if (kind == 2)
        H5Lcreate_hard(file, other.c_str(), file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      if (kind == 3)
        H5Lcreate_external("gone.h5", "/x", file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
      if (kind == 4) {
        const hid_t group = H5Gcreate2(file, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        if (group >= 0) H5Gclose(group);
      }
  }
}

void change_attribute(hid_t object, Rng& rng) {
  const std::vector<std::string> names = attributes_of(object);
  const std::string name = names.empty() ? "type" : one_of(names, rng);
  if (rng.below(4) > 0) {
    H5Adelete(object, name.c_str());
    if (rng.below(4) > 0) make_attribute(object, name, rng);
  } else {
    H5Arename(object, name.c_str(), (name + "x").c_str());
  }
}

}  // namespace

void damage_hdf5(const std::string& path, Rng& rng) {
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  FL_CHECK(file >= 0, path, ": is no HDF5 file to begin with");
  for (int64_t edits = 1 + rng.below(2); edits > 0; --edits) {
    const std::vector<std::string> objects = objects_of(file);
    if (objects.empty()) break;
    // Those with attributes are few.
    std::vector<std::string> with_attributes;
    for (const std::string& name : objects) {
      const hid_t object = H5Oopen(file, name.c_str(), H5P_DEFAULT);
      if (object >= 0 && !attributes_of(object).empty()) with_attributes.push_back(name);
      if (object >= 0) H5Oclose(object);
    }
    if (rng.below(3) > 0 || with_attributes.empty()) {
      change_object(file, one_of(objects, rng), one_of(objects, rng), rng);
      continue;
    }
    const hid_t object = H5Oopen(file, one_of(with_attributes, rng).c_str(), H5P_DEFAULT);
    change_attribute(object, rng);
    H5Oclose(object);
  }
  H5Fclose(file);
  // The library makes room for all of what such a dataset claims when something is written to it.
  constexpr uintmax_t kLargest = 1 << 26;
  if (std::filesystem::file_size(path) > kLargest) std::filesystem::resize_file(path, kLargest);
}

}  // namespace fl_sim::fuzz
