// Products of few rows with packed matrices, and such matrices as floats. Their layout is that of `planes.rs`; rows are
// rounded to eight bits, a scale for each 32 columns (`common.cuh`). Sums of a row do not depend on the rows beside it.

#include <cuda_fp16.h>

#include "common.cuh"

// Warps of a block.
#define PACKED_WARPS 8
// Columns of a gated block: a unit of what comes of it.
#define GATED_COLUMNS 32

struct Packed {
  const uint8_t* planes;
  int heights;  // rows of the matrix
  int units;    // units of a row
};

// A plane's place: behind those that take so many bytes of a unit each, times eight.
__device__ __forceinline__ const uint8_t* plane(const Packed& m, int eighths) {
  return m.planes + (size_t)m.heights * m.units * eighths / 8;
}

// A unit's weights as bytes, four to a word, and what they count: weight · scale + least; scale and least of the first
// sixteen columns and of the others.
struct Unit {
  int words[8];
  float scale, scale_of_others, least, least_of_others;
};

__device__ __forceinline__ void nibbles(int* words, const uint4& low) {
  const uint32_t four[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    words[k] = four[k] & 0x0f0f0f0f;
    words[4 + k] = four[k] >> 4 & 0x0f0f0f0f;
  }
}

// Scale and minimum of a unit from its superblock's head.
__device__ __forceinline__ void head(Unit& unit, const uint4& head, int own) {
  const float2 both = __half22float2(*reinterpret_cast<const half2*>(&head.x));
  const uint32_t byte = (own < 4 ? head.y : head.z) >> own % 4 * 8, four = head.w >> own * 4;
  unit.scale = both.x * (float)((byte & 15) | (four & 3) << 4);
  unit.least = -both.y * (float)((byte >> 4 & 15) | (four >> 2 & 3) << 4);
}

// Kinds: what is loaded of a unit (weights are read once: they are not to push out what is read again), and what it says. TWO: both halves have a scale of their own. LEAST: there is a least.
struct Q4K {
  static constexpr bool TWO = false, LEAST = true;
  uint4 low, top;
  __device__ __forceinline__ void load(const Packed& m, size_t unit) {
    low = __ldcs(reinterpret_cast<const uint4*>(m.planes) + unit);
    top = __ldg(reinterpret_cast<const uint4*>(plane(m, 128)) + unit / 8);
  }
  __device__ __forceinline__ void open(Unit& u, int own) const {
    nibbles(u.words, low);
    head(u, top, own);
  }
};

struct Q5K {
  static constexpr bool TWO = false, LEAST = true;
  uint4 low, top;
  uint32_t fifth;
  __device__ __forceinline__ void load(const Packed& m, size_t unit) {
    low = __ldcs(reinterpret_cast<const uint4*>(m.planes) + unit);
    top = __ldg(reinterpret_cast<const uint4*>(plane(m, 128)) + unit / 8);
    fifth = __ldg(reinterpret_cast<const uint32_t*>(plane(m, 144)) + unit);
  }
  __device__ __forceinline__ void open(Unit& u, int own) const {
    nibbles(u.words, low);
#pragma unroll
    for (int k = 0; k < 8; k++) u.words[k] |= (fifth >> k & 0x01010101) << 4;
    head(u, top, own);
  }
};

struct Q6K {
  static constexpr bool TWO = true, LEAST = true;
  uint4 low;
  uint2 upper;
  char2 scales;
  half scale;
  __device__ __forceinline__ void load(const Packed& m, size_t unit) {
    low = __ldcs(reinterpret_cast<const uint4*>(m.planes) + unit);
    upper = __ldg(reinterpret_cast<const uint2*>(plane(m, 128)) + unit);
    scales = __ldg(reinterpret_cast<const char2*>(plane(m, 192)) + unit);
    scale = __ldg(reinterpret_cast<const half*>(plane(m, 208)) + unit / 8);
  }
  __device__ __forceinline__ void open(Unit& u, int) const {
    nibbles(u.words, low);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      u.words[k] |= (upper.x >> 2 * k & 0x03030303) << 4;
      u.words[4 + k] |= (upper.y >> 2 * k & 0x03030303) << 4;
    }
    const float both = __half2float(scale);
    u.scale = both * scales.x;
    u.scale_of_others = both * scales.y;
    u.least = -32 * u.scale;
    u.least_of_others = -32 * u.scale_of_others;
  }
};

struct Q8_0 {
  static constexpr bool TWO = false, LEAST = false;
  uint4 first, second;
  half scale;
  __device__ __forceinline__ void load(const Packed& m, size_t unit) {
    first = __ldcs(reinterpret_cast<const uint4*>(m.planes) + unit);
    second = __ldcs(reinterpret_cast<const uint4*>(plane(m, 128)) + unit);
    scale = __ldg(reinterpret_cast<const half*>(plane(m, 256)) + unit);
  }
  __device__ __forceinline__ void open(Unit& u, int) const {
    const uint4 both[2] = {first, second};
#pragma unroll
    for (int k = 0; k < 8; k++) u.words[k] = reinterpret_cast<const int*>(both)[k];
    u.scale = __half2float(scale);
    u.least = 0;
  }
};

struct Q4_0 {
  static constexpr bool TWO = false, LEAST = true;
  uint4 low;
  half scale;
  __device__ __forceinline__ void load(const Packed& m, size_t unit) {
    low = __ldcs(reinterpret_cast<const uint4*>(m.planes) + unit);
    scale = __ldg(reinterpret_cast<const half*>(plane(m, 128)) + unit);
  }
  __device__ __forceinline__ void open(Unit& u, int) const {
    nibbles(u.words, low);
    u.scale = __half2float(scale);
    u.least = -8 * u.scale;
  }
};

// Products of a rounded row's unit with a matrix's, on top of `found`.
template <class KIND>
__device__ __forceinline__ float add(float found, const Unit& u, const uint4& first, const uint4& second,
                                     const float4& told) {
  int sum = 0, sum_of_others = 0;
  const int a[4] = {(int)first.x, (int)first.y, (int)first.z, (int)first.w};
  const int b[4] = {(int)second.x, (int)second.y, (int)second.z, (int)second.w};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    sum = __dp4a(u.words[k], a[k], sum);
    sum_of_others = __dp4a(u.words[4 + k], b[k], sum_of_others);
  }
  if (KIND::TWO) {
    found = __fmaf_rn(__fmul_rn(told.x, u.scale), (float)sum, found);
    found = __fmaf_rn(__fmul_rn(told.x, u.scale_of_others), (float)sum_of_others, found);
    found = __fmaf_rn(u.least, told.y, found);
    return __fmaf_rn(u.least_of_others, told.z, found);
  }
  found = __fmaf_rn(__fmul_rn(told.x, u.scale), (float)(sum + sum_of_others), found);
  return KIND::LEAST ? __fmaf_rn(u.least, told.w, found) : found;
}

// Sums of ROWS rounded rows with HEIGHTS rows of the matrix, over the units that this warp has: every `step`th from `at`.
template <class KIND, int ROWS, int HEIGHTS>
__device__ __forceinline__ void products(const Packed& m, const uint8_t* x, int rows, const int* heights, int at, int step,
                                         float (*found)[ROWS]) {
#pragma unroll
  for (int h = 0; h < HEIGHTS; h++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) found[h][r] = 0;
#pragma unroll(ROWS < 4 ? 2 : 1)
  for (; at < m.units; at += step) {
    KIND loaded[HEIGHTS];
#pragma unroll
    for (int h = 0; h < HEIGHTS; h++) loaded[h].load(m, (size_t)heights[h] * m.units + at);
    Unit units[HEIGHTS];
#pragma unroll
    for (int h = 0; h < HEIGHTS; h++) loaded[h].open(units[h], at % 8);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (r >= rows) break;
      const uint4* row = reinterpret_cast<const uint4*>(x + (size_t)r * m.units * ROUNDED_UNIT);
      const uint4 first = row[at], second = row[m.units + at];
      const float4 told = reinterpret_cast<const float4*>(row)[2 * m.units + at];
#pragma unroll
      for (int h = 0; h < HEIGHTS; h++) found[h][r] = add<KIND>(found[h][r], units[h], first, second, told);
    }
  }
#pragma unroll
  for (int h = 0; h < HEIGHTS; h++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) found[h][r] = warp_sum(found[h][r]);
}

// x · matrixᵀ: rows × heights. A block has `rows` in chunks of ROWS, chunk by chunk for the same rows of the matrix; a row of
// the matrix has `share` of a block's warps.
template <class KIND, int ROWS, int HEIGHTS>
__device__ void multiply(const uint8_t* x, const Packed& m, float* out, int rows, int chunks, int share) {
  __shared__ float parts[PACKED_WARPS][HEIGHTS][ROWS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int chunk = blockIdx.x % chunks, groups = PACKED_WARPS / share;
  const int first = (blockIdx.x / chunks * groups + warp / share) * HEIGHTS;
  const int own = min(ROWS, rows - chunk * ROWS);
  const uint8_t* start = x + (size_t)chunk * ROWS * m.units * ROUNDED_UNIT;
  int heights[HEIGHTS];
  float found[HEIGHTS][ROWS];
#pragma unroll
  for (int h = 0; h < HEIGHTS; h++) heights[h] = min(first + h, m.heights - 1);
  products<KIND, ROWS, HEIGHTS>(m, start, own, heights, warp % share * WARP + lane, share * WARP, found);
  if (lane == 0) {
#pragma unroll
    for (int h = 0; h < HEIGHTS; h++)
#pragma unroll
      for (int r = 0; r < ROWS; r++) parts[warp][h][r] = found[h][r];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < groups * HEIGHTS * ROWS; at += PACKED_WARPS * WARP) {
    const int h = at % HEIGHTS, group = at / HEIGHTS % groups, r = at / HEIGHTS / groups;
    const int height = (blockIdx.x / chunks * groups + group) * HEIGHTS + h;
    if (r >= own || height >= m.heights) continue;
    float sum = 0;
    for (int w = 0; w < share; w++) sum += parts[group * share + w][h][r];
    out[(size_t)(chunk * ROWS + r) * m.heights + height] = sum;
  }
}

// silu(x · gateᵀ) · (x · upᵀ), rounded: rows × width, where the matrix is gate and, behind it, up. A block has 32 columns of
// what comes of it, a warp HEIGHTS of them.
template <class KIND, int ROWS, int HEIGHTS>
__device__ void multiply_gated(const uint8_t* x, const Packed& m, uint8_t* out, int rows, int chunks) {
  __shared__ float made[ROWS][GATED_COLUMNS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, width = m.heights / 2;
  const int chunk = blockIdx.x % chunks, unit = blockIdx.x / chunks;
  const int own = min(ROWS, rows - chunk * ROWS);
  const uint8_t* start = x + (size_t)chunk * ROWS * m.units * ROUNDED_UNIT;
  int heights[2 * HEIGHTS];
  float found[2 * HEIGHTS][ROWS];
#pragma unroll
  for (int h = 0; h < HEIGHTS; h++) {
    heights[h] = unit * GATED_COLUMNS + warp * HEIGHTS + h;
    heights[HEIGHTS + h] = width + heights[h];
  }
  products<KIND, ROWS, 2 * HEIGHTS>(m, start, own, heights, lane, WARP, found);
  if (lane == 0) {
#pragma unroll
    for (int h = 0; h < HEIGHTS; h++)
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const float gate = found[h][r];
        made[r][warp * HEIGHTS + h] = gate / (1.0f + expf(-gate)) * found[HEIGHTS + h][r];
      }
  }
  __syncthreads();
  const int units = width / GATED_COLUMNS;
  for (int r = warp; r < own; r += GATED_COLUMNS / HEIGHTS)
    round_unit(out + (size_t)(chunk * ROWS + r) * units * ROUNDED_UNIT, units, unit, made[r][lane]);
}

// A matrix's rows as floats: all of them, or those that `ids` names. A thread for each unit.
template <class KIND, class NUMBER>
__device__ void unpack(const Packed& m, const uint32_t* ids, NUMBER* out, int rows) {
  const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (size_t)rows * m.units) return;
  const int own = at % m.units;
  size_t row = at / m.units;
  if (ids) row = min(ids[row], (uint32_t)m.heights - 1);
  KIND loaded;
  Unit u;
  loaded.load(m, row * m.units + own);
  loaded.open(u, own % 8);
  __align__(16) NUMBER numbers[32];
#pragma unroll
  for (int c = 0; c < 32; c++) {
    const float weight = (float)(int8_t)(u.words[c / 4] >> c % 4 * 8);
    const bool other = KIND::TWO && c >= 16;
    const float scale = other ? u.scale_of_others : u.scale, least = other ? u.least_of_others : u.least;
    // What is too large for 16 bits is the largest that is not.
    const float number = __fmaf_rn(scale, weight, least);
    numbers[c] = sizeof(NUMBER) == 2 ? (NUMBER)fmaxf(fminf(number, 65504.0f), -65504.0f) : (NUMBER)number;
  }
  uint4* place = reinterpret_cast<uint4*>(out + at * 32);
#pragma unroll
  for (int w = 0; w < (int)(2 * sizeof(NUMBER)); w++) place[w] = reinterpret_cast<const uint4*>(numbers)[w];
}

// Rows of 32-bit floats, rounded. A warp for each unit.
extern "C" __global__ void casemate_round(const float* x, uint8_t* out, int rows, int units) {
  const size_t one = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (one >= (size_t)rows * units) return;
  const int unit = one % units;
  round_unit(out + one / units * units * ROUNDED_UNIT, units, unit, x[one * WARP + threadIdx.x % WARP]);
}

#define MULTIPLY(NAME, KIND, ROWS, HEIGHTS)                                                                            \
  extern "C" __global__ void __launch_bounds__(PACKED_WARPS* WARP)                                                     \
      casemate_multiply_##NAME##_##ROWS(const uint8_t* x, Packed m, float* out, int rows, int chunks, int share) {     \
    multiply<KIND, ROWS, HEIGHTS>(x, m, out, rows, chunks, share);                                                     \
  }
#define GATED(NAME, KIND, ROWS, HEIGHTS)                                                                               \
  extern "C" __global__ void __launch_bounds__(GATED_COLUMNS / HEIGHTS* WARP)                                          \
      casemate_multiply_gated_##NAME##_##ROWS(const uint8_t* x, Packed m, uint8_t* out, int rows, int chunks) {        \
    multiply_gated<KIND, ROWS, HEIGHTS>(x, m, out, rows, chunks);                                                      \
  }
#define KERNELS(NAME, KIND)                                                                                            \
  MULTIPLY(NAME, KIND, 1, 2)                                                                                           \
  MULTIPLY(NAME, KIND, 2, 2)                                                                                           \
  MULTIPLY(NAME, KIND, 4, 4)                                                                                           \
  MULTIPLY(NAME, KIND, 8, 4)                                                                                           \
  GATED(NAME, KIND, 1, 4)                                                                                              \
  GATED(NAME, KIND, 2, 4)                                                                                              \
  GATED(NAME, KIND, 4, 2)                                                                                              \
  GATED(NAME, KIND, 8, 2)                                                                                              \
  extern "C" __global__ void casemate_halves_##NAME(Packed m, const uint32_t* ids, half* out, int rows) {              \
    unpack<KIND>(m, ids, out, rows);                                                                                   \
  }                                                                                                                    \
  extern "C" __global__ void casemate_floats_##NAME(Packed m, const uint32_t* ids, float* out, int rows) {             \
    unpack<KIND>(m, ids, out, rows);                                                                                   \
  }
KERNELS(q4_0, Q4_0)
KERNELS(q8_0, Q8_0)
KERNELS(q4k, Q4K)
KERNELS(q5k, Q5K)
KERNELS(q6k, Q6K)
