/* A layer with one branch, after its convolution: each pass of layer.py, with its sums over channels, in one call.

   The formulas and names are those of layer.py. Channels are in the rows of one array of c columns each, in the order
   that the comment of a function says; sums are in double. Without pooling `where` is null and p is y. */

#include "passes.h"

/* The images of a part, and where its planes begin. */
typedef struct {
    int64_t from, n, full, pooled, rows; /* rows: positions of the pooled plane */
} images;

INLINE images images_of(int64_t part, int64_t n, int64_t h, int64_t w, int64_t c, const uint8_t *where)
{
    const int64_t from = start_of(part, n), count = start_of(part + 1, n) - from;
    const int64_t full = h * w, pooled = where ? (h / 2) * (w / 2) : full;
    return (images){from, count, from * full * c, from * pooled * c, count * pooled};
}

INLINE int64_t within(int64_t n, int64_t most) { return n < 0 ? 0 : n < most ? n : most; }

/* From y: p at the pooled positions, a, and the rows mean, rstd, k. The statistics are those of the first images. */
void NAMED(layer_forward)(
    const REAL *restrict y, const REAL *restrict scale, const REAL *restrict shift, double slope, double eps,
    int64_t first, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict p, uint8_t *restrict where,
    REAL *restrict channels, REAL *restrict a)
{
    const int cores = NAMED(cores);
    REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    double means[PARTS][c], centred[PARTS][c];
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(pool_statistics)(
            y + of.full, scale, first - of.from, of.n, h, w, c, where ? p + of.pooled : NULL,
            where ? where + of.pooled : NULL, means[part], centred[part]);
    }
    for (int64_t i = 0; i < c; i++) {
        double of_all = 0, sum = 0;
        for (int part = 0; part < PARTS; part++) { /* Chan's rule */
            const int64_t before = within(start_of(part, n), first), more = within(start_of(part + 1, n), first) - before;
            if (more == 0) continue;
            const double d = means[part][i] - of_all, share = (double)more / (before + more);
            of_all += d * share;
            sum += centred[part][i] + d * d * h * w * before * share;
        }
        mean[i] = (REAL)of_all;
        rstd[i] = (REAL)(1 / sqrt(sum / (first * h * w) + eps));
        k[i] = scale[i] * rstd[i];
    }
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(normalise)(
            (where ? p : y) + of.pooled, mean, k, NULL, NULL, NULL, shift, slope, of.rows, c, a + of.pooled);
    }
}

/* From the gradient in a, which becomes u: dy (it may be y), and the rows dshift, dscale, k r, c. The statistics are
   those of the first images. */
void NAMED(layer_backward)(
    REAL *restrict u, const REAL *restrict a, double slope, const REAL *y, const REAL *p,
    const uint8_t *restrict where, const REAL *restrict channels, int64_t first, int64_t n, int64_t h, int64_t w,
    int64_t c, REAL *dy, REAL *restrict gradients)
{
    const int cores = NAMED(cores);
    const REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    REAL *dshift = gradients, *dscale = gradients + c, *kr = gradients + 2 * c, *c1 = gradients + 3 * c;
    double total[PARTS][c], centred[PARTS][c];
    REAL b[c], none[c];
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(masked_sums)(
            u + of.pooled, a + of.pooled, slope, p + of.pooled, mean, NULL, NULL, NULL, of.rows, c, total[part],
            centred[part]);
    }
    add_parts(total[0], c);
    add_parts(centred[0], c);
    for (int64_t i = 0; i < c; i++) {
        const int64_t m = first * h * w;
        dshift[i] = (REAL)total[0][i];
        dscale[i] = (REAL)(rstd[i] * centred[0][i]);
        kr[i] = k[i] * rstd[i];
        c1[i] = -kr[i] * dscale[i] / m;
        b[i] = -k[i] * dshift[i] / m - c1[i] * mean[i];
        none[i] = 0;
    }
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        const int64_t before = within(first - of.from, of.n), full = of.full + before * h * w * c;
        const int64_t pooled = of.pooled + (of.n ? before * (of.rows / of.n) * c : 0);
        NAMED(spread)(
            y + of.full, u + of.pooled, where ? where + of.pooled : NULL, b, c1, k, before, h, w, c, dy + of.full);
        NAMED(spread)(
            y + full, u + pooled, where ? where + pooled : NULL, none, none, k, of.n - before, h, w, c, dy + full);
    }
}

/* From the tangent of y: p_t at the pooled positions, the tangent of a, and the rows mean_t, q. */
void NAMED(layer_tangent)(
    const REAL *restrict y, const REAL *restrict y_t, const REAL *restrict p, const uint8_t *restrict where,
    const REAL *restrict channels, const REAL *restrict scale_t, const REAL *restrict shift_t, const REAL *restrict a,
    double slope, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict p_t, REAL *restrict tangents,
    REAL *restrict a_t)
{
    const int cores = NAMED(cores);
    const REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    REAL *mean_t = tangents, *q = tangents + c, k_h[c];
    double total[PARTS][c], crossed[PARTS][c];
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(tangent_statistics)(
            y + of.full, y_t + of.full, where ? where + of.pooled : NULL, mean, of.n, h, w, c,
            where ? p_t + of.pooled : NULL, total[part], crossed[part]);
    }
    add_parts(total[0], c);
    add_parts(crossed[0], c);
    for (int64_t i = 0; i < c; i++) {
        const int64_t m = n * h * w;
        mean_t[i] = (REAL)(total[0][i] / m);
        q[i] = (REAL)(crossed[0][i] / m) * rstd[i];
        k_h[i] = (scale_t[i] - k[i] * q[i]) * rstd[i];
    }
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(normalise_tangent)(
            (where ? p_t : y_t) + of.pooled, mean_t, k, p + of.pooled, mean, k_h, NULL, NULL, NULL, NULL, NULL, NULL,
            shift_t, a + of.pooled, slope, of.rows, c, a_t + of.pooled);
    }
}

/* From the tangent of the gradient in a, which becomes u_t: dy_t, and the rows dshift_t, dscale_t. */
void NAMED(layer_backward_tangent)(
    REAL *restrict u_t, const REAL *restrict u, const REAL *restrict a, double slope, const REAL *restrict y,
    const REAL *restrict y_t, const REAL *restrict p, const REAL *restrict p_t, const uint8_t *restrict where,
    const REAL *restrict channels, const REAL *restrict gradients, const REAL *restrict tangents,
    const REAL *restrict scale, const REAL *restrict scale_t, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict dy_t, REAL *restrict gradients_t)
{
    const int cores = NAMED(cores);
    const REAL *mean = channels, *r = channels + c, *k = channels + 2 * c, *mean_t = tangents, *q = tangents + c;
    const REAL *dshift = gradients, *dscale = gradients + c, *kr = gradients + 2 * c, *c1 = gradients + 3 * c;
    REAL *dshift_t = gradients_t, *dscale_t = gradients_t + c, b_t[c], c_t[c], k_t[c];
    double total[PARTS][c], centred[PARTS][c];
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(masked_sums)(
            u_t + of.pooled, a + of.pooled, slope, p + of.pooled, mean, u + of.pooled, p_t + of.pooled, mean_t, of.rows,
            c, total[part], centred[part]);
    }
    add_parts(total[0], c);
    add_parts(centred[0], c);
    for (int64_t i = 0; i < c; i++) {
        const int64_t m = n * h * w;
        const REAL r_t = -r[i] * r[i] * q[i];
        dshift_t[i] = (REAL)total[0][i];
        dscale_t[i] = r[i] * ((REAL)centred[0][i] - q[i] * dscale[i]);
        k_t[i] = scale_t[i] * r[i] + scale[i] * r_t;
        c_t[i] = -(k_t[i] * r[i] * dscale[i] + k[i] * r_t * dscale[i] + kr[i] * dscale_t[i]) / m;
        b_t[i] = -(k_t[i] * dshift[i] + k[i] * dshift_t[i]) / m - c_t[i] * mean[i] - c1[i] * mean_t[i];
    }
    PARALLEL
    for (int part = 0; part < PARTS; part++) {
        const images of = images_of(part, n, h, w, c, where);
        NAMED(spread_tangent)(
            y + of.full, y_t + of.full, u + of.pooled, u_t + of.pooled, where ? where + of.pooled : NULL, b_t, c_t, c1,
            k_t, k, of.n, h, w, c, dy_t + of.full);
    }
}
