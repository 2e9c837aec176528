/* The moments of images' 3x3 patches, from which the first block's statistics follow: image_block.py has the formulas.

   A patch is the (27) pixels under a convolution's weight, 9 * pixel channel + 3 * row + column. The sum of the product
   of two of its elements is that of rows with rows, shifted, less what lies outside of the image. */

#include "vectors.h"

#define TAPS 27
#define PIXELS 3

typedef double doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef double unaligned_doubles __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
#define AT_ONCE ((int64_t)(VECTOR_BYTES / sizeof(double)))

/* Sums of a product over all columns (of every AT_ONCE-th column from each on), over the first and over the last:
   [row shift][channel][channel][column shift]. */
typedef struct {
    doubles all[3][PIXELS][PIXELS][5];
    double first[3][PIXELS][PIXELS][5], last[3][PIXELS][PIXELS][5];
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

/* Add the products of a row of a channel with rows of `channels` channels, `of_channel` apart. */
INLINE void add_channels(
    const int channels, const double *a, const double *b, int64_t of_channel, int64_t w, doubles (*all)[5],
    double (*first)[5], double (*last)[5])
{
    doubles sum[PIXELS][5];
#pragma GCC unroll 15
    for (int e = 0; e < 5 * channels; e++) sum[e / 5][e % 5] = all[e / 5][e % 5];
    for (int64_t q = 0; q < w; q += AT_ONCE)
#pragma GCC unroll 15
        for (int e = 0; e < 5 * channels; e++)
            sum[e / 5][e % 5] += doubles_at(a + q + 2) * doubles_at(b + e / 5 * of_channel + q + e % 5);
#pragma GCC unroll 15
    for (int e = 0; e < 5 * channels; e++) {
        const double *other = b + e / 5 * of_channel + e % 5;
        all[e / 5][e % 5] = sum[e / 5][e % 5];
        first[e / 5][e % 5] += a[2] * other[0];
        last[e / 5][e % 5] += a[w + 1] * other[w - 1];
    }
}

/* Add the products of row r with itself (shift 0) and with those of the `below` - 1 rows after it. The sums of two
   channels fit into the registers. */
INLINE void add_row(products *to, const double *plane, int64_t rows, int64_t stride, int64_t w, int64_t r, int below)
{
    const int64_t of_channel = rows * stride;
    for (int dy = 0; dy < below; dy++)
        for (int i = 0; i < PIXELS; i++) {
            const double *a = plane + i * of_channel + r * stride, *b = plane + (r + dy) * stride;
            add_channels(2, a, b, of_channel, w, to->all[dy][i], to->first[dy][i], to->last[dy][i]);
            add_channels(
                1, a, b + 2 * of_channel, of_channel, w, to->all[dy][i] + 2, to->first[dy][i] + 2, to->last[dy][i] + 2);
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
    return sum_of(p->all[dy][i][j][d]) - (kx == 0 ? p->last[dy][i][j][d] : 0) - (kx == 2 ? p->first[dy][i][j][d] : 0);
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
