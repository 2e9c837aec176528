/* The first Conv4 block's kernels, for one thread: images (n, H, W, 3) in, pooled planes (n, H/2, W/2, C) out.

   The formulas stand in image_block.py. The convolution's output is never written: each 2x2 window of it is made and
   pooled at once. Its gradient needs the images at the pooled positions alone, and its statistics follow from the
   moments of the images' 3x3 patches. `where` holds which of its window's four positions a pooled value came from:
   0 1 / 2 3. Weights and their gradients are (27, C), tap 9 * pixel channel + 3 * row + column.

   `plane` is scratch: one image, channel by channel, with zeros around it. images_avx512.c has the fast forms.
   The file includes itself, once for float and once for double. */

#ifndef REAL

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TAPS 27
#define PIXELS 3

/* Eight doubles, at any address. */
typedef double v8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t shifts __attribute__((vector_size(64)));

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(NILR_PLAIN)
#define NILR_KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NILR_KERNEL
#endif

/* Sums of a product over all columns, over the first and over the last: [row shift][channel][channel][column shift]. */
typedef struct {
    v8 all[3][PIXELS][PIXELS][5];
    double first[3][PIXELS][PIXELS][5], last[3][PIXELS][PIXELS][5];
} products;

#define INLINE static inline __attribute__((always_inline))

INLINE double sum_of(v8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

/* Eight doubles from the k-th of x and the eight after it. */
#define SHIFTED(x, next, k)                                                                                            \
    __builtin_shuffle(x, next, (shifts){k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7})

/* Add the products of row r with itself (shift 0) and with those of the `below` - 1 rows after it. */
INLINE void add_row(products *to, const double *plane, int64_t rows, int64_t stride, int64_t w, int64_t r, int below)
{
    for (int dy = 0; dy < below; dy++)
        for (int i = 0; i < PIXELS; i++)
            for (int j = 0; j < PIXELS; j++) {
                const v8 *a = (const v8 *)(plane + (i * rows + r) * stride);
                const v8 *b = (const v8 *)(plane + (j * rows + r + dy) * stride);
                v8 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, x = a[0], y = b[0];
                for (int64_t q = 1; q <= (w + 7) / 8; q++) {
                    const v8 next_x = a[q], next_y = b[q], at = SHIFTED(x, next_x, 2);
                    s0 += at * y;
                    s1 += at * SHIFTED(y, next_y, 1);
                    s2 += at * SHIFTED(y, next_y, 2);
                    s3 += at * SHIFTED(y, next_y, 3);
                    s4 += at * SHIFTED(y, next_y, 4);
                    x = next_x, y = next_y;
                }
                const double *of_a = (const double *)a + 2, *of_b = (const double *)b + 2;
                v8 *all = to->all[dy][i][j];
                all[0] += s0, all[1] += s1, all[2] += s2, all[3] += s3, all[4] += s4;
                for (int d = 0; d < 5; d++) {
                    to->first[dy][i][j][d] += of_a[0] * of_b[d - 2];
                    to->last[dy][i][j][d] += of_a[w - 1] * of_b[w - 1 + d - 2];
                }
            }
}

/* Add a row's sum, first and last element, to those of all rows, and of the first or last row where it is one. */
INLINE void add_sums(double (*sum)[3], const double *row, int64_t w, int first, int last)
{
    v8 s = {0};
    for (int64_t q = 0; q < w; q += 8) s += *(const v8 *)(row + q);
    const double values[3] = {sum_of(s), row[0], row[w - 1]};
    for (int d = 0; d < 3; d++) {
        sum[0][d] += values[d];
        if (first) sum[1][d] += values[d];
        if (last) sum[2][d] += values[d];
    }
}

/* The sum for one pair of taps: a patch never begins at the last column (tap column 0) or the first (tap column 2). */
INLINE double of_pair(const products *p, int64_t dy, int i, int j, int kx, int jx)
{
    const int d = jx - kx + 2;
    return sum_of(p->all[dy][i][j][d]) - (kx == 0 ? p->last[dy][i][j][d] : 0) - (kx == 2 ? p->first[dy][i][j][d] : 0);
}

#define REAL float
#define NAMED(name) name##_f32
#include "images.c"
#undef REAL
#undef NAMED
#define REAL double
#define NAMED(name) name##_f64
#include "images.c"

#else

/* total (27): sums of the elements of each position's 3x3 patch; gram (27, 27): sums of their products. Patches reach
   into the zeros around the image. plane: 3 * (h + 2) * (8 * ceil(w / 8) + 8) doubles. */
NILR_KERNEL void NAMED(image_moments)(
    const REAL *restrict x, int64_t n, int64_t h, int64_t w, double *restrict plane, double *restrict total,
    double *restrict gram)
{
    double sum[PIXELS][3][3] = {{{0}}}; /* over rows all, first, last; columns all, first, last */
    const int64_t rows = h + 2, stride = (w + 7) / 8 * 8 + 8;
    products all, top, bottom;
    memset(&all, 0, sizeof all), memset(&top, 0, sizeof top), memset(&bottom, 0, sizeof bottom);
    memset(plane, 0, sizeof(double) * PIXELS * rows * stride);
    for (int64_t image = 0; image < n; image++) {
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++)
                for (int i = 0; i < PIXELS; i++)
                    plane[(i * rows + r) * stride + q + 2] = x[((image * h + r) * w + q) * PIXELS + i];
        for (int i = 0; i < PIXELS; i++)
            for (int64_t r = 0; r < h; r++) add_sums(sum[i], plane + (i * rows + r) * stride + 2, w, r == 0, r == h - 1);
        for (int64_t r = 0; r < h; r++) add_row(&all, plane, rows, stride, w, r, 3);
        add_row(&top, plane, rows, stride, w, 0, 1);
        add_row(&bottom, plane, rows, stride, w, h - 1, 1);
    }
    /* a patch never begins at the last row (tap row 0) or the first (tap row 2); so with columns */
    const int left_out[3] = {2, 0, 1};
    for (int t = 0; t < TAPS; t++) {
        const int row = left_out[t / 3 % 3], column = left_out[t % 3];
        double(*of)[3] = sum[t / 9];
        total[t] = of[0][0] - (row ? of[row][0] : 0) - (column ? of[0][column] : 0) + (row && column ? of[row][column] : 0);
    }
    for (int s = 0; s < TAPS; s++)
        for (int t = 0; t < TAPS; t++) {
            const int row = s / 3 % 3, shift = t / 3 % 3 - row;
            if (shift < 0) continue;
            double sum = of_pair(&all, shift, s / 9, t / 9, s % 3, t % 3);
            if (shift == 0 && row == 0) sum -= of_pair(&bottom, 0, s / 9, t / 9, s % 3, t % 3);
            if (shift == 0 && row == 2) sum -= of_pair(&top, 0, s / 9, t / 9, s % 3, t % 3);
            gram[s * TAPS + t] = gram[t * TAPS + s] = sum;
        }
}

/* w_v (c, 27): W V; mean and rstd of y; rstd again in double; and the weight as the other kernels read it. */
void NAMED(image_statistics)(
    const REAL *restrict weight, const double *restrict p, const double *restrict covariance, int64_t c, double eps,
    REAL *restrict mean, REAL *restrict rstd, double *restrict exact, double *restrict w_v, REAL *restrict turned)
{
    for (int64_t k = 0; k < c; k++) {
        const REAL *w = weight + k * TAPS;
        double m = 0, variance = 0;
        for (int s = 0; s < TAPS; s++) {
            double sum = 0;
            for (int t = 0; t < TAPS; t++) sum += w[t] * covariance[t * TAPS + s];
            w_v[k * TAPS + s] = sum;
            m += w[s] * p[s];
            variance += w[s] * sum;
            turned[s * c + k] = w[s];
        }
        mean[k] = (REAL)m;
        exact[k] = 1 / sqrt(variance + eps);
        rstd[k] = (REAL)exact[k];
    }
}

/* core (c, 27) = S - dt p - r ds W V; dweight = s r core. taps (27, c) is S. */
void NAMED(image_gradient)(
    const double *restrict taps, const double *restrict dshift, const double *restrict dscale,
    const double *restrict rstd, const double *restrict w_v, const double *restrict p, const REAL *restrict s, int64_t c,
    double *restrict core, REAL *restrict dweight, REAL *restrict scale, REAL *restrict shift)
{
    for (int64_t k = 0; k < c; k++) {
        for (int t = 0; t < TAPS; t++) {
            const int64_t at = k * TAPS + t;
            core[at] = taps[t * c + k] - dshift[k] * p[t] - rstd[k] * dscale[k] * w_v[at];
            dweight[at] = (REAL)(s[k] * rstd[k] * core[at]);
        }
        scale[k] = (REAL)dscale[k], shift[k] = (REAL)dshift[k];
    }
}

/* The tangents: w_t_v (c, 27) = W_t V; m_t; q = r diag(W V W_t'); r_t = -r^2 q; the weight's tangent, turned. */
void NAMED(image_statistics_tangent)(
    const REAL *restrict weight_t, const double *restrict p, const double *restrict covariance,
    const double *restrict rstd, const double *restrict w_v, int64_t c, REAL *restrict mean_t, REAL *restrict q,
    double *restrict rstd_t, double *restrict w_t_v, REAL *restrict turned)
{
    for (int64_t k = 0; k < c; k++) {
        const REAL *w = weight_t + k * TAPS;
        double m = 0, crossed = 0;
        for (int s = 0; s < TAPS; s++) {
            double sum = 0;
            for (int t = 0; t < TAPS; t++) sum += w[t] * covariance[t * TAPS + s];
            w_t_v[k * TAPS + s] = sum;
            m += w[s] * p[s];
            crossed += w[s] * w_v[k * TAPS + s];
            turned[s * c + k] = w[s];
        }
        mean_t[k] = (REAL)m;
        q[k] = (REAL)(rstd[k] * crossed);
        rstd_t[k] = -rstd[k] * rstd[k] * rstd[k] * crossed;
    }
}

/* The tangent of image_gradient: core_t = S_t - dt_t p - (r_t ds + r ds_t) W V - r ds W_t V;
   dweight_t = (s_t r + s r_t) core + s r core_t. */
void NAMED(image_gradient_tangent)(
    const double *restrict taps_t, const double *restrict dshift_t, const double *restrict dscale_t,
    const double *restrict rstd, const double *restrict rstd_t, const double *restrict w_v,
    const double *restrict w_t_v, const double *restrict core, const double *restrict dscale, const double *restrict p,
    const REAL *restrict s, const REAL *restrict s_t, int64_t c, REAL *restrict dweight_t, REAL *restrict scale_t,
    REAL *restrict shift_t)
{
    for (int64_t k = 0; k < c; k++) {
        const double r = rstd[k], r_t = rstd_t[k];
        for (int t = 0; t < TAPS; t++) {
            const int64_t at = k * TAPS + t;
            const double core_t = taps_t[t * c + k] - dshift_t[k] * p[t] -
                                  (r_t * dscale[k] + r * dscale_t[k]) * w_v[at] - r * dscale[k] * w_t_v[at];
            dweight_t[at] = (REAL)((s_t[k] * r + s[k] * r_t) * core[at] + s[k] * r * core_t);
        }
        scale_t[k] = (REAL)dscale_t[k], shift_t[k] = (REAL)dshift_t[k];
    }
}

static void NAMED(pad)(const REAL *image, int64_t h, int64_t w, REAL *plane)
{
    for (int i = 0; i < PIXELS; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++)
                plane[(i * (h + 2) + r + 1) * (w + 2) + q + 1] = image[(r * w + q) * PIXELS + i];
}

/* y at one position of the convolution's output, for one channel. */
static REAL NAMED(at)(const REAL *plane, int64_t h, int64_t w, int64_t r, int64_t q, const REAL *weight, int64_t c)
{
    REAL y = 0;
    for (int t = 0; t < TAPS; t++) y += weight[t * c] * plane[(t / 9 * (h + 2) + r + t / 3 % 3) * (w + 2) + q + t % 3];
    return y;
}

/* h = (y - m) r at the position of each window where sign(s) y is largest; a = relu(s h + t). h
   and where are not written where h is null. plane: 3 * (h + 2) * (w + 2). */
void NAMED(image_forward)(
    const REAL *restrict x, const REAL *restrict weight, const REAL *restrict m, const REAL *restrict rstd,
    const REAL *restrict s, const REAL *restrict t, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict plane,
    REAL *restrict hat, REAL *restrict a, uint8_t *restrict where)
{
    const int64_t ph = h / 2, pw = w / 2;
    memset(plane, 0, sizeof(REAL) * PIXELS * (h + 2) * (w + 2));
    for (int64_t i = 0; i < n; i++) {
        NAMED(pad)(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t p = 0; p < ph * pw; p++)
            for (int64_t k = 0; k < c; k++) {
                const REAL sign = s[k] < 0 ? -1 : 1;
                REAL best = 0;
                int code = 0;
                for (int d = 0; d < 4; d++) {
                    const REAL y = NAMED(at)(plane, h, w, p / pw * 2 + d / 2, p % pw * 2 + d % 2, weight + k, c);
                    if (d == 0 || sign * y > sign * best) best = y, code = d;
                }
                const int64_t to = (i * ph * pw + p) * c + k;
                const REAL value = (best - m[k]) * rstd[k], z = s[k] * value + t[k];
                a[to] = z < 0 ? 0 : z;
                if (hat) hat[to] = value, where[to] = (uint8_t)code;
            }
    }
}

/* u = da where s h + t > 0; dshift = sum u; dscale = sum u h, plus sum v h_t where a tangent is given; and
   taps (27, C) = the sum of u times the patch that the pooled value came from. u is not written where it is null. */
void NAMED(image_backward)(
    const REAL *restrict x, const REAL *restrict da, const REAL *restrict hat, const uint8_t *restrict where,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict v, const REAL *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict plane, REAL *restrict u, double *restrict dshift, double *restrict dscale,
    double *restrict taps)
{
    const int64_t ph = h / 2, pw = w / 2;
    memset(plane, 0, sizeof(REAL) * PIXELS * (h + 2) * (w + 2));
    for (int64_t k = 0; k < c; k++) dshift[k] = dscale[k] = 0;
    for (int64_t k = 0; k < TAPS * c; k++) taps[k] = 0;
    for (int64_t i = 0; i < n; i++) {
        NAMED(pad)(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t p = 0; p < ph * pw; p++)
            for (int64_t k = 0; k < c; k++) {
                const int64_t from = (i * ph * pw + p) * c + k;
                const REAL value = s[k] * hat[from] + t[k] > 0 ? da[from] : 0;
                const int64_t r = p / pw * 2 + where[from] / 2, q = p % pw * 2 + where[from] % 2;
                if (u) u[from] = value;
                dshift[k] += value;
                dscale[k] += value * hat[from] + (v ? v[from] * hat_t[from] : 0);
                for (int tap = 0; tap < TAPS; tap++)
                    taps[tap * c + k] += value * plane[(tap / 9 * (h + 2) + r + tap / 3 % 3) * (w + 2) + q + tap % 3];
            }
    }
}

/* With y_t the tangent's convolution at the pooled positions: h_t = r (y_t - m_t - h q), and
   a_t = s_t h + s h_t + t_t where s h + t > 0. */
void NAMED(image_tangent)(
    const REAL *restrict x, const REAL *restrict weight_t, const REAL *restrict hat,
    const uint8_t *restrict where, const REAL *restrict rstd, const REAL *restrict m_t, const REAL *restrict q,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict s_t, const REAL *restrict t_t, int64_t n,
    int64_t h, int64_t w, int64_t c, REAL *restrict plane, REAL *restrict hat_t, REAL *restrict a_t)
{
    const int64_t ph = h / 2, pw = w / 2;
    memset(plane, 0, sizeof(REAL) * PIXELS * (h + 2) * (w + 2));
    for (int64_t i = 0; i < n; i++) {
        NAMED(pad)(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t p = 0; p < ph * pw; p++)
            for (int64_t k = 0; k < c; k++) {
                const int64_t to = (i * ph * pw + p) * c + k;
                const int64_t row = p / pw * 2 + where[to] / 2, column = p % pw * 2 + where[to] % 2;
                const REAL y_t = NAMED(at)(plane, h, w, row, column, weight_t + k, c);
                const REAL value = rstd[k] * (y_t - m_t[k] - hat[to] * q[k]);
                hat_t[to] = value;
                a_t[to] = s[k] * hat[to] + t[k] > 0 ? s_t[k] * hat[to] + s[k] * value + t_t[k] : 0;
            }
    }
}

#endif
