/* SPDX-License-Identifier: Apache-2.0 */
/** @file fake.h  Adding fake quantizers (nn/quantizer.h) to graphs. */
#ifndef BB_QUANTIZE_FAKE_H
#define BB_QUANTIZE_FAKE_H

#include "lower/lower.h"

/** A FakeQuantize node to add; step and zero are value indices or -1. */
typedef struct bb_fake {
    const char *quantizer; /**< name of the kind */
    const char *name;      /**< of the node and its output */
    uint32_t bits;
    int x, step, zero;
    bool by_row; /**< kinds without a step: each index of axis 0 by itself */
} bb_fake;
/** Adds the node. Returns its output, or -1 when out of memory. */
int bb_fake_add(bb_graph *graph, const bb_fake *fake);
/** Adds a constant f32 vector (n = 0: a scalar). Returns its value, or -1. */
int bb_fake_constant(bb_graph *graph, const char *name, const float *from, size_t n);

/** Kind that rounds to such a grid: unsigned where real 0 is the lowest code, odd_input for the
 *  symmetric grid, affine otherwise. */
const char *bb_fake_kind(const bb_grid *grid);
/** Real distance of two codes, which is the step of these kinds but odd_input's. */
float bb_fake_step(const bb_grid *grid);
float bb_fake_zero(const bb_grid *grid);
/** The grid of such a quantizer. */
bb_grid bb_fake_grid(const char *kind, uint32_t bits, float step, float zero);

/** Adds the quantizer of a grid behind value x with constants of its own. Returns its output. */
int bb_fake_add_grid(bb_graph *graph, int x, const bb_grid *grid, const char *name);
/** Makes input i of a node read another value, in an array of its own. */
bool bb_fake_redirect(bb_graph *graph, int node, int i, int value);

#endif
