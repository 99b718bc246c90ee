// As much of CUDA as the kernels use, on a processor: threads of a block are fibers that meet where a warp or a block does;
// blocks run one after another. For tests on machines without a GPU: what a kernel computes is tested, not how fast, nor what
// happens between threads that do not wait for each other.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct char2 { signed char x, y; };
struct uint3 { uint32_t x, y, z; };
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

typedef _Float16 half;
struct half2 { half x, y; };
inline float __half2float(half x) { return (float)x; }
inline half __float2half_rn(float x) { return (half)x; }
inline float2 __half22float2(half2 x) { return {(float)x.x, (float)x.y}; }
struct __nv_bfloat162 { uint16_t x, y; };
inline float2 __bfloat1622float2(__nv_bfloat162 x) {
  const uint32_t bits[2] = {(uint32_t)x.x << 16, (uint32_t)x.y << 16};
  float2 wide;
  std::memcpy(&wide, bits, sizeof wide);
  return wide;
}

namespace emulated {

constexpr int LANES = 32;

// Where threads wait for each other.
struct Meeting {
  int expected = 0, arrived = 0;
  uint64_t times = 0;
  void arrive() {
    if (++arrived >= expected) {
      arrived = 0;
      times++;
    }
  }
  // One that has ended is not waited for.
  void leave() {
    expected--;
    if (expected > 0 && arrived >= expected) {
      arrived = 0;
      times++;
    }
  }
};

struct Warp {
  Meeting meeting;
  uint64_t words[LANES];
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  int index;
  bool ended;
};

inline uint3 block, block_size;
inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline Meeting all;
inline Thread* now;
inline ucontext_t scheduler;
inline std::function<void()> kernel;

inline void wait(Meeting& meeting) {
  const uint64_t times = meeting.times;
  meeting.arrive();
  while (meeting.times == times) swapcontext(&now->context, &scheduler);
}

template <class T>
T shuffle(T own, int from) {
  static_assert(sizeof(T) <= 8);
  Warp& warp = warps[now->index / LANES];
  std::memcpy(&warp.words[now->index % LANES], &own, sizeof own);
  wait(warp.meeting);
  T found;
  std::memcpy(&found, &warp.words[from % LANES], sizeof found);
  wait(warp.meeting);
  return found;
}

inline void body() {
  kernel();
  now->ended = true;
  warps[now->index / LANES].meeting.leave();
  all.leave();
  swapcontext(&now->context, &scheduler);
}

inline void run_block(int count) {
  threads.resize(count);
  warps.assign((count + LANES - 1) / LANES, Warp());
  all = Meeting();
  all.expected = count;
  for (int index = 0; index < count; index++) {
    Thread& thread = threads[index];
    thread.stack.resize(1 << 16);
    thread.index = index;
    thread.ended = false;
    warps[index / LANES].meeting.expected++;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, body, 0);
  }
  for (int running = count; running > 0;) {
    running = 0;
    for (Thread& thread : threads) {
      if (thread.ended) continue;
      now = &thread;
      swapcontext(&scheduler, &thread.context);
      running += !thread.ended;
    }
  }
}

// Has a grid of blocks of `count` threads run a kernel.
inline void launch(uint3 grid, int count, std::function<void()> work) {
  kernel = work;
  block_size = {(uint32_t)count, 1, 1};
  for (block.z = 0; block.z < grid.z; block.z++)
    for (block.y = 0; block.y < grid.y; block.y++)
      for (block.x = 0; block.x < grid.x; block.x++) run_block(count);
}

}  // namespace emulated

#define threadIdx (uint3{(uint32_t)emulated::now->index, 0, 0})
#define blockIdx (emulated::block)
#define blockDim (emulated::block_size)

template <class T>
T __shfl_xor_sync(unsigned, T x, int step) {
  return emulated::shuffle(x, emulated::now->index % emulated::LANES ^ step);
}
template <class T>
T __shfl_sync(unsigned, T x, int from) { return emulated::shuffle(x, from); }
inline void __syncwarp() { emulated::wait(emulated::warps[emulated::now->index / emulated::LANES].meeting); }
inline void __syncthreads() { emulated::wait(emulated::all); }

template <class T>
T __ldg(const T* at) { return *at; }
template <class T>
T __ldcs(const T* at) { return *at; }
inline int __dp4a(int a, int b, int sum) {
  for (int at = 0; at < 4; at++) sum += (int8_t)(a >> 8 * at) * (int8_t)(b >> 8 * at);
  return sum;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __float2int_rn(float x) { return (int)std::lrint(x); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
template <class T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
T max(T a, T b) { return a < b ? b : a; }
using std::isfinite;
#define CUDART_INF_F INFINITY
