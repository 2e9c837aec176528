/* The passes over memory of the Conv4 block for which torch has no single operation, for one thread.

   Arrays are channels-last: full planes (n, H, W, C), pooled planes (n, H/2, W/2, C), channels (C). `where` holds for
   each pooled value which of its window's four positions it came from: 0 1 / 2 3. The formulas stand in conv_block.py;
   the names here are the same. images.c has those of the first block. Loops run over channels innermost, so the compiler turns them into vectors; sums go
   through a row in REAL and from row to row in double.

   The file includes itself, once for float and once for double. */

#ifndef REAL

#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(NILR_PLAIN)
#define NILR_KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NILR_KERNEL
#endif

/* Increase it with every change of a kernel's arguments or meaning; native.py must have the same number. */
const int64_t nilr_kernels_version = 3;

#define REAL float
#define NAMED(name) name##_f32
#include "kernels.c"
#undef REAL
#undef NAMED
#define REAL double
#define NAMED(name) name##_f64
#include "kernels.c"

#else

/* pooled: the y whose sign * y is largest in its window. total: sum of y; centred: sum of (y - mean)^2 by Chan's rule. */
NILR_KERNEL void NAMED(pool_statistics)(
    const REAL *restrict y, const REAL *restrict scale, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict pooled, uint8_t *restrict where, double *restrict mean, double *restrict centred)
{
    const int64_t ph = h / 2, pw = w / 2, positions = h * w;
    double image_mean[c], image_centred[c];
    REAL m[c], row[c], sign[c];
    int32_t code[c];
    for (int64_t k = 0; k < c; k++) {
        mean[k] = centred[k] = 0;
        sign[k] = scale[k] < 0 ? -1 : 1;
    }
    for (int64_t i = 0; i < n; i++) {
        const REAL *image = y + i * positions * c;
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
        for (int64_t r = 0; r < ph; r++)
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

/* h = (pooled - m) r, in place; a = relu(s h + t). */
NILR_KERNEL void NAMED(normalise)(
    REAL *restrict pooled, const REAL *restrict m, const REAL *restrict r, const REAL *restrict s,
    const REAL *restrict t, int64_t rows, int64_t c, REAL *restrict a)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < c; k++) {
            const REAL h = (pooled[i * c + k] - m[k]) * r[k], z = s[k] * h + t[k];
            pooled[i * c + k] = h;
            a[i * c + k] = z < 0 ? 0 : z; /* NaN stays NaN */
        }
}

/* u = da where a > 0; dshift = sum u; dscale = sum u h, plus sum v h_t where a tangent is given. */
NILR_KERNEL void NAMED(masked_sums)(
    const REAL *restrict da, const REAL *restrict a, const REAL *restrict h, const REAL *restrict v,
    const REAL *restrict h_t, int64_t rows, int64_t c, REAL *restrict u, double *restrict dshift,
    double *restrict dscale)
{
    const int64_t chunk = 64;
    REAL shift[c], scale[c];
    for (int64_t k = 0; k < c; k++) dshift[k] = dscale[k] = 0;
    for (int64_t start = 0; start < rows; start += chunk) {
        const int64_t end = start + chunk < rows ? start + chunk : rows;
        for (int64_t k = 0; k < c; k++) shift[k] = scale[k] = 0;
        for (int64_t i = start; i < end; i++)
            for (int64_t k = 0; k < c; k++) {
                const REAL value = a[i * c + k] > 0 ? da[i * c + k] : 0;
                u[i * c + k] = value;
                shift[k] += value;
                scale[k] += value * h[i * c + k];
            }
        if (v)
            for (int64_t i = start; i < end; i++)
                for (int64_t k = 0; k < c; k++) scale[k] += v[i * c + k] * h_t[i * c + k];
        for (int64_t k = 0; k < c; k++) {
            dshift[k] += shift[k];
            dscale[k] += scale[k];
        }
    }
}

/* dy = b + c1 y, plus k1 u at the pooled positions; dy may be y. */
NILR_KERNEL void NAMED(spread)(
    const REAL *y, const REAL *restrict u, const uint8_t *restrict where, const REAL *restrict b,
    const REAL *restrict c1, const REAL *restrict k1, int64_t n, int64_t h, int64_t w, int64_t c, REAL *dy)
{
    const int64_t ph = h / 2, pw = w / 2;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < h; r++)
            for (int64_t q = 0; q < w; q++) {
                const int64_t at = ((i * h + r) * w + q) * c;
                if (r / 2 >= ph || q / 2 >= pw) {
#pragma GCC ivdep
                    for (int64_t k = 0; k < c; k++) dy[at + k] = b[k] + c1[k] * y[at + k];
                    continue;
                }
                const int64_t from = ((i * ph + r / 2) * pw + q / 2) * c;
                const uint8_t here = 2 * (r & 1) + (q & 1);
#pragma GCC ivdep
                for (int64_t k = 0; k < c; k++)
                    dy[at + k] = b[k] + c1[k] * y[at + k] + (where[from + k] == here ? k1[k] * u[from + k] : 0);
            }
}

/* total = sum y_t; crossed = sum (y - m) y_t; taken = y_t at the pooled positions. */
NILR_KERNEL void NAMED(tangent_statistics)(
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
        for (int64_t r = 0; r < ph; r++)
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

/* h_t = r (taken - m_t - h q), overwrites taken; a_t = s_t h + s h_t + t_t where a > 0. */
NILR_KERNEL void NAMED(normalise_tangent)(
    REAL *restrict taken, const REAL *restrict h, const REAL *restrict a, const REAL *restrict r,
    const REAL *restrict m_t, const REAL *restrict q, const REAL *restrict s, const REAL *restrict s_t,
    const REAL *restrict t_t, int64_t rows, int64_t c, REAL *restrict a_t)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < c; k++) {
            const int64_t at = i * c + k;
            const REAL h_t = (taken[at] - m_t[k] - h[at] * q[k]) * r[k];
            taken[at] = h_t;
            a_t[at] = a[at] > 0 ? s_t[k] * h[at] + s[k] * h_t + t_t[k] : 0;
        }
}

/* dy_t = b_t + c_t y + c1 y_t, plus k_t u + k1 u_t at the pooled positions. */
NILR_KERNEL void NAMED(spread_tangent)(
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
                if (r / 2 >= ph || q / 2 >= pw) {
                    for (int64_t k = 0; k < c; k++)
                        dy_t[at + k] = b_t[k] + c_t[k] * y[at + k] + c1[k] * y_t[at + k];
                    continue;
                }
                const int64_t from = ((i * ph + r / 2) * pw + q / 2) * c;
                const uint8_t here = 2 * (r & 1) + (q & 1);
                for (int64_t k = 0; k < c; k++)
                    dy_t[at + k] = b_t[k] + c_t[k] * y[at + k] + c1[k] * y_t[at + k]
                        + (where[from + k] == here ? k_t[k] * u[from + k] + k1[k] * u_t[from + k] : 0);
            }
}

#endif
