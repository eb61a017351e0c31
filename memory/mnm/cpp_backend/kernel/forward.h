// T steps of controller and memory for a block of examples: memory/mnm/torch_backend/forward.py as one walk.
//
// Time is the inner loop, so that the block's weights stay in the cache. Within a step the linear maps that all
// examples share run over the rows of the block; what an example does to its own memory runs example by
// example and layer by layer. W lies transposed, [in, out], because here every product is x W^T. In a segment of
// one step, as while acting, one example after another uses the same place for its W.

#pragma once

#include "segment.h"

namespace mnm {

struct ForwardArgs {
    Sizes sizes;
    Tape tape;
    void *cell_r, *interaction_w, *target_w;  // panels [K, N]: [n + d or d, G], [n, (3H + 1) d], [d, 3d]
    void *interaction_b, *rate_w, *rate_b, *target_b;
    void* offset;   // [T, B, (3H + 1) d], the input's part of the interaction layer, or null; all of it if OUTSIDE
    void* phi0[3];  // panels [in, out]
    void* delta[3];  // D before the first step, [B, in, out]
    void *meta_loss, *write_error;  // [T, B]
};

template <class T> class Forward {
  public:
    Forward(const ForwardArgs& args, int64_t begin, int64_t end)
        : args_(args), s_(args.sizes), v_{args.sizes, args.tape}, begin_(begin), rows_(end - begin),
          out_(padded<T>(std::max(s_.size, s_.hidden))), arena_(scratch()) {
        previous_ = arena_.take(rows_ * s_.hv());
        gates_ = arena_.take(rows_ * padded<T>(s_.gates));
        interaction_ = arena_.take(rows_ * padded<T>(s_.interaction()));
        normalized_ = arena_.take(rows_ * s_.controller);
        targets_ = arena_.take(rows_ * s_.heads * padded<T>(3 * s_.size));
        for (T*& a : written_) a = arena_.take(s_.heads * out_);
        for (T*& u : steps_) u = arena_.take(s_.heads * out_);
        read_ = arena_.take(2 * s_.heads * out_);
        weights_ = arena_.take(places() * v_.weights_size());
    }

    void run() {
        if (s_.steps == 1) return act();
        for (int64_t i = 0; i < rows_; ++i) enter(i);
        for (int64_t t = 0; t < s_.steps; ++t) {
            for (int64_t i = 0; i < rows_; ++i)
                if (v_.is_first(t, begin_ + i)) reset(t, i);
            if (s_.kind != OUTSIDE) control(t);
            interact(t);
            for (int64_t i = 0; i < rows_; ++i)
                s_.is_local ? local_write(t, i) : gradient_write(t, i);
        }
        for (int64_t i = 0; i < rows_; ++i) leave(i);
    }

  private:
    void act() {
        if (s_.kind != OUTSIDE) control(0);
        interact(0);
        for (int64_t i = 0; i < rows_; ++i) {
            enter(i);
            if (v_.is_first(0, begin_ + i)) reset(0, i);
            s_.is_local ? local_write(0, i) : gradient_write(0, i);
            leave(i);
        }
    }

    int64_t scratch() const {
        const int64_t rows = s_.hv() + s_.controller + padded<T>(s_.gates) + padded<T>(s_.interaction()) +
                             s_.heads * padded<T>(3 * s_.size);
        return rows_ * rows + places() * v_.weights_size() + 8 * s_.heads * out_ + 16 * LANES<T>;
    }

    // Examples whose W is held at once
    int64_t places() const { return s_.steps == 1 ? 1 : rows_; }

    T* weight(int l, int64_t i) const {
        T* w = weights_ + (s_.steps == 1 ? 0 : i) * v_.weights_size();
        for (int k = 0; k < l; ++k) w += matrix_size<T>(s_.in(k), s_.out(k));
        return w;
    }

    // W = phi_0 + D
    void enter(int64_t i) {
        for (int l = 0; l < 3; ++l) {
            const int64_t in = s_.in(l), out = s_.out(l);
            const T* change = static_cast<T*>(args_.delta[l]) + (begin_ + i) * in * out;
            T* w = weight(l, i);
            const T* initial = static_cast<T*>(args_.phi0[l]);
            each_panel<T>(in, out, [&](int64_t first, int64_t width, int64_t at) {
                const int64_t columns = std::min(width, out - first);
                for (int64_t k = 0; k < in; ++k)
                    each<T>(width, [&](int64_t j, auto count) {
                        const T* d = change + k * out + first + j;
                        const Vec<T> dv = j + LANES<T> <= columns ? load(d) : load(d, int(columns - j));
                        store(w + at + k * width + j, load(initial + at + k * width + j) + dv, count);
                    });
            });
        }
    }

    // W = phi_0; what was there is kept for the backward walk.
    void reset(int64_t t, int64_t i) {
        T* w = weight(0, i);
        if (args_.tape.overwritten && t > 0)
            std::memcpy(v_.overwritten(t, begin_ + i), w, v_.weights_size() * sizeof(T));
        for (int l = 0; l < 3; ++l)
            std::memcpy(weight(l, i), args_.phi0[l], matrix_size<T>(s_.in(l), s_.out(l)) * sizeof(T));
    }

    // [h ; v]_{t-1} and the input's part of the gates -> h_t
    void control(int64_t t) {
        const int64_t hv = s_.hv(), wide = padded<T>(s_.gates);
        for (int64_t i = 0; i < rows_; ++i) {
            const T* from = v_.before(t, begin_ + i);
            T* to = previous_ + i * hv;
            v_.is_first(t, begin_ + i) ? std::fill(to, to + hv, T(0)) : void(std::copy(from, from + hv, to));
        }
        product<T>(
            rows_, previous_ + s_.kept(), hv, static_cast<T*>(args_.cell_r), hv - s_.kept(), s_.gates, gates_, wide);
        for (int64_t i = 0; i < rows_; ++i)
            s_.kind == LSTM ? lstm(t, i) : s_.kind == GRU ? gru(t, i) : feedforward(t, i);
    }

    // The sum of gate k's two parts, units j and on
    auto gate_of(int64_t t, int64_t i) const {
        const T *given = v_.gates(t, begin_ + i), *recurrent = gates_ + i * padded<T>(s_.gates);
        return [=, n = s_.controller](int k, int64_t j, auto count) {
            return load(given + k * n + j, count) + load(recurrent + k * n + j, count);
        };
    }

    void feedforward(int64_t t, int64_t i) {
        const auto gate = gate_of(t, i);
        T* h = v_.hv(t, begin_ + i);
        each<T>(s_.controller, [&](int64_t j, auto count) { store(h + j, tanh(gate(0, j, count)), count); });
    }

    // c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)
    void lstm(int64_t t, int64_t i) {
        const int64_t b = begin_ + i, n = s_.controller;
        const auto gate = gate_of(t, i);
        const T* before = v_.cells(t, b);
        T *gates = v_.gates(t, b), *after = v_.cells(t + 1, b), *tanh_c = v_.tanh_c(t, b), *h = v_.hv(t, b);
        const bool first = v_.is_first(t, b);
        each<T>(n, [&](int64_t j, auto count) {
            const Vec<T> in = sigmoid(gate(0, j, count)), forget = sigmoid(gate(1, j, count));
            const Vec<T> out = sigmoid(gate(2, j, count)), cell = tanh(gate(3, j, count));
            const Vec<T> kept = first ? Vec<T>{} : forget * load(before + j, count);
            const Vec<T> c = kept + in * cell, squashed = tanh(c);
            store(gates + j, in, count);
            store(gates + n + j, forget, count);
            store(gates + 2 * n + j, out, count);
            store(gates + 3 * n + j, cell, count);
            store(after + j, c, count);
            store(tanh_c + j, squashed, count);
            store(h + j, out * squashed, count);
        });
    }

    // h_t = e + z (h_{t-1} - e) with the candidate e = tanh(p + r a); h is what the cells hold
    void gru(int64_t t, int64_t i) {
        const int64_t b = begin_ + i, n = s_.controller;
        const auto gate = gate_of(t, i);
        const T* before = v_.cells(t, b);
        T *gates = v_.gates(t, b), *after = v_.cells(t + 1, b), *h = v_.hv(t, b);
        const bool first = v_.is_first(t, b);
        each<T>(n, [&](int64_t j, auto count) {
            const Vec<T> r = sigmoid(gate(0, j, count)), z = sigmoid(gate(1, j, count)), a = gate(2, j, count);
            const Vec<T> candidate = tanh(gate(3, j, count) + r * a);
            const Vec<T> kept = first ? Vec<T>{} : load(before + j, count);
            const Vec<T> next = candidate + z * (kept - candidate);
            store(gates + j, r, count);
            store(gates + n + j, z, count);
            store(gates + 2 * n + j, a, count);
            store(gates + 3 * n + j, candidate, count);
            store(after + j, next, count);
            store(h + j, next, count);
        });
    }

    // h_t -> keys, target values and rate; then the BFPF of all target values
    void interact(int64_t t) {
        const int64_t d = s_.size, keys = s_.heads * d, wide = padded<T>(s_.interaction());
        const int64_t n = s_.controller;
        const bool given = s_.kind == OUTSIDE;
        for (int64_t i = 0; s_.normalizes && i < rows_; ++i)
            normalize<T>(n, v_.hv(t, begin_ + i), normalized_ + i * n);
        if (!given)
            product<T>(
                rows_, s_.normalizes ? normalized_ : v_.hv(t, begin_), s_.normalizes ? n : s_.hv(),
                static_cast<T*>(args_.interaction_w), n, s_.interaction(), interaction_, wide);
        const T *bias = static_cast<T*>(args_.interaction_b), *offsets = static_cast<T*>(args_.offset);
        for (int64_t i = 0; i < rows_; ++i) {
            const int64_t b = begin_ + i;
            T* x = interaction_ + i * wide;
            const T* offset = offsets ? offsets + (t * s_.batch + b) * s_.interaction() : nullptr;
            each<T>(s_.interaction(), [&](int64_t j, auto count) {
                Vec<T> total{};
                if (!given) total = load(x + j, count) + load(bias + j, count);
                if (offset) total += load(offset + j, count);
                store(x + j, tanh(total), count);
            });
            std::copy(x, x + 2 * keys, v_.q(0, t, b));
            std::copy(x + keys, x + 2 * keys, v_.z(0, t, b));
            std::copy(x + 2 * keys, x + 3 * keys, v_.target(t, b));
            std::copy(x + 3 * keys, x + 3 * keys + d, v_.rate_in(t, b));
            for (int64_t k = 0; k < s_.rates; ++k) {
                const T *w = static_cast<T*>(args_.rate_w) + k * d, *r = v_.rate_in(t, b);
                Vec<T> total{};
                each<T>(d, [&](int64_t j, auto count) { total += load(w + j, count) * load(r + j, count); });
                const Vec<T> logit = Vec<T>{} + (sum<T>(total) + static_cast<T*>(args_.rate_b)[k]);
                v_.beta(t, b)[k] = sigmoid(logit)[0];
            }
        }
        if (s_.is_local)
            product<T>(
                rows_ * s_.heads, v_.target(t, begin_), d, static_cast<T*>(args_.target_w), d, 3 * d, targets_,
                padded<T>(3 * d));
    }

    // Layer l of the pass of the write keys under W_{t-1}: what leaves it also enters the layer above.
    void written(int l, int64_t t, int64_t i) {
        const int64_t in = s_.in(l), out = s_.out(l), b = begin_ + i;
        product<T>(s_.heads, v_.z(l, t, b), in, weight(l, i), in, out, written_[l], out_);
        if (l == 2) return;
        for (int64_t h = 0; h < s_.heads; ++h) {
            T *a = written_[l] + h * out_, *z = v_.z(l + 1, t, b) + h * out;
            each<T>(out, [&](int64_t j, auto count) {
                const Vec<T> y = tanh(load(a + j, count));
                store(a + j, y, count);
                store(z + j, y, count);
            });
        }
    }

    // W <- W - (beta E)^T Z, then layer l of the pass of [read keys ; write keys] under the new W.
    void update_and_read(int l, int64_t t, int64_t i) {
        const int64_t in = s_.in(l), out = s_.out(l), b = begin_ + i, H = s_.heads;
        update_product<T>(
            H, v_.z(l, t, b), in, steps_[l], out_, weight(l, i), in, out, T(-1), 2 * H, v_.q(l, t, b), in, read_, out_);
        if (l == 2) return finish(t, i);
        for (int64_t r = 0; r < 2 * H; ++r)
            each<T>(out, [&](int64_t j, auto count) {
                store(v_.q(l + 1, t, b) + r * out + j, tanh(load(read_ + r * out_ + j, count)), count);
            });
    }

    // MNM-p: E_l = s (z^l - B_l v^w - c_l). The rule is local, so that a layer is done before the next begins.
    void local_write(int64_t t, int64_t i) {
        const int64_t d = s_.size, b = begin_ + i, wide = padded<T>(3 * d);
        const T scale = T(s_.scale());
        for (int l = 0; l < 3; ++l) {
            written(l, t, i);
            const T rate = v_.rate(l, t, b), *bias = static_cast<T*>(args_.target_b) + l * d;
            for (int64_t h = 0; h < s_.heads; ++h) {
                const T *a = written_[l] + h * out_, *target = targets_ + (i * s_.heads + h) * wide + l * d;
                T *e = v_.errors(l, t, b) + h * d, *u = steps_[l] + h * out_;
                each<T>(d, [&](int64_t j, auto count) {
                    const Vec<T> error =
                        (load(a + j, count) - (load(target + j, count) + load(bias + j, count))) * scale;
                    store(e + j, error, count);
                    store(u + j, error * rate, count);
                });
            }
            update_and_read(l, t, i);
        }
    }

    // MNM-g: E_3 = s (z^3 - v^w), E_l = (E_{l+1} W_{l+1}) (1 - (z^l)^2), all under the old weights.
    void gradient_write(int64_t t, int64_t i) {
        const int64_t b = begin_ + i;
        const T scale = T(s_.scale());
        for (int l = 0; l < 3; ++l) written(l, t, i);
        for (int l = 2; l >= 0; --l) {
            const int64_t out = s_.out(l);
            if (l < 2)
                dots<T>(s_.heads, steps_[l + 1], out_, weight(l + 1, i), out, s_.out(l + 1), steps_[l], out_);
            for (int64_t h = 0; h < s_.heads; ++h) {
                const T *a = written_[l] + h * out_, *target = v_.target(t, b) + h * s_.size;
                T *e = v_.errors(l, t, b) + h * out, *u = steps_[l] + h * out_;
                each<T>(out, [&](int64_t j, auto count) {
                    const Vec<T> z = load(a + j, count);
                    const Vec<T> error = l == 2 ? (z - load(target + j, count)) * scale
                                                : load(u + j, count) * (T(1) - z * z);
                    store(e + j, error, count);
                    store(u + j, error, count);
                });
            }
        }
        for (int l = 0; l < 3; ++l) {
            const T rate = v_.rate(l, t, b);
            each<T>(s_.heads * out_, [&](int64_t j, auto count) {
                store(steps_[l] + j, load(steps_[l] + j, count) * rate, count);
            });
            update_and_read(l, t, i);
        }
    }

    // v_t, what the write missed, and both losses
    void finish(int64_t t, int64_t i) {
        const int64_t d = s_.size, b = begin_ + i, H = s_.heads;
        T *v = v_.hv(t, b) + s_.controller, *miss = v_.miss(t, b);
        const T* target = v_.target(t, b);
        each<T>(d, [&](int64_t j, auto count) {
            Vec<T> total{};
            for (int64_t h = 0; h < H; ++h) total += load(read_ + h * out_ + j, count);
            store(v + j, total / T(H), count);
        });
        Vec<T> after{}, before{};
        for (int64_t h = 0; h < H; ++h)
            each<T>(d, [&](int64_t j, auto count) {
                const Vec<T> goal = load(target + h * d + j, count);
                const Vec<T> missed = load(read_ + (H + h) * out_ + j, count) - goal;
                const Vec<T> error = load(written_[2] + h * out_ + j, count) - goal;
                store(miss + h * d + j, missed, count);
                after += missed * missed;
                before += error * error;
            });
        static_cast<T*>(args_.meta_loss)[t * s_.batch + b] = sum<T>(after) / T(H * d);
        static_cast<T*>(args_.write_error)[t * s_.batch + b] = sum<T>(before) / T(H * d);
    }

    // D = W - phi_0; after a single step D - (beta E)^T Z instead, which does not round D where nothing is written.
    void leave(int64_t i) {
        const int64_t b = begin_ + i;
        const bool single = s_.steps == 1 && !v_.is_first(0, b);
        for (int l = 0; l < 3; ++l) {
            const int64_t in = s_.in(l), out = s_.out(l);
            const T *w = weight(l, i), *initial = static_cast<T*>(args_.phi0[l]);
            const T* before = static_cast<T*>(args_.delta[l]) + b * in * out;
            T* after = static_cast<T*>(args_.tape.delta[l]) + b * in * out;
            if (single) {
                for (int64_t k = 0; k < in; ++k) moved(l, v_.z(l, 0, b) + k, before + k * out, after + k * out);
                continue;
            }
            each_panel<T>(in, out, [&](int64_t first, int64_t width, int64_t at) {
                for (int64_t k = 0; k < in; ++k)
                    each<T>(std::min(width, out - first), [&](int64_t j, auto count) {
                        const int64_t place = at + k * width + j;
                        store(after + k * out + first + j, load(w + place, count) - load(initial + place, count), count);
                    });
            });
        }
    }

    // One row of D after a step: that before it, less what the heads' writes add there
    void moved(int l, const T* z, const T* before, T* after) {
        const int64_t in = s_.in(l);
        each<T>(s_.out(l), [&](int64_t j, auto count) {
            Vec<T> change = load(before + j, count);
            for (int64_t h = 0; h < s_.heads; ++h) change -= load(steps_[l] + h * out_ + j, count) * z[h * in];
            store(after + j, change, count);
        });
    }

    const ForwardArgs& args_;
    const Sizes& s_;
    View<T> v_;
    int64_t begin_, rows_, out_;
    Arena<T> arena_;
    T *previous_, *gates_, *interaction_, *normalized_, *targets_, *written_[3], *steps_[3], *read_, *weights_;
};

template <class T> void forward(const ForwardArgs& args) {
    in_blocks(args.sizes, [&](int64_t, int64_t begin, int64_t end) { Forward<T>(args, begin, end).run(); });
}

}  // namespace mnm
