// Vectors of the widest registers at hand, and the two activations on them.
//
// Everything is written with the vector types of GCC and Clang, so that one source serves AVX-512, AVX2, SSE
// and NEON, in float and in double. No option that lets the compiler forget NaN or infinity is ever used.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace mnm {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <class T> struct Simd;
template <> struct Simd<float> {
    typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
};
template <> struct Simd<double> {
    typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t Int __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T> using Vec = typename Simd<T>::Vec;
template <class T> using Int = typename Simd<T>::Int;
template <class T> constexpr int LANES = VECTOR_BYTES / int(sizeof(T));
template <class T> using Whole = std::integral_constant<int, LANES<T>>;

template <class T> inline Vec<T> load(const T* from) {
    Vec<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class T> inline Vec<T> load(const T* from, Whole<T>) { return load(from); }
template <class T> inline Vec<T> load(const T* from, int count) {
    Vec<T> v{};
    std::memcpy(&v, from, count * sizeof(T));
    return v;
}
template <class T> inline void store(T* to, Vec<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T> inline void store(T* to, Vec<T> v, Whole<T>) { store(to, v); }
template <class T> inline void store(T* to, Vec<T> v, int count) { std::memcpy(to, &v, count * sizeof(T)); }

// f(first, count) over n elements: whole vectors, then what is left.
template <class T, class F> inline void each(int64_t n, F f) {
    int64_t j = 0;
    for (; j + LANES<T> <= n; j += LANES<T>) f(j, Whole<T>());
    if (j < n) f(j, int(n - j));
}

template <class T> inline T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < LANES<T>; ++i) total += v[i];
    return total;
}

// exp by 2^n e^r with |r| <= ln 2 / 2 and a polynomial of degree 6; relative error below 2e-7.
// Arguments are cut to the range of normal floats; NaN passes, because it compares as not smaller.
inline Vec<float> exponential(Vec<float> x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const Vec<float> low = Vec<float>{} - 87.3f, high = Vec<float>{} + 88.3f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Vec<float> shifted = x * 1.44269504088896341f + magic, n = shifted - magic;
    Vec<float> r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Int<float> bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000 + 127) << 23;
    Vec<float> power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline Vec<float> sigmoid(Vec<float> x) { return 1.0f / (1.0f + exponential(-x)); }

// tanh x = (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; an odd polynomial where that would cancel.
inline Vec<float> tanh(Vec<float> x) {
    Int<float> bits;
    std::memcpy(&bits, &x, sizeof bits);
    const Int<float> sign = bits & INT32_MIN, rest = bits & INT32_MAX;
    Vec<float> size, large;
    std::memcpy(&size, &rest, sizeof size);
    const Vec<float> e = exponential(-2.0f * size);
    const Vec<float> quotient = (1.0f - e) / (1.0f + e);
    std::memcpy(&bits, &quotient, sizeof bits);
    bits |= sign;
    std::memcpy(&large, &bits, sizeof large);
    const Vec<float> square = x * x;
    Vec<float> p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const Vec<float> small = p * square * x + x;
    return size < 0.625f ? small : large;
}

inline Vec<double> sigmoid(Vec<double> x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = 1.0 / (1.0 + std::exp(-x[i]));
    return x;
}
inline Vec<double> tanh(Vec<double> x) {
    for (int i = 0; i < LANES<double>; ++i) x[i] = std::tanh(x[i]);
    return x;
}

// [a0+a1, a2+a3, .., b0+b1, b2+b3, ..]
template <class V, class I, size_t... K> inline V pair_sums(V a, V b, std::index_sequence<K...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (2 * K)...) + __builtin_shufflevector(a, b, (2 * K + 1)...);
#else
    return __builtin_shuffle(a, b, I{(2 * K)...}) + __builtin_shuffle(a, b, I{(2 * K + 1)...});
#endif
}

// Lane k of the result is the sum over all lanes of v[k]; v is destroyed.
template <class T> inline Vec<T> lane_sums(Vec<T> (&v)[LANES<T>]) {
#pragma GCC unroll 4
    for (int left = LANES<T> / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
        for (int k = 0; k < left; ++k)
            v[k] = pair_sums<Vec<T>, Int<T>>(v[2 * k], v[2 * k + 1], std::make_index_sequence<LANES<T>>());
    }
    return v[0];
}

}  // namespace mnm
