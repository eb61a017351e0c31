// Products of a few rows with a matrix that lies in panels.
//
// A matrix M [K, N] lies in panels of four vectors of columns (the last one may be narrower): panel after
// panel, in each one row after row. Columns are padded with zeros to whole vectors. Walking down a panel is
// then one stream, and its columns are the accumulators.
//
// Rows x [rows, K] that give scalars may have any stride; rows y [rows, N] that are read or written as vectors
// are padded like the columns, and their padding is zero.

#pragma once

#include <algorithm>

#include "vector.h"

namespace mnm {

constexpr int PANEL = 4;                                  // vectors per panel
constexpr int ROWS = VECTOR_BYTES == 64 ? 6 : 3;          // rows per tile: the accumulators fill the registers

template <class T> inline int64_t padded(int64_t n) { return (n + LANES<T> - 1) / LANES<T> * LANES<T>; }
template <class T> inline int64_t matrix_size(int64_t K, int64_t N) { return K * padded<T>(N); }

// f(first column, columns with padding, start of the panel in M)
template <class T, class F> inline void each_panel(int64_t K, int64_t N, F f) {
    const int64_t all = padded<T>(N), wide = PANEL * LANES<T>;
    for (int64_t first = 0; first < all; first += wide) f(first, std::min(wide, all - first), first * K);
}

// Calls f with the number of vectors of a panel as a constant.
template <class T, class F> inline void with_vectors(int64_t width, F f) {
    switch (width / LANES<T>) {
        case 4: return f(std::integral_constant<int, 4>());
        case 3: return f(std::integral_constant<int, 3>());
        case 2: return f(std::integral_constant<int, 2>());
        default: return f(std::integral_constant<int, 1>());
    }
}

// Calls f(first row, constant number of rows) until all rows are done.
template <int MOST, class F> inline void in_tiles(int64_t rows, F f) {
    int64_t r = 0;
    for (; rows - r >= MOST; r += MOST) f(r, std::integral_constant<int, MOST>());
    if constexpr (MOST > 1)
        if (r < rows) in_tiles<MOST - 1>(rows - r, [&](int64_t more, auto count) { f(r + more, count); });
}

// y[r, :] = sum_k x[r, k] M[k, :] for R rows and one panel of V vectors.
template <class T, int R, int V>
inline void product_tile(const T* x, int64_t ldx, const T* m, int64_t K, T* y, int64_t ldy) {
    constexpr int CHAINS = R * V <= PANEL ? 2 : 1;  // Few accumulators would wait for each other.
    Vec<T> sums[CHAINS][R][V] = {};
    auto add = [&](int64_t k, int chain) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            const Vec<T> column = load(m + (k * V + v) * LANES<T>);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sums[chain][r][v] += column * x[r * ldx + k];
        }
    };
    int64_t k = 0;
    for (; k + CHAINS <= K; k += CHAINS)
#pragma GCC unroll 2
        for (int chain = 0; chain < CHAINS; ++chain) add(k + chain, chain);
    if (k < K) add(k, 0);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            Vec<T> total = sums[0][r][v];
            if constexpr (CHAINS == 2) total += sums[1][r][v];
            store(y + r * ldy + v * LANES<T>, total);
        }
}

// y[r, :] = sum_k x[r, k] M[k, :]
template <class T>
inline void product(int64_t rows, const T* x, int64_t ldx, const T* m, int64_t K, int64_t N, T* y, int64_t ldy) {
    each_panel<T>(K, N, [&](int64_t first, int64_t width, int64_t at) {
        with_vectors<T>(width, [&](auto V) {
            in_tiles<ROWS>(rows, [&](int64_t r, auto R) {
                product_tile<T, R, V>(x + r * ldx, ldx, m + at, K, y + r * ldy + first, ldy);
            });
        });
    });
}

// M[k, :] += alpha sum_h a[h, k] y[h, :] for H rows and one panel.
template <class T, int H, int V>
inline void update_tile(const T* a, int64_t lda, const T* y, int64_t ldy, T* m, int64_t K, T alpha) {
    Vec<T> rows[H][V];
    for (int h = 0; h < H; ++h)
        for (int v = 0; v < V; ++v) rows[h][v] = load(y + h * ldy + v * LANES<T>) * alpha;
    for (int64_t k = 0; k < K; ++k)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            T* place = m + (k * V + v) * LANES<T>;
            Vec<T> column = load(place);
#pragma GCC unroll 8
            for (int h = 0; h < H; ++h) column += rows[h][v] * a[h * lda + k];
            store(place, column);
        }
}

// M += alpha a^T y, with a [H, K] and y [H, N].
template <class T>
inline void update(int64_t H, const T* a, int64_t lda, const T* y, int64_t ldy, T* m, int64_t K, int64_t N, T alpha) {
    each_panel<T>(K, N, [&](int64_t first, int64_t width, int64_t at) {
        with_vectors<T>(width, [&](auto V) {
            in_tiles<ROWS>(H, [&](int64_t h, auto R) {
                update_tile<T, R, V>(a + h * lda, lda, y + h * ldy + first, ldy, m + at, K, alpha);
            });
        });
    });
}

// update by H rows, then product with R rows, in one walk down the panel: one load and one store of M.
template <class T, int H, int R, int V>
inline void update_product_tile(
    const T* a, int64_t lda, const T* y, int64_t ldy, T* m, int64_t K, T alpha, const T* x, int64_t ldx, T* out,
    int64_t ldo) {
    Vec<T> rows[H][V], sums[R][V] = {};
    for (int h = 0; h < H; ++h)
        for (int v = 0; v < V; ++v) rows[h][v] = load(y + h * ldy + v * LANES<T>) * alpha;
    for (int64_t k = 0; k < K; ++k)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            T* place = m + (k * V + v) * LANES<T>;
            Vec<T> column = load(place);
#pragma GCC unroll 8
            for (int h = 0; h < H; ++h) column += rows[h][v] * a[h * lda + k];
            store(place, column);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sums[r][v] += column * x[r * ldx + k];
        }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(out + r * ldo + v * LANES<T>, sums[r][v]);
}

// M += alpha a^T y, then out = x M.
template <class T>
inline void update_product(
    int64_t H, const T* a, int64_t lda, const T* y, int64_t ldy, T* m, int64_t K, int64_t N, T alpha, int64_t rows,
    const T* x, int64_t ldx, T* out, int64_t ldo) {
    if (H > 1 || rows > 2) {
        update(H, a, lda, y, ldy, m, K, N, alpha);
        product(rows, x, ldx, m, K, N, out, ldo);
        return;
    }
    each_panel<T>(K, N, [&](int64_t first, int64_t width, int64_t at) {
        with_vectors<T>(width, [&](auto V) {
            in_tiles<2>(rows, [&](int64_t r, auto R) {
                update_product_tile<T, 1, R, V>(
                    a, lda, y + first, ldy, m + at, K, alpha, x + r * ldx, ldx, out + r * ldo + first, ldo);
            });
        });
    });
}

// y[r, k] = sum_j x[r, j] M[k, j]; x and y are padded.
template <class T>
inline void dots(int64_t rows, const T* x, int64_t ldx, const T* m, int64_t K, int64_t N, T* y, int64_t ldy) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k0 = 0; k0 < K; k0 += LANES<T>) {
            Vec<T> sums[LANES<T>] = {};
            each_panel<T>(K, N, [&](int64_t first, int64_t width, int64_t at) {
                with_vectors<T>(width, [&](auto V) {
                    const T* from = m + at + k0 * V * LANES<T>;
                    const T* with = x + r * ldx + first;
                    auto add = [&](int64_t k) {
                        for (int v = 0; v < V; ++v)
                            sums[k] += load(from + (k * V + v) * LANES<T>) * load(with + v * LANES<T>);
                    };
                    if (K - k0 >= LANES<T>) {
#pragma GCC unroll 16
                        for (int64_t k = 0; k < LANES<T>; ++k) add(k);
                    } else {
                        for (int64_t k = 0; k < K - k0; ++k) add(k);
                    }
                });
            });
            store(y + r * ldy + k0, lane_sums<T>(sums));
        }
}

// Row k of a matrix in panels, from and to a plain row of N elements: f(element of M, column).
template <class T, class F> inline void each_element(T* m, int64_t K, int64_t N, F f) {
    each_panel<T>(K, N, [&](int64_t first, int64_t width, int64_t at) {
        for (int64_t k = 0; k < K; ++k)
            for (int64_t j = first; j < std::min(first + width, N); ++j) f(m[at + k * width + j - first], k, j);
    });
}

}  // namespace mnm
