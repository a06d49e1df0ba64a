// Batch norm and the neurons behind it in one pass, on a CPU, where channels lie side by side in memory: neuron i is of
// channel i % C. What the norm gives is never written. Forward takes the statistics, then normalises x where the
// neurons read it; backward leaves their gradient, adds up what the norm wants of it, and makes that of x.
//
// Behind kernels.h, with a Block of floats. The norm is Zheng et al. 2021, Eqs. 5-8: x is every channel's over time,
// examples and pixels, count of them. Sums are in double, so that one pass tells the variance, too.

#include <omp.h>
#include <vector>

// A number for each channel, and the first ones again behind the last: those of any block lie side by side.
struct Table {
    std::vector<float> of;
    template <class Function> Table(long long C, Function value) : of(C + LANES) {
        for (long long p = 0; p < C + LANES; p++) of[p] = p < C ? value(p) : of[p - C];
    }
    const float *at(long long i, long long C) const { return of.data() + i % C; }
};

// Two sums for each channel; every thread has its own, laid out as a table.
struct Sums {
    long long C;
    int threads;
    std::vector<double> of;
    Sums(long long C, int threads) : C(C), threads(threads), of(2 * threads * (C + LANES)) {}
    double *at(int which, long long i) { return of.data() + (2 * omp_get_thread_num() + which) * (C + LANES) + i % C; }
    double total(int which, long long channel) const {
        double sum = 0.0;
        for (int thread = 0; thread < threads; thread++)
            for (long long p = channel; p < C + LANES; p += C) sum += of[(2 * thread + which) * (C + LANES) + p];
        return sum;
    }
};

struct Normalised : Block {
    const float *scale, *shift, *mean;  // of the block's channels
    const float *beside;                // added behind the norm, [T, n], or null
    float *sums;                        // of the gradient, and of it times what x is above its mean; [2][LANES]
};

INLINE const float *input(const Normalised &block, float (&room)[LANES], const float *x_seq, long long begin) {
    float more[LANES];
    const float *x = block.load(room, x_seq, begin), *beside = block.load(more, block.beside, begin);
    EACH_LANE room[lane] = fmaf(block.scale[lane], x[lane], block.shift[lane]) + beside[lane];
    return room;
}

INLINE void give(const Normalised &block, float *grad_seq, long long begin, const float *grad, const float *x_seq) {
    float room[LANES];
    const float *x = block.load(room, x_seq, begin);
    EACH_LANE {
        block.sums[lane] += grad[lane];
        block.sums[LANES + lane] += grad[lane] * (x[lane] - block.mean[lane]);
    }
    block.store(grad_seq, begin, grad);
}

#define EACH_BLOCK(end) _Pragma("omp for schedule(static)") for (long long i = 0; i < end; i += LANES)
#define PARALLEL _Pragma("omp parallel num_threads(threads) if (n * T > 32768)")

// Sums of x and of its squares.
static void add_up(long long n, int T, const float *x_seq, Sums &sums, int threads) {
    const long long all = n * T;
    PARALLEL EACH_BLOCK(all) {
        float room[LANES];
        const float *x = Block{i, all}.load(room, x_seq, 0);
        double *sum = sums.at(0, i), *squares = sums.at(1, i);
        EACH_LANE {
            sum[lane] += x[lane];
            squares[lane] += (double)x[lane] * x[lane];
        }
    }
}

// Fills norm, which is scale, shift, mean and 1 / deviation of every channel, [4, C]: in training by the statistics of
// x, which move the running ones, and in evaluation by these.
static void prepare(bool train, long long n, int T, const float *x_seq, long long C, const float *weight,
                    const float *bias, float factor, float eps, float momentum, float *running_mean,
                    float *running_var, float *norm, int threads) {
    const long long count = n * T / C;
    Sums sums(C, threads);
    if (train) add_up(n, T, x_seq, sums, threads);
    for (long long c = 0; c < C; c++) {
        double mean = running_mean[c], variance = running_var[c];
        if (train) {
            mean = sums.total(0, c) / count;
            variance = sums.total(1, c) / count - mean * mean;
            if (variance < 0.0) variance = 0.0;  // which a NaN is not
            running_mean[c] += momentum * (mean - running_mean[c]);
            running_var[c] += momentum * (variance * count / (count - 1) - running_var[c]);
        }
        const double inverse = 1.0 / sqrt(variance + eps), scale = weight[c] * factor * inverse;
        norm[c] = scale;
        norm[C + c] = bias[c] - mean * scale;
        norm[2 * C + c] = mean;
        norm[3 * C + c] = inverse;
    }
}

// The norm's derivative, of Eq. 6 with its statistics (Ioffe & Szegedy 2015, section 3): from the gradient g of what
// the neurons received, those of its parameters, and that of x, scale (g - E[g] - x' E[g x']) with x' normalised. It may
// lie where g does.
static void differentiate(long long n, int T, const float *x_seq, long long C, const float *norm, float factor,
                          const Sums &sums, const float *grad_seq, float *grad_x_seq, float *grad_weight,
                          float *grad_bias, int threads) {
    const long long all = n * T, count = all / C;
    for (long long c = 0; c < C; c++) {
        grad_bias[c] = sums.total(0, c);
        grad_weight[c] = factor * norm[3 * C + c] * sums.total(1, c);
    }
    const Table scale(C, [&](long long c) { return norm[c]; });
    const Table mean(C, [&](long long c) { return norm[2 * C + c]; });
    const Table constant(C, [&](long long c) { return sums.total(0, c) / count; });
    const Table slope(C, [&](long long c) { return sums.total(1, c) / count * norm[3 * C + c] * norm[3 * C + c]; });
    PARALLEL EACH_BLOCK(all) {
        const Block block = {i, all};
        float room[3][LANES];
        const float *x = block.load(room[0], x_seq, 0), *grad = block.load(room[1], grad_seq, 0);
        const float *a = scale.at(i, C), *m = mean.at(i, C), *k = constant.at(i, C), *s = slope.at(i, C);
        float *grad_x = block.place(room[2], grad_x_seq, 0);
        EACH_LANE grad_x[lane] = a[lane] * (grad[lane] - k[lane] - (x[lane] - m[lane]) * s[lane]);
        block.store(grad_x_seq, 0, grad_x);
    }
}
