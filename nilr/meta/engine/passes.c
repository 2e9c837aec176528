/* The passes over memory of a layer for which torch has no single operation.

   Arrays are channels-last: full planes (n, H, W, C), pooled planes (n, H/2, W/2, C), channels (C). `where` holds for
   each pooled value which of its window's four positions it came from: 0 1 / 2 3; it is null without pooling, and what
   is else a pooled plane is then a full one. The formulas stand in layer.py; the names here are the same. images.c has
   those of the first block. Loops run over channels innermost, so the compiler turns them into vectors; sums go through
   a row in REAL and from row to row in double. */

#include "passes.h"

/* Increase it with every change of a kernel's arguments or meaning; native.py must have the same number. */
const int64_t NAMED(nilr_kernels_version) = 8;

_Thread_local int NAMED(cores) = 1;

void NAMED(use_cores)(int64_t n) { NAMED(cores) = (int)n; }

/* mean: of y in the first images; centred: their sum of (y - mean)^2, by Chan's rule. If pooled is not null, in all
   images, the y whose sign * y is largest in its window. */
void NAMED(pool_statistics)(
    const REAL *restrict y, const REAL *restrict scale, int64_t first, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict pooled, uint8_t *restrict where, double *restrict mean, double *restrict centred)
{
    const int64_t ph = h / 2, pw = w / 2, positions = h * w;
    double image_mean[c], image_centred[c];
    REAL m[c], row[c], sign[c];
    int32_t code[c];
    for (int64_t k = 0; k < c; k++) {
        mean[k] = centred[k] = 0;
        sign[k] = scale && scale[k] < 0 ? -1 : 1;
    }
    for (int64_t i = 0; i < n; i++) {
        const REAL *image = y + i * positions * c;
        if (i < first) {
            for (int64_t k = 0; k < c; k++) image_mean[k] = image_centred[k] = 0;
            for (int64_t r = 0; r < h; r++) {
                for (int64_t k = 0; k < c; k++) row[k] = 0;
                for (int64_t q = 0; q < w; q++)
                    for (int64_t k = 0; k < c; k++) row[k] += image[(r * w + q) * c + k];
                for (int64_t k = 0; k < c; k++) image_mean[k] += row[k];
            }
            for (int64_t k = 0; k < c; k++) m[k] = (REAL)(image_mean[k] /= positions);
            for (int64_t r = 0; r < h; r++) {
                for (int64_t k = 0; k < c; k++) row[k] = 0;
                for (int64_t q = 0; q < w; q++)
                    for (int64_t k = 0; k < c; k++) {
                        const REAL d = image[(r * w + q) * c + k] - m[k];
                        row[k] += d * d;
                    }
                for (int64_t k = 0; k < c; k++) image_centred[k] += row[k];
            }
            for (int64_t k = 0; k < c; k++) {
                const double d = image_mean[k] - mean[k];
                const double rounding = image_mean[k] - m[k];
                const double within = image_centred[k] - positions * rounding * rounding;
                mean[k] += d / (i + 1);
                /* a row's sum is rounded, so `within` may be negative for a constant channel; NaN stays NaN */
                centred[k] += (within < 0 ? 0 : within) + d * d * positions * i / (i + 1);
            }
        }
        for (int64_t r = 0; pooled && r < ph; r++)
            for (int64_t q = 0; q < pw; q++) {
                const REAL *p = image + (2 * r * w + 2 * q) * c;
                REAL *out = pooled + ((i * ph + r) * pw + q) * c;
                uint8_t *at = where + ((i * ph + r) * pw + q) * c;
                for (int64_t k = 0; k < c; k++) {
                    const REAL s = sign[k];
                    const REAL a = s * p[k], b = s * p[c + k], d = s * p[w * c + k], e = s * p[(w + 1) * c + k];
                    const REAL top = b > a ? b : a, bottom = e > d ? e : d;
                    out[k] = s * (bottom > top ? bottom : top);
                }
                /* apart from the above and through int32_t, so that both loops become vectors */
                for (int64_t k = 0; k < c; k++)
                    code[k] = p[k] == out[k] ? 0 : p[c + k] == out[k] ? 1 : p[w * c + k] == out[k] ? 2 : 3;
                for (int64_t k = 0; k < c; k++) at[k] = (uint8_t)code[k];
            }
    }
}

/* a = act(t + k1 (p1 - m1) + k2 (p2 - m2)); p2 may be null. */
void NAMED(normalise)(
    const REAL *restrict p1, const REAL *restrict m1, const REAL *restrict k1, const REAL *restrict p2,
    const REAL *restrict m2, const REAL *restrict k2, const REAL *restrict t, double slope, int64_t rows, int64_t c,
    REAL *restrict a)
{
    const REAL low = (REAL)slope;
    for (int64_t at = 0; at < rows * c; at += c)
        if (p2)
            for (int64_t k = 0; k < c; k++) {
                const REAL z = t[k] + k1[k] * (p1[at + k] - m1[k]) + k2[k] * (p2[at + k] - m2[k]);
                a[at + k] = z < 0 ? low * z : z; /* NaN stays NaN */
            }
        else
            for (int64_t k = 0; k < c; k++) {
                const REAL z = t[k] + k1[k] * (p1[at + k] - m1[k]);
                a[at + k] = z < 0 ? low * z : z;
            }
}

/* The same for two full planes y1 and y2, pooled; p1 and p2 are their values at the pooled positions. */
void NAMED(pool_sum)(
    const REAL *restrict y1, const REAL *restrict m1, const REAL *restrict k1, const REAL *restrict y2,
    const REAL *restrict m2, const REAL *restrict k2, const REAL *restrict t, double slope, int64_t n, int64_t h,
    int64_t w, int64_t c, REAL *restrict a, uint8_t *restrict where, REAL *restrict p1, REAL *restrict p2)
{
    const int64_t ph = h / 2, pw = w / 2, next[4] = {0, c, w * c, (w + 1) * c};
    const REAL low = (REAL)slope;
    REAL best[c], best1[c], best2[c];
    int32_t code[c];
    for (int64_t i = 0; i < n * ph * pw; i++) {
        const int64_t from = ((i / pw / ph * h + i / pw % ph * 2) * w + i % pw * 2) * c;
        for (int32_t d = 0; d < 4; d++) {
            const REAL *v1 = y1 + from + next[d], *v2 = y2 + from + next[d];
            for (int64_t k = 0; k < c; k++) {
                const REAL z = t[k] + k1[k] * (v1[k] - m1[k]) + k2[k] * (v2[k] - m2[k]);
                const int32_t better = d == 0 || z > best[k];
                best[k] = better ? z : best[k];
                best1[k] = better ? v1[k] : best1[k];
                best2[k] = better ? v2[k] : best2[k];
                code[k] = better ? d : code[k];
            }
        }
        for (int64_t k = 0; k < c; k++) {
            a[i * c + k] = best[k] < 0 ? low * best[k] : best[k];
            p1[i * c + k] = best1[k];
            p2[i * c + k] = best2[k];
        }
        for (int64_t k = 0; k < c; k++) where[i * c + k] = (uint8_t)code[k];
    }
}

/* u = da act', over da, unless a is null: then da is u. dshift = sum u; centred = sum u (p - m), plus sum v (p_t - m_t)
   where a tangent is given. */
void NAMED(masked_sums)(
    REAL *restrict u, const REAL *restrict a, double slope, const REAL *restrict p, const REAL *restrict m,
    const REAL *restrict v, const REAL *restrict p_t, const REAL *restrict m_t, int64_t rows, int64_t c,
    double *restrict dshift, double *restrict centred)
{
    const int64_t chunk = 64;
    const REAL low = (REAL)slope;
    REAL shift[c], sum[c];
    for (int64_t k = 0; k < c; k++) dshift[k] = centred[k] = 0;
    for (int64_t start = 0; start < rows; start += chunk) {
        const int64_t end = start + chunk < rows ? start + chunk : rows;
        for (int64_t k = 0; k < c; k++) shift[k] = sum[k] = 0;
        for (int64_t at = start * c; at < end * c; at += c) {
            if (a)
                for (int64_t k = 0; k < c; k++) u[at + k] = a[at + k] > 0 ? u[at + k] : low * u[at + k];
            for (int64_t k = 0; k < c; k++) {
                shift[k] += u[at + k];
                sum[k] += u[at + k] * (p[at + k] - m[k]);
            }
        }
        if (v)
            for (int64_t at = start * c; at < end * c; at += c)
                for (int64_t k = 0; k < c; k++) sum[k] += v[at + k] * (p_t[at + k] - m_t[k]);
        for (int64_t k = 0; k < c; k++) {
            dshift[k] += shift[k];
            centred[k] += sum[k];
        }
    }
}

/* dy = b + c1 y, plus k1 u at the pooled positions; dy may be y. */
void NAMED(spread)(
    const REAL *y, const REAL *restrict u, const uint8_t *restrict where, const REAL *restrict b,
    const REAL *restrict c1, const REAL *restrict k1, int64_t n, int64_t h, int64_t w, int64_t c, REAL *dy)
{
    const int64_t ph = h / 2, pw = w / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++) {
                const int64_t at = ((i * h + r) * w + q) * c;
                if (!where) {
#pragma GCC ivdep
                    for (int64_t k = 0; k < c; k++) dy[at + k] = b[k] + c1[k] * y[at + k] + k1[k] * u[at + k];
                    continue;
                }
                if (r / 2 >= ph || q / 2 >= pw) {
#pragma GCC ivdep
                    for (int64_t k = 0; k < c; k++) dy[at + k] = b[k] + c1[k] * y[at + k];
                    continue;
                }
                const int64_t from = ((i * ph + r / 2) * pw + q / 2) * c;
                const uint8_t here = 2 * (r & 1) + (q & 1);
                int64_t k = 0;
                for (; k + LANES <= c; k += LANES) {
                    const vec added = either(codes_at(where + from + k) == here, load(k1 + k) * load(u + from + k), (vec){0});
                    store(dy + at + k, load(b + k) + load(c1 + k) * load(y + at + k) + added);
                }
                for (; k < c; k++)
                    dy[at + k] = b[k] + c1[k] * y[at + k] + (where[from + k] == here ? k1[k] * u[from + k] : 0);
            }
}

/* total = sum y_t; crossed = sum (y - m) y_t; taken = y_t at the pooled positions. */
void NAMED(tangent_statistics)(
    const REAL *restrict y, const REAL *restrict y_t, const uint8_t *restrict where, const REAL *restrict m,
    int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict taken, double *restrict total,
    double *restrict crossed)
{
    const int64_t ph = h / 2, pw = w / 2;
    REAL sum[c], cross[c];
    for (int64_t k = 0; k < c; k++) total[k] = crossed[k] = 0;
    for (int64_t i = 0; i < n; i++) {
        const REAL *image = y + i * h * w * c, *image_t = y_t + i * h * w * c;
        for (int64_t r = 0; r < h; r++) {
            for (int64_t k = 0; k < c; k++) sum[k] = cross[k] = 0;
            for (int64_t q = 0; q < w; q++)
                for (int64_t k = 0; k < c; k++) {
                    const REAL value = image_t[(r * w + q) * c + k];
                    sum[k] += value;
                    cross[k] += (image[(r * w + q) * c + k] - m[k]) * value;
                }
            for (int64_t k = 0; k < c; k++) {
                total[k] += sum[k];
                crossed[k] += cross[k];
            }
        }
        for (int64_t r = 0; where && r < ph; r++)
            for (int64_t q = 0; q < pw; q++) {
                const REAL *p = image_t + (2 * r * w + 2 * q) * c;
                const int64_t to = ((i * ph + r) * pw + q) * c;
                for (int64_t k = 0; k < c; k++) {
                    const REAL top = where[to + k] & 1 ? p[c + k] : p[k];
                    const REAL bottom = where[to + k] & 1 ? p[(w + 1) * c + k] : p[w * c + k];
                    taken[to + k] = where[to + k] & 2 ? bottom : top;
                }
            }
    }
}

/* a_t = act' (t_t + the sum of k (p - m) over two terms, or four where p3 is not null). */
void NAMED(normalise_tangent)(
    const REAL *restrict p1, const REAL *restrict m1, const REAL *restrict k1, const REAL *restrict p2,
    const REAL *restrict m2, const REAL *restrict k2, const REAL *restrict p3, const REAL *restrict m3,
    const REAL *restrict k3, const REAL *restrict p4, const REAL *restrict m4, const REAL *restrict k4,
    const REAL *restrict t_t, const REAL *restrict a, double slope, int64_t rows, int64_t c, REAL *restrict a_t)
{
    const REAL low = (REAL)slope;
    for (int64_t at = 0; at < rows * c; at += c) {
        if (p3)
            for (int64_t k = 0; k < c; k++)
                a_t[at + k] = t_t[k] + k3[k] * (p3[at + k] - m3[k]) + k4[k] * (p4[at + k] - m4[k]);
        for (int64_t k = 0; k < c; k++) {
            const REAL rest = p3 ? a_t[at + k] : t_t[k];
            const REAL z_t = rest + k1[k] * (p1[at + k] - m1[k]) + k2[k] * (p2[at + k] - m2[k]);
            a_t[at + k] = a[at + k] > 0 ? z_t : low * z_t;
        }
    }
}

/* dy_t = b_t + c_t y + c1 y_t, plus k_t u + k1 u_t at the pooled positions. */
void NAMED(spread_tangent)(
    const REAL *restrict y, const REAL *restrict y_t, const REAL *restrict u, const REAL *restrict u_t,
    const uint8_t *restrict where, const REAL *restrict b_t, const REAL *restrict c_t, const REAL *restrict c1,
    const REAL *restrict k_t, const REAL *restrict k1, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict dy_t)
{
    const int64_t ph = h / 2, pw = w / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++) {
                const int64_t at = ((i * h + r) * w + q) * c;
                if (!where) {
                    for (int64_t k = 0; k < c; k++)
                        dy_t[at + k] = b_t[k] + c_t[k] * y[at + k] + c1[k] * y_t[at + k] + k_t[k] * u[at + k]
                            + k1[k] * u_t[at + k];
                    continue;
                }
                if (r / 2 >= ph || q / 2 >= pw) {
                    for (int64_t k = 0; k < c; k++)
                        dy_t[at + k] = b_t[k] + c_t[k] * y[at + k] + c1[k] * y_t[at + k];
                    continue;
                }
                const int64_t from = ((i * ph + r / 2) * pw + q / 2) * c;
                const uint8_t here = 2 * (r & 1) + (q & 1);
                int64_t k = 0;
                for (; k + LANES <= c; k += LANES) {
                    const vec added = load(k_t + k) * load(u + from + k) + load(k1 + k) * load(u_t + from + k);
                    const vec dense = load(b_t + k) + load(c_t + k) * load(y + at + k) + load(c1 + k) * load(y_t + at + k);
                    store(dy_t + at + k, dense + either(codes_at(where + from + k) == here, added, (vec){0}));
                }
                for (; k < c; k++)
                    dy_t[at + k] = b_t[k] + c_t[k] * y[at + k] + c1[k] * y_t[at + k]
                        + (where[from + k] == here ? k_t[k] * u[from + k] + k1[k] * u_t[from + k] : 0);
            }
}

