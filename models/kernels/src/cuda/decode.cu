// Kernels for rows that generate: rotation, storing of keys and values, attention over pages, the gated product.
// Numbers that come from the host's plan (places, slots, pages) are held within bounds here as well.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common.cuh"

#define WARPS 4
// Warps of a block that attends: each has a page at a time.
#define ATTEND_WARPS 8
#define PAGE 32
// Columns of a head at most.
#define COLUMNS_MAX 256

struct Turn {
  const float* cosines;  // places × turned / 2
  const float* sines;
  const float* factors;  // columns; null: heads are not normalised
  float epsilon;
  int places;
  int turned;      // columns that are rotated
  int neighbours;  // pairs are neighbours, not halves
};

// A warp loads a head's columns into shared memory and normalises them.
__device__ void load_head(float* head, const float* x, int columns, const Turn& turn) {
  const int lane = threadIdx.x % WARP;
  float squares = 0;
  for (int c = lane; c < columns; c += WARP) {
    head[c] = x[c];
    squares += x[c] * x[c];
  }
  if (turn.factors) {
    const float scale = rsqrtf(warp_sum(squares) / columns + turn.epsilon);
    for (int c = lane; c < columns; c += WARP) head[c] *= scale * turn.factors[c];
  }
  __syncwarp();
}

__device__ float turned(const float* head, int c, uint32_t place, const Turn& turn) {
  if (c >= turn.turned) return head[c];
  const int half = turn.turned / 2;
  const int pair = turn.neighbours ? c / 2 : c % half;
  const bool second = turn.neighbours ? c % 2 : c >= half;
  const int distance = turn.neighbours ? 1 : half;
  const size_t at = (size_t)min(place, (uint32_t)turn.places - 1) * half + pair;
  const float cosine = turn.cosines[at], sine = turn.sines[at];
  return second ? head[c] * cosine + head[c - distance] * sine : head[c] * cosine - head[c + distance] * sine;
}

// Queries, rows × heads × columns: normalised, rotated, scaled. A warp for each row and head. `x` has `stride` numbers from
// row to row.
extern "C" __global__ void casemate_turn(const float* x, float* out, const uint32_t* places, Turn turn,
                                         const float* growth, float scale, int rows, int heads, int columns,
                                         int stride) {
  __shared__ float heads_of[WARPS][COLUMNS_MAX];
  const int one = blockIdx.x * WARPS + threadIdx.x / WARP;
  if (one >= rows * heads) return;
  float* head = heads_of[threadIdx.x / WARP];
  load_head(head, x + (size_t)(one / heads) * stride + one % heads * columns, columns, turn);
  const uint32_t place = places[one / heads];
  const float factor = growth ? scale * growth[min(place, (uint32_t)turn.places - 1)] : scale;
  for (int c = threadIdx.x % WARP; c < columns; c += WARP)
    out[(size_t)one * columns + c] = turned(head, c, place, turn) * factor;
}

// Keys and values, rows × heads × columns, to their slots: keys normalised and rotated, both as 16-bit floats. `memory` is
// a layer's keys, heads × slots × columns, and its values behind them. A warp for each row and head.
extern "C" __global__ void casemate_store(const float* keys, const float* values, half* memory,
                                          const uint32_t* places, const uint32_t* slots_of, Turn turn, int rows,
                                          int heads, int columns, int slots, int keys_stride, int values_stride) {
  __shared__ float heads_of[WARPS][COLUMNS_MAX];
  const int one = blockIdx.x * WARPS + threadIdx.x / WARP;
  if (one >= rows * heads) return;
  float* head = heads_of[threadIdx.x / WARP];
  load_head(head, keys + (size_t)(one / heads) * keys_stride + one % heads * columns, columns, turn);
  const float* own = values + (size_t)(one / heads) * values_stride + one % heads * columns;
  const uint32_t place = places[one / heads], slot = slots_of[one / heads];
  if (slot >= (uint32_t)slots) return;
  half* key = memory + ((size_t)(one % heads) * slots + slot) * columns;
  half* value = key + (size_t)heads * slots * columns;
  for (int c = threadIdx.x % WARP; c < columns; c += WARP) {
    key[c] = __float2half_rn(turned(head, c, place, turn));
    value[c] = __float2half_rn(own[c]);
  }
}

struct Attend {
  const float* queries;      // rows × heads × columns
  const half* memory;        // a layer's keys, key-value heads × slots × columns, and its values behind them
  const uint32_t* rows_of;   // each cell's row; what is no row is not there
  const uint32_t* lags;      // sequence by sequence, query head by query head, row by row
  const uint32_t* pages;     // pages_each of each sequence
  float* out;                // rows × heads × columns; null: rounded instead
  uint8_t* rounded;          // the same, rounded: see common.cuh
  float* parts;              // of each cell, key-value head and split: columns of each query head, largest score, sum
  float cap;                 // bends scores; 0: not
  int rows, rows_each, pages_each, slots, heads_of_keys, share, columns, splits;
  uint32_t sight;
};

// What a query's head found, as a number or, of a unit by a warp, rounded. `query` is where the row's number 0 of the group
// of heads lies, `at` counts from there.
__device__ __forceinline__ void leave(const Attend& a, uint32_t row, size_t query, int at, float found) {
  if (a.out) {
    a.out[query + at] = found;
    return;
  }
  const int columns = a.heads_of_keys * a.share * a.columns, units = columns / WARP;
  const size_t start = (size_t)row * columns;
  round_unit(a.rounded + (size_t)row * units * ROUNDED_UNIT, units, (query - start + at) / WARP, found);
}

// Columns of a head at most, queries that share a head of keys at most.
template <int COLUMNS, int SHARE>
__device__ void attend(const Attend& a) {
  // A lane reads eight columns at once, and as many lanes as that takes a slot's values.
  constexpr int EIGHTS = COLUMNS / 8, TOGETHER = WARP / EIGHTS;
  __shared__ __align__(16) float queries[SHARE][COLUMNS];
  __shared__ float sums[ATTEND_WARPS][SHARE][COLUMNS];
  __shared__ float largest[ATTEND_WARPS][SHARE], totals[ATTEND_WARPS][SHARE];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const int cell = blockIdx.x, head = blockIdx.y, split = blockIdx.z;
  const uint32_t row = a.rows_of[cell];
  if (row >= (uint32_t)a.rows) return;
  const int sequence = cell / a.rows_each;
  const size_t query = ((size_t)row * a.heads_of_keys + head) * a.share * a.columns;
  for (int at = threadIdx.x; at < SHARE * COLUMNS; at += WARP * ATTEND_WARPS) {
    const int h = at / COLUMNS, c = at % COLUMNS;
    queries[h][c] = h < a.share && c < a.columns ? a.queries[query + h * a.columns + c] : 0;
  }
  __syncthreads();

  const uint32_t lag = a.lags[sequence * a.share * a.rows_each + cell % a.rows_each];
  const uint32_t first = lag + 1 > a.sight ? lag + 1 - a.sight : 0;
  const int first_page = first / PAGE, end_page = min((int)(lag / PAGE) + 1, a.pages_each);
  const int each = (end_page - first_page + a.splits - 1) / a.splits;
  const int begin = first_page + split * each, end = min(begin + each, end_page);

  float most[SHARE], total[SHARE], found[SHARE][8];
#pragma unroll
  for (int h = 0; h < SHARE; h++) {
    most[h] = -CUDART_INF_F;
    total[h] = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) found[h][c] = 0;
  }
  for (int at = begin + warp; at < end; at += ATTEND_WARPS) {
    const uint32_t page = a.pages[(size_t)sequence * a.pages_each + at];
    if (page >= (uint32_t)a.slots / PAGE) continue;
    const half* keys = a.memory + ((size_t)head * a.slots + (size_t)page * PAGE) * a.columns;
    const half* values = keys + (size_t)a.heads_of_keys * a.slots * a.columns;
    // A lane has a slot's score with each query.
    float scores[SHARE];
#pragma unroll
    for (int h = 0; h < SHARE; h++) scores[h] = 0;
    const half* own = keys + (size_t)lane * a.columns;
#pragma unroll (SHARE < 8 ? 8 : 2)
    for (int c = 0; c < COLUMNS; c += 8) {
      if (c >= a.columns) break;
      const uint4 eight = *reinterpret_cast<const uint4*>(own + c);
      const half2* pairs = reinterpret_cast<const half2*>(&eight);
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const float2 pair = __half22float2(pairs[p]);
#pragma unroll
        for (int h = 0; h < SHARE; h++) {
          scores[h] += pair.x * queries[h][c + 2 * p];
          scores[h] += pair.y * queries[h][c + 2 * p + 1];
        }
      }
    }
    const uint32_t slot = at * PAGE + lane;
    const bool seen = slot >= first && slot <= lag;
#pragma unroll
    for (int h = 0; h < SHARE; h++) {
      if (a.cap > 0) scores[h] = a.cap * tanhf(scores[h] / a.cap);
      scores[h] = seen ? scores[h] : -CUDART_INF_F;
      // A page that is looked at has a slot that is seen.
      const float above = fmaxf(most[h], warp_max(scores[h]));
      const float shrunk = __expf(most[h] - above);
      scores[h] = __expf(scores[h] - above);
      most[h] = above;
      total[h] = total[h] * shrunk + scores[h];
#pragma unroll
      for (int c = 0; c < 8; c++) found[h][c] *= shrunk;
    }
    const int column = lane % EIGHTS * 8;
#pragma unroll (SHARE < 4 ? 8 : SHARE < 8 ? 4 : 2)
    for (int s = 0; s < PAGE; s += TOGETHER) {
      const int from = s + lane / EIGHTS;
      uint4 eight = make_uint4(0, 0, 0, 0);
      if (column < a.columns) eight = *reinterpret_cast<const uint4*>(values + (size_t)from * a.columns + column);
      const half2* pairs = reinterpret_cast<const half2*>(&eight);
      float weights[SHARE];
#pragma unroll
      for (int h = 0; h < SHARE; h++) weights[h] = __shfl_sync(~0u, scores[h], from);
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const float2 pair = __half22float2(pairs[p]);
#pragma unroll
        for (int h = 0; h < SHARE; h++) {
          found[h][2 * p] += weights[h] * pair.x;
          found[h][2 * p + 1] += weights[h] * pair.y;
        }
      }
    }
  }
#pragma unroll
  for (int h = 0; h < SHARE; h++) {
    const float all = warp_sum(total[h]);
    if (lane == 0) {
      largest[warp][h] = most[h];
      totals[warp][h] = all;
    }
#pragma unroll
    for (int c = 0; c < 8; c++) {
      float sum = found[h][c];
#pragma unroll
      for (int step = EIGHTS; step < WARP; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane < EIGHTS) sums[warp][h][lane * 8 + c] = sum;
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < a.share * a.columns; at += WARP * ATTEND_WARPS) {
    const int h = at / a.columns, c = at % a.columns;
    float above = -CUDART_INF_F, sum = 0, all = 0;
    for (int w = 0; w < ATTEND_WARPS; w++) above = fmaxf(above, largest[w][h]);
    for (int w = 0; w < ATTEND_WARPS; w++) {
      const float weight = largest[w][h] == -CUDART_INF_F ? 0 : __expf(largest[w][h] - above);
      sum += weight * sums[w][h][c];
      all += weight * totals[w][h];
    }
    if (a.splits == 1) {
      leave(a, row, query, at, sum / all);
      continue;
    }
    float* part = a.parts + (((size_t)cell * a.heads_of_keys + head) * a.splits + split) * a.share * (a.columns + 2);
    part[at] = sum;
    if (c == 0) {
      part[a.share * a.columns + 2 * h] = above;
      part[a.share * a.columns + 2 * h + 1] = all;
    }
  }
}

// A block for each cell, key-value head and split.
#define ATTEND(COLUMNS, SHARE)                                                            \
  extern "C" __global__ void __launch_bounds__(WARP* ATTEND_WARPS, 2)                     \
      casemate_attend_##COLUMNS##_##SHARE(Attend a) {                                     \
    attend<COLUMNS, SHARE>(a);                                                            \
  }
ATTEND(32, 1)
ATTEND(32, 2)
ATTEND(32, 4)
ATTEND(32, 8)
ATTEND(64, 1)
ATTEND(64, 2)
ATTEND(64, 4)
ATTEND(64, 8)
ATTEND(128, 1)
ATTEND(128, 2)
ATTEND(128, 4)
ATTEND(128, 8)
ATTEND(256, 1)
ATTEND(256, 2)
ATTEND(256, 4)

// What splits found, put together. A block for each cell and key-value head.
extern "C" __global__ void casemate_join(Attend a) {
  const int cell = blockIdx.x, head = blockIdx.y;
  const uint32_t row = a.rows_of[cell];
  if (row >= (uint32_t)a.rows) return;
  const size_t query = ((size_t)row * a.heads_of_keys + head) * a.share * a.columns;
  const size_t step = (size_t)a.share * (a.columns + 2);
  const float* parts = a.parts + ((size_t)cell * a.heads_of_keys + head) * a.splits * step;
  for (int at = threadIdx.x; at < a.share * a.columns; at += blockDim.x) {
    const int tail = a.share * a.columns + 2 * (at / a.columns);
    float above = -CUDART_INF_F, sum = 0, all = 0;
    for (int s = 0; s < a.splits; s++) above = fmaxf(above, parts[s * step + tail]);
    for (int s = 0; s < a.splits; s++) {
      const float largest = parts[s * step + tail];
      const float weight = largest == -CUDART_INF_F ? 0 : __expf(largest - above);
      sum += weight * parts[s * step + at];
      all += weight * parts[s * step + tail + 1];
    }
    leave(a, row, query, at, sum / all);
  }
}

// Sums of rows, and their root-mean-square norm, as numbers or, where `normed` is null, rounded; a block for each row.
#define ADD_WARPS 16
extern "C" __global__ void casemate_add_norm(const float* x, const float* y, const float* factors, float epsilon,
                                             float* sum, float* normed, uint8_t* rounded, int columns) {
  __shared__ float squares_of[ADD_WARPS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const size_t row = (size_t)blockIdx.x * columns;
  float squares = 0;
  for (int c = threadIdx.x; c < columns; c += WARP * ADD_WARPS) {
    const float both = x[row + c] + y[row + c];
    sum[row + c] = both;
    squares += both * both;
  }
  squares = warp_sum(squares);
  if (lane == 0) squares_of[warp] = squares;
  __syncthreads();
  squares = 0;
  for (int w = 0; w < ADD_WARPS; w++) squares += squares_of[w];
  const float scale = rsqrtf(squares / columns + epsilon);
  const int units = columns / WARP;
  for (int c = threadIdx.x; c < columns; c += WARP * ADD_WARPS) {
    const float found = sum[row + c] * scale * factors[c];
    if (normed)
      normed[row + c] = found;
    else
      round_unit(rounded + (size_t)blockIdx.x * units * ROUNDED_UNIT, units, c / WARP, found);
  }
}

// The softmax of rows of scores over the slots that a row's query sees; a block for each row.
extern "C" __global__ void casemate_soften(const float* scores, float* out, const uint32_t* lags, int queries,
                                           int slots, uint32_t sight, float cap) {
  __shared__ float largest[WARPS], totals[WARPS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const uint32_t lag = min(lags[blockIdx.x % queries], (uint32_t)slots - 1);
  const int first = lag + 1 > sight ? lag + 1 - sight : 0, end = lag + 1;
  const float* row = scores + (size_t)blockIdx.x * slots;
  float* place = out + (size_t)blockIdx.x * slots;
  const auto bent = [cap](float score) { return cap > 0 ? cap * tanhf(score / cap) : score; };
  float most = -CUDART_INF_F;
  for (int at = first + threadIdx.x; at < end; at += WARP * WARPS) most = fmaxf(most, bent(row[at]));
  most = warp_max(most);
  if (lane == 0) largest[warp] = most;
  __syncthreads();
  for (int w = 0; w < WARPS; w++) most = fmaxf(most, largest[w]);
  float total = 0;
  for (int at = first + threadIdx.x; at < end; at += WARP * WARPS) {
    const float part = __expf(bent(row[at]) - most);
    place[at] = part;
    total += part;
  }
  total = warp_sum(total);
  if (lane == 0) totals[warp] = total;
  __syncthreads();
  total = 0;
  for (int w = 0; w < WARPS; w++) total += totals[w];
  const float share = 1 / total;
  for (int at = threadIdx.x; at < slots; at += WARP * WARPS)
    place[at] = at >= first && at < end ? place[at] * share : 0;
}

// silu(gate) · up, rows × columns; each with its own distance from row to row.
extern "C" __global__ void casemate_gated(const float* gate, const float* up, float* out, int rows, int columns,
                                          int gate_stride, int up_stride) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (c >= columns || row >= rows) return;
  const float x = gate[(size_t)row * gate_stride + c];
  out[(size_t)row * columns + c] = x / (1.0f + expf(-x)) * up[(size_t)row * up_stride + c];
}

// Products of few rows with a matrix of 16-bit floats: x is rows × columns, the matrix heights × columns, out rows ×
// heights. A block has four of the matrix's rows, and each of its warps a share of their columns.
#define PRODUCT_WARPS 8
#define PRODUCT_ROWS 4

__device__ __forceinline__ float2 two_floats(const half2& pair) { return __half22float2(pair); }
__device__ __forceinline__ float2 two_floats(const __nv_bfloat162& pair) { return __bfloat1622float2(pair); }

template <typename PAIR, int ROWS>
__device__ void product(const float* x, const uint4* matrix, float* out, int rows, int heights, int columns) {
  __shared__ float sums[PRODUCT_WARPS][PRODUCT_ROWS][ROWS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * PRODUCT_ROWS;
  const int eights = columns / 8;
  float found[PRODUCT_ROWS][ROWS];
#pragma unroll
  for (int m = 0; m < PRODUCT_ROWS; m++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) found[m][r] = 0;
  for (int at = warp * WARP + lane; at < eights; at += PRODUCT_WARPS * WARP) {
    uint4 weights[PRODUCT_ROWS];
#pragma unroll
    for (int m = 0; m < PRODUCT_ROWS; m++)
      weights[m] = first + m < heights ? matrix[(size_t)(first + m) * eights + at] : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (r >= rows) break;
      const float4* own = reinterpret_cast<const float4*>(x + (size_t)r * columns) + 2 * at;
      const float4 a = own[0], b = own[1];
#pragma unroll
      for (int m = 0; m < PRODUCT_ROWS; m++) {
        const PAIR* pairs = reinterpret_cast<const PAIR*>(&weights[m]);
        const float2 p = two_floats(pairs[0]), q = two_floats(pairs[1]), s = two_floats(pairs[2]), t = two_floats(pairs[3]);
        found[m][r] += a.x * p.x + a.y * p.y + a.z * q.x + a.w * q.y + b.x * s.x + b.y * s.y + b.z * t.x + b.w * t.y;
      }
    }
  }
#pragma unroll
  for (int m = 0; m < PRODUCT_ROWS; m++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float sum = warp_sum(found[m][r]);
      if (lane == 0) sums[warp][m][r] = sum;
    }
  __syncthreads();
  const int m = threadIdx.x % PRODUCT_ROWS, r = threadIdx.x / PRODUCT_ROWS;
  if (r >= rows || first + m >= heights) return;
  float sum = 0;
  for (int w = 0; w < PRODUCT_WARPS; w++) sum += sums[w][m][r];
  out[(size_t)r * heights + first + m] = sum;
}

#define PRODUCT(NAME, PAIR, ROWS)                                                                                   \
  extern "C" __global__ void casemate_product_##NAME##_##ROWS(const float* x, const uint4* matrix, float* out,      \
                                                              int rows, int heights, int columns) {                 \
    product<PAIR, ROWS>(x, matrix, out, rows, heights, columns);                                                    \
  }
PRODUCT(f16, half2, 1)
PRODUCT(f16, half2, 2)
PRODUCT(f16, half2, 4)
PRODUCT(f16, half2, 8)
PRODUCT(bf16, __nv_bfloat162, 1)
PRODUCT(bf16, __nv_bfloat162, 2)
PRODUCT(bf16, __nv_bfloat162, 4)
PRODUCT(bf16, __nv_bfloat162, 8)

// Rows as 16-bit floats, each multiplied by a power of two so that its largest is between 8 and 16: products with many
// columns stay finite, and nothing but what is far below the largest is lost. A block for each row.
extern "C" __global__ void casemate_shrink(const float* x, half* out, float* factors, int columns) {
  __shared__ float largest[WARPS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const float* row = x + (size_t)blockIdx.x * columns;
  float most = 0;
  for (int c = threadIdx.x; c < columns; c += WARP * WARPS) most = fmaxf(most, fabsf(row[c]));
  most = warp_max(most);
  if (lane == 0) largest[warp] = most;
  __syncthreads();
  for (int w = 0; w < WARPS; w++) most = fmaxf(most, largest[w]);
  const float factor = most > 0 && isfinite(most) ? exp2f(4 - ceilf(log2f(most))) : 1;
  if (threadIdx.x == 0) factors[blockIdx.x] = 1 / factor;
  for (int c = threadIdx.x; c < columns; c += WARP * WARPS)
    out[(size_t)blockIdx.x * columns + c] = __float2half_rn(row[c] * factor);
}

// Rows of 16-bit floats as 32-bit ones, each multiplied by its factor.
extern "C" __global__ void casemate_widen(const half* x, const float* factors, float* out, int columns) {
  const int c = blockIdx.y * blockDim.x + threadIdx.x;
  const size_t at = (size_t)blockIdx.x * columns + c;
  if (c < columns) out[at] = __half2float(x[at]) * factors[blockIdx.x];
}
