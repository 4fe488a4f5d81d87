/* SPDX-License-Identifier: Apache-2.0 */
/* The public face of float execution. */
#include "bitbranch/import.h"
#include "nn/executor.h"
#include <string.h>

struct bb_float_net {
    const bb_graph *graph;
    bb_executor *executor;
    bb_array input;
    float **converted; /* per output: room where it is not f32 itself */
    bb_float_tap_fn tap;
    void *tap_user;
};

void bb_float_net_destroy(bb_float_net *net) {
    if (!net)
        return;
    bb_executor_destroy(net->executor);
    for (size_t i = 0; net->converted && i < net->graph->n_outputs; i++)
        bb_free(net->converted[i]);
    bb_free(net->converted);
    bb_free(net);
}

static bb_status choose_dims(const bb_graph *graph, const int64_t wanted[4], bb_array *input,
                             bb_error *err) {
    if (graph->n_inputs != 1)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: networks with %zu inputs are not supported",
                       graph->name, graph->n_inputs);
    const bb_value *value = &graph->values[graph->inputs[0]];
    if (value->rank < 1 || value->rank > 4 || value->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: input '%s' is not an f32 tensor of rank 1 "
                       "to 4",
                       graph->name, value->name);
    *input = (bb_array){.dtype = BB_DTYPE_F32, .rank = value->rank};
    for (int i = 0; i < value->rank; i++) {
        input->dims[i] = wanted && wanted[i] > 0 ? wanted[i] : value->dims[i];
        if (input->dims[i] < 0 && i == 0)
            input->dims[i] = 1;
        if (input->dims[i] < 1)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: dimension %d of input '%s' is open: state it", graph->name, i,
                           value->name);
    }
    return BB_STATUS_OK;
}

/* Every f32 result of a node. */
static size_t tap_list(const bb_graph *graph, int *list) {
    size_t n = 0;
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_out; k++)
            if (graph->nodes[i].out[k] >= 0)
                list[n++] = graph->nodes[i].out[k];
    return n;
}

static bb_status create(const bb_graph *graph, const int64_t input_dims[4], size_t threads,
                        bb_float_net *net, bb_error *err) {
    bb_executor_options options = {.threads = threads};
    int *tapped = NULL;
    net->graph = graph;
    net->converted = bb_calloc_array(graph->n_outputs, sizeof(*net->converted));
    if (!net->converted)
        return bb_fail_memory(err, "float network");
    BB_TRY(choose_dims(graph, input_dims, &net->input, err));
    if (net->tap) {
        tapped = bb_alloc_array(graph->n_values, sizeof(*tapped));
        if (!tapped)
            return bb_fail_memory(err, "float network");
        options.n_tapped = tap_list(graph, tapped);
        options.tapped = tapped;
    }
    const int64_t *dims[1] = {net->input.dims};
    bb_status status = bb_executor_create(graph, dims, &options, &net->executor, err);
    bb_free(tapped);
    return status;
}

bb_status bb_float_net_create_tapped(const bb_graph *graph, const int64_t input_dims[4],
                                     size_t threads, bb_float_tap_fn tap, void *user,
                                     bb_float_net **out, bb_error *err) {
    bb_float_net *net = bb_calloc_array(1, sizeof(*net));
    if (!net)
        return bb_fail_memory(err, "float network");
    net->tap = tap;
    net->tap_user = user;
    bb_status status = create(graph, input_dims, threads, net, err);
    if (status != BB_STATUS_OK) {
        bb_float_net_destroy(net);
        return status;
    }
    *out = net;
    return BB_STATUS_OK;
}

bb_status bb_float_net_create(const bb_graph *graph, const int64_t input_dims[4], size_t threads,
                              bb_float_net **net, bb_error *err) {
    return bb_float_net_create_tapped(graph, input_dims, threads, NULL, NULL, net, err);
}

size_t bb_float_net_outputs(const bb_float_net *net) {
    return net->graph->n_outputs;
}

static int forward_tap(void *user, int value, const bb_array *array) {
    bb_float_net *net = user;
    if (array->dtype == BB_DTYPE_F32)
        net->tap(net->tap_user, net->graph->values[value].name, array->data, array->dims,
                 array->rank);
    return 0;
}

bb_status bb_float_net_run(bb_float_net *net, const float *input, bb_error *err) {
    /* The executor only reads its inputs. */
    net->input.data = (void *)(uintptr_t)input;
    return bb_executor_run(net->executor, &net->input, net->tap ? forward_tap : NULL, net, err);
}

static void to_f32(const bb_array *array, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        switch (array->dtype) {
        case BB_DTYPE_F32:
            out[i] = ((const float *)array->data)[i];
            break;
        case BB_DTYPE_F64:
            out[i] = (float)((const double *)array->data)[i];
            break;
        case BB_DTYPE_I64:
            out[i] = (float)((const int64_t *)array->data)[i];
            break;
        case BB_DTYPE_I32:
            out[i] = (float)((const int32_t *)array->data)[i];
            break;
        case BB_DTYPE_I16:
            out[i] = (float)((const int16_t *)array->data)[i];
            break;
        case BB_DTYPE_U16:
            out[i] = (float)((const uint16_t *)array->data)[i];
            break;
        case BB_DTYPE_I8:
        case BB_DTYPE_I4:
            out[i] = (float)((const int8_t *)array->data)[i];
            break;
        case BB_DTYPE_U8:
        case BB_DTYPE_U4:
        case BB_DTYPE_BOOL:
            out[i] = (float)((const uint8_t *)array->data)[i];
            break;
        }
}

bb_status bb_float_net_output(bb_float_net *net, size_t i, const char **name, const float **data,
                              int64_t *dims, int *rank, bb_error *err) {
    bb_array array;
    BB_TRY(bb_executor_output(net->executor, i, &array, err));
    *name = net->graph->values[net->graph->outputs[i]].name;
    *rank = array.rank;
    memcpy(dims, array.dims, sizeof(array.dims));
    *data = array.data;
    if (array.dtype == BB_DTYPE_F32)
        return BB_STATUS_OK;
    size_t n;
    if (!bb_dims_product(array.dims, (size_t)array.rank, &n))
        return bb_fail(err, BB_STATUS_LIMIT, "%s: output too large", net->graph->name);
    if (!net->converted[i])
        net->converted[i] = bb_alloc_array(n, sizeof(float));
    if (!net->converted[i])
        return bb_fail_memory(err, "output");
    to_f32(&array, n, net->converted[i]);
    *data = net->converted[i];
    return BB_STATUS_OK;
}
