/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file lowbit.h
 * Lossless import of low-bit graphs (docs/import-lowbit.md).
 *
 * Every computed value of the graph is a *root* (an integer known exactly: an accumulator, codes,
 * a sum of codes), or a function of one root, element by element: z -> value. Where a layer needs
 * codes, that function is evaluated with the source's own operators at every integer the root can
 * take (or by bisection where the function is monotone); the requantizer is built from the steps
 * found and therefore gives the same codes.
 */
#ifndef BB_LOWBIT_H
#define BB_LOWBIT_H

#include "graph/eval.h"
#include "lower/blocks.h"

typedef enum bb_root_kind {
    BB_ROOT_FLOAT,   /**< a float tensor: no integers behind it */
    BB_ROOT_CODES,   /**< z = a - a0 of a code tensor */
    BB_ROOT_CONV,    /**< z = P of a CONV node */
    BB_ROOT_ADD,     /**< z = k1*Z1 + k2*Z2 of an ADD node */
    BB_ROOT_AVERAGE, /**< z = sum over the n positions of an AVERAGE_POOL node */
    BB_ROOT_PAIR,    /**< Z1, Z2 whose steps have no common unit: CONV or ADD node */
    BB_ROOT_TAPS     /**< constants per valid tap, to be added to a convolution's result */
} bb_root_kind;

/** A uniform grid: value of code u = low + u*unit. */
typedef struct bb_uniform {
    uint32_t bits;
    double low, unit;
    uint32_t last; /**< largest code in use */
} bb_uniform;

typedef struct bb_root {
    bb_root_kind kind;
    int value;         /**< graph value */
    uint32_t channels; /**< entries of the arrays below; 1 = the same for all */
    int64_t *low, *high;
    int64_t stride;                      /**< z takes low, low + stride, ... */
    double *scale, *bias;                /**< real value = (float)(z*scale + bias) */
    int64_t count;                       /**< AVERAGE: n */
    int32_t k1, k2;                      /**< ADD */
    double *scale2;                      /**< PAIR: [channels] real value of Z2 = 1 */
    int64_t reach2;                      /**< PAIR: |Z2| */
    int tensor;                          /**< CODES, FLOAT: model tensor; -1 = not made yet */
    int node;                            /**< CONV, ADD, AVERAGE, PAIR: model node */
    bb_uniform grid;                     /**< CODES */
    uint32_t flat_channels, flat_pixels; /**< flattened image in NCHW order: element c*pixels + p of
                                              the graph is p*channels + c of the model; or 0 */
} bb_root;

/** Codes made of a value. */
typedef struct bb_lb_codes {
    int tensor; /**< -1: none */
    bb_uniform grid;
} bb_lb_codes;

typedef struct bb_lowbit {
    bb_graph *graph;
    const bb_quantize_options *options;
    bb_model *model;
    size_t n_roots, cap_roots;
    bb_root *roots;
    int *root_of;             /**< [n_values] -1 = constant or unknown */
    bb_lb_codes *codes;       /**< [n_values] made so far */
    int *real;                /**< [n_values] float tensor made so far, -1 */
    bb_array *constants;      /**< [n_values] evaluated constants */
    uint8_t *is_constant;     /**< [n_values] 0 = not asked yet, 1 = yes, 2 = no */
    bb_array *slots;          /**< [n_values] scratch of evaluation */
    bb_view *views;           /**< [n_values] moved elements that are no tensor of their own yet */
    bb_tensor_params *params; /**< [BB_MAX_TENSORS] of the one profile */
    bb_conv_params *convs;    /**< [BB_MAX_NODES] */
    int depth;                /**< of bb_lb_real_of */
    /** Weights by their bits and by the bits of what they multiply: the profile is named after the
     *  most common ones. */
    uint64_t by_weight_bits[BB_MAX_PLANES + 1], by_activation_bits[BB_MAX_PLANES + 1];
    bb_error *err;
} bb_lowbit;

bb_status bb_lb_fail(const bb_lowbit *l, const bb_node *node, const char *why);

/* lowbit_graph.c: QLinear and integer operators written as DequantizeLinear, Conv, QuantizeLinear;
 * constants. */
bb_status bb_lb_canonicalise(bb_graph *graph, bb_error *err);
/* lowbit_pool.c */
bb_status bb_lb_move_pools(bb_graph *graph, bb_error *err);
/** The constant behind a value, evaluated where it is computed from constants; NULL = none. */
const bb_array *bb_lb_constant(bb_lowbit *l, int value);
double bb_lb_element(const bb_array *array, size_t i);
size_t bb_lb_elements(const bb_array *array);
/** The declared quantizer whose result `value` is: value = (k - zero)*scale, k in low..high. */
typedef struct bb_declared {
    int input; /**< what it quantizes; -1 where only the levels are known */
    double scale, zero;
    int64_t low, high;
} bb_declared;
bool bb_lb_declared(bb_lowbit *l, int value, bb_declared *declared);

/* lowbit_eval.c: functions of one root. */
/** True where the node computes each element from that element of its dynamic inputs alone, which
 *  all stem from one root. */
bool bb_lb_elementwise(bb_lowbit *l, const bb_node *node, int *root);
/** Values at z[n][channels] (channels = the root's, or 1 if `uniform`): out[n][channels]. */
bb_status bb_lb_evaluate(bb_lowbit *l, int value, const int64_t *z, size_t n, uint32_t channels,
                         float *out);
/** The function has no per-channel constant. */
bool bb_lb_uniform(bb_lowbit *l, int value);
/** Direction per channel: 1 never falls, -1 never rises, 0 constant, 2 unknown. */
bb_status bb_lb_directions(bb_lowbit *l, int value, uint32_t channels, int8_t *direction);
/** value = gain[c]*(value of the root) + shift[c], where only affine operators lie between. */
bool bb_lb_gain(bb_lowbit *l, int value, double *gain, double *shift);
/** value = scale[c]*z + bias[c] in real numbers, where only affine operators lie between. */
bool bb_lb_affine(bb_lowbit *l, int value, double *scale, double *bias);
uint32_t bb_lb_channels(const bb_lowbit *l, int value);

/* lowbit_steps.c: the steps of such a function. */
typedef struct bb_steps {
    uint32_t channels;
    size_t *n;       /**< [channels] steps of each */
    int64_t **start; /**< [channels][n] first z of a step, ascending; n = 1: constant */
    float **value;   /**< [channels][n] */
    bool monotone;
} bb_steps;
/** All steps over the reach of the root; *found = false where a channel has more than max_steps. */
bb_status bb_lb_steps(bb_lowbit *l, int value, size_t max_steps, bb_steps *steps, bool *found);
void bb_lb_steps_free(bb_steps *steps);
/** The uniform grid that holds all values of the steps; false if there is none of max_bits. */
bool bb_lb_grid(bb_lowbit *l, int value, const bb_steps *steps, uint32_t max_bits,
                bb_uniform *grid);
int32_t bb_lb_a0(const bb_uniform *grid, bool *whole);

/* lowbit_requant.c: steps -> requantizer of one tensor. False: no form gives the same codes. */
bool bb_lb_requant(bb_lowbit *l, const bb_root *root, const bb_steps *steps, const bb_uniform *grid,
                   bb_requant *requant);

/* lowbit_weights.c */
typedef struct bb_int_weights {
    uint32_t rows, taps, depth;
    int16_t *k;    /**< [rows][taps][depth], real weight = scale[row]*k */
    double *scale; /**< [rows] */
    float *real;   /**< the weights themselves in the same order */
    bool integer;  /**< k and scale are valid */
} bb_int_weights;
bb_status bb_lb_weights(bb_lowbit *l, const bb_node *node, const bb_root *data,
                        bb_int_weights *weights);
/** Planes and offsets for such weights: b + o = factor * k. False: more than 8 bits. */
bool bb_lb_planes(bb_lowbit *l, const bb_int_weights *weights, bb_planes **planes,
                  bb_conv_params *conv, int32_t *factor);

/* lowbit_codes.c: tensors made of values. */
/** Codes of a value of at most max_bits; tensor -1 where it has none. */
bb_status bb_lb_codes_of(bb_lowbit *l, int value, uint32_t max_bits, bb_lb_codes *codes);
/** Adds a root; its arrays have `channels` zeroed entries. */
bb_status bb_lb_add_root(bb_lowbit *l, bb_root_kind kind, int value, uint32_t channels,
                         bb_root **root);
bb_status bb_lb_codes_root(bb_lowbit *l, int value, const bb_lb_codes *codes, bb_root **root);
bb_status bb_lb_float_root(bb_lowbit *l, int value, int tensor);
/** A model tensor for a value: codes on `grid`, or float where that is NULL. */
bb_status bb_lb_tensor(bb_lowbit *l, int value, const char *suffix, const bb_uniform *grid,
                       int *tensor);
/** A code tensor with the parameters of another one. */
bb_status bb_lb_copy_tensor(bb_lowbit *l, int value, int like, int *tensor);
bb_status bb_lb_node(bb_lowbit *l, const char *name, const char *suffix, bb_node_kind kind,
                     int n_in, const int *in, int n_out, const int *out, bb_model_node **node);
bb_status bb_lb_float_node(bb_lowbit *l, const bb_node *source, bb_float_op op, int n_in,
                           const int *in, int out, const char *reason, bb_model_node **node);
/** The same values on a grid of the same unit (another offset, more bits). */
bb_status bb_lb_convert(bb_lowbit *l, int value, const bb_lb_codes *from, const bb_uniform *grid,
                        int *tensor);

bb_status bb_lb_attach(bb_lowbit *l, const bb_root *root, int value, int tensor);

/* lowbit_linear.c: requantizers that the source states as a formula. */
/** Codes by Floor of an affine formula in double, taken over number by number; and PAIR roots. */
bb_status bb_lb_linear_codes(bb_lowbit *l, int value, bb_lb_codes *codes);

/* lowbit_float.c */
/** A float tensor of a value. */
bb_status bb_lb_real_of(bb_lowbit *l, int value, int *tensor);

/* lowbit_layers.c: convolutions and sums. */
bb_status bb_lb_conv(bb_lowbit *l, const bb_node *node);
bb_status bb_lb_add(bb_lowbit *l, const bb_node *node);
/** Turns an average pool without results so far into the sum it is: a depthwise convolution with
 *  weights +1, whose thresholds may lie anywhere. Left alone where it cannot be. */
bb_status bb_lb_average_as_conv(bb_lowbit *l, const bb_root *average, bb_root *conv);

/* lowbit_nodes.c: one graph node -> model nodes and roots. */
bb_status bb_lb_node_of(bb_lowbit *l, const bb_node *node);

#endif
