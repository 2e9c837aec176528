/* The first Conv4 block's kernels: images (n, H, W, 3) in, pooled planes (n, H/2, W/2, C) out.

   image_block.py has the formulas. The convolution's output is never written: each 2x2 window of it is made and
   pooled at once. Its gradient needs the images at the pooled positions alone, and its statistics follow from the
   moments of the images' 3x3 patches. `where` holds which of its window's four positions a pooled value came from:
   0 1 / 2 3. Weights and their gradients are (27, C), tap 9 * pixel channel + 3 * row + column.

   `plane` is scratch: one image, channel by channel, with zeros around it; `planes` are those of all cores. */

#include "vectors.h"

#define TAPS 27
#define PIXELS 3
#define WINDOWS (ROWS / 6) /* whose outputs are computed together: as many as fit into the registers */

typedef double doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef double unaligned_doubles __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
#define AT_ONCE ((int64_t)(VECTOR_BYTES / sizeof(double)))

/* Sums of a product over all columns, over the first and over the last: [row shift][channel][channel][column shift]. */
typedef struct {
    double all[3][PIXELS][PIXELS][5], first[3][PIXELS][PIXELS][5], last[3][PIXELS][PIXELS][5];
} products;

INLINE doubles doubles_at(const double *from) { return *(const unaligned_doubles *)from; }

INLINE double sum_of(doubles v)
{
    double sum = 0;
    for (int i = 0; i < AT_ONCE; i++) sum += v[i];
    return sum;
}

/* What image_moments sums, all of it double: elements over rows all, first, last and columns all, first, last; products
   over all rows, over the first and over the last. */
typedef struct {
    double sum[PIXELS][3][3];
    products all, top, bottom;
} sums;

/* Add the products of row r with itself (shift 0) and with those of the `below` - 1 rows after it. */
INLINE void add_row(products *to, const double *plane, int64_t rows, int64_t stride, int64_t w, int64_t r, int below)
{
    for (int dy = 0; dy < below; dy++)
        for (int i = 0; i < PIXELS; i++) {
            const double *a = plane + (i * rows + r) * stride, *b = plane + (r + dy) * stride;
            doubles sum[PIXELS][5] = {{{0}}};
            for (int64_t q = 0; q < w; q += AT_ONCE)
#pragma GCC unroll 3
                for (int j = 0; j < PIXELS; j++)
#pragma GCC unroll 5
                    for (int d = 0; d < 5; d++)
                        sum[j][d] += doubles_at(a + q + 2) * doubles_at(b + j * rows * stride + q + d);
            for (int j = 0; j < PIXELS; j++, b += rows * stride)
                for (int d = 0; d < 5; d++) {
                    to->all[dy][i][j][d] += sum_of(sum[j][d]);
                    to->first[dy][i][j][d] += a[2] * b[d];
                    to->last[dy][i][j][d] += a[w + 1] * b[w - 1 + d];
                }
        }
}

/* Add a row's sum, first and last element, to those of all rows, and of the first or last row where it is one. */
INLINE void add_sums(double (*sum)[3], const double *row, int64_t w, int first, int last)
{
    doubles s = {0};
    for (int64_t q = 0; q < w; q += AT_ONCE) s += doubles_at(row + q);
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
    return p->all[dy][i][j][d] - (kx == 0 ? p->last[dy][i][j][d] : 0) - (kx == 2 ? p->first[dy][i][j][d] : 0);
}

static void add_images(
    const REAL *restrict x, int64_t n, int64_t h, int64_t w, double *restrict plane, sums *restrict to)
{
    const int64_t rows = h + 2, stride = (w + 7) / 8 * 8 + 8;
    for (int64_t image = 0; image < n; image++) {
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++)
                for (int i = 0; i < PIXELS; i++)
                    plane[(i * rows + r) * stride + q + 2] = x[((image * h + r) * w + q) * PIXELS + i];
        for (int i = 0; i < PIXELS; i++)
            for (int64_t r = 0; r < h; r++)
                add_sums(to->sum[i], plane + (i * rows + r) * stride + 2, w, r == 0, r == h - 1);
        for (int64_t r = 0; r < h; r++) add_row(&to->all, plane, rows, stride, w, r, 3);
        add_row(&to->top, plane, rows, stride, w, 0, 1);
        add_row(&to->bottom, plane, rows, stride, w, h - 1, 1);
    }
}

/* total (27): sums of the elements of each position's 3x3 patch; gram (27, 27): sums of their products. Patches reach
   into the zeros around the image. planes: for each core 3 * (h + 2) * (8 * ceil(w / 8) + 8) doubles. */
void NAMED(image_moments)(
    const REAL *restrict x, int64_t n, int64_t h, int64_t w, double *restrict planes, double *restrict total,
    double *restrict gram)
{
    const int cores = NAMED(cores);
    const int64_t of_plane = PIXELS * (h + 2) * ((w + 7) / 8 * 8 + 8);
    sums of[PARTS];
    memset(of, 0, sizeof of);
    memset(planes, 0, sizeof(double) * cores * of_plane);
    PARALLEL
    for (int core = 0; core < cores; core++)
        for (int64_t part = core; part < PARTS; part += cores) {
            const int64_t from = start_of(part, n), count = start_of(part + 1, n) - from;
            add_images(x + from * h * w * PIXELS, count, h, w, planes + core * of_plane, of + part);
        }
    add_parts((double *)of, sizeof(sums) / sizeof(double));
    const products all = of->all, top = of->top, bottom = of->bottom;
    /* a patch never begins at the last row (tap row 0) or the first (tap row 2); so with columns */
    const int left_out[3] = {2, 0, 1};
    for (int t = 0; t < TAPS; t++) {
        const int row = left_out[t / 3 % 3], column = left_out[t % 3];
        double(*sum)[3] = of->sum[t / 9];
        total[t] = sum[0][0] - (row ? sum[row][0] : 0) - (column ? sum[0][column] : 0) + (row && column ? sum[row][column] : 0);
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

static void pad(const REAL *image, int64_t h, int64_t w, REAL *plane)
{
    for (int i = 0; i < PIXELS; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++)
                plane[(i * (h + 2) + r + 1) * (w + 2) + q + 1] = image[(r * w + q) * PIXELS + i];
}

/* y at the four positions of `windows` windows from `at` on, for one or two vectors of channels. */
INLINE void outputs(
    const int windows, const int vectors, const REAL *at, int64_t stride, int64_t of_pixel, const REAL *weight,
    int64_t c, vec (*y)[4][2])
{
#pragma GCC unroll 2
    for (int p = 0; p < windows; p++)
#pragma GCC unroll 8
        for (int d = 0; d < 8; d++) y[p][d / 2][d % 2] = (vec){0};
    for (int i = 0; i < PIXELS; i++, at += of_pixel)
        for (int row = 0; row < 3; row++)
#pragma GCC unroll 1
            for (int column = 0; column < 3; column++, weight += c) {
                const REAL *from = at + row * stride + column;
                const vec w0 = load(weight), w1 = vectors > 1 ? load(weight + LANES) : w0;
#pragma GCC unroll 2
                for (int p = 0; p < windows; p++)
#pragma GCC unroll 4
                    for (int d = 0; d < 4; d++) {
                        const REAL pixel = from[d / 2 * stride + 2 * p + d % 2];
                        y[p][d][0] += pixel * w0;
                        if (vectors > 1) y[p][d][1] += pixel * w1;
                    }
            }
}

/* h = (y - m) r at the position of each window where sign(s) y is largest, the first of several; a = relu(s h + t). h
   and where are not written where they are null. */
INLINE void pool_and_store(
    const vec (*y)[2], int v, const REAL *m, const REAL *rstd, const REAL *s, const REAL *t, REAL *hat, REAL *a,
    uint8_t *where)
{
    const vec scale = load(s), sign = either(scale < 0, (vec){0} - 1, (vec){0} + 1);
    const vec y0 = sign * y[0][v], y1 = sign * y[1][v], y2 = sign * y[2][v], y3 = sign * y[3][v];
    const vec top = either(y1 > y0, y1, y0), bottom = either(y3 > y2, y3, y2), best = either(bottom > top, bottom, top);
    const vec value = (sign * best - load(m)) * load(rstd), z = scale * value + load(t);
    store(a, either(z < 0, (vec){0}, z)); /* NaN stays NaN */
    if (!hat) return;
    store(hat, value);
    const codes small = __builtin_convertvector(~(y0 == best) & (1 + (~(y1 == best) & (1 + (~(y2 == best) & 1)))), codes);
    memcpy(where, &small, sizeof small);
}

static void forward(
    const REAL *restrict x, const REAL *restrict weight, const REAL *restrict m, const REAL *restrict rstd,
    const REAL *restrict s, const REAL *restrict t, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict plane,
    REAL *restrict hat, REAL *restrict a, uint8_t *restrict where)
{
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2, of_pixel = (h + 2) * stride;
    memset(plane, 0, sizeof(REAL) * PIXELS * of_pixel);
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++)
            for (int64_t k = 0; k < c; k += 2 * LANES)
                for (int64_t q = 0; q < pw;) {
                    vec y[2][4][2];
                    const int windows = q + WINDOWS <= pw ? WINDOWS : 1, vectors = k + LANES < c ? 2 : 1;
                    const REAL *at = plane + 2 * r * stride + 2 * q;
                    if (vectors == 1) outputs(1, 1, at, stride, of_pixel, weight + k, c, y);
                    else if (windows == 1) outputs(1, 2, at, stride, of_pixel, weight + k, c, y);
                    else outputs(WINDOWS, 2, at, stride, of_pixel, weight + k, c, y);
                    const int made = vectors == 1 ? 1 : windows;
                    for (int p = 0; p < made; p++, q++)
                        for (int v = 0; v < vectors; v++) {
                            const int64_t from = k + v * LANES, to = ((i * ph + r) * pw + q) * c + from;
                            pool_and_store(
                                y[p], v, m + from, rstd + from, s + from, t + from, hat ? hat + to : NULL, a + to,
                                where + to);
                        }
                }
    }
}

/* planes: for each core 3 * (h + 2) * (w + 2) */
void NAMED(image_forward)(
    const REAL *restrict x, const REAL *restrict weight, const REAL *restrict m, const REAL *restrict rstd,
    const REAL *restrict s, const REAL *restrict t, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict planes,
    REAL *restrict hat, REAL *restrict a, uint8_t *restrict where)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = PIXELS * (h + 2) * (w + 2);
    PARALLEL
    for (int part = 0; part < cores; part++) {
        const int64_t i = n * part / cores, count = n * (part + 1) / cores - i;
        forward(
            x + i * of_image, weight, m, rstd, s, t, count, h, w, c, planes + part * of_plane,
            hat ? hat + i * pooled : NULL, a + i * pooled, where ? where + i * pooled : NULL);
    }
}

static void backward(
    const REAL *restrict x, const REAL *restrict da, const REAL *restrict hat, const uint8_t *restrict where,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict v, const REAL *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict plane, REAL *restrict u, double *restrict sums)
{
    double *dshift = sums, *dscale = sums + c, *taps = sums + 2 * c;
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2, of_pixel = (h + 2) * stride;
    vec at_position[pw][4]; /* u, and zero except at the position that the pooled value came from */
    memset(plane, 0, sizeof(REAL) * PIXELS * of_pixel);
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++)
            for (int64_t k = 0; k < c; k += LANES) {
                vec shift = {0}, scale = {0};
                for (int64_t q = 0; q < pw; q++) {
                    const int64_t from = ((i * ph + r) * pw + q) * c + k;
                    const vec old = load(hat + from), value = either(load(s + k) * old + load(t + k) > 0, load(da + from), (vec){0});
                    const mask code = codes_at(where + from);
                    if (u) store(u + from, value);
                    shift += value;
                    scale += value * old;
                    if (v) scale += load(v + from) * load(hat_t + from);
                    for (int d = 0; d < 4; d++) at_position[q][d] = either(code == d, value, (vec){0});
                }
                for (int lane = 0; lane < LANES; lane++) dshift[k + lane] += shift[lane], dscale[k + lane] += scale[lane];
                for (int j = 0; j < PIXELS; j++) {
                    vec sum[9] = {{0}};
                    const REAL *window = plane + j * of_pixel + 2 * r * stride;
                    for (int64_t q = 0; q < pw; q++, window += 2)
#pragma GCC unroll 16
                        for (int at = 0; at < 16; at++) {
                            const REAL pixel = window[at / 4 * stride + at % 4];
#pragma GCC unroll 4
                            for (int d = 0; d < 4; d++) {
                                const int row = at / 4 - d / 2, column = at % 4 - d % 2; /* of the tap */
                                if (row >= 0 && row < 3 && column >= 0 && column < 3)
                                    sum[row * 3 + column] += pixel * at_position[q][d];
                            }
                        }
                    for (int tap = 0; tap < 9; tap++)
                        for (int lane = 0; lane < LANES; lane++) taps[(j * 9 + tap) * c + k + lane] += sum[tap][lane];
                }
            }
    }
}

/* u = da where s h + t > 0, not written where it is null. sums (PARTS, 29, C), in its first part at the end: dshift =
   sum u; dscale = sum u h, plus sum v h_t where a tangent is given; and (27, C) = the sum of u times the patch that the
   pooled value came from. planes: for each core 3 * (h + 2) * (w + 2) */
void NAMED(image_backward)(
    const REAL *restrict x, const REAL *restrict da, const REAL *restrict hat, const uint8_t *restrict where,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict v, const REAL *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict planes, REAL *restrict u, double *restrict sums)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = PIXELS * (h + 2) * (w + 2);
    const int64_t of_sums = (2 + TAPS) * c;
    memset(sums, 0, sizeof(double) * PARTS * of_sums);
    PARALLEL
    for (int core = 0; core < cores; core++)
        for (int64_t part = core; part < PARTS; part += cores) {
            const int64_t from = start_of(part, n), count = start_of(part + 1, n) - from, i = from * pooled;
            backward(
                x + from * of_image, da + i, hat + i, where + i, s, t, v ? v + i : NULL, v ? hat_t + i : NULL, count, h,
                w, c, planes + core * of_plane, u ? u + i : NULL, sums + part * of_sums);
        }
    add_parts(sums, of_sums);
}

static void tangent(
    const REAL *restrict x, const REAL *restrict weight_t, const REAL *restrict hat,
    const uint8_t *restrict where, const REAL *restrict rstd, const REAL *restrict m_t, const REAL *restrict q,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict s_t, const REAL *restrict t_t, int64_t n,
    int64_t h, int64_t w, int64_t c, REAL *restrict plane, REAL *restrict hat_t, REAL *restrict a_t)
{
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2, of_pixel = (h + 2) * stride;
    memset(plane, 0, sizeof(REAL) * PIXELS * of_pixel);
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t p = 0; p < ph * pw; p++)
            for (int64_t k = 0; k < c; k += LANES) {
                const int64_t to = (i * ph * pw + p) * c + k;
                vec y[1][4][2], y_t = {0};
                outputs(1, 1, plane + p / pw * 2 * stride + p % pw * 2, stride, of_pixel, weight_t + k, c, y);
                const mask code = codes_at(where + to);
                for (int d = 0; d < 4; d++) y_t = either(code == d, y[0][d][0], y_t);
                const vec old = load(hat + to), value = load(rstd + k) * (y_t - load(m_t + k) - old * load(q + k));
                const vec z_t = load(s_t + k) * old + load(s + k) * value + load(t_t + k);
                store(hat_t + to, value);
                store(a_t + to, either(load(s + k) * old + load(t + k) > 0, z_t, (vec){0}));
            }
    }
}

/* With y_t the tangent's convolution at the pooled positions: h_t = r (y_t - m_t - h q), and
   a_t = s_t h + s h_t + t_t where s h + t > 0. planes: for each core 3 * (h + 2) * (w + 2) */
void NAMED(image_tangent)(
    const REAL *restrict x, const REAL *restrict weight_t, const REAL *restrict hat,
    const uint8_t *restrict where, const REAL *restrict rstd, const REAL *restrict m_t, const REAL *restrict q,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict s_t, const REAL *restrict t_t, int64_t n,
    int64_t h, int64_t w, int64_t c, REAL *restrict planes, REAL *restrict hat_t, REAL *restrict a_t)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = PIXELS * (h + 2) * (w + 2);
    PARALLEL
    for (int part = 0; part < cores; part++) {
        const int64_t i = n * part / cores, count = n * (part + 1) / cores - i, at = i * pooled;
        tangent(
            x + i * of_image, weight_t, hat + at, where + at, rstd, m_t, q, s, t, s_t, t_t, count, h, w, c,
            planes + part * of_plane, hat_t + at, a_t + at);
    }
}
