// The activations of feed-forward layers (ACTIVATION: -1 none, 0 gelu, 1 gelu_tanh, 2 relu, 3 silu).

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
