/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"
#include <math.h>

void bb_rng_seed(bb_rng *rng, uint64_t seed) {
    rng->state = seed;
}

uint64_t bb_rng_next(bb_rng *rng) {
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t bb_rng_below(bb_rng *rng, uint64_t n) {
    /* Rejection keeps every value equally likely: skip the last incomplete run of n values. */
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do
        x = bb_rng_next(rng);
    while (x >= limit);
    return x % n;
}

double bb_rng_uniform(bb_rng *rng) {
    return (double)(bb_rng_next(rng) >> 11) * 0x1p-53;
}

double bb_rng_normal(bb_rng *rng) {
    /* Box-Muller, one of the pair; 1-u is in (0,1], so the logarithm is finite. */
    double r = sqrt(-2 * log(1 - bb_rng_uniform(rng)));
    return r * cos(6.283185307179586 * bb_rng_uniform(rng));
}
