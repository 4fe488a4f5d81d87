/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file graph.h
 * The float network in memory: values (tensors), nodes in topological order, attributes.
 * What the ONNX reader writes, passes rewrite, nn executes, quantize and lower read.
 *
 * Layout is ONNX's: NCHW, row-major. Everything lives in graph->arena and dies with the graph;
 * passes simply drop what they no longer need.
 */
#ifndef BB_GRAPH_H
#define BB_GRAPH_H

#include "base/base.h"
#include "bitbranch/import.h"

enum { BB_MAX_RANK = 8 };

typedef enum bb_op {
#define BB_OP(id, name, domain) BB_OP_##id,
#include "graph/ops.inc"
#undef BB_OP
    BB_OP_COUNT
} bb_op;

/** ONNX name of an operator, e.g. "Conv". */
const char *bb_op_name(bb_op op);
/** Finds an operator by name and domain class ('O' or 'Q'); BB_OP_COUNT if unknown. */
bb_op bb_op_find(const char *name, char domain);

/** Element types. In memory every type of up to 8 bits takes one byte per element, F16/BF16 are
 *  widened to F32 on import, BOOL is 0 or 1. */
typedef enum bb_dtype {
    BB_DTYPE_F32,
    BB_DTYPE_F64,
    BB_DTYPE_I64,
    BB_DTYPE_I32,
    BB_DTYPE_I16,
    BB_DTYPE_U16,
    BB_DTYPE_I8,
    BB_DTYPE_U8,
    BB_DTYPE_I4, /**< -8..7 in an int8_t */
    BB_DTYPE_U4, /**< 0..15 in a uint8_t */
    BB_DTYPE_BOOL
} bb_dtype;

size_t bb_dtype_size(bb_dtype type); /**< bytes of one element in memory */
const char *bb_dtype_name(bb_dtype type);
bool bb_dtype_is_float(bb_dtype type);
/** Smallest and largest number of an integer type. */
void bb_dtype_range(bb_dtype type, int64_t *lo, int64_t *hi);

/** A tensor value: graph input, constant, or result of one node. */
typedef struct bb_value {
    const char *name;
    bb_dtype dtype;
    int rank;                  /**< -1: unknown */
    int64_t dims[BB_MAX_RANK]; /**< -1: symbolic or unknown */
    const void *data;          /**< constant elements, or NULL */
    int producer;              /**< node index, or -1 (input or constant); kept by bb_graph_link */
} bb_value;

typedef enum bb_attr_type {
    BB_ATTR_INT,
    BB_ATTR_FLOAT,
    BB_ATTR_STRING,
    BB_ATTR_INTS,
    BB_ATTR_FLOATS
} bb_attr_type;

typedef struct bb_attr {
    const char *name;
    bb_attr_type type;
    size_t n; /**< elements of ints or floats */
    int64_t i;
    float f;
    const char *s;
    const int64_t *ints;
    const float *floats;
} bb_attr;

typedef struct bb_node {
    const char *name; /**< never empty: unnamed ONNX nodes get "Op_index" */
    bb_op op;
    int n_in, n_out;
    int *in;  /**< value indices; -1 = optional input left out */
    int *out; /**< value indices; -1 = optional output left out */
    size_t n_attrs;
    bb_attr *attrs;
} bb_node;

struct bb_graph {
    bb_arena *arena;
    const char *name; /**< of the file, for messages */
    int opset;        /**< as the file stated it; nodes are already rewritten to 21 */
    size_t n_values, cap_values;
    bb_value *values;
    size_t n_nodes, cap_nodes;
    bb_node *nodes; /**< topological order */
    size_t n_inputs;
    int *inputs; /**< real inputs, without initializers */
    size_t n_outputs;
    int *outputs;
    uint64_t parameter_bytes; /**< of the source at float32: 4 bytes per weight element */
};

bb_graph *bb_graph_create(void);
/** A copy that passes may rewrite. Names and the elements of constants are shared with `graph`,
 *  which must outlive it. NULL when out of memory. */
bb_graph *bb_graph_clone(const bb_graph *graph);

/* Building. All return an index, or -1 when out of memory. Names are copied. Adding moves the
 * arrays: pointers into graph->values and graph->nodes end with the next call. */
int bb_graph_add_value(bb_graph *graph, const char *name, bb_dtype dtype, int rank,
                       const int64_t *dims);
/** Adds a constant with a zeroed buffer in the arena; *data points to it. */
int bb_graph_add_constant(bb_graph *graph, const char *name, bb_dtype dtype, int rank,
                          const int64_t *dims, void **data);
int bb_graph_add_node(bb_graph *graph, const char *name, bb_op op, int n_in, const int *in,
                      int n_out, const int *out);
bool bb_node_set_int(bb_graph *graph, bb_node *node, const char *attr, int64_t value);
bool bb_node_set_float(bb_graph *graph, bb_node *node, const char *attr, float value);
bool bb_node_set_string(bb_graph *graph, bb_node *node, const char *attr, const char *value);
bool bb_node_set_ints(bb_graph *graph, bb_node *node, const char *attr, const int64_t *v, size_t n);
bool bb_node_set_floats(bb_graph *graph, bb_node *node, const char *attr, const float *v, size_t n);
void bb_node_remove_attr(bb_node *node, const char *attr);

/* Reading. Absent attributes give the default passed in. */
const bb_attr *bb_node_attr(const bb_node *node, const char *attr);
int64_t bb_node_int(const bb_node *node, const char *attr, int64_t absent);
float bb_node_float(const bb_node *node, const char *attr, float absent);
const char *bb_node_string(const bb_node *node, const char *attr, const char *absent);
/** Copies at most n ints; missing ones are `absent`. */
void bb_node_ints(const bb_node *node, const char *attr, int64_t *out, size_t n, int64_t absent);

/** True where input i is present (not beyond the end, not left out). */
bool bb_node_has_input(const bb_node *node, int i);
/** Index of the value of that name, or -1. */
int bb_graph_find_value(const bb_graph *graph, const char *name);
/** Elements of a constant of integer type, at most max of them; false where there are none such. */
bool bb_value_ints(const bb_value *value, int64_t *out, size_t max, size_t *n);
/** Value of input i, or NULL where it is left out. */
const bb_value *bb_node_input(const bb_graph *graph, const bb_node *node, int i);
bool bb_value_is_constant(const bb_value *value);
/** Elements of a value with fully known dims. */
bool bb_value_elements(const bb_value *value, size_t *n);
/** Consumers of a value among the nodes; graph outputs count as one more. */
size_t bb_graph_uses(const bb_graph *graph, int value);
/** Makes every consumer and graph output of `from` use `to`. */
void bb_graph_replace_value(bb_graph *graph, int from, int to);

/**
 * Re-establishes the invariants after a rewrite: drops nodes that no output needs, sorts
 * topologically (stable), sets value.producer, and checks indices. BAD_FILE on a cycle.
 */
bb_status bb_graph_link(bb_graph *graph, bb_error *err);

/**
 * Infers rank, dims and dtype of every value it can from the inputs' dims. With
 * `input_dims` non-NULL, those of input 0 are set first (rank of them), -1 = leave symbolic.
 * A node whose inputs contradict each other is an error naming the node.
 */
bb_status bb_graph_infer_shapes(bb_graph *graph, const int64_t *input_dims, int rank,
                                bb_error *err);
/** The same for one node, from what is known of its inputs. */
bb_status bb_graph_infer_node(bb_graph *graph, const bb_node *node, bb_error *err);

/** True where the graph carries quantizers or integer products of its own. */
bool bb_graph_is_quantized(const bb_graph *graph);

/** Spatial geometry of Conv, ConvTranspose and pools with auto_pad and ceil_mode resolved. */
typedef struct bb_window {
    int64_t kernel[2], stride[2], dilation[2];
    int64_t pad_begin[2], pad_end[2]; /**< end pads as effective: ceil_mode may enlarge them */
    int64_t pad_counted[2];           /**< end pads without that: what count_include_pad counts */
    int64_t out[2];                   /**< output height, width */
    bool count_include_pad;
} bb_window;
/** For 2-D nodes (1-D ones are widened by a leading 1). dims = NCHW dims of input 0. */
bb_status bb_node_window(const bb_graph *graph, const bb_node *node, const int64_t *dims, int rank,
                         bb_window *window, bb_error *err);

#endif
