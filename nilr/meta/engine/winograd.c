/* 3x3 convolutions with padding 1 by Winograd's F(4x4, 3x3), for channels-last planes.

   A tile is 4x4 outputs of one image; it reads a window of 6x6 inputs. With points 0, +-a, +-b, infinity, a = sqrt(1/2)
   and b = sqrt(2) (their float32 error is half that of 0, +-1, +-2), and for all channels at once:

       y  = A' [(G w G') * (B' x B)] A          the product * is elementwise; channels in are summed
       dw = G' [(A dy A') * (B' x B)] G         summed over tiles

   so each of the 36 points is one matrix product, of (tiles, in) with (in, out), or (out, tiles) with (tiles, in). The
   gradient in x is the convolution of dy with the flipped and transposed weight.

            1   0   -5/2   0   1  0           1    0     0           1  1    1    1    1   0
            0  -2a   -2    a   1  0         -2/3 -2a/3 -1/3          0  a   -a    b   -b   0
       B' = 0   2a   -2   -a   1  0     G = -2/3  2a/3 -1/3     A' = 0  1/2  1/2  2    2   0
            0  -b/2 -1/2   b   1  0          1/6  b/6   1/3          0  a/2 -a/2  2b  -2b  1
            0   b/2 -1/2  -b   1  0          1/6 -b/6   1/3
            0   1    0   -5/2  0  1           0    0     1

   Sources: Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray (2016); Alam et al. (2022) on points.
   Planes are (n, h, w, c), weights (out, 3, 3, in). Channels are multiples of 16. */

#include "vectors.h"

#define SIDE 6
#define POINTS 36
#define PANEL (2 * LANES)
#define A ((REAL)0.70710678118654752440)
#define B ((REAL)1.41421356237309504880)
#define HALF ((REAL)0.5)
#define THIRD ((REAL)(1 / 3.0))
#define SIXTH ((REAL)(1 / 6.0))

/* The one-dimensional transforms; `from` and `to` are the distances of elements. */

INLINE void window_points(const vec *d, int from, vec *out, int to) /* B' d */
{
    const vec e1 = d[4 * from] - 2 * d[2 * from], o1 = A * (d[3 * from] - 2 * d[from]);
    const vec e2 = d[4 * from] - HALF * d[2 * from], o2 = B * (d[3 * from] - HALF * d[from]);
    out[0] = d[0] + d[4 * from] - (REAL)2.5 * d[2 * from];
    out[to] = e1 + o1;
    out[2 * to] = e1 - o1;
    out[3 * to] = e2 + o2;
    out[4 * to] = e2 - o2;
    out[5 * to] = d[from] + d[5 * from] - (REAL)2.5 * d[3 * from];
}

INLINE void tile_of(const vec *m, int from, vec *out, int to) /* A' m */
{
    const vec s1 = m[from] + m[2 * from], d1 = A * (m[from] - m[2 * from]);
    const vec s2 = m[3 * from] + m[4 * from], d2 = B * (m[3 * from] - m[4 * from]);
    out[0] = m[0] + s1 + s2;
    out[to] = d1 + d2;
    out[2 * to] = HALF * s1 + 2 * s2;
    out[3 * to] = HALF * d1 + 2 * d2 + m[5 * from];
}

INLINE void tile_points(const vec *d, int from, vec *out, int to) /* A d */
{
    const vec e1 = d[0] + HALF * d[2 * from], o1 = A * (d[from] + HALF * d[3 * from]);
    const vec e2 = d[0] + 2 * d[2 * from], o2 = B * (d[from] + 2 * d[3 * from]);
    out[0] = d[0];
    out[to] = e1 + o1;
    out[2 * to] = e1 - o1;
    out[3 * to] = e2 + o2;
    out[4 * to] = e2 - o2;
    out[5 * to] = d[3 * from];
}

INLINE void weight_points(const vec *w, int from, vec *out, int to) /* G w */
{
    const vec e1 = -2 * THIRD * w[0] - THIRD * w[2 * from], o1 = -2 * THIRD * A * w[from];
    const vec e2 = SIXTH * w[0] + THIRD * w[2 * from], o2 = SIXTH * B * w[from];
    out[0] = w[0];
    out[to] = e1 + o1;
    out[2 * to] = e1 - o1;
    out[3 * to] = e2 + o2;
    out[4 * to] = e2 - o2;
    out[5 * to] = w[2 * from];
}

INLINE void weight_of(const vec *s, int from, vec *out, int to) /* G' s */
{
    const vec s1 = s[from] + s[2 * from], d1 = s[from] - s[2 * from];
    const vec s2 = s[3 * from] + s[4 * from], d2 = s[3 * from] - s[4 * from];
    out[0] = s[0] - 2 * THIRD * s1 + SIXTH * s2;
    out[to] = SIXTH * B * d2 - 2 * THIRD * A * d1;
    out[2 * to] = THIRD * (s2 - s1) + s[5 * from];
}

/* c (rows, 1 or 2 vectors) = or += the sum over k of a b, with a[r, k] at r * a_row + k * a_k. */
INLINE void product_of_rows(
    const int rows, const int vectors, const int add, const REAL *a, int64_t a_row, int64_t a_k, const REAL *b,
    int64_t b_k, REAL *c, int64_t n, int64_t k)
{
    vec sum[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[r][v] = add ? load(c + r * n + v * LANES) : (vec){0};
    for (int64_t i = 0; i < k; i++) {
        const vec b0 = load(b + i * b_k), b1 = vectors > 1 ? load(b + i * b_k + LANES) : b0;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            sum[r][0] += a[r * a_row + i * a_k] * b0;
            if (vectors > 1) sum[r][1] += a[r * a_row + i * a_k] * b1;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) store(c + r * n + v * LANES, sum[r][v]);
}

/* c (m, n) = or += a (m, k) b (k, n). The columns of b are stored in panels of two vectors, which are `panel` apart;
   their rows are b_k apart. */
INLINE void product(
    const int add, const REAL *a, int64_t a_row, int64_t a_k, const REAL *b, int64_t b_k, int64_t panel, REAL *c,
    int64_t m, int64_t n, int64_t k)
{
    for (int64_t j = 0; j < n; j += PANEL, b += panel) {
        const int pair = j + LANES < n;
        for (int64_t r = 0; r < m;) {
            const REAL *of_a = a + r * a_row;
            REAL *to = c + r * n + j;
            if (pair && r + ROWS <= m) product_of_rows(ROWS, 2, add, of_a, a_row, a_k, b, b_k, to, n, k), r += ROWS;
            else if (pair && r + ROWS / 2 <= m)
                product_of_rows(ROWS / 2, 2, add, of_a, a_row, a_k, b, b_k, to, n, k), r += ROWS / 2;
            else if (pair) product_of_rows(1, 2, add, of_a, a_row, a_k, b, b_k, to, n, k), r++;
            else product_of_rows(1, 1, add, of_a, a_row, a_k, b, b_k, to, n, k), r++;
        }
    }
}

typedef struct {
    int64_t h, w, down, across; /* size of an image, and its tiles */
    int64_t all, block;         /* number of tiles of all images, and of a block */
    int64_t from, count;        /* the tiles of a block, numbered over all images */
} tiles;

/* The distance of points in a block's arrays (36, tiles, c); the addition keeps points out of each other's cache sets. */
INLINE int64_t distance(tiles t, int64_t c) { return t.block * c + 16; }

/* The addresses of the side x side pixels from `margin` before a tile; `outside` for those outside of the image. */
INLINE void addresses(const REAL **at, const REAL *plane, tiles t, int64_t tile, int64_t c, int side, int margin, const REAL *outside)
{
    const int64_t of_image = t.down * t.across, image = tile / of_image;
    const int64_t row = tile % of_image / t.across * 4 - margin, column = tile % t.across * 4 - margin;
    for (int64_t i = 0; i < side; i++)
        for (int64_t j = 0; j < side; j++) {
            const int inside = row + i >= 0 && row + i < t.h && column + j >= 0 && column + j < t.w;
            at[i * side + j] = inside ? plane + ((image * t.h + row + i) * t.w + column + j) * c : outside;
        }
}

/* Fetch the pixels of the next tile, whose addresses processors do not predict. */
INLINE void fetch_next(const REAL *const *at, int64_t c, int64_t k, int side)
{
    if (k * sizeof(REAL) % 64 == 0)
        for (int i = 0; i < side; i++)
            for (int j = side - 4; j < side; j++) __builtin_prefetch(at[i * side + j] + 4 * c + k);
}

/* out (36, tiles, c) = the points of the windows of x */
static void all_window_points(const REAL *x, tiles t, int64_t c, const REAL *zero, REAL *out)
{
    for (int64_t i = 0; i < t.count; i++) {
        const REAL *at[POINTS];
        addresses(at, x, t, t.from + i, c, SIDE, 1, zero);
        for (int64_t k = 0; k < c; k += LANES) {
            vec window[POINTS], half[POINTS];
            fetch_next(at, c, k, SIDE);
            for (int j = 0; j < SIDE; j++) {
                for (int r = 0; r < SIDE; r++) window[r * SIDE + j] = load(at[r * SIDE + j] + k);
                window_points(window + j, SIDE, half + j, SIDE);
            }
            for (int r = 0; r < SIDE; r++) {
                window_points(half + r * SIDE, 1, window + r * SIDE, 1);
                for (int j = 0; j < SIDE; j++)
                    store(out + (r * SIDE + j) * distance(t, c) + i * c + k, window[r * SIDE + j]);
            }
        }
    }
}

/* out (36, tiles, c) = the points of the tiles of dy */
static void all_tile_points(const REAL *dy, tiles t, int64_t c, const REAL *zero, REAL *out)
{
    for (int64_t i = 0; i < t.count; i++) {
        const REAL *at[16];
        addresses(at, dy, t, t.from + i, c, 4, 0, zero);
        for (int64_t k = 0; k < c; k += LANES) {
            vec tile[16], half[24], points[POINTS];
            fetch_next(at, c, k, 4);
            for (int j = 0; j < 4; j++) {
                for (int r = 0; r < 4; r++) tile[r * 4 + j] = load(at[r * 4 + j] + k);
                tile_points(tile + j, 4, half + j, 4);
            }
            for (int r = 0; r < SIDE; r++) {
                tile_points(half + r * 4, 1, points + r * SIDE, 1);
                for (int j = 0; j < SIDE; j++)
                    store(out + (r * SIDE + j) * distance(t, c) + i * c + k, points[r * SIDE + j]);
            }
        }
    }
}

/* Write the tiles of y from their points; what is outside of the image goes to `trash`. */
static void write_tiles(const REAL *points, tiles t, int64_t c, REAL *trash, REAL *y)
{
    for (int64_t i = 0; i < t.count; i++) {
        const REAL *at[16];
        addresses(at, y, t, t.from + i, c, 4, 0, trash);
        for (int64_t k = 0; k < c; k += LANES) {
            vec m[POINTS], half[24], tile[16];
            fetch_next(at, c, k, 4);
            for (int j = 0; j < SIDE; j++) {
                for (int r = 0; r < SIDE; r++)
                    m[r * SIDE + j] = load(points + (r * SIDE + j) * distance(t, c) + i * c + k);
                tile_of(m + j, SIDE, half + j, SIDE);
            }
            for (int r = 0; r < 4; r++) {
                tile_of(half + r * SIDE, 1, tile + r * 4, 1);
                for (int j = 0; j < 4; j++) store((REAL *)at[r * 4 + j] + k, tile[r * 4 + j]);
            }
        }
    }
}

/* The distance of points in a weight's arrays, of whole panels; the addition is as in `distance`. */
INLINE int64_t distance_of_weight(int64_t in, int64_t out) { return (out + PANEL - 1) / PANEL * PANEL * in + 16; }

/* u (36, panels of out, in, two vectors) = the points of a weight; with `flipped`, of the flipped taps, with in and out
   exchanged. A core computes every panel whose number is its own modulo `cores`; turned is its scratch. */
static void weight_panels(
    const REAL *w, int64_t ci, int64_t co, int64_t flipped, int core, int cores, REAL *turned, REAL *u)
{
    const int64_t in = flipped ? co : ci, out = flipped ? ci : co;
    for (int64_t o = core * PANEL; o < out; o += cores * PANEL) {
        const int64_t width = o + PANEL < out ? PANEL : out - o;
        for (int64_t i = 0; i < (flipped ? 0 : 9 * ci); i++)
            for (int64_t k = 0; k < width; k++) turned[i * PANEL + k] = w[(o + k) * 9 * ci + i];
        for (int64_t i = 0; i < in; i++)
            for (int64_t k = 0; k < width; k += LANES) {
                vec taps[9], half[18], points[POINTS];
                for (int t = 0; t < 9; t++)
                    taps[t] = load(flipped ? w + (i * 9 + 8 - t) * ci + o + k : turned + (t * ci + i) * PANEL + k);
                for (int j = 0; j < 3; j++) weight_points(taps + j, 3, half + j, 3);
                for (int r = 0; r < SIDE; r++) weight_points(half + r * 3, 1, points + r * SIDE, 1);
                for (int p = 0; p < POINTS; p++)
                    store(u + p * distance_of_weight(in, out) + o * in + i * PANEL + k, points[p]);
            }
    }
}

/* dw (out, 3, 3, in) from the sums over tiles, (36, out, in) */
static void write_weight(const REAL *sums, int64_t ci, int64_t co, REAL *dw)
{
    for (int64_t o = 0; o < co; o++)
        for (int64_t k = 0; k < ci; k += LANES) {
            vec points[POINTS], half[18], taps[9];
            for (int p = 0; p < POINTS; p++) points[p] = load(sums + p * distance_of_weight(ci, co) + o * ci + k);
            for (int j = 0; j < SIDE; j++) weight_of(points + j, SIDE, half + j, SIDE);
            for (int r = 0; r < 3; r++) weight_of(half + r * SIDE, 1, taps + r * 3, 1);
            for (int t = 0; t < 9; t++) store(dw + (o * 9 + t) * ci + k, taps[t]);
        }
}

/* Blocks are small enough for the caches and large enough for the weights, which are read once per block. */
static tiles tiles_of(int64_t n, int64_t h, int64_t w, int64_t c)
{
    const int64_t down = (h + 3) / 4, across = (w + 3) / 4;
    return (tiles){h, w, down, across, n * down * across, c <= 64 ? 24 : c <= 256 ? 48 : 96, 0, 0};
}

/* Move to a block; return whether it exists. */
INLINE int move_to(tiles *t, int64_t block)
{
    t->from = block * t->block;
    t->count = t->from + t->block < t->all ? t->block : t->all - t->from;
    return t->count > 0;
}

/* sums (36, tiles, out) = or += the products of the points of x's windows, which go to `points`, with those of a weight */
INLINE void multiply(
    const int add, const REAL *x, const REAL *u, tiles t, int64_t in, int64_t out, const REAL *zero, REAL *points, REAL *sums)
{
    all_window_points(x, t, in, zero, points);
    for (int64_t p = 0; p < POINTS; p++)
        product(
            add, points + p * distance(t, in), in, 1, u + p * distance_of_weight(in, out), PANEL, PANEL * in,
            sums + p * distance(t, out), t.count, out, in);
}

/* y = conv(x, w), plus conv(x2, w2) unless x2 is null; with `flipped`, the gradients in inputs of y's kind. Return 0, or
   1 if memory is missing. */
int64_t NAMED(convolve)(
    const REAL *x, const REAL *w, const REAL *x2, const REAL *w2, int64_t n, int64_t h, int64_t width, int64_t ci,
    int64_t co, int64_t flipped, REAL *y)
{
    const int cores = NAMED(cores);
    const int64_t in = flipped ? co : ci, out = flipped ? ci : co, most = ci > co ? ci : co;
    const tiles all = tiles_of(n, h, width, most);
    const int64_t of_weight = POINTS * distance_of_weight(in, out), of_x = POINTS * distance(all, in);
    const int64_t of_turned = flipped ? 0 : 9 * ci * PANEL, of_tiles = of_x + POINTS * distance(all, out) + most;
    const int64_t of_core = of_turned > of_tiles ? of_turned : of_tiles;
    REAL *u = aligned_alloc(64, sizeof(REAL) * ((x2 ? 2 : 1) * of_weight + most + cores * of_core));
    if (!u) return 1;
    REAL *u2 = u + of_weight, *zero = x2 ? u2 + of_weight : u2, *scratch = zero + most;
    memset(zero, 0, sizeof(REAL) * most);
    PARALLEL
    for (int core = 0; core < cores; core++) {
        REAL *turned = scratch + core * of_core;
        weight_panels(w, ci, co, flipped, core, cores, turned, u);
        if (x2) weight_panels(w2, ci, co, flipped, core, cores, turned, u2);
    }
    PARALLEL
    for (int core = 0; core < cores; core++) {
        tiles t = all;
        REAL *points = scratch + core * of_core, *sums = points + of_x, *trash = points + of_tiles - most;
        for (int64_t block = core; move_to(&t, block); block += cores) {
            multiply(0, x, u, t, in, out, zero, points, sums);
            if (x2) multiply(1, x2, u2, t, in, out, zero, points, sums);
            write_tiles(sums, t, out, trash, y);
        }
    }
    free(u);
    return 0;
}

/* dw = the gradient in the weight of conv(x, w) for dy, plus that for x2 and dy2 unless x2 is null: the sum of sections
   of `length` blocks, in order. */
int64_t NAMED(convolve_weight)(
    const REAL *x, const REAL *dy, const REAL *x2, const REAL *dy2, int64_t n, int64_t h, int64_t width, int64_t ci,
    int64_t co, REAL *dw)
{
    const tiles all = tiles_of(n, h, width, ci > co ? ci : co);
    const int64_t of_weight = POINTS * distance_of_weight(ci, co), of_x = POINTS * distance(all, ci), length = 12;
    const int64_t of_one = (all.all + all.block * length - 1) / (all.block * length), sections = x2 ? 2 * of_one : of_one;
    const int64_t of_core = of_weight + of_x + POINTS * distance(all, co), zeros = 16 * (ci + co);
    const int64_t of_total = sections > 1 ? of_weight : 0;
    const int cores = NAMED(cores) < sections ? NAMED(cores) : (int)sections;
    REAL *zero = aligned_alloc(64, sizeof(REAL) * (zeros + of_total + cores * of_core));
    if (!zero) return 1;
    REAL *total = zero + zeros, *scratch = total + of_total; /* if there is one section, the total is its sums */
    memset(zero, 0, sizeof(REAL) * (zeros + of_total));
    for (int64_t first = 0; first < sections; first += cores) {
        PARALLEL
        for (int core = 0; core < cores; core++) {
            tiles t = all;
            REAL *sums = scratch + core * of_core, *points = sums + of_weight, *points_y = points + of_x;
            const int64_t section = first + core, other = section >= of_one, start = section % of_one * length;
            for (int64_t block = start; section < sections && block < start + length && move_to(&t, block); block++) {
                all_window_points(other ? x2 : x, t, ci, zero, points);
                all_tile_points(other ? dy2 : dy, t, co, zero, points_y);
                for (int64_t p = 0; p < POINTS; p++)
                    product(
                        block > start, points_y + p * distance(t, co), 1, co, points + p * distance(t, ci), ci, PANEL,
                        sums + p * distance_of_weight(ci, co), co, ci, t.count);
            }
        }
        for (int core = 0; core < cores && first + core < sections && sections > 1; core++) {
            const REAL *sums = scratch + core * of_core;
            for (int64_t i = 0; i < of_weight; i++) total[i] += sums[i];
        }
    }
    write_weight(total, ci, co, dw);
    free(zero);
    return 0;
}
