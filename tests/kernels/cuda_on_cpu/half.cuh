// Half-precision values without a GPU: bfloat16 only.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ float half_to_float(u16 number) { return __uint_as_float(u32(number) << 16); }

__device__ u16 float_to_half(float number) {
    u32 bits = std::bit_cast<u32>(number);
    return number != number ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

__device__ float round_to_half(float number) { return half_to_float(float_to_half(number)); }
