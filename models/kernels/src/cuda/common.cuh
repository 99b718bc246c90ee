// What all kernels use: sums and maxima of a warp, and rows rounded for products with packed matrices.
#pragma once

#include <math_constants.h>
#include <stdint.h>

#define WARP 32

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

// Bytes that a unit of 32 columns takes in a rounded row. A row is its units' columns 0 to 15 as signed bytes, unit by unit;
// then columns 16 to 31; then of each unit four floats: the scale, and the scale times the sum of the first sixteen bytes,
// of the others, and of all.
#define ROUNDED_UNIT 48

// A warp rounds a unit of a row, of which each lane has a column.
__device__ __forceinline__ void round_unit(uint8_t* row, int units, int unit, float x) {
  const int lane = threadIdx.x % WARP;
  const float most = warp_max(fabsf(x));
  const float scale = most / 127.0f;
  const int byte = most > 0 ? max(-127, min(127, __float2int_rn(x * (127.0f / most)))) : 0;
  int sum = byte;
#pragma unroll
  for (int step = WARP / 4; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const int second = __shfl_sync(~0u, sum, WARP / 2);
  row[(size_t)(lane / 16 * units + unit) * 16 + lane % 16] = (uint8_t)byte;
  if (lane == 0)
    reinterpret_cast<float4*>(row + (size_t)units * 32)[unit] =
        make_float4(scale, scale * sum, scale * second, scale * (sum + second));
}
