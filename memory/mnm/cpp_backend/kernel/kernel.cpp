// The neural memory on a CPU: entry points for memory/mnm/cpp_backend/bindings.py, called through ctypes.

#include "backward.h"
#include "forward.h"

extern "C" {

int64_t mnm_vector_bytes() { return mnm::VECTOR_BYTES; }

void mnm_forward_float(const mnm::ForwardArgs* args) { mnm::forward<float>(*args); }
void mnm_forward_double(const mnm::ForwardArgs* args) { mnm::forward<double>(*args); }
void mnm_backward_float(const mnm::BackwardArgs* args) { mnm::backward<float>(*args); }
void mnm_backward_double(const mnm::BackwardArgs* args) { mnm::backward<double>(*args); }

// For the test of their accuracy.
void mnm_activations(const float* x, float* tanh, float* sigmoid, int64_t n) {
    mnm::each<float>(n, [&](int64_t j, auto count) {
        mnm::store(tanh + j, mnm::tanh(mnm::load(x + j, count)), count);
        mnm::store(sigmoid + j, mnm::sigmoid(mnm::load(x + j, count)), count);
    });
}
}
