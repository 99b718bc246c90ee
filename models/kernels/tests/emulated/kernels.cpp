// Runs kernels of `packed.cu` and `decode.cu` on a processor: one call for each launch.
//   kernels KERNEL GRID_X GRID_Y GRID_Z THREADS [ARGUMENT ...] < input > output
// An argument is i:NUMBER or f:NUMBER, in:BYTES (that many from the input), out:BYTES (zeros before, printed after), null,
// or a structure's fields between { and }.
#include "cuda_emulated.h"

#include "../../src/cuda/decode.cu"
#include "../../src/cuda/packed.cu"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace {

int count;
char** words;
int next = 6;
std::vector<std::unique_ptr<std::vector<uint4>>> buffers;
std::vector<std::pair<void*, size_t>> outputs;

[[noreturn]] void refuse(const char* why) {
  std::fprintf(stderr, "kernels: %s (argument %d)\n", why, next);
  std::exit(2);
}

std::string word() {
  if (next >= count) refuse("an argument is missing");
  return words[next++];
}

void* buffer(size_t bytes) {
  buffers.push_back(std::make_unique<std::vector<uint4>>(bytes / 16 + 1));
  return buffers.back()->data();
}

template <class T>
T* pointer() {
  const std::string said = word();
  if (said == "null") return nullptr;
  const size_t colon = said.find(':');
  const size_t bytes = std::strtoull(said.c_str() + colon + 1, nullptr, 10);
  void* place = buffer(bytes);
  if (said.rfind("in:", 0) == 0) {
    if (std::fread(place, 1, bytes, stdin) != bytes) refuse("the input is too short");
  } else if (said.rfind("out:", 0) == 0) {
    outputs.emplace_back(place, bytes);
  } else {
    refuse("that is no buffer");
  }
  return static_cast<T*>(place);
}

template <class T>
struct Read {
  static T one() {
    const std::string said = word();
    if (said.size() < 3 || said[1] != ':') refuse("that is no number");
    return static_cast<T>(std::strtod(said.c_str() + 2, nullptr));
  }
};
template <class T>
struct Read<T*> {
  static T* one() { return pointer<typename std::remove_const<T>::type>(); }
};
void brace(const char* which) {
  if (word() != which) refuse("a structure is not where it should be");
}
template <>
struct Read<Packed> {
  static Packed one() {
    brace("{");
    const Packed found{Read<const uint8_t*>::one(), Read<int>::one(), Read<int>::one()};
    brace("}");
    return found;
  }
};
template <>
struct Read<Turn> {
  static Turn one() {
    brace("{");
    const Turn found{Read<const float*>::one(), Read<const float*>::one(), Read<const float*>::one(), Read<float>::one(),
                     Read<int>::one(),          Read<int>::one(),          Read<int>::one()};
    brace("}");
    return found;
  }
};
template <>
struct Read<Attend> {
  static Attend one() {
    brace("{");
    const Attend found{Read<const float*>::one(), Read<const half*>::one(), Read<const uint32_t*>::one(),
                       Read<const uint32_t*>::one(), Read<const uint32_t*>::one(), Read<float*>::one(),
                       Read<uint8_t*>::one(), Read<float*>::one(), Read<float>::one(), Read<int>::one(), Read<int>::one(),
                       Read<int>::one(), Read<int>::one(), Read<int>::one(), Read<int>::one(), Read<int>::one(),
                       Read<int>::one(), Read<uint32_t>::one()};
    brace("}");
    return found;
  }
};

using Starter = std::function<std::function<void()>()>;

template <class... ARGUMENTS>
Starter starter(void (*kernel)(ARGUMENTS...)) {
  return [kernel] {
    // Braces: from left to right.
    const std::tuple<ARGUMENTS...> arguments{Read<ARGUMENTS>::one()...};
    return std::function<void()>([kernel, arguments] { std::apply(kernel, arguments); });
  };
}

#define NAMED(NAME) {#NAME, starter(NAME)}
#define OF_KIND(KIND)                                                                                                  \
  NAMED(casemate_multiply_##KIND##_1), NAMED(casemate_multiply_##KIND##_2), NAMED(casemate_multiply_##KIND##_4),      \
      NAMED(casemate_multiply_##KIND##_8), NAMED(casemate_multiply_gated_##KIND##_1),                                  \
      NAMED(casemate_multiply_gated_##KIND##_2), NAMED(casemate_multiply_gated_##KIND##_4),                            \
      NAMED(casemate_multiply_gated_##KIND##_8), NAMED(casemate_halves_##KIND), NAMED(casemate_floats_##KIND)

const std::map<std::string, Starter> KERNELS_BY_NAME = {
    OF_KIND(q4_0), OF_KIND(q8_0), OF_KIND(q4k), OF_KIND(q5k), OF_KIND(q6k), NAMED(casemate_round),
    NAMED(casemate_add_norm), NAMED(casemate_turn), NAMED(casemate_store), NAMED(casemate_gated),
    NAMED(casemate_soften), NAMED(casemate_attend_64_4), NAMED(casemate_join), NAMED(casemate_shrink), NAMED(casemate_widen),
    NAMED(casemate_product_f16_1), NAMED(casemate_product_f16_2), NAMED(casemate_product_f16_4),
    NAMED(casemate_product_f16_8), NAMED(casemate_product_bf16_1), NAMED(casemate_product_bf16_2),
    NAMED(casemate_product_bf16_4), NAMED(casemate_product_bf16_8),
};

}  // namespace

int main(int words_count, char** all) {
  count = words_count;
  words = all;
  if (count < next) refuse("a kernel, a grid and threads are wanted");
  const auto found = KERNELS_BY_NAME.find(words[1]);
  if (found == KERNELS_BY_NAME.end()) refuse("there is no such kernel");
  const auto number = [](int at) { return (uint32_t)std::atoi(words[at]); };
  const uint3 grid{number(2), number(3), number(4)};
  const std::function<void()> work = found->second();
  if (next != count) refuse("there are more arguments than the kernel takes");
  emulated::launch(grid, (int)number(5), work);
  for (const auto& [place, bytes] : outputs) std::fwrite(place, 1, bytes, stdout);
  return 0;
}
