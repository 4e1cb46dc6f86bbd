// Half-precision values (BFLOAT: bfloat16).

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ float half_to_float(u16 number) {
#if BFLOAT
    return __uint_as_float(u32(number) << 16);
#else
    float found;
    asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(number));
    return found;
#endif
}

__device__ u16 float_to_half(float number) {
    u16 found;
#if BFLOAT
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found) : "f"(number));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(number));
#endif
    return found;
}

__device__ float round_to_half(float number) { return half_to_float(float_to_half(number)); }
