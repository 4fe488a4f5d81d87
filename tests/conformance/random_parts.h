/* SPDX-License-Identifier: Apache-2.0 */
/** @file random_parts.h  What random models are made of. */
#ifndef BB_CONFORMANCE_RANDOM_PARTS_H
#define BB_CONFORMANCE_RANDOM_PARTS_H

#include "model/model.h"

/** A model under construction and its source of randomness. */
typedef struct maker {
    bb_model *model;
    bb_rng rng;
} maker;

/** What a requantizer is made for. */
typedef struct use {
    double spread;  /**< typical |Z1| of a position */
    double largest; /**< bound of |Z1| of a node */
    double n;       /**< most positions summed */
    bool second;    /**< Z2 takes part */
    bool thresholds;
    int channels;
} use;

/** A convolution's input, output channels and window. */
typedef struct conv_shape {
    int height, width, cin, cout, groups;
    bb_geometry geometry;
} conv_shape;

/** Prints and exits: a defect of the test. */
void random_die(const char *what);
/** From the model's arena, zeroed. */
void *random_array(maker *m, size_t n, size_t size);
/** low..high inclusive. */
int64_t random_between(maker *m, int64_t low, int64_t high);
bool random_chance(maker *m, int percent);
int random_add_tensor(maker *m, bb_tensor_kind kind, int rank, int64_t channels);
bb_model_node *random_add_node(maker *m, bb_node_kind kind, int n_in, const int *in, int n_out,
                               const int *out);
/** Bits as given, any a0: zero code in range, at an end, outside, or between codes. */
void random_grid(maker *m, bb_tensor_params *p, uint32_t bits);
const float *random_floats(maker *m, size_t n, double scale);
/** A requantizer of any kind that suits the use. */
void random_requant(maker *m, bb_tensor_params *p, bool floats, const use *u);
const bb_planes *random_planes(maker *m, uint32_t rows, uint32_t taps, uint32_t depth,
                               uint32_t count, bool native);
void random_conv_params(maker *m, bb_conv_params *p, const bb_planes *planes, uint32_t used);
use random_conv_use(const bb_planes *planes, uint32_t bits, const bb_conv_params *params,
                    int channels, bool second);
int random_out_size(const conv_shape *s, int axis);
void random_window(maker *m, conv_shape *s);
void random_fix_dims(bb_model *model, int tensor, const int64_t dims[4]);
/** False where an overflow bound is exceeded; anything else wrong is a defect of the test. */
bool random_valid(const bb_model *model);

#endif
