// A sequence of T time-steps for one block of neurons, forward and backward: the body of the CUDA kernels, where a
// block is one neuron (float) or two (half2, bfloat162), and of the CPU library, where as many as stay in the cache.
//
// Set in front of this text by kernel_code.py:
//   HARD_RESET, DETACH_RESET, RECTIFY, STRICT
//   SEGMENT                  time-steps that backward charges again at once; V is kept between segments
//   surrogate_gradient(over_threshold, surrogate_parameter), rectified_over_half(h), rectify_gradient(h)
// and by the backend:
//   INLINE, UNROLLED         how a function is declared, and a short loop
//   LANES, EACH_LANE         neurons in a block, and the loop over them
//   Stored                   type of the sequences in memory, float, half2 or a bfloat16; all arithmetic is in float
//   Block                    neurons i to i + LANES - 1 of n, so many numbers (t n) behind a sequence's beginning:
//     load, place            where to read or write them, in the sequence itself or in the room that is given
//     copy, store            into registers, and out of them or of a place
//
// The sequences are [T, n] in memory, but for x and the spikes' gradient, whose time-steps lie x_step and
// grad_spike_step apart: 0 where one of them serves all. A pointer to something that is not wanted, or that is zero,
// is null.

// One time-step is Zheng et al. 2021, Eqs. 1-3 (leaky, hard or soft reset), or Guo et al. 2022 (InfLoR), Eqs. 11-14
// (decay 1, minus the spike itself); the gradients are derived in dynamics.py.

// The constants of one time-step. reset is V_reset (hard), or what a spike takes off the potential (soft).
struct Dynamics {
    float decay, v_th, reset;
};

// H[t].
INLINE float charge(const Dynamics &d, float x, float v) { return fmaf(d.decay, v, x); }

// S[t], of H itself, since rectifying it changes no sign (rectifier.py).
INLINE float fire(const Dynamics &d, float h) { return (STRICT ? h > d.v_th : h >= d.v_th) ? 1.0f : 0.0f; }

// V[t].
INLINE float reset(const Dynamics &d, float h, float spike) {
    if (HARD_RESET) return spike > 0.0f ? d.reset : h;
    return h - d.reset * spike;
}

// dS/dH, the surrogate gradient, through InfLoR's Eq. 10 where the potential is rectified.
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

// How x is read, and where its gradient goes; blocks that do more have overloads of the two.
INLINE const float *input(const Block &block, float (&room)[LANES], const Stored *x_seq, long long begin) {
    return block.load(room, x_seq, begin);
}

INLINE void give(const Block &block, Stored *grad_x_seq, long long begin, const float *grad_x, const Stored *) {
    block.store(grad_x_seq, begin, grad_x);
}

// Without checkpoints none are kept, which is right where no gradient is wanted.
template <class Neurons>
INLINE void forward_block(const Neurons &block, Dynamics d, long long n, int T, float v_start, const Stored *v_init,
                          const Stored *x_seq, long long x_step, Stored *spike_seq, Stored *v_last, Stored *h_seq,
                          Stored *v_seq, float *checkpoints) {
    float x_room[LANES], spike_room[LANES], v[LANES], h[LANES];
    block.copy(v, v_init, 0, v_start);
    for (int t = 0; t < T; t++) {
        if (checkpoints && t > 0 && t % SEGMENT == 0) block.store(checkpoints, (t / SEGMENT - 1) * n, v);
        const float *x = input(block, x_room, x_seq, t * x_step);
        float *spike = block.place(spike_room, spike_seq, t * n);
        EACH_LANE {
            h[lane] = charge(d, x[lane], v[lane]);
            spike[lane] = fire(d, h[lane]);
            v[lane] = reset(d, h[lane], spike[lane]);
        }
        block.store(spike_seq, t * n, spike);
        if (h_seq) block.store(h_seq, t * n, h);
        if (v_seq) block.store(v_seq, t * n, v);
    }
    block.store(v_last, 0, v);
}

// What the surrogate makes of its parameter alone is computed once for all lanes, and so by the same function in every
// type of storage: restrict says that no gradient is written over it.
template <class Neurons>
INLINE void backward_block(const Neurons &block, Dynamics d, long long n, int T, float v_start, const Stored *v_init,
                           const Stored *x_seq, long long x_step, const float *checkpoints,
                           const float *__restrict__ surrogate_parameter, const Stored *grad_spike_seq,
                           long long grad_spike_step, const Stored *grad_h_seq, const Stored *grad_v_seq,
                           const Stored *grad_v_last, Stored *grad_x_seq) {
    float room[4][LANES], grad_v[LANES], v[LANES], h[SEGMENT][LANES];
    block.copy(grad_v, grad_v_last, 0, 0.0f);
    for (int segment = (T - 1) / SEGMENT; segment >= 0; segment--) {
        const int first = segment * SEGMENT;
        if (segment > 0) block.copy(v, checkpoints, (segment - 1) * n, 0.0f);
        else block.copy(v, v_init, 0, v_start);
        UNROLLED for (int s = 0; s < SEGMENT; s++) {
            if (first + s >= T) continue;
            const float *x = input(block, room[0], x_seq, (first + s) * x_step);
            EACH_LANE {
                h[s][lane] = charge(d, x[lane], v[lane]);
                v[lane] = reset(d, h[s][lane], fire(d, h[s][lane]));
            }
        }
        UNROLLED for (int s = SEGMENT - 1; s >= 0; s--) {
            if (first + s >= T) continue;
            const float *from_spike = block.load(room[0], grad_spike_seq, (first + s) * grad_spike_step);
            const float *from_h = block.load(room[1], grad_h_seq, (first + s) * n);
            const float *from_v = block.load(room[2], grad_v_seq, (first + s) * n);
            float *grad_x = block.place(room[3], grad_x_seq, (first + s) * n);
            EACH_LANE {
                const float slope = slope_at(d, h[s][lane], surrogate_parameter);
                const float by_reset = (grad_v[lane] + from_v[lane]) * kept(d, h[s][lane], slope);
                grad_x[lane] = from_spike[lane] * slope + by_reset + from_h[lane];  // = dL/dH[t]
                grad_v[lane] = d.decay * grad_x[lane];
            }
            give(block, grad_x_seq, (first + s) * n, grad_x, x_seq);
        }
    }
}
