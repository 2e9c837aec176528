/* The kernels of images.c for processors with AVX-512, in float: 16 channels per vector.

   A 4x4 window of one pixel channel fills one vector, and holds all four 3x3 patches that the window's pooled value may
   have come from; so one permutation gives each channel the pixel of its own patch. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(NILR_PLAIN)

#include <immintrin.h>

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512dq")))
#define TAPS 27
#define PIXELS 3
#define LANES 16
#define TILE 2 /* pooled positions whose 8 convolution outputs are computed together, for two vectors of channels */

int64_t nilr_fast_images(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

INLINE __mmask16 lanes(int64_t from, int64_t c)
{
    const int64_t left = c - from;
    return left >= LANES ? 0xFFFF : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

INLINE __m512 get(__mmask16 of, const float *from) { return _mm512_maskz_loadu_ps(of, from); }

/* Rows of one image and channel, each with a zero before and after it, under a row of zeros and above another. */
static void pad(const float *image, int64_t h, int64_t w, float *plane)
{
    for (int64_t r = 0; r < h; r++) {
        const float *from = image + r * w * PIXELS;
        float *red = plane + (r + 1) * (w + 2) + 1, *green = red + (h + 2) * (w + 2), *blue = green + (h + 2) * (w + 2);
        for (int64_t q = 0; q < w; q++) {
            red[q] = from[q * PIXELS];
            green[q] = from[q * PIXELS + 1];
            blue[q] = from[q * PIXELS + 2];
        }
    }
}

/* Pool four outputs by sign * y, normalise, and store. */
INLINE void pool_and_store(
    const __m512 *y, __m512 flip, __m512 m, __m512 rstd, __m512 s, __m512 t, __mmask16 of, float *hat, float *a,
    uint8_t *where)
{
    const __m512 y0 = _mm512_xor_ps(y[0], flip), y1 = _mm512_xor_ps(y[1], flip);
    const __m512 y2 = _mm512_xor_ps(y[2], flip), y3 = _mm512_xor_ps(y[3], flip);
    /* the first operand only where it is larger, so ties and NaN stay with the earlier position */
    const __m512 best = _mm512_max_ps(_mm512_max_ps(y3, y2), _mm512_max_ps(y1, y0));
    __m512i code = _mm512_set1_epi32(3);
    code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(y2, best, _CMP_EQ_OQ), _mm512_set1_epi32(2));
    code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(y1, best, _CMP_EQ_OQ), _mm512_set1_epi32(1));
    code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask(y0, best, _CMP_EQ_OQ), _mm512_setzero_si512());
    const __m512 value = _mm512_mul_ps(_mm512_sub_ps(_mm512_xor_ps(best, flip), m), rstd);
    const __m512 z = _mm512_fmadd_ps(s, value, t);
    _mm512_mask_storeu_ps(a, of, _mm512_max_ps(_mm512_setzero_ps(), z)); /* NaN stays NaN */
    if (!hat) return;
    _mm512_mask_storeu_ps(hat, of, value);
    _mm_mask_storeu_epi8(where, of, _mm512_cvtepi32_epi8(code));
}

FAST void image_forward_avx512(
    const float *restrict x, const float *restrict weight, const float *restrict m, const float *restrict rstd,
    const float *restrict s, const float *restrict t, int64_t n, int64_t h, int64_t w, int64_t c,
    float *restrict plane, float *restrict hat, float *restrict a, uint8_t *restrict where)
{
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2;
    memset(plane, 0, sizeof(float) * PIXELS * (h + 2) * stride);
    for (int64_t image = 0; image < n; image++) {
        pad(x + image * h * w * PIXELS, h, w, plane);
        for (int64_t k = 0; k < c; k += 2 * LANES) {
            const __mmask16 of[2] = {lanes(k, c), lanes(k + LANES, c)};
            __m512 taps[TAPS][2], flip[2];
            for (int tap = 0; tap < TAPS; tap++)
                for (int v = 0; v < 2; v++) taps[tap][v] = get(of[v], weight + tap * c + k + v * LANES);
            for (int v = 0; v < 2; v++)
                flip[v] = _mm512_and_ps(get(of[v], s + k + v * LANES), _mm512_set1_ps(-0.0f));
            for (int64_t r = 0; r < ph; r++)
                for (int64_t q0 = 0; q0 < pw; q0 += TILE) {
                    const int64_t q = q0 + TILE <= pw ? q0 : pw - TILE; /* the last tile may overlap the one before */
                    __m512 y[TILE][2][4];
#pragma GCC unroll 2
                    for (int p = 0; p < TILE; p++)
#pragma GCC unroll 2
                        for (int v = 0; v < 2; v++)
#pragma GCC unroll 4
                            for (int d = 0; d < 4; d++) y[p][v][d] = _mm512_setzero_ps();
                    const float *at = plane + 2 * r * stride + 2 * q;
                    const __m512(*tap)[2] = (const __m512(*)[2])taps;
                    for (int i = 0; i < PIXELS; i++)
                        for (int row = 0; row < 3; row++)
#pragma GCC unroll 1
                            for (int column = 0; column < 3; column++, tap++) {
                                const float *from = at + (i * (h + 2) + row) * stride + column;
                                const __m512 w0 = (*tap)[0], w1 = (*tap)[1];
#pragma GCC unroll 2
                                for (int p = 0; p < TILE; p++)
#pragma GCC unroll 4
                                    for (int d = 0; d < 4; d++) {
                                        const __m512 pixel = _mm512_set1_ps(from[d / 2 * stride + 2 * p + d % 2]);
                                        y[p][0][d] = _mm512_fmadd_ps(pixel, w0, y[p][0][d]);
                                        y[p][1][d] = _mm512_fmadd_ps(pixel, w1, y[p][1][d]);
                                    }
                            }
#pragma GCC unroll 2
                    for (int p = 0; p < TILE; p++)
#pragma GCC unroll 2
                        for (int v = 0; v < 2; v++) {
                            const int64_t to = ((image * ph + r) * pw + q + p) * c + k + v * LANES;
                            const int64_t from = k + v * LANES;
                            pool_and_store(
                                y[p][v], flip[v], get(of[v], m + from), get(of[v], rstd + from), get(of[v], s + from),
                                get(of[v], t + from), of[v], hat ? hat + to : 0, a + to, where + to);
                        }
                }
        }
    }
}

/* Where s h + t > 0, rounded as in the forward pass. */
INLINE __mmask16 positive(__m512 h, __m512 s, __m512 t)
{
    return _mm512_cmp_ps_mask(_mm512_fmadd_ps(s, h, t), _mm512_setzero_ps(), _CMP_GT_OQ);
}

/* Add floats to doubles. */
INLINE void add(__mmask16 of, double *to, __m512 value)
{
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(value));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1));
    const __mmask8 first = (__mmask8)of, second = (__mmask8)(of >> 8);
    _mm512_mask_storeu_pd(to, first, _mm512_add_pd(_mm512_maskz_loadu_pd(first, to), low));
    _mm512_mask_storeu_pd(to + 8, second, _mm512_add_pd(_mm512_maskz_loadu_pd(second, to + 8), high));
}

/* Prefetch a row of both planes and of `where`: its halves are read in turn, which hardware does not predict. */
INLINE void fetch_row(const float *da, const float *hat, const uint8_t *where, int64_t size)
{
    for (int64_t i = 0; i < size; i += 64 / sizeof(float)) {
        _mm_prefetch((const char *)(da + i), _MM_HINT_T0);
        _mm_prefetch((const char *)(hat + i), _MM_HINT_T0);
    }
    for (int64_t i = 0; i < size; i += 64) _mm_prefetch((const char *)(where + i), _MM_HINT_T0);
}

/* The 4x4 window of one pixel channel whose top left corner is given. */
INLINE __m512 window(const float *from, int64_t stride)
{
    const __m256 top = _mm256_loadu2_m128(from + stride, from);
    const __m256 bottom = _mm256_loadu2_m128(from + 3 * stride, from + 2 * stride);
    return _mm512_insertf32x8(_mm512_castps256_ps512(top), bottom, 1);
}

/* Where in the window each channel's patch begins: 0, 1, 4 or 5. */
INLINE __m512i patch(__mmask16 of, const uint8_t *where)
{
    const __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(of, where));
    const __m512i row = _mm512_srli_epi32(code, 1);
    return _mm512_add_epi32(code, _mm512_slli_epi32(row, 1)); /* 2 row + column + 2 row */
}

INLINE __m512i shifted(__m512i patch, int tap) { return _mm512_add_epi32(patch, _mm512_set1_epi32(tap / 3 * 4 + tap % 3)); }

FAST void image_backward_avx512(
    const float *restrict x, const float *restrict da, const float *restrict hat, const uint8_t *restrict where,
    const float *restrict s, const float *restrict t, const float *restrict v, const float *restrict hat_t, int64_t n, int64_t h,
    int64_t w, int64_t c, float *restrict plane, float *restrict u, double *restrict dshift, double *restrict dscale,
    double *restrict taps)
{
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2;
    memset(plane, 0, sizeof(float) * PIXELS * (h + 2) * stride);
    memset(dshift, 0, sizeof(double) * c);
    memset(dscale, 0, sizeof(double) * c);
    memset(taps, 0, sizeof(double) * TAPS * c);
    for (int64_t image = 0; image < n; image++) {
        pad(x + image * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++) {
            const int64_t row = (image * ph + r) * pw * c;
            if (image * ph + r + 1 < n * ph) fetch_row(da + row + pw * c, hat + row + pw * c, where + row + pw * c, pw * c);
            for (int64_t k = 0; k < c; k += LANES) {
                const __mmask16 of = lanes(k, c);
                const __m512 scale_k = get(of, s + k), shift_k = get(of, t + k);
                __m512 sum[TAPS], shift = _mm512_setzero_ps(), scale = _mm512_setzero_ps();
#pragma GCC unroll 27
                for (int tap = 0; tap < TAPS; tap++) sum[tap] = _mm512_setzero_ps();
                for (int64_t q = 0; q < pw; q++) {
                    const int64_t at = row + q * c + k;
                    const __m512 old = get(of, hat + at);
                    const __m512 value = _mm512_maskz_mov_ps(positive(old, scale_k, shift_k), get(of, da + at));
                    if (u) _mm512_mask_storeu_ps(u + at, of, value);
                    shift = _mm512_add_ps(shift, value);
                    scale = _mm512_fmadd_ps(value, old, scale);
                    if (v) scale = _mm512_fmadd_ps(get(of, v + at), get(of, hat_t + at), scale);
                    const __m512i begin = patch(of, where + at);
                    const float *corner = plane + 2 * r * stride + 2 * q;
                    const __m512 red = window(corner, stride), green = window(corner + (h + 2) * stride, stride);
                    const __m512 blue = window(corner + 2 * (h + 2) * stride, stride);
#pragma GCC unroll 9
                    for (int tap = 0; tap < 9; tap++) {
                        const __m512i from = shifted(begin, tap);
                        sum[tap] = _mm512_fmadd_ps(value, _mm512_permutexvar_ps(from, red), sum[tap]);
                        sum[9 + tap] = _mm512_fmadd_ps(value, _mm512_permutexvar_ps(from, green), sum[9 + tap]);
                        sum[18 + tap] = _mm512_fmadd_ps(value, _mm512_permutexvar_ps(from, blue), sum[18 + tap]);
                    }
                }
#pragma GCC unroll 27
                for (int tap = 0; tap < TAPS; tap++) add(of, taps + tap * c + k, sum[tap]);
                add(of, dshift + k, shift);
                add(of, dscale + k, scale);
            }
        }
    }
}

FAST void image_tangent_avx512(
    const float *restrict x, const float *restrict weight_t, const float *restrict hat,
    const uint8_t *restrict where, const float *restrict rstd, const float *restrict m_t, const float *restrict q,
    const float *restrict s, const float *restrict t, const float *restrict s_t, const float *restrict t_t, int64_t n,
    int64_t h, int64_t w, int64_t c, float *restrict plane, float *restrict hat_t, float *restrict a_t)
{
    const int64_t ph = h / 2, pw = w / 2, stride = w + 2;
    memset(plane, 0, sizeof(float) * PIXELS * (h + 2) * stride);
    for (int64_t image = 0; image < n; image++) {
        pad(x + image * h * w * PIXELS, h, w, plane);
        for (int64_t r = 0; r < ph; r++) {
            for (int64_t k = 0; k < c; k += LANES) {
                const __mmask16 of = lanes(k, c);
                __m512 taps[TAPS];
                for (int tap = 0; tap < TAPS; tap++) taps[tap] = get(of, weight_t + tap * c + k);
                for (int64_t column = 0; column < pw; column++) {
                    const int64_t at = ((image * ph + r) * pw + column) * c + k;
                    const __m512i begin = patch(of, where + at);
                    const float *corner = plane + 2 * r * stride + 2 * column;
                    const __m512 red = window(corner, stride), green = window(corner + (h + 2) * stride, stride);
                    const __m512 blue = window(corner + 2 * (h + 2) * stride, stride);
                    __m512 y0 = _mm512_setzero_ps(), y1 = y0, y2 = y0;
#pragma GCC unroll 9
                    for (int tap = 0; tap < 9; tap++) {
                        const __m512i from = shifted(begin, tap);
                        y0 = _mm512_fmadd_ps(taps[tap], _mm512_permutexvar_ps(from, red), y0);
                        y1 = _mm512_fmadd_ps(taps[9 + tap], _mm512_permutexvar_ps(from, green), y1);
                        y2 = _mm512_fmadd_ps(taps[18 + tap], _mm512_permutexvar_ps(from, blue), y2);
                    }
                    const __m512 old = get(of, hat + at);
                    const __m512 y_t = _mm512_add_ps(_mm512_add_ps(y0, y1), _mm512_sub_ps(y2, get(of, m_t + k)));
                    const __m512 value = _mm512_mul_ps(get(of, rstd + k), _mm512_fnmadd_ps(old, get(of, q + k), y_t));
                    const __m512 z = _mm512_fmadd_ps(get(of, s_t + k), old, get(of, t_t + k));
                    const __mmask16 on = positive(old, get(of, s + k), get(of, t + k));
                    _mm512_mask_storeu_ps(hat_t + at, of, value);
                    _mm512_mask_storeu_ps(a_t + at, of, _mm512_maskz_fmadd_ps(on, get(of, s + k), value, z));
                }
            }
        }
    }
}

#else

int64_t nilr_fast_images(void) { return 0; }

#endif
