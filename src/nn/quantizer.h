/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quantizer.h
 * Fake quantizers: f32 in, f32 on at most 2^bits values out, with the gradients that training
 * uses in place of their derivative. The table in quantizer.c is the one list of kinds.
 *
 * In a graph they are FakeQuantize nodes (internal domain, never read from or written to ONNX):
 *   inputs  x; step (f32: one, or one per index of `axis`; left out where the kind has none);
 *           zero (f32, one integer-valued number; kind "affine" alone)
 *   attributes
 *     quantizer       string, name of the kind
 *     bits            int 1..8
 *     axis            int, of a step with more than one element (default 0: output channels). Kinds
 *                     without a step take each index of it by itself; without `axis` the tensor
 *     step_gradient   float, factor of the step's gradient; left out: the kind's own rule
 */
#ifndef BB_NN_QUANTIZER_H
#define BB_NN_QUANTIZER_H

#include "graph/graph.h"

typedef struct bb_quantizer_args {
    int bits;
    float step; /**< > 0 is not required: |step| is used, and at least a tiny one */
    float zero;
} bb_quantizer_args;

typedef struct bb_quantizer {
    const char *name;
    bool has_step, has_zero;
    /**
     * True: every element for itself; then x may be any part of the tensor, and in any layout.
     * False: x is all elements of one channel (of a step with one element: of the tensor), so the
     * functions may take means over it.
     */
    bool elementwise;
    /** y[i] = quantized x[i]. y may be x. */
    void (*forward)(const bb_quantizer_args *args, const float *x, float *y, size_t n);
    /** dx[i] from x[i] and dy[i]; dx may be dy. Returns this part of dLoss/dstep, not scaled. */
    double (*backward)(const bb_quantizer_args *args, const float *x, const float *dy, float *dx,
                       size_t n);
    /** Factor of the step's gradient where the node does not say: n = elements that share the step
     *  (in activations: per image). NULL: 1. */
    double (*step_gradient)(const bb_quantizer_args *args, double n);
    /** Step to begin with for such data, or NULL where there is none to choose. */
    float (*initial_step)(const bb_quantizer_args *args, const float *x, size_t n);
} bb_quantizer;

/** Kind of that name, or NULL. */
const bb_quantizer *bb_quantizer_find(const char *name);
/** Kind i of the table, or NULL beyond the end. */
const bb_quantizer *bb_quantizer_at(size_t i);

/*
 * Kinds (L = 2^bits - 1, v = x / step):
 *   odd         symmetric odd grid: step * clip(2*floor(v/2)+1, -L, L); weights and signed
 *               activations. dx = dy inside |v| <= L+1; with 1 bit everywhere for `odd`, inside
 *               |v| <= 2 for `odd_input`
 *   odd_input   the same for signed activations
 *   unsigned    step * clip(round(v), 0, L): after a ReLU
 *   affine      step * (clip(round(v) + zero, 0, L) - zero)
 *   hard_tanh   the paper's eq. 15 on clip(x, -1, 1): (2u - L)/L with u = floor(L*(x+1)/2 + 1/2)
 *   hard_relu   eq. 15 on clip(x, 0, 1), literally: the upper half of the same grid
 *   hard_relu_affine  u/L with u = floor(L*clip(x, 0, 1) + 1/2): all codes of [0, 1]
 */

#endif
