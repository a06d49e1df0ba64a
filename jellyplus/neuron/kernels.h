// A sequence of T time-steps for one block of neurons, forward and backward: the body of the CUDA kernels, where a
// block is one neuron (float) or two (half2), and of the CPU library, where it is as many as stay in the cache.
//
// Set in front of this text by kernel_code.py:
//   HARD_RESET, DETACH_RESET, RECTIFY
//   SEGMENT                  time-steps that backward charges again at once; V is kept between segments
//   surrogate_gradient(over_threshold, surrogate_parameter), rectified_over_half(h), rectify_gradient(h)
// and by the backend:
//   INLINE, UNROLLED         how a function is declared, and a short loop
//   LANES, EACH_LANE         neurons in a block, and the loop over them
//   Stored                   type of the sequences in memory, float or half2; all arithmetic is in float
//   Block                    load and store of a block of neurons at a time-step
//
// The sequences are [T, n] in memory; a pointer to something that is not wanted, or that is zero, is null.

// The constants of one time-step. reset is V_reset (hard), or what a spike takes off the potential (soft).
struct Dynamics {
    float decay, v_th, reset;
};

INLINE float charge(const Dynamics &d, float x, float v) { return fmaf(d.decay, v, x); }

// Of H itself, since rectifying it changes no sign (rectifier.py).
INLINE float fire(const Dynamics &d, float h) { return h >= d.v_th ? 1.0f : 0.0f; }

INLINE float reset(const Dynamics &d, float h, float spike) {
    if (HARD_RESET) return spike > 0.0f ? d.reset : h;
    return h - d.reset * spike;
}

// dS/dH, the surrogate gradient.
INLINE float slope_at(const Dynamics &d, float h, const float *surrogate_parameter) {
    if (RECTIFY) return surrogate_gradient(rectified_over_half(h), surrogate_parameter) * rectify_gradient(h);
    return surrogate_gradient(h - d.v_th, surrogate_parameter);
}

// dV/dH.
INLINE float kept(const Dynamics &d, float h, float slope) {
    const float by_spike = HARD_RESET ? h - d.reset : d.reset;
    const float direct = HARD_RESET ? 1.0f - fire(d, h) : 1.0f;
    return DETACH_RESET ? direct : direct - slope * by_spike;
}

// Neurons i to i + LANES - 1 of n. Without checkpoints none are kept, which is right where no gradient is wanted.
INLINE void forward_block(long long i, Dynamics d, long long n, int T, float v_start, const Stored *v_init,
                          const Stored *x_seq, Stored *spike_seq, Stored *v_last, Stored *h_seq, Stored *v_seq,
                          float *checkpoints) {
    const Block block = {i, n};
    float x[LANES], v[LANES], h[LANES], spike[LANES];
    block.load(v, v_init, 0, v_start);
    for (int t = 0; t < T; t++) {
        if (checkpoints && t > 0 && t % SEGMENT == 0) block.store(checkpoints, t / SEGMENT - 1, v);
        block.load(x, x_seq, t, 0.0f);
        EACH_LANE {
            h[lane] = charge(d, x[lane], v[lane]);
            spike[lane] = fire(d, h[lane]);
            v[lane] = reset(d, h[lane], spike[lane]);
        }
        block.store(spike_seq, t, spike);
        if (h_seq) block.store(h_seq, t, h);
        if (v_seq) block.store(v_seq, t, v);
    }
    block.store(v_last, 0, v);
}

INLINE void backward_block(long long i, Dynamics d, long long n, int T, float v_start, const Stored *v_init,
                           const Stored *x_seq, const float *checkpoints, const float *surrogate_parameter,
                           const Stored *grad_spike_seq, const Stored *grad_h_seq, const Stored *grad_v_seq,
                           const Stored *grad_v_last, Stored *grad_x_seq) {
    const Block block = {i, n};
    float grad_v[LANES], from_spike[LANES], from_h[LANES], from_v[LANES], v[LANES], x[LANES], h[SEGMENT][LANES];
    block.load(grad_v, grad_v_last, 0, 0.0f);
    for (int segment = (T - 1) / SEGMENT; segment >= 0; segment--) {
        const int first = segment * SEGMENT;
        if (segment > 0) block.load(v, checkpoints, segment - 1, 0.0f);
        else block.load(v, v_init, 0, v_start);
        UNROLLED for (int s = 0; s < SEGMENT; s++) {
            if (first + s >= T) continue;
            block.load(x, x_seq, first + s, 0.0f);
            EACH_LANE {
                h[s][lane] = charge(d, x[lane], v[lane]);
                v[lane] = reset(d, h[s][lane], fire(d, h[s][lane]));
            }
        }
        UNROLLED for (int s = SEGMENT - 1; s >= 0; s--) {
            if (first + s >= T) continue;
            block.load(from_spike, grad_spike_seq, first + s, 0.0f);
            block.load(from_h, grad_h_seq, first + s, 0.0f);
            block.load(from_v, grad_v_seq, first + s, 0.0f);
            EACH_LANE {
                const float slope = slope_at(d, h[s][lane], surrogate_parameter);
                const float by_reset = (grad_v[lane] + from_v[lane]) * kept(d, h[s][lane], slope);
                x[lane] = from_spike[lane] * slope + by_reset + from_h[lane];  // dL/dH[t] = dL/dX[t]
                grad_v[lane] = d.decay * x[lane];
            }
            block.store(grad_x_seq, first + s, x);
        }
    }
}
