// Runs rows_product/product.cu on a CPU: a thread of the machine for each thread of a program, one program after the other.

#include <algorithm>
#include <array>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
thread_local struct { int x; } threadIdx;
int block;
std::barrier<> *together;
#define blockIdx (Index{block})
struct Index { int x; };

float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
float __expf(float x) { return std::exp(x); }
float rsqrtf(float x) { return 1 / std::sqrt(x); }
void __syncthreads() { together->arrive_and_wait(); }
void __syncwarp() {}

#include "product.cu"

extern "C" void launch(
    int programs, const u16 *x, const u16 *m0, const u16 *m1, const u16 *m2, const u16 *b0, const u16 *b1,
    const u16 *b2, const u16 *gain, const u16 *shift, float eps, const u16 *residual, u16 *out, u16 *keys, u16 *values,
    const long long *slots, int count) {
    for (block = 0; block < programs; block++) {
        std::barrier<> all(THREADS);
        together = &all;
        std::vector<std::unique_ptr<Warp>> warps(WARPS);
        for (auto &each : warps) each = std::make_unique<Warp>();
        std::vector<std::jthread> threads;
        for (int number = 0; number < THREADS; number++)
            threads.emplace_back([&, number] {
                threadIdx.x = number, warp = warps[number / 32].get();
                product_kernel(
                    x, m0, m1, m2, b0, b1, b2, gain, shift, eps, residual, out, keys, values, slots, count);
            });
    }
}
