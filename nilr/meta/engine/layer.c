/* A layer with one branch, after its convolution: each pass of layer.py, with its sums over channels, in one call.

   The formulas and names are those of layer.py. Channels are in the rows of one array of c columns each, in the order
   that the comment of a function says; sums are in double. Without pooling `where` is null and p is y. */

#include "passes.h"

/* From y: p at the pooled positions, a, and the rows mean, rstd, k. The statistics are those of the first images. */
void NAMED(layer_forward)(
    const REAL *restrict y, const REAL *restrict scale, const REAL *restrict shift, double slope, double eps,
    int64_t first, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict p, uint8_t *restrict where,
    REAL *restrict channels, REAL *restrict a)
{
    REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    double exact_mean[c], centred[c];
    NAMED(pool_statistics)(y, scale, first, n, h, w, c, where ? p : NULL, where, exact_mean, centred);
    for (int64_t i = 0; i < c; i++) {
        mean[i] = (REAL)exact_mean[i];
        rstd[i] = (REAL)(1 / sqrt(centred[i] / (first * h * w) + eps));
        k[i] = scale[i] * rstd[i];
    }
    const int64_t rows = where ? n * (h / 2) * (w / 2) : n * h * w;
    NAMED(normalise)(where ? p : y, mean, k, NULL, NULL, NULL, shift, slope, rows, c, a);
}

/* From the gradient in a, which becomes u: dy (it may be y), and the rows dshift, dscale, k r, c. The statistics are
   those of the first images. */
void NAMED(layer_backward)(
    REAL *restrict u, const REAL *restrict a, double slope, const REAL *y, const REAL *p,
    const uint8_t *restrict where, const REAL *restrict channels, int64_t first, int64_t n, int64_t h, int64_t w,
    int64_t c, REAL *dy, REAL *restrict gradients)
{
    const REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    REAL *dshift = gradients, *dscale = gradients + c, *kr = gradients + 2 * c, *c1 = gradients + 3 * c;
    const int64_t m = first * h * w, image = h * w, pooled = where ? (h / 2) * (w / 2) : image;
    double total[c], centred[c];
    REAL b[c], none[c];
    NAMED(masked_sums)(u, a, slope, p, mean, NULL, NULL, NULL, n * pooled, c, total, centred);
    for (int64_t i = 0; i < c; i++) {
        dshift[i] = (REAL)total[i];
        dscale[i] = (REAL)(rstd[i] * centred[i]);
        kr[i] = k[i] * rstd[i];
        c1[i] = -kr[i] * dscale[i] / m;
        b[i] = -k[i] * dshift[i] / m - c1[i] * mean[i];
        none[i] = 0;
    }
    NAMED(spread)(y, u, where, b, c1, k, first, h, w, c, dy);
    y += first * image * c;
    dy += first * image * c;
    u += first * pooled * c;
    NAMED(spread)(y, u, where ? where + first * pooled * c : NULL, none, none, k, n - first, h, w, c, dy);
}

/* From the tangent of y: p_t at the pooled positions, the tangent of a, and the rows mean_t, q. */
void NAMED(layer_tangent)(
    const REAL *restrict y, const REAL *restrict y_t, const REAL *restrict p, const uint8_t *restrict where,
    const REAL *restrict channels, const REAL *restrict scale_t, const REAL *restrict shift_t, const REAL *restrict a,
    double slope, int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict p_t, REAL *restrict tangents,
    REAL *restrict a_t)
{
    const REAL *mean = channels, *rstd = channels + c, *k = channels + 2 * c;
    REAL *mean_t = tangents, *q = tangents + c, k_h[c];
    const int64_t m = n * h * w, rows = where ? n * (h / 2) * (w / 2) : m;
    double total[c], crossed[c];
    NAMED(tangent_statistics)(y, y_t, where, mean, n, h, w, c, where ? p_t : NULL, total, crossed);
    for (int64_t i = 0; i < c; i++) {
        mean_t[i] = (REAL)(total[i] / m);
        q[i] = (REAL)(crossed[i] / m) * rstd[i];
        k_h[i] = (scale_t[i] - k[i] * q[i]) * rstd[i];
    }
    NAMED(normalise_tangent)(
        where ? p_t : y_t, mean_t, k, p, mean, k_h, NULL, NULL, NULL, NULL, NULL, NULL, shift_t, a, slope, rows, c, a_t);
}

/* From the tangent of the gradient in a, which becomes u_t: dy_t, and the rows dshift_t, dscale_t. */
void NAMED(layer_backward_tangent)(
    REAL *restrict u_t, const REAL *restrict u, const REAL *restrict a, double slope, const REAL *restrict y,
    const REAL *restrict y_t, const REAL *restrict p, const REAL *restrict p_t, const uint8_t *restrict where,
    const REAL *restrict channels, const REAL *restrict gradients, const REAL *restrict tangents,
    const REAL *restrict scale, const REAL *restrict scale_t, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict dy_t, REAL *restrict gradients_t)
{
    const REAL *mean = channels, *r = channels + c, *k = channels + 2 * c, *mean_t = tangents, *q = tangents + c;
    const REAL *dshift = gradients, *dscale = gradients + c, *kr = gradients + 2 * c, *c1 = gradients + 3 * c;
    REAL *dshift_t = gradients_t, *dscale_t = gradients_t + c, b_t[c], c_t[c], k_t[c];
    const int64_t m = n * h * w, rows = where ? n * (h / 2) * (w / 2) : m;
    double total[c], centred[c];
    NAMED(masked_sums)(u_t, a, slope, p, mean, u, p_t, mean_t, rows, c, total, centred);
    for (int64_t i = 0; i < c; i++) {
        const REAL r_t = -r[i] * r[i] * q[i];
        dshift_t[i] = (REAL)total[i];
        dscale_t[i] = r[i] * ((REAL)centred[i] - q[i] * dscale[i]);
        k_t[i] = scale_t[i] * r[i] + scale[i] * r_t;
        c_t[i] = -(k_t[i] * r[i] * dscale[i] + k[i] * r_t * dscale[i] + kr[i] * dscale_t[i]) / m;
        b_t[i] = -(k_t[i] * dshift[i] + k[i] * dshift_t[i]) / m - c_t[i] * mean[i] - c1[i] * mean_t[i];
    }
    NAMED(spread_tangent)(y, y_t, u, u_t, where, b_t, c_t, c1, k_t, k, n, h, w, c, dy_t);
}
