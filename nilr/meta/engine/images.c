/* The first Conv4 block's kernels: images (n, H, W, 3) in, pooled planes (n, H/2, W/2, C) out.

   image_block.py has the formulas. The convolution's output is never written: each 2x2 window of it is made and
   pooled at once. Its gradient needs the images at the pooled positions alone, and its statistics follow from the
   moments of the images' 3x3 patches. `where` holds which of its window's four positions a pooled value came from:
   0 1 / 2 3. A gradient in the weight is (27, C), tap 9 * pixel channel + 3 * row + column.

   A window's outputs, and its part of the gradient in the weight, follow from its 4x4 pixels d of each pixel channel by
   Winograd's F(2x2, 3x3): 16 products in place of 36 (points 0, 1, -1, infinity; winograd.c has the sources):

       y  = A' [(G w G') * (B' d B)] A          pixel channels are summed
       dw = G' [(A u A') * (B' d B)] G          windows are summed

            1  0 -1  0           1    0    0           1  1  1  0
       B' = 0  1  1  0      G = 1/2  1/2  1/2     A' = 0  1 -1  1
            0 -1  1  0          1/2 -1/2  1/2
            0 -1  0  1           0    0    1

   The points of a weight are (16, 3, C), point 4 * row + column. Those of a row of windows are (16, 3, width).

   `plane` is scratch: one image, channel by channel, with zeros around it, and in each row the even columns before the
   odd ones; `planes` are those of all cores. */

#include "vectors.h"

#define TAPS 27
#define PIXELS 3
#define POINTS 16
#define AHEAD 8 /* windows whose memory is fetched before it is needed */

/* points (16, 3, c) = those of weights (c, 27); computed in double. */
INLINE void weight_points(const REAL *weight, int64_t k, int64_t c, REAL *points)
{
    for (int j = 0; j < PIXELS; j++) {
        double half[4][3], all[4][4];
        const REAL *w = weight + k * TAPS + j * 9;
        for (int i = 0; i < 3; i++) {
            const double even = (w[i] + (double)w[6 + i]) / 2, odd = w[3 + i] / 2.0;
            half[0][i] = w[i], half[1][i] = even + odd, half[2][i] = even - odd, half[3][i] = w[6 + i];
        }
        for (int i = 0; i < 4; i++) {
            const double even = (half[i][0] + half[i][2]) / 2, odd = half[i][1] / 2;
            all[i][0] = half[i][0], all[i][1] = even + odd, all[i][2] = even - odd, all[i][3] = half[i][2];
        }
        for (int i = 0; i < POINTS; i++) points[(i * PIXELS + j) * c + k] = (REAL)all[i / 4][i % 4];
    }
}

/* w_v (c, 27): W V; mean and rstd of y; rstd again in double; and the points of the weight. */
void NAMED(image_statistics)(
    const REAL *restrict weight, const double *restrict p, const double *restrict covariance, int64_t c, double eps,
    REAL *restrict mean, REAL *restrict rstd, double *restrict exact, double *restrict w_v, REAL *restrict points)
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
        }
        weight_points(weight, k, c, points);
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

/* The tangents: w_t_v (c, 27) = W_t V; m_t; q = r diag(W V W_t'); r_t = -r^2 q; the points of the weight's
   tangent. */
void NAMED(image_statistics_tangent)(
    const REAL *restrict weight_t, const double *restrict p, const double *restrict covariance,
    const double *restrict rstd, const double *restrict w_v, int64_t c, REAL *restrict mean_t, REAL *restrict q,
    double *restrict rstd_t, double *restrict w_t_v, REAL *restrict points)
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
        }
        weight_points(weight_t, k, c, points);
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

/* Numbers that a row of windows takes, in whole vectors; those of the even (or odd) columns of a row of an image, with
   room for one more vector; and those of `plane`. */
INLINE int64_t row_width(int64_t w) { return (w / 2 + LANES - 1) / LANES * LANES; }
INLINE int64_t half_width(int64_t w) { return (w / 2 + 15) / 16 * 16 + 16; }
INLINE int64_t plane_size(int64_t h, int64_t w) { return PIXELS * (h + 2) * 2 * half_width(w); }

static void pad(const REAL *image, int64_t h, int64_t w, REAL *plane)
{
    const int64_t half = half_width(w), of_pixel = (h + 2) * 2 * half;
    for (int64_t r = 0; r < h; r++, image += w * PIXELS) {
        REAL *even = plane + (r + 1) * 2 * half + 1, *odd = even + half - 1;
        for (int64_t q = 0; q < w / 2; q++)
            for (int i = 0; i < PIXELS; i++) {
                odd[i * of_pixel + q] = image[2 * q * PIXELS + i];
                even[i * of_pixel + q] = image[(2 * q + 1) * PIXELS + i];
            }
        for (int i = 0; i < PIXELS && w % 2; i++) odd[i * of_pixel + w / 2] = image[(w - 1) * PIXELS + i];
    }
}

INLINE void four_points(const vec *d, int from, vec *out, int to) /* B' d */
{
    out[0] = d[0] - d[2 * from];
    out[to] = d[from] + d[2 * from];
    out[2 * to] = d[2 * from] - d[from];
    out[3 * to] = d[3 * from] - d[from];
}

/* points (16, 3, width) = those of row r of an image's windows */
static void row_points(const REAL *plane, int64_t h, int64_t w, int64_t r, REAL *points)
{
    const int64_t half = half_width(w), width = row_width(w);
    for (int j = 0; j < PIXELS; j++) {
        const REAL *from = plane + (j * (h + 2) + 2 * r) * 2 * half;
        for (int64_t q = 0; q < width; q += LANES) {
            vec d[16], rows[16];
            for (int i = 0; i < 4; i++)
                for (int column = 0; column < 4; column++)
                    d[i * 4 + column] = load(from + (2 * i + column % 2) * half + q + column / 2);
            for (int column = 0; column < 4; column++) four_points(d + column, 4, rows + column, 4);
            for (int i = 0; i < 4; i++) four_points(rows + i * 4, 1, d + i * 4, 1);
            for (int i = 0; i < POINTS; i++) store(points + (i * PIXELS + j) * width + q, d[i]);
        }
    }
}

/* y at the four positions of one or two windows from `pixels` on, for one or two vectors of channels. */
INLINE void outputs(
    const int windows, const int vectors, const REAL *pixels, int64_t width, const REAL *weight, int64_t c,
    vec (*y)[4][2])
{
    vec left[4][2][2], right[4][2][2]; /* the columns of outputs, of every row of points */
#pragma GCC unroll 1
    for (int row = 0; row < 4; row++)
#pragma GCC unroll 4
        for (int column = 0; column < 4; column++) {
            vec m[2][2];
#pragma GCC unroll 3
            for (int j = 0; j < PIXELS; j++, pixels += width, weight += c)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++) {
                    const vec of_channels = load(weight + v * LANES);
#pragma GCC unroll 2
                    for (int p = 0; p < windows; p++)
                        m[p][v] = j ? m[p][v] + pixels[p] * of_channels : pixels[p] * of_channels;
                }
#pragma GCC unroll 2
            for (int p = 0; p < windows; p++)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++) {
                    if (column < 3) left[row][p][v] = column ? left[row][p][v] + m[p][v] : m[p][v];
                    if (column == 1) right[row][p][v] = m[p][v];
                    else if (column) right[row][p][v] += column == 2 ? -m[p][v] : m[p][v];
                }
        }
    for (int p = 0; p < windows; p++)
        for (int v = 0; v < vectors; v++) {
            y[p][0][v] = left[0][p][v] + left[1][p][v] + left[2][p][v];
            y[p][1][v] = right[0][p][v] + right[1][p][v] + right[2][p][v];
            y[p][2][v] = left[1][p][v] - left[2][p][v] + left[3][p][v];
            y[p][3][v] = right[1][p][v] - right[2][p][v] + right[3][p][v];
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
    store_codes(where, ~(y0 == best) & (1 + (~(y1 == best) & (1 + (~(y2 == best) & 1)))));
}

static void forward(
    const REAL *restrict x, const REAL *restrict weight, const REAL *restrict m, const REAL *restrict rstd,
    const REAL *restrict s, const REAL *restrict t, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict plane,
    REAL *restrict hat, REAL *restrict a, uint8_t *restrict where)
{
    const int64_t ph = h / 2, pw = w / 2, width = row_width(w);
    REAL points[POINTS * PIXELS * width];
    memset(plane, 0, sizeof(REAL) * plane_size(h, w));
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++) {
            row_points(plane, h, w, r, points);
            for (int64_t k = 0; k < c; k += 2 * LANES)
                for (int64_t q = 0; q < pw;) {
                    vec y[2][4][2];
                    const int windows = q + 2 <= pw ? 2 : 1, vectors = k + LANES < c ? 2 : 1;
                    if (vectors == 1) outputs(1, 1, points + q, width, weight + k, c, y);
                    else if (windows == 1) outputs(1, 2, points + q, width, weight + k, c, y);
                    else outputs(2, 2, points + q, width, weight + k, c, y);
                    const int made = vectors == 1 ? 1 : windows;
                    for (int p = 0; p < made; p++, q++)
                        for (int v = 0; v < vectors; v++) {
                            const int64_t from = k + v * LANES, to = ((i * ph + r) * pw + q) * c + from;
                            __builtin_prefetch(a + to + AHEAD * c, 1);
                            if (hat) __builtin_prefetch(hat + to + AHEAD * c, 1);
                            pool_and_store(
                                y[p], v, m + from, rstd + from, s + from, t + from, hat ? hat + to : NULL, a + to,
                                where + to);
                        }
                }
        }
    }
}

/* planes: for each core 6 * (h + 2) * (16 * ceil(w / 2 / 16) + 16) */
void NAMED(image_forward)(
    const REAL *restrict x, const REAL *restrict weight, const REAL *restrict m, const REAL *restrict rstd,
    const REAL *restrict s, const REAL *restrict t, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict planes,
    REAL *restrict hat, REAL *restrict a, uint8_t *restrict where)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = plane_size(h, w);
    PARALLEL
    for (int part = 0; part < cores; part++) {
        const int64_t i = n * part / cores, count = n * (part + 1) / cores - i;
        forward(
            x + i * of_image, weight, m, rstd, s, t, count, h, w, c, planes + part * of_plane,
            hat ? hat + i * pooled : NULL, a + i * pooled, where ? where + i * pooled : NULL);
    }
}

INLINE void add_lanes(vec value, double *to)
{
    REAL lanes[LANES];
    store(lanes, value);
    for (int i = 0; i < LANES; i++) to[i] += lanes[i];
}

INLINE void add_products(vec *sum, const REAL *pixels, int64_t width, vec value)
{
#pragma GCC unroll 3
    for (int j = 0; j < PIXELS; j++) sum[j] += pixels[j * width] * value;
}

/* taps (27, c) += the gradient in the weight of a row of windows, of which u is known at every position */
INLINE void add_taps(const vec (*u)[4], const REAL *points, int64_t windows, int64_t width, double *taps, int64_t c)
{
    vec rows[4][3][PIXELS]; /* the sums' rows, times G */
#pragma GCC unroll 4
    for (int row = 0; row < 4; row++, points += 4 * PIXELS * width) {
        vec sum[4][PIXELS] = {{{0}}};
        for (int64_t q = 0; q < windows; q++) {
            const vec *at = u[q];
            const vec left = row == 0 ? at[0] : row == 1 ? at[0] + at[2] : row == 2 ? at[0] - at[2] : at[2];
            const vec right = row == 0 ? at[1] : row == 1 ? at[1] + at[3] : row == 2 ? at[1] - at[3] : at[3];
            add_products(sum[0], points + q, width, left); /* in the order in which 16 registers suffice */
            add_products(sum[3], points + 3 * PIXELS * width + q, width, right);
            add_products(sum[1], points + PIXELS * width + q, width, left + right);
            add_products(sum[2], points + 2 * PIXELS * width + q, width, left - right);
        }
        for (int j = 0; j < PIXELS; j++) {
            const vec even = (REAL)0.5 * (sum[1][j] + sum[2][j]);
            rows[row][0][j] = sum[0][j] + even;
            rows[row][1][j] = (REAL)0.5 * (sum[1][j] - sum[2][j]);
            rows[row][2][j] = sum[3][j] + even;
        }
    }
    for (int j = 0; j < PIXELS; j++)
        for (int column = 0; column < 3; column++) {
            const vec even = (REAL)0.5 * (rows[1][column][j] + rows[2][column][j]);
            double *to = taps + (j * 9 + column) * c;
            add_lanes(rows[0][column][j] + even, to);
            add_lanes((REAL)0.5 * (rows[1][column][j] - rows[2][column][j]), to + 3 * c);
            add_lanes(rows[3][column][j] + even, to + 6 * c);
        }
}

static void backward(
    const REAL *restrict x, const REAL *restrict da, const REAL *restrict hat, const uint8_t *restrict where,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict v, const REAL *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict plane, REAL *restrict u, double *restrict sums)
{
    double *dshift = sums, *dscale = sums + c, *taps = sums + 2 * c;
    const int64_t ph = h / 2, pw = w / 2, width = row_width(w);
    REAL points[POINTS * PIXELS * width];
    vec at_position[pw][4]; /* u, and zero except at the position that the pooled value came from */
    memset(plane, 0, sizeof(REAL) * plane_size(h, w));
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++) {
            row_points(plane, h, w, r, points);
            for (int64_t k = 0; k < c; k += LANES) {
                vec shift = {0}, scale = {0};
                for (int64_t q = 0; q < pw; q++) {
                    const int64_t from = ((i * ph + r) * pw + q) * c + k;
                    const vec old = load(hat + from), value = either(load(s + k) * old + load(t + k) > 0, load(da + from), (vec){0});
                    const mask code = codes_at(where + from);
                    __builtin_prefetch(hat + from + AHEAD * c);
                    __builtin_prefetch(da + from + AHEAD * c);
                    if (u) __builtin_prefetch(u + from + AHEAD * c, 1);
                    if (u) store(u + from, value);
                    shift += value;
                    scale += value * old;
                    if (v) scale += load(v + from) * load(hat_t + from);
                    for (int d = 0; d < 4; d++) at_position[q][d] = either(code == d, value, (vec){0});
                }
                add_lanes(shift, dshift + k);
                add_lanes(scale, dscale + k);
                add_taps(at_position, points, pw, width, taps + k, c);
            }
        }
    }
}

/* u = da where s h + t > 0, not written where it is null. sums (PARTS, 29, C), in its first part at the end: dshift =
   sum u; dscale = sum u h, plus sum v h_t where a tangent is given; and (27, C) = the sum of u times the patch that the
   pooled value came from. planes: for each core as many as in image_forward */
void NAMED(image_backward)(
    const REAL *restrict x, const REAL *restrict da, const REAL *restrict hat, const uint8_t *restrict where,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict v, const REAL *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict planes, REAL *restrict u, double *restrict sums)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = plane_size(h, w);
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
    const int64_t ph = h / 2, pw = w / 2, width = row_width(w);
    REAL points[POINTS * PIXELS * width];
    memset(plane, 0, sizeof(REAL) * plane_size(h, w));
    for (int64_t i = 0; i < n; i++) {
        pad(x + i * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++) {
            row_points(plane, h, w, r, points);
            for (int64_t k = 0; k < c; k += LANES)
                for (int64_t p = 0; p < pw; p++) {
                    const int64_t to = ((i * ph + r) * pw + p) * c + k;
                    vec y[1][4][2], y_t = {0};
                    outputs(1, 1, points + p, width, weight_t + k, c, y);
                    const mask code = codes_at(where + to);
                    for (int d = 0; d < 4; d++) y_t = either(code == d, y[0][d][0], y_t);
                    __builtin_prefetch(hat_t + to + AHEAD * c, 1);
                    __builtin_prefetch(a_t + to + AHEAD * c, 1);
                    const vec old = load(hat + to), value = load(rstd + k) * (y_t - load(m_t + k) - old * load(q + k));
                    const vec z_t = load(s_t + k) * old + load(s + k) * value + load(t_t + k);
                    store(hat_t + to, value);
                    store(a_t + to, either(load(s + k) * old + load(t + k) > 0, z_t, (vec){0}));
                }
        }
    }
}

/* With y_t the tangent's convolution at the pooled positions: h_t = r (y_t - m_t - h q), and
   a_t = s_t h + s h_t + t_t where s h + t > 0. planes: for each core as many as in image_forward */
void NAMED(image_tangent)(
    const REAL *restrict x, const REAL *restrict weight_t, const REAL *restrict hat,
    const uint8_t *restrict where, const REAL *restrict rstd, const REAL *restrict m_t, const REAL *restrict q,
    const REAL *restrict s, const REAL *restrict t, const REAL *restrict s_t, const REAL *restrict t_t, int64_t n,
    int64_t h, int64_t w, int64_t c, REAL *restrict planes, REAL *restrict hat_t, REAL *restrict a_t)
{
    const int cores = NAMED(cores);
    const int64_t of_image = h * w * PIXELS, pooled = (h / 2) * (w / 2) * c, of_plane = plane_size(h, w);
    PARALLEL
    for (int part = 0; part < cores; part++) {
        const int64_t i = n * part / cores, count = n * (part + 1) / cores - i, at = i * pooled;
        tangent(
            x + i * of_image, weight_t, hat + at, where + at, rstd, m_t, q, s, t, s_t, t_t, count, h, w, c,
            planes + part * of_plane, hat_t + at, a_t + at);
    }
}
