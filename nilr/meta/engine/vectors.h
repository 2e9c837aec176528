/* What every kernel file needs. Each file is compiled once for every dtype (REAL) and instruction set; SUFFIX names the
   combination, such as f32_avx2. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define JOINED(a, b) a##_##b
#define JOIN(a, b) JOINED(a, b)
#define NAMED(name) JOIN(name, SUFFIX)

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 12 /* of a product that are computed together: two vectors of each fit into the registers */
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define ROWS 6
#else
#define VECTOR_BYTES 16
#define ROWS 6
#endif

#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))

/* Kernels use several cores if the calling thread allows it (`use_cores`) and the compiler has OpenMP. The images, or
   the rows, of a plane are in PARTS parts, and a sum is that of the parts in order, so no number depends on the cores.
   Every core has a working memory of its own. */
extern _Thread_local int NAMED(cores);
#define PARALLEL _Pragma("omp parallel for num_threads(cores) schedule(static, 1)")
#define PARTS 16

INLINE int64_t start_of(int64_t part, int64_t n) { return n * part / PARTS; }

/* The sum of n numbers of every part goes to the first. */
INLINE void add_parts(double *parts, int64_t n)
{
    for (int64_t part = 1; part < PARTS; part++)
        for (int64_t i = 0; i < n; i++) parts[i] += parts[part * n + i];
}

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

INLINE vec load(const REAL *from) { return *(const unaligned_vec *)from; }
INLINE void store(REAL *to, vec value) { *(unaligned_vec *)to = value; }

typedef __typeof__((vec){0} < (vec){0}) mask;
typedef uint8_t codes __attribute__((vector_size(VECTOR_BYTES / sizeof(REAL))));

INLINE vec either(mask first, vec a, vec b) { return (vec)((first & (mask)a) | (~first & (mask)b)); }

/* The positions in their windows that pooled values came from, as bytes in memory. Compilers would convert a vector's
   elements one by one. */
INLINE mask codes_at(const uint8_t *where)
{
#if defined(__AVX512F__)
    if (sizeof(REAL) == 4) return (mask)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)where));
    return (mask)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)where));
#elif defined(__AVX2__)
    if (sizeof(REAL) == 4) return (mask)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)where));
#endif
    codes bytes;
    memcpy(&bytes, where, sizeof bytes);
    return __builtin_convertvector(bytes, mask);
}

INLINE void store_codes(uint8_t *where, mask code)
{
#if defined(__AVX512F__)
    if (sizeof(REAL) == 4) _mm_storeu_si128((__m128i *)where, _mm512_cvtepi32_epi8((__m512i)code));
    else _mm_storel_epi64((__m128i *)where, _mm512_cvtepi64_epi8((__m512i)code));
    return;
#elif defined(__AVX2__)
    if (sizeof(REAL) == 4) {
        const __m256i wide = (__m256i)code;
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storel_epi64((__m128i *)where, _mm_packus_epi16(words, words));
        return;
    }
#endif
    const codes bytes = __builtin_convertvector(code, codes);
    memcpy(where, &bytes, sizeof bytes);
}
