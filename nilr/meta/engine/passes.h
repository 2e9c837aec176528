/* The passes of passes.c that layer.c puts together. */

#include "vectors.h"

void NAMED(pool_statistics)(
    const REAL *restrict y, const REAL *restrict scale, int64_t first, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict pooled, uint8_t *restrict where, double *restrict mean, double *restrict centred);

void NAMED(normalise)(
    const REAL *restrict p1, const REAL *restrict m1, const REAL *restrict k1, const REAL *restrict p2,
    const REAL *restrict m2, const REAL *restrict k2, const REAL *restrict t, double slope, int64_t rows, int64_t c,
    REAL *restrict a);

void NAMED(masked_sums)(
    REAL *restrict u, const REAL *restrict a, double slope, const REAL *restrict p, const REAL *restrict m,
    const REAL *restrict v, const REAL *restrict p_t, const REAL *restrict m_t, int64_t rows, int64_t c,
    double *restrict dshift, double *restrict centred);

void NAMED(spread)(
    const REAL *y, const REAL *restrict u, const uint8_t *restrict where, const REAL *restrict b,
    const REAL *restrict c1, const REAL *restrict k1, int64_t n, int64_t h, int64_t w, int64_t c, REAL *dy);

void NAMED(tangent_statistics)(
    const REAL *restrict y, const REAL *restrict y_t, const uint8_t *restrict where, const REAL *restrict m,
    int64_t n, int64_t h, int64_t w, int64_t c, REAL *restrict taken, double *restrict total,
    double *restrict crossed);

void NAMED(normalise_tangent)(
    const REAL *restrict p1, const REAL *restrict m1, const REAL *restrict k1, const REAL *restrict p2,
    const REAL *restrict m2, const REAL *restrict k2, const REAL *restrict p3, const REAL *restrict m3,
    const REAL *restrict k3, const REAL *restrict p4, const REAL *restrict m4, const REAL *restrict k4,
    const REAL *restrict t_t, const REAL *restrict a, double slope, int64_t rows, int64_t c, REAL *restrict a_t);

void NAMED(spread_tangent)(
    const REAL *restrict y, const REAL *restrict y_t, const REAL *restrict u, const REAL *restrict u_t,
    const uint8_t *restrict where, const REAL *restrict b_t, const REAL *restrict c_t, const REAL *restrict c1,
    const REAL *restrict k_t, const REAL *restrict k1, int64_t n, int64_t h, int64_t w, int64_t c,
    REAL *restrict dy_t);
