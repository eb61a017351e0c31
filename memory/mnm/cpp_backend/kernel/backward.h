// Steps t1 - 1 .. t0 of the backward walk for a block of examples: memory/mnm/torch_backend/backward.py as one walk.
//
// The equations are those in the docstring of memory/mnm/torch_backend/backward.py. W and G = dL/dW lie as [out, in], so
// that dA W and U G walk down the panels; only Z G^T needs sums over lanes. A layer's whole backward is done
// while its W and G are in the cache. Weight gradients are not formed here: the deltas go to the caller.

#pragma once

#include "segment.h"

namespace mnm {

struct BackwardArgs {
    Sizes sizes;
    Tape tape;
    int64_t t0, t1;
    void *cell_r, *interaction_w, *target_w;  // panels [K, N]: [G, n + d or d], [(3H + 1) d, n], [3d, d]
    void* rate_w;                             // [1 or 3, d]
    void* phi0[3];                            // [out, in]
    void *meta_above, *hv_above, *delta_above[3];  // [T, B], [T, B, n + d], [B, out, in]; null where nothing comes
    void *weights, *gradient, *da_write;           // live between calls; per example
    void *dhv, *dc;                                // [B, n + d], [B, n]
    void *dgates, *dinteraction, *drate, *dtargets;  // [t1 - t0, B, ..], the deltas of these steps
    void* dphi0[3];                                  // [blocks, out, in], added to at resets
    void* ddelta[3];                                 // [B, out, in], written when t0 = 0
};

template <class T> class Backward {
  public:
    Backward(const BackwardArgs& args, int64_t block, int64_t begin, int64_t end)
        : args_(args), s_(args.sizes), v_{args.sizes, args.tape}, block_(block), begin_(begin), rows_(end - begin),
          wide_(padded<T>(std::max(s_.size, s_.hidden))), arena_(scratch()) {
        const int64_t H = s_.heads;
        for (T*& x : da_) x = arena_.take(2 * H * wide_);
        for (T*& x : du_) x = arena_.take(H * wide_);
        for (T*& x : dz_) x = arena_.take(H * wide_);
        for (T*& x : second_) x = arena_.take(H * wide_);
        u_ = arena_.take(H * wide_);
        dq_ = arena_.take(2 * H * wide_);
        rows_in_ = arena_.take(3 * H * wide_);
        product_ = arena_.take(H * wide_);
        dkeys_ = arena_.take(rows_ * 2 * H * padded<T>(s_.size));
        dvalue_ = arena_.take(rows_ * H * padded<T>(s_.size));
        through_ = arena_.take(rows_ * H * padded<T>(s_.size));
        dh_ = arena_.take(rows_ * padded<T>(s_.controller));
        normalized_ = arena_.take(s_.controller);
        dprevious_ = arena_.take(rows_ * padded<T>(s_.hv()));
    }

    void run() {
        if (args_.t1 == s_.steps)
            for (int64_t i = 0; i < rows_; ++i) enter(i);
        for (int64_t t = args_.t1 - 1; t >= args_.t0; --t) {
            for (int64_t i = 0; i < rows_; ++i) {
                s_.is_local ? local_memory(t, i) : gradient_memory(t, i);
                if (v_.is_first(t, begin_ + i)) undo_reset(t, i);
            }
            interact(t);
            control(t);
        }
        if (args_.t0 == 0)
            for (int64_t i = 0; i < rows_; ++i) leave(i);
    }

  private:
    int64_t scratch() const {
        const int64_t rows = 4 * s_.heads * padded<T>(s_.size) + padded<T>(s_.controller) + padded<T>(s_.hv());
        return rows_ * rows + 23 * s_.heads * wide_ + padded<T>(s_.controller) + 32 * LANES<T>;
    }

    int64_t matrix(int l) const { return matrix_size<T>(s_.out(l), s_.in(l)); }
    T* layer(void* base, int l, int64_t i) const {
        T* m = static_cast<T*>(base) + (begin_ + i) * (matrix(0) + matrix(1) + matrix(2));
        for (int k = 0; k < l; ++k) m += matrix(k);
        return m;
    }
    T* weight(int l, int64_t i) const { return layer(args_.weights, l, i); }
    T* gradient(int l, int64_t i) const { return layer(args_.gradient, l, i); }
    // da of the write rows of the step after, [H, wide] per layer
    T* da_write(int l, int64_t i) const {
        return static_cast<T*>(args_.da_write) + ((begin_ + i) * 3 + l) * s_.heads * wide_;
    }
    T* delta_row(void* base, int64_t t, int64_t i, int64_t width) const {
        return static_cast<T*>(base) + ((t - args_.t0) * s_.batch + begin_ + i) * width;
    }

    // W = phi_0 + D and the G that comes from above
    void enter(int64_t i) {
        std::fill(da_write(0, i), da_write(0, i) + 3 * s_.heads * wide_, T(0));
        for (int l = 0; l < 3; ++l) {
            const int64_t in = s_.in(l), out = s_.out(l), b = begin_ + i;
            const T *initial = static_cast<T*>(args_.phi0[l]), *change = static_cast<T*>(args_.tape.delta[l]) + b * in * out;
            const T* above = static_cast<T*>(args_.delta_above[l]);
            std::fill(weight(l, i), weight(l, i) + matrix(l), T(0));
            std::fill(gradient(l, i), gradient(l, i) + matrix(l), T(0));
            each_element(weight(l, i), out, in, [&](T& w, int64_t o, int64_t k) {
                w = initial[o * in + k] + change[k * out + o];
            });
            if (above)
                each_element(gradient(l, i), out, in, [&](T& g, int64_t o, int64_t k) {
                    g = above[(b * out + o) * in + k];
                });
        }
    }

    // What is left in G after step 0, its write included, belongs to D before the segment (and to phi_0).
    void leave(int64_t i) {
        for (int l = 0; l < 3; ++l) {
            const int64_t in = s_.in(l), out = s_.out(l);
            add_write(l, 0, i);
            T* to = static_cast<T*>(args_.ddelta[l]) + (begin_ + i) * out * in;
            each_element(gradient(l, i), out, in, [&](T& g, int64_t o, int64_t k) { to[o * in + k] = g; });
        }
    }

    // G of an example that started here belongs to phi_0; below the reset it had other weights.
    void undo_reset(int64_t t, int64_t i) {
        const T* saved = t > 0 ? v_.overwritten(t, begin_ + i) : nullptr;
        for (int l = 0; l < 3; ++l) {
            const int64_t in = s_.in(l), out = s_.out(l);
            add_write(l, t, i);
            T* total = static_cast<T*>(args_.dphi0[l]) + block_ * out * in;
            each_element(gradient(l, i), out, in, [&](T& g, int64_t o, int64_t k) {
                total[o * in + k] += g;
                g = T(0);
            });
            if (!saved) continue;
            // Saved by the forward, which keeps [in, out].
            T* w = weight(l, i);
            each_panel<T>(in, out, [&](int64_t first, int64_t width, int64_t at) {
                each_element(w, out, in, [&](T& x, int64_t o, int64_t k) {
                    if (o >= first && o < first + width) x = saved[at + k * width + o - first];
                });
            });
            saved += matrix_size<T>(in, out);
        }
        std::fill(da_write(0, i), da_write(0, i) + 3 * s_.heads * wide_, T(0));
    }

    // G += da^T Z of the write of step t.
    void add_write(int l, int64_t t, int64_t i) {
        copy_rows(v_.z(l, t, begin_ + i), s_.heads, s_.in(l), rows_in_);
        update<T>(s_.heads, da_write(l, i), wide_, rows_in_, wide_, gradient(l, i), s_.out(l), s_.in(l), T(1));
    }

    // Rows of the tape with their padding.
    void copy_rows(const T* from, int64_t rows, int64_t width, T* to) const {
        const int64_t all = padded<T>(width);
        for (int64_t r = 0; r < rows; ++r) {
            std::copy(from + r * width, from + (r + 1) * width, to + r * wide_);
            std::fill(to + r * wide_ + width, to + r * wide_ + all, T(0));
        }
    }

    // dA of the last layer: read rows from dv_t, post-write rows from the meta loss.
    void losses(int64_t t, int64_t i) {
        const int64_t d = s_.size, H = s_.heads, b = begin_ + i;
        const T* dv = static_cast<T*>(args_.dhv) + b * s_.hv() + s_.controller;
        const T* meta = static_cast<T*>(args_.meta_above);
        const T dmiss = meta ? T(s_.scale()) * meta[t * s_.batch + b] : T(0);
        for (int64_t h = 0; h < H; ++h)
            each<T>(d, [&](int64_t j, auto count) {
                store(da_[2] + h * wide_ + j, load(dv + j, count) * T(1.0 / double(H)), count);
                store(da_[2] + (H + h) * wide_ + j, load(v_.miss(t, b) + h * d + j, count) * dmiss, count);
            });
    }

    // One layer under W_t: dQ = dA W, G += [dA(t) ; da(t + 1)]^T [Q(t) ; Z(t + 1)]; then the factors of the
    // write, du = Z G^T = -dU and dz = -U G, and dbeta.
    void read_layer(int l, int64_t t, int64_t i) {
        const int64_t in = s_.in(l), out = s_.out(l), H = s_.heads, b = begin_ + i;
        T *w = weight(l, i), *g = gradient(l, i);
        product<T>(2 * H, da_[l], wide_, w, out, in, dq_, wide_);
        copy_rows(v_.rows(l, t + 1, b), 3 * H, in, rows_in_);
        if (l > 0)
            for (int64_t r = 0; r < 2 * H; ++r)
                each<T>(in, [&](int64_t j, auto count) {
                    const Vec<T> q = load(rows_in_ + r * wide_ + j, count);
                    store(da_[l - 1] + r * wide_ + j, load(dq_ + r * wide_ + j, count) * (T(1) - q * q), count);
                });
        else
            for (int64_t r = 0; r < 2 * H; ++r) {
                T* keys = dkeys_ + (i * 2 * H + r) * padded<T>(in);
                std::copy(dq_ + r * wide_, dq_ + r * wide_ + in, keys);
            }
        update<T>(2 * H, da_[l], wide_, rows_in_, wide_, g, out, in, T(1));
        update<T>(H, da_write(l, i), wide_, rows_in_ + 2 * H * wide_, wide_, g, out, in, T(1));

        const T rate = v_.rate(l, t, b);
        for (int64_t h = 0; h < H; ++h)
            each<T>(out, [&](int64_t j, auto count) {
                store(u_ + h * wide_ + j, load(errors(l, t, b) + h * out + j, count) * rate, count);
            });
        copy_rows(v_.z(l, t, b), H, in, rows_in_);
        dots<T>(H, rows_in_, wide_, g, out, in, du_[l], wide_);
        product<T>(H, u_, wide_, g, out, in, dz_[l], wide_);
        Vec<T> total{};
        for (int64_t h = 0; h < H; ++h) {
            each<T>(in, [&](int64_t j, auto count) {
                store(dz_[l] + h * wide_ + j, -load(dz_[l] + h * wide_ + j, count), count);
            });
            each<T>(out, [&](int64_t j, auto count) {
                total += load(du_[l] + h * wide_ + j, count) * load(errors(l, t, b) + h * out + j, count);
            });
        }
        dbeta_[l] = -sum<T>(total);
    }

    // dz += da W_{t-1}, the product being there; through the tanh below it becomes `below`, da of the layer below.
    // `curvature` is e de of MNM-g, whose slope 1 - z^2 depends on z too: -2 z e de.
    void descend(int l, int64_t t, int64_t i, T* below, const T* curvature) {
        const int64_t in = s_.in(l), H = s_.heads;
        const T* z = v_.z(l, t, begin_ + i);
        for (int64_t h = 0; h < H; ++h)
            each<T>(in, [&](int64_t j, auto count) {
                const int64_t at = h * wide_ + j;
                const Vec<T> dz = load(dz_[l] + at, count) + load(product_ + at, count);
                store(dz_[l] + at, dz, count);
                if (l == 0) return;
                const Vec<T> y = load(z + h * in + j, count);
                Vec<T> da = dz * (T(1) - y * y);
                if (curvature) da -= y * load(curvature + at, count) * T(2);
                store(below + at, da, count);
            });
    }

    // MNM-p: E = s (z - z'), so that dz' = s beta du and what reaches z is its negative.
    void local_memory(int64_t t, int64_t i) {
        const int64_t d = s_.size, H = s_.heads, b = begin_ + i;
        T* dtargets = delta_row(args_.dtargets, t, i, H * 3 * d);
        losses(t, i);
        for (int l = 2; l >= 0; --l) {
            read_layer(l, t, i);
            const T factor = v_.rate(l, t, b) * T(s_.scale());
            for (int64_t h = 0; h < H; ++h)
                each<T>(d, [&](int64_t j, auto count) {
                    const Vec<T> target = load(du_[l] + h * wide_ + j, count) * factor;
                    store(dtargets + (h * 3 + l) * d + j, target, count);
                    T* da = da_write(l, i) + h * wide_ + j;
                    if (l == 2) return store(da, -target, count);
                    // What came down from the layer above lacks this term, for z^l is compared with z'^l.
                    const Vec<T> z = load(v_.z(l + 1, t, b) + h * d + j, count);
                    store(da, load(second_[l] + h * wide_ + j, count) - target * (T(1) - z * z), count);
                });
            // rows_in_ still holds Z, u_ its step.
            update_product<T>(
                H, u_, wide_, rows_in_, wide_, weight(l, i), d, d, T(1), H, da_write(l, i), wide_, product_, wide_);
            descend(l, t, i, l > 0 ? second_[l - 1] : nullptr, nullptr);
        }
        for (int64_t h = 0; h < H; ++h)
            each<T>(d, [&](int64_t j, auto count) {
                store(dvalue(i, h) + j, -load(da_[2] + (H + h) * wide_ + j, count), count);
            });
        finish(i);
    }

    // MNM-g: back through the recursion e_l = (e_{l+1} W_{l+1}) (1 - z_l^2) of the write itself.
    void gradient_memory(int64_t t, int64_t i) {
        const int64_t H = s_.heads, b = begin_ + i;
        losses(t, i);
        for (int l = 2; l >= 0; --l) {
            read_layer(l, t, i);
            update<T>(H, u_, wide_, rows_in_, wide_, weight(l, i), s_.out(l), s_.in(l), T(1));
        }
        for (int l = 0; l < 3; ++l) {  // du becomes de
            const int64_t out = s_.out(l);
            const T rate = v_.rate(l, t, b);
            if (l > 0) dots<T>(H, second_[l - 1], wide_, weight(l, i), out, s_.in(l), product_, wide_);
            for (int64_t h = 0; h < H; ++h)
                each<T>(out, [&](int64_t j, auto count) {
                    const int64_t at = h * wide_ + j;
                    Vec<T> de = load(du_[l] + at, count) * -rate;
                    if (l > 0) de += load(product_ + at, count);
                    store(du_[l] + at, de, count);
                    if (l == 2) return;
                    const Vec<T> z = load(v_.z(l + 1, t, b) + h * out + j, count);
                    store(second_[l] + at, de * (T(1) - z * z), count);
                });
            if (l > 0) update<T>(H, errors(l, t, b), s_.out(l), second_[l - 1], wide_, gradient(l, i), out, s_.in(l), T(1));
        }
        for (int64_t h = 0; h < H; ++h)
            each<T>(s_.size, [&](int64_t j, auto count) {
                const int64_t at = h * wide_ + j;
                const Vec<T> da = load(du_[2] + at, count) * T(s_.scale());
                store(da_write(2, i) + at, da, count);
                store(dvalue(i, h) + j, -(da + load(da_[2] + H * wide_ + at, count)), count);
            });
        for (int l = 0; l < 2; ++l)  // e de, in place of what it was made of
            for (int64_t h = 0; h < H; ++h)
                each<T>(s_.out(l), [&](int64_t j, auto count) {
                    const int64_t at = h * wide_ + j;
                    const Vec<T> e = load(errors(l, t, b) + h * s_.out(l) + j, count);
                    store(second_[l] + at, e * load(du_[l] + at, count), count);
                });
        for (int l = 2; l >= 0; --l) {
            product<T>(H, da_write(l, i), wide_, weight(l, i), s_.out(l), s_.in(l), product_, wide_);
            descend(l, t, i, l > 0 ? da_write(l - 1, i) : nullptr, l > 0 ? second_[l - 1] : nullptr);
        }
        finish(i);
    }

    const T* errors(int l, int64_t t, int64_t b) const { return v_.errors(l, t, b); }
    T* dvalue(int64_t i, int64_t h) const { return dvalue_ + (i * s_.heads + h) * padded<T>(s_.size); }

    // The write keys are also the keys of the post-write rows.
    void finish(int64_t i) {
        const int64_t d = s_.size, H = s_.heads, pitch = padded<T>(d);
        for (int64_t h = 0; h < H; ++h) {
            T* keys = dkeys_ + (i * 2 * H + H + h) * pitch;
            each<T>(d, [&](int64_t j, auto count) {
                store(keys + j, load(keys + j, count) + load(dz_[0] + h * wide_ + j, count), count);
            });
        }
        for (int l = 0; l < 3; ++l) dbetas_[3 * i + l] = dbeta_[l];
    }

    // Keys, target values and rate -> dh
    void interact(int64_t t) {
        const int64_t d = s_.size, H = s_.heads, keys = H * d, pitch = padded<T>(d), width = s_.interaction();
        if (s_.is_local)
            product<T>(
                rows_ * H, delta_row(args_.dtargets, t, 0, H * 3 * d), 3 * d, static_cast<T*>(args_.target_w), 3 * d, d,
                through_, pitch);
        for (int64_t i = 0; i < rows_; ++i) {
            const int64_t b = begin_ + i;
            T* out = delta_row(args_.dinteraction, t, i, width);
            auto through_tanh = [&](T* to, const T* dy, const T* y) {
                each<T>(d, [&](int64_t j, auto count) {
                    const Vec<T> value = load(y + j, count);
                    store(to + j, load(dy + j, count) * (T(1) - value * value), count);
                });
            };
            for (int64_t r = 0; r < 2 * H; ++r)
                through_tanh(out + r * d, dkeys_ + (i * 2 * H + r) * pitch, v_.q(0, t, b) + r * d);
            for (int64_t h = 0; h < H; ++h) {
                T *dv = dvalue(i, h), *through = through_ + (i * H + h) * pitch;
                if (s_.is_local)
                    each<T>(d, [&](int64_t j, auto count) {
                        store(dv + j, load(dv + j, count) + load(through + j, count), count);
                    });
                through_tanh(out + 2 * keys + h * d, dv, v_.target(t, b) + h * d);
            }
            rate(t, i, out + 3 * keys);
        }
        if (s_.kind == OUTSIDE) return;
        product<T>(
            rows_, delta_row(args_.dinteraction, t, 0, width), width, static_cast<T*>(args_.interaction_w), width,
            s_.controller, dh_, padded<T>(s_.controller));
        for (int64_t i = 0; s_.normalizes && i < rows_; ++i) undo_normalize(t, i);
    }

    // Of y = (h - mean) r: dh = r (dy - mean(dy) - y mean(y dy)), in place of dy.
    void undo_normalize(int64_t t, int64_t i) {
        const int64_t n = s_.controller;
        T *y = normalized_, *dy = dh_ + i * padded<T>(n);
        const T r = normalize<T>(n, v_.hv(t, begin_ + i), y);
        Vec<T> total{}, along{};
        each<T>(n, [&](int64_t j, auto count) {
            total += load(dy + j, count);
            along += load(dy + j, count) * load(y + j, count);
        });
        const T mean = sum<T>(total) / T(n), mean_along = sum<T>(along) / T(n);
        each<T>(n, [&](int64_t j, auto count) {
            store(dy + j, (load(dy + j, count) - mean - load(y + j, count) * mean_along) * r, count);
        });
    }

    // beta = sigmoid(w beta' + b)
    void rate(int64_t t, int64_t i, T* out) {
        const int64_t d = s_.size, b = begin_ + i;
        T* drate = delta_row(args_.drate, t, i, s_.rates);
        const T* dbeta = dbetas_.data() + 3 * i;
        for (int64_t k = 0; k < s_.rates; ++k) {
            const T beta = v_.beta(t, b)[k], total = s_.rates == 1 ? dbeta[0] + dbeta[1] + dbeta[2] : dbeta[k];
            drate[k] = total * beta * (T(1) - beta);
        }
        each<T>(d, [&](int64_t j, auto count) {
            Vec<T> total{};
            for (int64_t k = 0; k < s_.rates; ++k)
                total += load(static_cast<T*>(args_.rate_w) + k * d + j, count) * drate[k];
            const Vec<T> y = load(v_.rate_in(t, b) + j, count);
            store(out + j, total * (T(1) - y * y), count);
        });
    }

    // dh, dc -> the gates, and from them [h ; v] of the step before
    void control(int64_t t) {
        const int64_t hv = s_.hv(), fed = hv - s_.kept(), pitch = padded<T>(fed);
        const bool closed = s_.kind != OUTSIDE;
        for (int64_t i = 0; closed && i < rows_; ++i)
            s_.kind == LSTM ? lstm(t, i) : s_.kind == GRU ? gru(t, i) : feedforward(t, i);
        if (closed)
            product<T>(
                rows_, delta_row(args_.dgates, t, 0, s_.gates), s_.gates, static_cast<T*>(args_.cell_r), s_.gates, fed,
                dprevious_, pitch);
        for (int64_t i = 0; i < rows_; ++i) {
            const int64_t b = begin_ + i;
            T* dhv = static_cast<T*>(args_.dhv) + b * hv;
            const T* above = static_cast<T*>(args_.hv_above);
            if (above && t > 0)
                std::copy_n(above + ((t - 1) * s_.batch + b) * hv, hv, dhv);
            else
                std::fill(dhv, dhv + hv, T(0));
            if (!closed || v_.is_first(t, b)) continue;
            each<T>(fed, [&](int64_t j, auto count) {
                T* to = dhv + s_.kept() + j;
                store(to, load(to, count) + load(dprevious_ + i * pitch + j, count), count);
            });
        }
    }

    // dL/dh_t, units j and on: from above and from the step after, and through the interaction
    auto dh_of(int64_t i) const {
        const T* above = static_cast<T*>(args_.dhv) + (begin_ + i) * s_.hv();
        const T* inner = dh_ + i * padded<T>(s_.controller);
        return [=](int64_t j, auto count) { return load(above + j, count) + load(inner + j, count); };
    }

    void feedforward(int64_t t, int64_t i) {
        const T* hidden = v_.hv(t, begin_ + i);
        T* dgates = delta_row(args_.dgates, t, i, s_.gates);
        const auto dh = dh_of(i);
        each<T>(s_.controller, [&](int64_t j, auto count) {
            const Vec<T> h = load(hidden + j, count);
            store(dgates + j, dh(j, count) * (T(1) - h * h), count);
        });
    }

    // of c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)
    void lstm(int64_t t, int64_t i) {
        const int64_t b = begin_ + i, n = s_.controller;
        const T *gates = v_.gates(t, b), *before = v_.cells(t, b), *tanh_c = v_.tanh_c(t, b);
        T *dgates = delta_row(args_.dgates, t, i, s_.gates), *dc = static_cast<T*>(args_.dc) + b * n;
        const bool first = v_.is_first(t, b);
        const auto dh_at = dh_of(i);
        each<T>(n, [&](int64_t j, auto count) {
            const Vec<T> dh = dh_at(j, count), squashed = load(tanh_c + j, count);
            const Vec<T> in = load(gates + j, count), forget = load(gates + n + j, count);
            const Vec<T> out = load(gates + 2 * n + j, count), cell = load(gates + 3 * n + j, count);
            const Vec<T> total = load(dc + j, count) + dh * out * (T(1) - squashed * squashed);
            const Vec<T> earlier = first ? Vec<T>{} : load(before + j, count);
            store(dgates + j, total * cell * in * (T(1) - in), count);
            store(dgates + n + j, total * earlier * forget * (T(1) - forget), count);
            store(dgates + 2 * n + j, dh * squashed * out * (T(1) - out), count);
            store(dgates + 3 * n + j, total * in * (T(1) - cell * cell), count);
            store(dc + j, first ? Vec<T>{} : total * forget, count);
        });
    }

    // of h_t = e + z (h_{t-1} - e), e = tanh(p + r a); dc is what h_t gets straight from h_{t+1}
    void gru(int64_t t, int64_t i) {
        const int64_t b = begin_ + i, n = s_.controller;
        const T *gates = v_.gates(t, b), *before = v_.cells(t, b);
        T *dgates = delta_row(args_.dgates, t, i, s_.gates), *dc = static_cast<T*>(args_.dc) + b * n;
        const bool first = v_.is_first(t, b);
        const auto dh = dh_of(i);
        each<T>(n, [&](int64_t j, auto count) {
            const Vec<T> r = load(gates + j, count), z = load(gates + n + j, count);
            const Vec<T> a = load(gates + 2 * n + j, count), candidate = load(gates + 3 * n + j, count);
            const Vec<T> total = load(dc + j, count) + dh(j, count);
            const Vec<T> earlier = first ? Vec<T>{} : load(before + j, count);
            const Vec<T> dp = total * (T(1) - z) * (T(1) - candidate * candidate);
            store(dgates + j, dp * a * r * (T(1) - r), count);
            store(dgates + n + j, total * (earlier - candidate) * z * (T(1) - z), count);
            store(dgates + 2 * n + j, dp * r, count);
            store(dgates + 3 * n + j, dp, count);
            store(dc + j, first ? Vec<T>{} : total * z, count);
        });
    }

    const BackwardArgs& args_;
    const Sizes& s_;
    View<T> v_;
    int64_t block_, begin_, rows_, wide_;
    Arena<T> arena_;
    T *da_[3], *du_[3], *dz_[3], *second_[2];
    T *u_, *dq_, *rows_in_, *product_, *dkeys_, *dvalue_, *through_, *dh_, *normalized_, *dprevious_;
    T dbeta_[3];
    std::vector<T> dbetas_ = std::vector<T>(3 * rows_);
};

template <class T> void backward(const BackwardArgs& args) {
    in_blocks(args.sizes, [&](int64_t block, int64_t begin, int64_t end) {
        Backward<T>(args, block, begin, end).run();
    });
}

}  // namespace mnm
