// What a call works on: sizes, tensors of memory/mnm/tape.py by address, and blocks of examples.
//
// The structs are mirrored field by field in memory/mnm/cpp_backend/bindings.py. All tensors are contiguous unless a stride is
// given; "panels" is the layout of matrix.h. Letters: T time, B batch, H heads, d key and value size, u hidden
// width of the memory, n controller size, G gates (4n, or n with the feed-forward controller). With the controller
// OUTSIDE, before the time loop, n = G = 0, [h ; v] is v, and the sums of the interaction layer come in.

#pragma once

#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "matrix.h"

namespace mnm {

enum Controller : int64_t { FEEDFORWARD, LSTM, GRU, OUTSIDE };

struct Sizes {
    int64_t steps, batch, heads, size, hidden, controller, gates, rates, kind, is_local, normalizes, threads, block;

    int64_t in(int l) const { return l == 0 ? size : hidden; }
    int64_t out(int l) const { return l == 2 ? size : hidden; }
    int64_t hv() const { return controller + size; }
    int64_t kept() const { return kind == FEEDFORWARD ? controller : 0; }  // first column of [h ; v] that is fed back
    int64_t interaction() const { return (3 * heads + 1) * size; }
    double scale() const { return 2.0 / double(heads * size); }
};

// The tape of tape.Tape; the forward fills it, the backward reads it.
struct Tape {
    void *start, *hv, *gates, *cells, *tanh_c, *target_value, *rate_in, *beta, *miss;
    void *inputs[3], *errors[3];
    int64_t inputs_t[3], errors_t[3];  // strides of time
    void* delta[3];                    // D after the last step, [B, in, out]
    void* overwritten;                 // [slots, sizes of W in panels], or null
    uint8_t* is_first;                 // [T, B]
    int64_t* slot;                     // [T, B], row of `overwritten`
};

// Typed views of the tape at (t, b).
template <class T> struct View {
    const Sizes& s;
    const Tape& tape;

    T* at(void* base, int64_t t, int64_t b, int64_t width) const {
        return static_cast<T*>(base) + (t * s.batch + b) * width;
    }
    T* hv(int64_t t, int64_t b) const { return at(tape.hv, t, b, s.hv()); }
    T* before(int64_t t, int64_t b) const { return t > 0 ? hv(t - 1, b) : at(tape.start, 0, b, s.hv()); }
    T* gates(int64_t t, int64_t b) const { return at(tape.gates, t, b, s.gates); }
    T* cells(int64_t t, int64_t b) const { return at(tape.cells, t, b, s.controller); }
    T* tanh_c(int64_t t, int64_t b) const { return at(tape.tanh_c, t, b, s.controller); }
    T* target(int64_t t, int64_t b) const { return at(tape.target_value, t, b, s.heads * s.size); }
    T* miss(int64_t t, int64_t b) const { return at(tape.miss, t, b, s.heads * s.size); }
    T* rate_in(int64_t t, int64_t b) const { return at(tape.rate_in, t, b, s.size); }
    T* beta(int64_t t, int64_t b) const { return at(tape.beta, t, b, s.rates); }
    T* rows(int l, int64_t t, int64_t b) const {
        return static_cast<T*>(tape.inputs[l]) + t * tape.inputs_t[l] + b * 3 * s.heads * s.in(l);
    }
    T* q(int l, int64_t t, int64_t b) const { return rows(l, t + 1, b); }  // [2H, in]
    T* z(int l, int64_t t, int64_t b) const { return rows(l, t, b) + 2 * s.heads * s.in(l); }  // [H, in]
    T* errors(int l, int64_t t, int64_t b) const {
        return static_cast<T*>(tape.errors[l]) + t * tape.errors_t[l] + b * s.heads * s.out(l);
    }
    bool is_first(int64_t t, int64_t b) const { return tape.is_first[t * s.batch + b]; }
    T rate(int l, int64_t t, int64_t b) const { return beta(t, b)[s.rates == 1 ? 0 : l]; }
    // W of the forward lies in panels of [in, out].
    int64_t weights_size() const {
        int64_t total = 0;
        for (int l = 0; l < 3; ++l) total += matrix_size<T>(s.in(l), s.out(l));
        return total;
    }
    T* overwritten(int64_t t, int64_t b) const {
        return static_cast<T*>(tape.overwritten) + tape.slot[t * s.batch + b] * weights_size();
    }
};

// Scratch of one thread: grows, is never given back, aligned to vectors. A fresh page costs the system more
// than the arithmetic that fills it.
template <class T> class Arena {
  public:
    explicit Arena(int64_t count) {
        if (count + LANES<T> > int64_t(store().size())) store().resize(count + LANES<T>);
        const auto at = reinterpret_cast<uintptr_t>(store().data());
        next_ = store().data() + (VECTOR_BYTES - at % VECTOR_BYTES) % VECTOR_BYTES / sizeof(T);
        end_ = store().data() + store().size();
    }
    T* take(int64_t count) {
        T* mine = next_;
        next_ += padded<T>(count);
        if (next_ > end_) std::abort();  // The caller counted wrong.
        std::fill(mine, next_, T(0));
        return mine;
    }

  private:
    static std::vector<T>& store() {
        static thread_local std::vector<T> buffer;
        return buffer;
    }
    T *next_, *end_;
};

// y = (x - mean) r over n numbers, r = 1 / sqrt(variance + 1e-5); returns r.
template <class T> inline T normalize(int64_t n, const T* x, T* y) {
    Vec<T> total{}, squares{};
    each<T>(n, [&](int64_t j, auto count) { total += load(x + j, count); });
    const T mean = sum<T>(total) / T(n);
    each<T>(n, [&](int64_t j, auto count) { store(y + j, load(x + j, count) - mean, count); });
    each<T>(n, [&](int64_t j, auto count) { squares += load(y + j, count) * load(y + j, count); });
    const T r = T(1) / std::sqrt(sum<T>(squares) / T(n) + T(1e-5));
    each<T>(n, [&](int64_t j, auto count) { store(y + j, load(y + j, count) * r, count); });
    return r;
}

// body(block, first example, one past the last) for every block of examples. Blocks share nothing, so the
// result does not depend on the number of threads as long as the blocks are the same.
template <class F> inline void in_blocks(const Sizes& s, F body) {
    const int64_t blocks = (s.batch + s.block - 1) / s.block;
    std::atomic<int64_t> next{0};
    auto work = [&] {
        for (int64_t k; (k = next++) < blocks;) body(k, k * s.block, std::min(s.batch, (k + 1) * s.block));
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(s.threads, blocks); ++i) others.emplace_back(work);
    work();
    for (auto& thread : others) thread.join();
}

}  // namespace mnm
