// How lanes read and multiply, and what kernels wait for.

// The sum of four neighbouring lanes.
__device__ float sum_of_four(float number) {
    number += __shfl_xor_sync(~0u, number, 1);
    return number + __shfl_xor_sync(~0u, number, 2);
}

// Weights are read once in a step. The compiler must not delay these loads until the tokens are there, as it would
// loads that are declared constant.
__device__ uint4 load_once(const u16 *place) {
    uint4 found;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w) : "l"(place) : "memory");
    return found;
}

__device__ uint4 load8(const u16 *place) {
    uint4 found;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w) : "l"(place) : "memory");
    return found;
}

// 16 tokens by 16 columns, times 16 columns of 8 rows.
__device__ void mma(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if BFLOAT
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif
    asm(MULTIPLY " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Programmatic dependent launch: the next kernel may begin; the last one has ended, and its results are there.
__device__ void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

__device__ void wait_for_last() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
