#include "base/hdf5_file.h"

#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <functional>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace fl_sim {
namespace {

// What a damaged file makes the library do instead of returning an error: it follows addresses that
// the file holds, and cycles among them, for which SIGPROF comes after much of the processor's
// time.
constexpr std::array kAstray = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGPROF};
bool crashes_are_told = false;

// Of the thread that has the turn. Read by a signal's handler.
thread_local const char* at_work_on = nullptr;
std::array<struct sigaction, kAstray.size()> elsewhere;  // what happens to others' signals

void write_out(const char* text) {
  const ssize_t unused = write(STDERR_FILENO, text, std::strlen(text));
  static_cast<void>(unused);
}

// Nothing but system calls: the heap may be damaged too.
void on_crash(int signal) {
  if (at_work_on != nullptr) {
    write_out("fl_sim: ");
    write_out(at_work_on);
    write_out(signal == SIGPROF ? ": is damaged (the HDF5 library does not come back from it)\n"
                                : ": is damaged (the HDF5 library crashed over it)\n");
    _exit(1);
  }
  for (size_t i = 0; i < kAstray.size(); ++i) {  // comes again, and is the other's
    if (kAstray[i] == signal) sigaction(signal, &elsewhere[i], nullptr);
  }
}

// SIGPROF for this thread when it has used so much of the processor. False: there is no such timer.
bool start_timer(time_t seconds, timer_t& timer) {
  struct sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGPROF;
  event._sigev_un._tid = gettid();  // sigev_notify_thread_id, which the C library does not name
  if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0) return false;
  const struct itimerspec once = {{0, 0}, {seconds, 0}};
  return timer_settime(timer, 0, &once, nullptr) == 0;
}

// Within it a crash or a hang is told of, if anybody has asked for that.
class Watch {
 public:
  explicit Watch(const std::string& file)
      : first_(at_work_on == nullptr), told_(first_ && crashes_are_told) {
    if (first_) at_work_on = file.c_str();
    if (!told_) return;
    struct sigaction action = {};
    action.sa_handler = on_crash;
    action.sa_flags = SA_ONSTACK;
    for (size_t i = 0; i < kAstray.size(); ++i) sigaction(kAstray[i], &action, &elsewhere[i]);
    // Of the processor, not the disk: the slowest conversions do far more than a megabyte in one.
    struct stat status = {};
    timed_ = start_timer(5 + (stat(at_work_on, &status) == 0 ? status.st_size >> 20 : 0), timer_);
  }
  ~Watch() {
    if (timed_) timer_delete(timer_);
    if (first_) at_work_on = nullptr;
    if (!told_) return;
    for (size_t i = 0; i < kAstray.size(); ++i) sigaction(kAstray[i], &elsewhere[i], nullptr);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  bool first_, told_, timed_ = false;  // first: not within another one
  timer_t timer_ = {};
};

// The library serves one thread at a time; a run may write checkpoints and results at once.
class Turn {
 public:
  explicit Turn(const std::string& file) : lock_(mutex()), watch_(file) {}

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex one;
    return one;
  }
  std::lock_guard<std::recursive_mutex> lock_;
  Watch watch_;
};

// An identifier of HDF5's with the function that releases it. Negative: the call that made it
// failed.
class Id {
 public:
  Id(hid_t id, herr_t (*release)(hid_t)) : id_(id), release_(release) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)), release_(other.release_) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Id() {
    if (id_ >= 0) release_(id_);
  }
  // NOLINTNEXTLINE(google-explicit-constructor): to HDF5's functions it is the identifier itself.
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*release_)(hid_t);
};

// What went wrong at the bottom of the last call, in HDF5's words. The next call, a release too,
// forgets it.
std::string reason() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned depth, const H5E_error2_t* entry, void* out) -> herr_t {
        if (depth == 0 && entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
        return 0;
      },
      &text);
  // "unable to open file: name = ..., errno = 2, error message = 'No such file or directory', flags
  // = 0"
  static const std::string kSystemSays = "error message = '";
  if (const size_t at = text.find(kSystemSays); at != std::string::npos) {
    text = text.substr(at + kSystemSays.size());
    text = text.substr(0, text.find('\''));
  }
  return text.empty() ? "HDF5 gives no reason" : text;
}

// Before any other call. HDF5 speaks through our messages only, and does nothing at exit: there it
// crashes over a file that a full disk kept from being closed.
void silence() {
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

// Throws if an HDF5 call returned a negative value.
template <class Result>
void require(const Result& result, const std::string& file, const std::string& problem) {
  FL_CHECK(result >= 0, file, ": ", problem, " (", reason(), ")");
}

Id access_list(const std::string& file) {
  Id list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  require(list, file, "cannot be opened");
#if H5_VERSION_GE(1, 10, 7)
  // Our files are renamed into place and never changed there; some parallel file systems have no
  // locks.
  require(H5Pset_file_locking(list, false, true), file, "cannot be opened");
#endif
  return list;
}

// Makes groups on the way.
Id link_list(const std::string& file) {
  Id list(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  require(list, file, "cannot be written");
  require(H5Pset_create_intermediate_group(list, 1), file, "cannot be written");
  require(H5Pset_char_encoding(list, H5T_CSET_UTF8), file, "cannot be written");
  return list;
}

Id string_type(const std::string& file) {
  Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  require(type, file, "cannot be written");
  require(H5Tset_size(type, H5T_VARIABLE), file, "cannot be written");
  require(H5Tset_cset(type, H5T_CSET_UTF8), file, "cannot be written");
  return type;
}

// `shape` nullptr: a scalar.
Id make_space(const std::vector<int64_t>* shape) {
  if (shape == nullptr || shape->empty()) return Id(H5Screate(H5S_SCALAR), H5Sclose);
  const std::vector<hsize_t> sizes(shape->begin(), shape->end());
  return Id(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose);
}

// Of a C++ number here and in a file.
template <class Number>
hid_t memory_type() {
  if constexpr (std::is_same_v<Number, double>) return H5T_NATIVE_DOUBLE;
  if constexpr (std::is_same_v<Number, float>) return H5T_NATIVE_FLOAT;
  if constexpr (std::is_same_v<Number, int64_t>) return H5T_NATIVE_INT64;
}
template <class Number>
hid_t file_type() {
  if constexpr (std::is_same_v<Number, double>) return H5T_IEEE_F64LE;
  if constexpr (std::is_same_v<Number, float>) return H5T_IEEE_F32LE;
  if constexpr (std::is_same_v<Number, int64_t>) return H5T_STD_I64LE;
}

void write_dataset(const std::string& file, hid_t id, const std::string& path, hid_t file_type,
                   hid_t memory_type, const void* data, int64_t count, std::vector<int64_t> shape) {
  if (shape == std::vector<int64_t>{-1}) shape = {count};
  const int64_t product =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  FL_CHECK(product == count &&
               std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size >= 0; }),
           file, ": cannot write ", path, " (", count, " values do not fill its shape of ", product,
           ")");
  const std::string problem = "cannot write " + path;
  const Id space = make_space(&shape);
  require(space, file, problem);
  const Id links = link_list(file);
  const Id dataset(H5Dcreate2(id, path.c_str(), file_type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                   H5Dclose);
  require(dataset, file, problem);
  if (count > 0)
    require(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), file, problem);
}

template <class Value>
void write_attribute_of(const std::string& file, hid_t id, const std::string& path,
                        const std::string& name, hid_t file_type, hid_t memory_type,
                        const Value* value) {
  const std::string problem = "cannot write attribute " + name + " of " + path;
  const Id links = link_list(file);
  Id object(H5Oopen(id, path.c_str(), H5P_DEFAULT), H5Oclose);
  if (object < 0)
    object = Id(H5Gcreate2(id, path.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  require(object, file, problem);
  const htri_t exists = H5Aexists(object, name.c_str());
  require(exists, file, problem);
  if (exists > 0) require(H5Adelete(object, name.c_str()), file, problem);
  const Id space = make_space(nullptr);
  require(space, file, problem);
  const Id attribute(H5Acreate2(object, name.c_str(), file_type, space, H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose);
  require(attribute, file, problem);
  require(H5Awrite(attribute, memory_type, value), file, problem);
}

Id open_dataset(const std::string& file, hid_t id, const std::string& path) {
  Id dataset(H5Dopen2(id, path.c_str(), H5P_DEFAULT), H5Dclose);
  require(dataset, file, "cannot read " + path);
  return dataset;
}

std::vector<int64_t> shape_of(const std::string& file, hid_t dataset, const std::string& path) {
  const Id space(H5Dget_space(dataset), H5Sclose);
  require(space, file, "cannot read " + path);
  const int rank = H5Sget_simple_extent_ndims(space);
  require(rank, file, "cannot read " + path);
  std::vector<hsize_t> sizes(static_cast<size_t>(rank));
  require(H5Sget_simple_extent_dims(space, sizes.data(), nullptr), file, "cannot read " + path);
  return {sizes.begin(), sizes.end()};
}

// Whether a file may hold so many values: a damaged one may claim more than any machine holds,
// which is refused before memory is asked for. They may be compressed.
void check_claim(const std::string& file, const std::string& path, double count) {
  constexpr double kBestCompression = 1100;  // deflate reaches 1032
  constexpr double kFew = 1 << 24;
  struct stat status = {};
  const bool known = stat(file.c_str(), &status) == 0;
  FL_CHECK(count < kFew || !known || count < kBestCompression * static_cast<double>(status.st_size),
           file, ": cannot read ", path, " (it claims ", count,
           " values, more than the file can hold: damaged?)");
}

size_t count_of(const std::string& file, hid_t dataset, const std::string& path) {
  const Id space(H5Dget_space(dataset), H5Sclose);
  require(space, file, "cannot read " + path);
  const hssize_t count = H5Sget_simple_extent_npoints(space);
  require(count, file, "cannot read " + path);
  check_claim(file, path, static_cast<double>(count));
  return static_cast<size_t>(count);
}

// `count` values are rows of a table [n, columns], or of a column [n], from row `first` on: between
// the file and memory.
void transfer_rows(const std::string& file, hid_t id, const std::string& path, int64_t first,
                   int64_t count, hid_t memory_type, const void* from, void* to) {
  const std::string problem =
      message("cannot ", to == nullptr ? "write" : "read", " rows of ", path);
  const Id dataset = open_dataset(file, id, path);
  const std::vector<int64_t> shape = shape_of(file, dataset, path);
  const int64_t columns = shape.size() == 2 ? shape[1] : shape.size() == 1 ? 1 : 0;
  const Id type(H5Dget_type(dataset), H5Tclose);
  FL_CHECK(H5Tget_class(type) == H5Tget_class(memory_type), file, ": ", problem,
           " (it holds something else)");
  FL_CHECK(columns > 0 && count % columns == 0 && first >= 0 && first + count / columns <= shape[0],
           file, ": ", problem, " (", count, " values from row ", first, " are not rows of it)");
  if (count == 0) return;
  const hsize_t start[] = {static_cast<hsize_t>(first), 0};
  const hsize_t size[] = {static_cast<hsize_t>(count / columns), static_cast<hsize_t>(columns)};
  const Id space(H5Dget_space(dataset), H5Sclose);
  require(space, file, problem);
  require(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, size, nullptr), file, problem);
  const Id memory(H5Screate_simple(static_cast<int>(shape.size()), size, nullptr), H5Sclose);
  require(memory, file, problem);
  require(to == nullptr ? H5Dwrite(dataset, memory_type, memory, space, H5P_DEFAULT, from)
                        : H5Dread(dataset, memory_type, memory, space, H5P_DEFAULT, to),
          file, problem);
}

// double and float: any numbers, converted.
template <class Number>
std::vector<Number> read_numbers(const std::string& file, hid_t id, const std::string& path) {
  constexpr bool integers_only = std::is_integral_v<Number>;
  const Id dataset = open_dataset(file, id, path);
  const Id type(H5Dget_type(dataset), H5Tclose);
  require(type, file, "cannot read " + path);
  const H5T_class_t kind = H5Tget_class(type);
  FL_CHECK(kind == H5T_INTEGER || (kind == H5T_FLOAT && !integers_only), file, ": ", path,
           " does not hold ", integers_only ? "integers" : "numbers");
  std::vector<Number> values(count_of(file, dataset, path));
  if (!values.empty()) {
    require(H5Dread(dataset, memory_type<Number>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
            file, "cannot read " + path);
  }
  return values;
}

// Reads one string, of fixed or variable length, with H5Dread or H5Aread bound into `read`.
std::string read_string(const std::string& file, const std::string& what, hid_t type, hid_t space,
                        const std::function<herr_t(void*)>& read) {
  const std::string problem = "cannot read " + what;
  require(type, file, problem);
  require(space, file, problem);
  FL_CHECK(H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_npoints(space) == 1, file, ": ",
           what, " is not one string");
  const htri_t variable = H5Tis_variable_str(type);
  require(variable, file, problem);
  if (variable > 0) {
    char* text = nullptr;  // HDF5 allocates; an empty string may stay null
    require(read(&text), file, problem);
    std::string result = text == nullptr ? "" : text;
    H5free_memory(text);
    return result;
  }
  const size_t size = H5Tget_size(type);
  check_claim(file, what, static_cast<double>(size));
  std::string text(size, '\0');
  require(read(text.data()), file, problem);
  text.resize(strnlen(text.data(), text.size()));
  return text;
}

}  // namespace

Hdf5File Hdf5File::create(const std::string& path) {
  const Turn turn(path);
  silence();
  const Id access = access_list(path);
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  require(id, path, "cannot be created");
  return Hdf5File(path, id);
}

Hdf5File Hdf5File::open(const std::string& path) {
  const Turn turn(path);
  silence();
  struct stat status = {};
  FL_CHECK(stat(path.c_str(), &status) == 0, path, ": cannot be opened (", std::strerror(errno),
           ")");
  FL_CHECK(!S_ISDIR(status.st_mode), path, ": is a directory (must be an HDF5 file)");
  const Id access = access_list(path);
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  require(id, path, "is not a whole HDF5 file");
  return Hdf5File(path, id);
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : path_(std::move(other.path_)), id_(std::exchange(other.id_, -1)) {}

Hdf5File::~Hdf5File() {
  const Turn turn(path_);
  if (id_ >= 0) H5Fclose(id_);
}

template <class Number>
void Hdf5File::write_numbers(const std::string& path, std::span<const Number> data,
                             const std::vector<int64_t>& shape) {
  const Turn turn(path_);
  write_dataset(path_, id_, path, file_type<Number>(), memory_type<Number>(), data.data(),
                std::ssize(data), shape);
}

void Hdf5File::write(const std::string& path, std::span<const std::string> data) {
  const Turn turn(path_);
  std::vector<const char*> pointers;
  for (const std::string& text : data) pointers.push_back(text.c_str());
  const Id type = string_type(path_);
  write_dataset(path_, id_, path, type, type, pointers.data(), std::ssize(data), {-1});
}

void Hdf5File::write(const std::string& path, const std::string& text) {
  const Turn turn(path_);
  const char* pointer = text.c_str();
  const Id type = string_type(path_);
  write_dataset(path_, id_, path, type, type, &pointer, 1, {});
}

void Hdf5File::make(const std::string& path, const std::vector<int64_t>& shape, Numbers numbers) {
  const Turn turn(path_);
  const std::string problem = "cannot make " + path;
  const hid_t type = numbers == Numbers::kIntegers  ? file_type<int64_t>()
                     : numbers == Numbers::kDoubles ? file_type<double>()
                                                    : file_type<float>();
  const Id space = make_space(&shape);
  require(space, path_, problem);
  const Id links = link_list(path_);
  const Id dataset(H5Dcreate2(id_, path.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
                   H5Dclose);
  require(dataset, path_, problem);
}

void Hdf5File::make_table(const std::string& path, int64_t rows, int64_t columns, bool doubles) {
  make(path, {rows, columns}, doubles ? Numbers::kDoubles : Numbers::kFloats);
}

void Hdf5File::make_column(const std::string& path, int64_t rows, Numbers type) {
  make(path, {rows}, type);
}

template <class Number>
void Hdf5File::write_rows(const std::string& path, int64_t first, std::span<const Number> data) {
  const Turn turn(path_);
  transfer_rows(path_, id_, path, first, std::ssize(data), memory_type<Number>(), data.data(),
                nullptr);
}

template <class Number>
void Hdf5File::read_rows(const std::string& path, int64_t first, std::span<Number> data) const {
  const Turn turn(path_);
  transfer_rows(path_, id_, path, first, std::ssize(data), memory_type<Number>(), nullptr,
                data.data());
}

#define FL_HDF5_NUMBERS(Number)                                                             \
  template void Hdf5File::write_numbers(const std::string&, std::span<const Number>,        \
                                        const std::vector<int64_t>&);                       \
  template void Hdf5File::write_rows(const std::string&, int64_t, std::span<const Number>); \
  template void Hdf5File::read_rows(const std::string&, int64_t, std::span<Number>) const;
FL_HDF5_NUMBERS(double)
FL_HDF5_NUMBERS(float)
FL_HDF5_NUMBERS(int64_t)
#undef FL_HDF5_NUMBERS

void Hdf5File::write_attribute(const std::string& path, const std::string& name,
                               const std::string& text) {
  const Turn turn(path_);
  const char* pointer = text.c_str();
  const Id type = string_type(path_);
  write_attribute_of(path_, id_, path, name, type, type, &pointer);
}

void Hdf5File::write_attribute(const std::string& path, const std::string& name, double value) {
  const Turn turn(path_);
  write_attribute_of(path_, id_, path, name, file_type<double>(), memory_type<double>(), &value);
}

void Hdf5File::write_attribute(const std::string& path, const std::string& name, int64_t value) {
  const Turn turn(path_);
  write_attribute_of(path_, id_, path, name, file_type<int64_t>(), memory_type<int64_t>(), &value);
}

bool Hdf5File::has(const std::string& path) const {
  const Turn turn(path_);
  const Id object(H5Oopen(id_, path.c_str(), H5P_DEFAULT), H5Oclose);
  return object >= 0;
}

std::vector<std::string> Hdf5File::names(const std::string& group) const {
  const Turn turn(path_);
  const std::string problem = "cannot list " + group;
  const Id opened(H5Gopen2(id_, group.c_str(), H5P_DEFAULT), H5Gclose);
  require(opened, path_, problem);
  H5G_info_t info = {};
  require(H5Gget_info(opened, &info), path_, problem);
  std::vector<std::string> result;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const ssize_t length =
        H5Lget_name_by_idx(opened, ".", H5_INDEX_NAME, H5_ITER_INC, i, nullptr, 0, H5P_DEFAULT);
    require(length, path_, problem);
    std::string name(static_cast<size_t>(length) + 1, '\0');  // HDF5 ends it with a zero
    require(H5Lget_name_by_idx(opened, ".", H5_INDEX_NAME, H5_ITER_INC, i, name.data(), name.size(),
                               H5P_DEFAULT),
            path_, problem);
    name.pop_back();
    result.push_back(std::move(name));
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::vector<int64_t> Hdf5File::shape(const std::string& path) const {
  const Turn turn(path_);
  const Id dataset = open_dataset(path_, id_, path);
  count_of(path_, dataset, path);  // throws where it claims too much
  return shape_of(path_, dataset, path);
}

bool Hdf5File::holds_floats(const std::string& path) const {
  const Turn turn(path_);
  const Id dataset = open_dataset(path_, id_, path);
  const Id type(H5Dget_type(dataset), H5Tclose);
  require(type, path_, "cannot read " + path);
  const size_t bytes = H5Tget_size(type);
  return H5Tget_class(type) == H5T_FLOAT && (bytes == 4 || bytes == 8);
}

std::vector<double> Hdf5File::read_doubles(const std::string& path) const {
  const Turn turn(path_);
  return read_numbers<double>(path_, id_, path);
}

std::vector<float> Hdf5File::read_floats(const std::string& path) const {
  const Turn turn(path_);
  return read_numbers<float>(path_, id_, path);
}

std::vector<int64_t> Hdf5File::read_integers(const std::string& path) const {
  const Turn turn(path_);
  return read_numbers<int64_t>(path_, id_, path);
}

std::string Hdf5File::read_text(const std::string& path) const {
  const Turn turn(path_);
  const Id dataset = open_dataset(path_, id_, path);
  const Id type(H5Dget_type(dataset), H5Tclose);
  const Id space(H5Dget_space(dataset), H5Sclose);
  return read_string(path_, path, type, space, [&](void* out) {
    return H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out);
  });
}

std::vector<std::string> Hdf5File::read_texts(const std::string& path) const {
  const Turn turn(path_);
  const std::string problem = "cannot read " + path;
  const Id dataset = open_dataset(path_, id_, path);
  const Id type(H5Dget_type(dataset), H5Tclose);
  require(type, path_, problem);
  FL_CHECK(H5Tget_class(type) == H5T_STRING && shape(path).size() == 1, path_, ": ", path,
           " is not a list of strings");
  const size_t count = count_of(path_, dataset, path);
  const htri_t variable = H5Tis_variable_str(type);
  require(variable, path_, problem);
  std::vector<std::string> texts;
  if (variable > 0) {
    std::vector<char*> pointers(count);  // HDF5 allocates what they point to
    const Id space(H5Dget_space(dataset), H5Sclose);
    require(space, path_, problem);
    const herr_t status = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data());
    const std::string why = status < 0 ? reason() : "";
    for (const char* text : pointers) texts.emplace_back(text == nullptr ? "" : text);
    for (char* text : pointers) H5free_memory(text);
    FL_CHECK(status >= 0, path_, ": ", problem, " (", why, ")");
    return texts;
  }
  const size_t width = H5Tget_size(type);
  // Also before memory is asked for: a damaged file may claim any width.
  struct stat status = {};
  FL_CHECK(width > 0 && width < size_t{1} << 24 &&
               (stat(path_.c_str(), &status) != 0 ||
                count * width < 1100 * (static_cast<size_t>(status.st_size) + (1 << 14))),
           path_, ": ", problem, " (it claims ", count, " strings of ", width,
           " bytes, more than the file can hold: damaged?)");
  std::vector<char> bytes(count * width);
  if (!bytes.empty())
    require(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), path_, problem);
  for (size_t i = 0; i < count; ++i) {
    const char* text = bytes.data() + i * width;
    texts.emplace_back(text, strnlen(text, width));
  }
  return texts;
}

bool Hdf5File::has_attribute(const std::string& path, const std::string& name) const {
  const Turn turn(path_);
  return has(path) && H5Aexists_by_name(id_, path.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

std::string Hdf5File::read_text_attribute(const std::string& path, const std::string& name) const {
  const Turn turn(path_);
  const std::string what = "attribute " + name + " of " + path;
  const Id attribute(H5Aopen_by_name(id_, path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose);
  require(attribute, path_, "cannot read " + what);
  const Id type(H5Aget_type(attribute), H5Tclose);
  const Id space(H5Aget_space(attribute), H5Sclose);
  return read_string(path_, what, type, space,
                     [&](void* out) { return H5Aread(attribute, type, out); });
}

double Hdf5File::read_number_attribute(const std::string& path, const std::string& name) const {
  const Turn turn(path_);
  const std::string what = "attribute " + name + " of " + path;
  const Id attribute(H5Aopen_by_name(id_, path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose);
  require(attribute, path_, "cannot read " + what);
  const Id type(H5Aget_type(attribute), H5Tclose);
  const Id space(H5Aget_space(attribute), H5Sclose);
  require(type, path_, "cannot read " + what);
  require(space, path_, "cannot read " + what);
  const H5T_class_t kind = H5Tget_class(type);
  FL_CHECK((kind == H5T_INTEGER || kind == H5T_FLOAT) && H5Sget_simple_extent_npoints(space) == 1,
           path_, ": ", what, " is not one number");
  double value = 0;
  require(H5Aread(attribute, H5T_NATIVE_DOUBLE, &value), path_, "cannot read " + what);
  return value;
}

void Hdf5File::close() {
  const Turn turn(path_);
  if (id_ < 0) return;
  // Flushed first, since after a failed H5Fclose the library may still hold the file.
  require(H5Fflush(id_, H5F_SCOPE_GLOBAL), path_, "cannot be written");
  require(H5Fclose(std::exchange(id_, -1)), path_, "cannot be written");
}

void tell_of_hdf5_crashes() {
  // Cycles in a file may use up the stack.
  static std::array<char, 1 << 14> stack;
  const stack_t other = {.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
  crashes_are_told = sigaltstack(&other, nullptr) == 0;
}

std::string hdf5_library_version() {
  static const std::string kNoFile = "HDF5";
  const Turn turn(kNoFile);
  silence();
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return message(major, ".", minor, ".", release);
}

}  // namespace fl_sim
