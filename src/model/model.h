/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file model.h
 * The integer network: what a .bbm holds and what the engine and the exporters read.
 *
 * One integer semantics (docs/format.md repeats it for other implementers). L_b = 2^b - 1.
 *
 * Tensors. A CODE tensor holds codes u in 0..L_M (1 byte each for M <= 8, else 2), a FLOAT tensor
 * holds f32. Images are NHWC [N,H,W,C]; vectors are [N,C]. A code means the real value
 * x = step * (a - a0), a = 2u - L_M.
 *
 * Convolution (also fully connected: 1x1 on a 1x1 image, depthwise and grouped):
 *     P[c] = sum over valid taps t of ( sum over i (a[t,i] - a0) * (b[c,t,i] + o[c]) + e[t,c] )
 * exact in int32. Taps in the zero padding contribute nothing at all, whatever a0 is.
 * b = sum over planes of plane_weight * {-1,+1}; o (weight_offset) is 0 on the native odd grid;
 * e (tap_add) is 0 except where a mean was folded into the first layer.
 * The real result is step * weight_scale[c] * P[c] (plus what the requantizer adds).
 *
 * Requantizers map an int64 T to the next code. For CONV: Z1 = P; for ADD, REQUANT, pools
 * Z1 = a - a0 of input 0 (AVERAGE: its sum over the window); for MUL: Z1 = (a1-a01)*(a2-a02).
 * Z2 = a - a0 of the second operand (ADD's input 1, CONV's optional residual input), else 0.
 * n = number of summed positions for AVERAGE pools, else 1.
 *   LINEAR      T = Z1*mult[c] + Z2*mult2[c] + n*add[c]; where neg_mult is present and T < 0:
 *               T = Z1*neg_mult[c] + Z2*neg_mult2[c] + n*neg_add[c]; and then T += n*off[c].
 *               u' = clamp(floor(T / (n * 2^shift[c])), 0, L). Rounding half up is in add/off.
 *   THRESHOLDS  Z2 absent, n = 1. rising[c]: u' = #{i : Z1 >= t[c][i]}, t ascending; else
 *               u' = #{i : Z1 <= t[c][i]}, t descending. L_M thresholds per channel.
 *   INDEXED     LINEAR to index_bits (<= 12) bits with clamp, then u' = table[index].
 *   FLOAT       y = (float)((double)Z1*scale[c] + (double)Z2*scale2[c] + bias[c]), left to right
 *               in double without contraction; for AVERAGE Z1 is first divided by n.
 * Bounds, checked by bb_model_validate: |Z1| < 2^31, |Z2| < 2^17, |mult| < 2^22, and every
 * intermediate T below 2^53 in magnitude, so that int64 and double agree.
 */
#ifndef BB_MODEL_INTERNAL_H
#define BB_MODEL_INTERNAL_H

#include "base/base.h"
#include "bitbranch/model.h"

enum {
    BB_MODEL_MAX_RANK = 4,
    BB_MAX_PLANES = 8,
    BB_MAX_CODE_BITS = 16, /**< residual codes; convolutions take at most 8 */
    BB_MAX_INDEX_BITS = 12,
    BB_MAX_NODE_INPUTS = 16, /**< concat */
    BB_MAX_NODE_OUTPUTS = 4, /**< differently quantized copies of one result */
    /* Limits of a valid model; docs/format.md states them for other readers. */
    BB_MAX_TENSORS = 16384,
    BB_MAX_NODES = 16384,
    BB_MAX_PROFILES = 64,
    BB_MAX_NAME = 1023,    /**< bytes of a name */
    BB_MAX_DIM = 1 << 20,  /**< of a tensor, and output channels */
    BB_MAX_WINDOW = 32767, /**< each number of a bb_geometry; its taps: BB_MAX_TAPS */
    BB_MAX_TAPS = 65536,   /**< kh*kw */
    BB_MAX_ROW = 1 << 24,  /**< weights of one output channel */
    BB_MAX_WEIGHT = 32767, /**< |b + o| */
    BB_MAX_A0 = 65535,     /**< |a0| */
    BB_MAX_MULT = 1 << 22, /**< |mult| stays below */
    BB_MAX_SHIFT = 46
};
/** Every |T| stays below, so that int64 and double agree. */
#define BB_MAX_T (INT64_C(1) << 53)

typedef enum bb_tensor_kind { BB_TENSOR_CODE = 0, BB_TENSOR_FLOAT = 1 } bb_tensor_kind;

typedef struct bb_model_tensor {
    const char *name;
    bb_tensor_kind kind;
    int rank;                        /**< 4 = NHWC, 2 = NC */
    int64_t dims[BB_MODEL_MAX_RANK]; /**< model inputs: -1 = chosen at engine creation (N, H, W);
                                          others: only the channel count (last) is kept, -1 else */
} bb_model_tensor;

/** Numeric values are stored in files: never renumber. */
typedef enum bb_node_kind {
    BB_NODE_CONV = 1,         /**< in: codes[, residual codes]; out: codes or float */
    BB_NODE_ADD = 2,          /**< codes + codes -> codes or float */
    BB_NODE_MUL = 3,          /**< codes * codes; input 1 may be [N,1,1,C] or [N,C] */
    BB_NODE_REQUANT = 4,      /**< codes -> codes or float, per channel or per tensor */
    BB_NODE_CONCAT = 5,       /**< along channels; all inputs share the output's bits, step, a0 */
    BB_NODE_MAX_POOL = 6,     /**< on codes; padding never wins */
    BB_NODE_AVERAGE_POOL = 7, /**< window or global (kernel 0x0) */
    BB_NODE_GATHER_CHANNELS = 8, /**< out[c] = in[index[c]]: split, slice, channel shuffle */
    BB_NODE_RESHAPE = 9,         /**< NHWC -> [N, H*W*C], bytes unchanged */
    BB_NODE_RESIZE_NEAREST = 10, /**< integer factors, floor (asymmetric) rule */
    BB_NODE_QUANTIZE = 11, /**< f32 -> codes: u = clamp(floor(x*inv_step + zero + 0.5)) in double */
    BB_NODE_FLOAT = 12     /**< f32 -> f32, see bb_float_op */
} bb_node_kind;

/** Float nodes of the runtime library: fixed summation order, no contraction. Stored in files. */
typedef enum bb_float_op {
    BB_FLOAT_CONV = 1, /**< grouped 2-D convolution or fully connected, with bias */
    BB_FLOAT_ADD = 2,
    BB_FLOAT_MUL = 3,        /**< input 1 may broadcast over H and W */
    BB_FLOAT_RELU = 4,       /**< clamp to [alpha, beta]; ReLU = [0, inf], ReLU6 = [0, 6] */
    BB_FLOAT_LEAKY_RELU = 5, /**< slope alpha below 0; PReLU: per-channel table */
    BB_FLOAT_SIGMOID = 6,
    BB_FLOAT_HARD_SIGMOID = 7, /**< clamp(alpha*x + beta, 0, 1) */
    BB_FLOAT_HARD_SWISH = 8,
    BB_FLOAT_SILU = 9,
    BB_FLOAT_TANH = 10,
    BB_FLOAT_SOFTMAX = 11, /**< over channels */
    BB_FLOAT_MAX_POOL = 12,
    BB_FLOAT_AVERAGE_POOL = 13,
    BB_FLOAT_CONCAT = 14,
    BB_FLOAT_RESHAPE = 15, /**< [N,H,W,C] -> [N, H*W*C] in memory order */
    BB_FLOAT_AFFINE = 16   /**< x*scale[c] + bias[c] */
} bb_float_op;

/** Sliding window of convolutions and pools; rows first. Empty (0) kernel = whole image. */
typedef struct bb_geometry {
    int32_t kernel[2], stride[2], dilation[2];
    int32_t pad_begin[2], pad_end[2];
    bool ceil_mode;         /**< pools: a last partial window counts (ONNX rule) */
    bool count_include_pad; /**< average pools: divide by the window, padding included */
} bb_geometry;

/**
 * Weight planes of one convolution, shared by all profiles. Plane 0 is the most significant.
 * Bit (row r, position j) of plane p is bit (j % 64) of words[(p*rows + r)*row_words + j/64], with
 * j = (ky*kw + kx)*depth + i; unused high bits of a row's last word are 0. Bit 1 means +1.
 */
typedef struct bb_planes {
    uint32_t rows;  /**< output channels */
    uint32_t taps;  /**< kh*kw */
    uint32_t depth; /**< input channels per group */
    uint32_t count; /**< planes stored, 1..8 */
    uint32_t row_words;
    int16_t weight[BB_MAX_PLANES]; /**< native: 2^(count-1), ..., 2, 1; ternary: 1, 1 */
    const uint64_t *words;
} bb_planes;

typedef struct bb_model_node {
    const char *name;
    bb_node_kind kind;
    int n_in, n_out;
    int in[BB_MAX_NODE_INPUTS];
    int out[BB_MAX_NODE_OUTPUTS];
    bb_geometry geometry;
    uint32_t groups;              /**< CONV and float conv */
    const bb_planes *planes;      /**< CONV */
    const int32_t *channel_index; /**< GATHER_CHANNELS, one entry per output channel */
    uint32_t n_channel_index;
    bb_float_op float_op; /**< FLOAT */
    float alpha, beta;    /**< FLOAT parameters */
    /** FLOAT tables: conv weights [cout][kh][kw][cin/groups] then bias in `float_bias`;
     *  AFFINE scale; PReLU slopes. */
    const float *float_weights;
    const float *float_bias;
    uint32_t n_float_weights, n_float_bias;
    const char *reason;       /**< FLOAT: why this node stayed float; NULL otherwise */
    int32_t resize_factor[2]; /**< RESIZE_NEAREST */
} bb_model_node;

typedef enum bb_requant_kind {
    BB_REQUANT_NONE = 0, /**< the producer copies codes (pool max, concat, gather, reshape) */
    BB_REQUANT_LINEAR = 1,
    BB_REQUANT_THRESHOLDS = 2,
    BB_REQUANT_INDEXED = 3,
    BB_REQUANT_FLOAT = 4
} bb_requant_kind;

/** Arrays have `channels` entries: the tensor's channel count, or 1 = the same for all. */
typedef struct bb_requant {
    bb_requant_kind kind;
    uint32_t channels;
    const int32_t *mult;
    const int32_t *mult2; /**< NULL = no second operand */
    const int64_t *add;
    const uint8_t *shift;    /**< 0..46 */
    const int32_t *neg_mult; /**< NULL = no second slope, then neg_* and off are NULL too */
    const int32_t *neg_mult2;
    const int64_t *neg_add;
    const int64_t *off;
    const int32_t *thresholds; /**< [channels][2^bits - 1] */
    const uint8_t *rising;     /**< [channels] */
    uint32_t index_bits;
    const uint16_t *table; /**< [2^index_bits] */
    const float *scale, *scale2, *bias;
} bb_requant;

/** What one profile says of one tensor. For FLOAT tensors only the requantizer may be set. */
typedef struct bb_tensor_params {
    uint32_t bits; /**< 1..16 */
    float step;
    int32_t a0;
    bb_requant requant; /**< how its producer makes it */
} bb_tensor_params;

/** What one profile says of one CONV node. */
typedef struct bb_conv_params {
    uint32_t planes;              /**< planes used, from the most significant: K */
    const int32_t *weight_offset; /**< o[rows]; NULL = 0 */
    const int32_t *tap_add;       /**< e[taps][rows]; NULL = 0 */
    const float *weight_scale;    /**< s_w[rows], information for reports and export */
} bb_conv_params;

typedef struct bb_profile {
    const char *name;                      /**< e.g. "w4a4" */
    uint32_t weight_bits, activation_bits; /**< what -w and -a select */
    bb_tensor_params *tensors;             /**< [n_tensors] */
    bb_conv_params *convs;                 /**< [n_nodes]; used where kind is CONV */
} bb_profile;

struct bb_model {
    bb_arena *arena; /**< owns everything below except what lies in `file` */
    bb_file file;    /**< the mapping planes and tables may point into; size 0 if built in memory */
    const char *name;
    size_t n_tensors, n_nodes, n_profiles, n_inputs, n_outputs;
    bb_model_tensor *tensors;
    bb_model_node *nodes;    /**< topological order */
    bb_profile *profiles;    /**< the first is the default */
    int *inputs, *outputs;   /**< tensor indices */
    const char *config_json; /**< task config, or NULL */
    const char *labels;      /**< newline-separated, or NULL */
    uint64_t float32_bytes;  /**< parameters of the source network at 4 bytes each */
    /** Ignorable chunks this version does not know, kept on rewrite. */
    size_t n_extra;
    struct bb_extra_chunk {
        char id[4];
        uint32_t version;
        const uint8_t *data;
        size_t size;
    } * extra;
};

/* ---- building (lower, tests). Everything is allocated from model->arena. ------------------- */

bb_model *bb_model_create(void);
/** Appends; returns the index or -1 when out of memory (or above BB_MAX_TENSORS). Names are copied,
 *  dims beyond `rank` are 1. */
int bb_model_add_tensor(bb_model *model, const char *name, bb_tensor_kind kind, int rank,
                        const int64_t *dims);
/** The new node is zeroed but for name, kind, inputs and outputs; NULL when out of memory. The
 *  pointer is good until the next node is added. */
bb_model_node *bb_model_add_node(bb_model *model, const char *name, bb_node_kind kind, int n_in,
                                 const int *in, int n_out, const int *out);
/** Declares a tensor an input or output of the model; false when out of memory. */
bool bb_model_add_input(bb_model *model, int tensor);
bool bb_model_add_output(bb_model *model, int tensor);
/** Adds a profile with zeroed params for all tensors and nodes present now, named "wKaM". Add all
 *  profiles after the last tensor and node; the pointer is good until the next profile is added. */
bb_profile *bb_model_add_profile(bb_model *model, uint32_t weight_bits, uint32_t activation_bits);
/** Packs codes v[rows][taps][depth] (0..2^count-1) on the native grid into planes. */
bb_planes *bb_planes_from_codes(bb_arena *arena, const uint8_t *codes, uint32_t rows, uint32_t taps,
                                uint32_t depth, uint32_t count);
/** The same with plane weights of its own: bit count-1-p of a code says the sign of plane p, as on
 *  the native grid. Ternary: weights {1, 1} and codes 0, 1, 3 for -2, 0, 2. */
bb_planes *bb_planes_from_weighted_codes(bb_arena *arena, const uint8_t *codes, uint32_t rows,
                                         uint32_t taps, uint32_t depth, uint32_t count,
                                         const int16_t *weight);
/** b of every weight with the first `used` planes: out[rows][taps][depth]. used < count needs
 *  native plane weights; plane p then weighs weight[p] >> (count - used). */
bb_status bb_planes_levels(const bb_planes *planes, uint32_t used, int16_t *out, bb_error *err);
/** The same for one row: out[taps][depth]. `used` must be valid for these planes. */
void bb_planes_row_levels(const bb_planes *planes, uint32_t used, uint32_t row, int16_t *out);
/** Plane weight of plane p when the first `used` planes are used. */
int32_t bb_planes_weight(const bb_planes *planes, uint32_t used, uint32_t p);
/** Words of all planes together. */
size_t bb_planes_words(const bb_planes *planes);
bool bb_planes_native(const bb_planes *planes);

/* ---- checking and binding -------------------------------------------------------------------- */

/**
 * Everything an engine relies on: indices, order, one producer per tensor, kinds, channel
 * counts, geometry, table sizes, and every overflow bound in the contract above for every
 * profile. Call after building; the reader calls it on every file.
 */
bb_status bb_model_validate(const bb_model *model, bb_error *err);

/** Concrete dims of every tensor for given input dims: dims[n_tensors][4] ([N,C] -> N,1,1,C). */
typedef struct bb_shapes {
    int32_t (*dims)[4]; /**< N, H, W, C */
    size_t n;
} bb_shapes;
/**
 * input_dims[i] = N,H,W,C of input i (0 or -1 = what the file says, N defaults to 1); NULL = all as
 * the file says. Also checks what depends on the size: that every pool window holds a valid
 * position, and the overflow bounds of global average pools in every profile.
 */
bb_status bb_model_bind(const bb_model *model, const int32_t (*input_dims)[4], bb_shapes *shapes,
                        bb_error *err);
void bb_shapes_free(bb_shapes *shapes);
/** Output size of a window along one axis (0 = rows); 0 if the window does not fit. */
int32_t bb_geometry_out(const bb_geometry *geometry, int axis, int32_t in);
/** Multiply-accumulates of one node at these shapes; 0 for nodes without weights. */
uint64_t bb_node_macs(const bb_model *model, const bb_model_node *node, const bb_shapes *shapes);

/** Finds a profile; w or a = 0 match any. NOT_FOUND lists those present. */
bb_status bb_model_find_profile(const bb_model *model, uint32_t weight_bits,
                                uint32_t activation_bits, size_t *profile, bb_error *err);

/**
 * Buffer plan: liveness of every tensor in node order -> offsets in one arena, 64-byte aligned,
 * tensors alive at the same time never overlap. Reshapes share their input's buffer. A tensor that
 * only a CONCAT reads lies inside the CONCAT's output where its producer can write it there
 * (CONV, ADD, REQUANT): its pixels are then `step` elements apart.
 *
 * A convolution's outputs *pass* if each is read by one MAX_POOL alone, of one geometry: who pools
 * while convolving keeps a few rows of them at a time. They have no place in the arena (offsets
 * count in a space of their own), and the pools' outputs are alive from the convolution on.
 */
typedef struct bb_memory_plan {
    size_t *offset; /**< [n_tensors], in bytes */
    size_t *bytes;
    size_t *step; /**< elements from one pixel to the next: the channels, unless inside another */
    bool *inside; /**< lies in the output of the CONCAT that reads it */
    bool *passes; /**< from a convolution to max pools */
    size_t total, passing_total;
} bb_memory_plan;
bb_status bb_model_plan_memory(const bb_model *model, size_t profile, const bb_shapes *shapes,
                               bb_memory_plan *plan, bb_error *err);
void bb_memory_plan_free(bb_memory_plan *plan);

#endif
