/* SPDX-License-Identifier: Apache-2.0 */
/** @file grid.h  Choosing and applying grids of codes (lower.h: x = step*(a - a0), a = 2u - L). */
#ifndef BB_QUANTIZE_GRID_H
#define BB_QUANTIZE_GRID_H

#include "lower/lower.h"
#include "quantize/histogram.h"

/** Code of x: nearest, halves up, clamped. */
uint32_t bb_grid_code(const bb_grid *grid, float x);
/** Real value of code u. */
float bb_grid_real(const bb_grid *grid, uint32_t u);
/** Real values of the lowest and the highest code. */
float bb_grid_min(const bb_grid *grid);
float bb_grid_max(const bb_grid *grid);

/**
 * The grid of `bits` bits that minimises sum |Q(x) - x|^2.4 over the histogram. Values that are
 * never negative get a0 = -L; others an a0 that makes real 0 a code. No code goes beyond
 * lo..hi, the range the producing activation clamps to (lo <= 0 <= hi).
 */
bb_grid bb_grid_search(const bb_histogram *h, uint32_t bits, float lo, float hi);

#endif
