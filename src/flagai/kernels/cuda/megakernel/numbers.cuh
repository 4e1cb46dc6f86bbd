// Numbers of half precision, by themselves and eight at a time, and how multiprocessors tell each other some.

__device__ float widened(u16 number) {
#if BFLOAT
    return __uint_as_float(u32(number) << 16);
#else
    float found;
    asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(number));
    return found;
#endif
}

__device__ u16 rounded(float number) {
    u16 found;
#if BFLOAT
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found) : "f"(number));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(number));
#endif
    return found;
}

__device__ float as_half(float number) { return widened(rounded(number)); }

// Byte number `which` of four numbers.
__device__ u32 bytes_of(u32 a, u32 b, u32 c, u32 d, u32 which) {
    u32 select = which | (which + 4) << 4;
    return __byte_perm(__byte_perm(a, b, select), __byte_perm(c, d, select), 0x5410);
}

// Eight numbers in a row.
struct Eight {
    uint4 bits;

    __device__ float operator[](int i) const {
        u32 pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
        return widened(u16(i % 2 ? pair >> 16 : pair));
    }
    __device__ static bool lacks(u32 pair) { return (pair & MISSING) == MISSING || pair >> 16 == MISSING; }
    __device__ bool complete() const { return !(lacks(bits.x) || lacks(bits.y) || lacks(bits.z) || lacks(bits.w)); }
};

// Past the first-level cache, which does not hear of what other multiprocessors write.
__device__ Eight eight(const u16 *place) {
    Eight found;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.bits.x), "=r"(found.bits.y), "=r"(found.bits.z), "=r"(found.bits.w)
                 : "l"(place) : "memory");
    return found;
}

// A warp's neighbouring numbers, once they are there. One lane looks for its own until then: if all lanes of all
// multiprocessors did, their reading would keep the second-level cache from what is to be written there.
__device__ Eight eight_awaited(const u16 *place) {
    Eight found;
    bool there;
    do {
        there = true;
        if (threadIdx.x % 32 == 31) there = eight(place).complete();
    } while (!__all_sync(~0u, there));
    do found = eight(place); while (!found.complete());
    __syncwarp();
    return found;
}

__device__ u16 one(const u16 *place) {
    u16 found;
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(found) : "l"(place) : "memory");
    return found;
}

__device__ void tell(u16 *place, u16 number) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" :: "l"(place), "h"(number) : "memory");
}
