// Half-precision values (BFLOAT: bfloat16), and the activations of feed-forward layers (ACTIVATION).

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

__device__ float activation(float y) {
#if ACTIVATION == 0
    return 0.5f * y * (1 + erff(y * 0.7071067811865476f));
#elif ACTIVATION == 1
    return y / (1 + __expf(-1.5957691216057308f * (y + 0.044715f * y * y * y)));
#elif ACTIVATION == 2
    return fmaxf(y, 0);
#elif ACTIVATION == 3
    return y / (1 + __expf(-y));
#else
    return y;
#endif
}
