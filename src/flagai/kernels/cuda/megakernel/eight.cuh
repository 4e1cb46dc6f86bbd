// Eight half-precision values at a time, and loads and stores through which CTAs exchange them.

// Byte `which` of four values.
__device__ u32 bytes_of(u32 a, u32 b, u32 c, u32 d, u32 which) {
    u32 select = which | (which + 4) << 4;
    return __byte_perm(__byte_perm(a, b, select), __byte_perm(c, d, select), 0x5410);
}

// Eight contiguous values.
struct Half8 {
    uint4 bits;

    __device__ float operator[](int i) const {
        u32 pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
        return half_to_float(u16(i % 2 ? pair >> 16 : pair));
    }
    __device__ static bool is_missing(u32 pair) { return (pair & SENTINEL) == SENTINEL || pair >> 16 == SENTINEL; }
    __device__ bool complete() const {
        return !(is_missing(bits.x) || is_missing(bits.y) || is_missing(bits.z) || is_missing(bits.w));
    }
};

// Past the L1 cache, which does not see the stores of other SMs.
__device__ Half8 load8(const u16 *place) {
    Half8 found;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.bits.x), "=r"(found.bits.y), "=r"(found.bits.z), "=r"(found.bits.w)
                 : "l"(place) : "memory");
    return found;
}

// A warp's contiguous values, once they are stored. One lane polls for its own until then, unless ALL lanes are to: if
// many did, their loads would delay the stores in the L2 cache: 16.7 instead of 14.9 us for a block of width 1024.
template <bool ALL> __device__ Half8 wait_load8(const u16 *place) {
    Half8 found;
    bool there;
    do {
        there = true;
        if (!ALL && threadIdx.x % 32 == 31) there = load8(place).complete();
    } while (!__all_sync(~0u, there));
    do found = load8(place); while (!__all_sync(~0u, found.complete()));
    return found;
}

__device__ u16 load_half(const u16 *place) {
    u16 found;
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(found) : "l"(place) : "memory");
    return found;
}

__device__ u32 load_word(const u32 *place) {
    u32 found;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(place) : "memory");
    return found;
}

__device__ void store_word(u32 *place, u32 word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" :: "l"(place), "r"(word) : "memory");
}

__device__ void store_relaxed(u16 *place, u16 number) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" :: "l"(place), "h"(number) : "memory");
}
