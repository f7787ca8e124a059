// As much of CUDA as kmaskrcnn/kernels/roi_align_cuda.cu uses, on the CPU: a thread of the system for each thread of a
// block, one block after the other. It shows that the arithmetic, the indices and the barriers are right; slow.
#include <barrier>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include <cmath>

#define __device__
#define __global__
#define __shared__ static  // blocks run one after the other

struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline int cudaGetLastError() { return cudaSuccess; }

inline dim3 gridDim, blockDim, blockIdx;
inline thread_local dim3 threadIdx;
inline float dynamic_shared[65536];
inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
inline std::vector<uint32_t> votes;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline uint32_t __ballot_sync(uint32_t, bool vote) {
  const unsigned int warp = threadIdx.x / 32;
  if (vote) __atomic_fetch_or(&votes[warp], 1u << threadIdx.x % 32, __ATOMIC_SEQ_CST);
  warp_barriers[warp]->arrive_and_wait();
  const uint32_t all = votes[warp];
  warp_barriers[warp]->arrive_and_wait();
  if (threadIdx.x % 32 == 0) votes[warp] = 0;
  warp_barriers[warp]->arrive_and_wait();
  return all;
}

struct __nv_bfloat16 { uint16_t bits; };
struct __half { _Float16 value; };
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half value) { return static_cast<float>(value.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }

template <class Kernel, class... Arguments>
void run_on_cpu(Kernel kernel, dim3 grid, dim3 threads, Arguments... arguments) {
  gridDim = grid;
  blockDim = threads;
  block_barrier = std::make_unique<std::barrier<>>(threads.x);
  warp_barriers.clear();
  votes.assign(threads.x / 32, 0);
  for (unsigned int w = 0; w < threads.x / 32; ++w) warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
  std::vector<std::thread> all;
  for (unsigned int t = 0; t < threads.x; ++t) {
    all.emplace_back([=] {
      threadIdx.x = t;
      for (unsigned int y = 0; y < grid.y; ++y) {
        for (unsigned int x = 0; x < grid.x; ++x) {
          if (t == 0) blockIdx = dim3(x, y);
          __syncthreads();
          kernel(arguments...);
          __syncthreads();
        }
      }
    });
  }
  for (std::thread& one : all) one.join();
}

#define KMASKRCNN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  run_on_cpu(kernel, blocks, threads, __VA_ARGS__)
#define KMASKRCNN_DYNAMIC_SHARED(name) float* name = dynamic_shared
