/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model.h"
#include <stdio.h>
#include <string.h>

bb_model *bb_model_create(void) {
    bb_model *model = bb_calloc_array(1, sizeof(*model));
    if (!model)
        return NULL;
    model->name = "";
    model->arena = bb_arena_create();
    if (!model->arena) {
        bb_free(model);
        return NULL;
    }
    return model;
}

void bb_model_destroy(bb_model *model) {
    if (!model)
        return;
    bb_arena_destroy(model->arena);
    bb_file_close(&model->file);
    bb_free(model);
}

/* Room for one more element in an arena array that doubles at 8, 16, 32, ... elements, so that no
 * capacity needs to be kept. Returns the array, moved or not; NULL when out of memory. */
static void *grow(bb_arena *arena, void *array, size_t n, size_t size) {
    bool full = n == 0 || (n >= 8 && (n & (n - 1)) == 0);
    if (!full)
        return array;
    void *bigger = bb_arena_array(arena, n ? 2 * n : 8, size);
    if (bigger && n)
        memcpy(bigger, array, n * size);
    return bigger;
}

int bb_model_add_tensor(bb_model *model, const char *name, bb_tensor_kind kind, int rank,
                        const int64_t *dims) {
    if (model->n_tensors >= BB_MAX_TENSORS || rank < 1 || rank > BB_MODEL_MAX_RANK)
        return -1;
    bb_model_tensor *tensors =
        grow(model->arena, model->tensors, model->n_tensors, sizeof(*tensors));
    char *copy = bb_arena_strdup(model->arena, name);
    if (!tensors || !copy)
        return -1;
    model->tensors = tensors;
    bb_model_tensor *t = &tensors[model->n_tensors];
    *t = (bb_model_tensor){.name = copy, .kind = kind, .rank = rank, .dims = {1, 1, 1, 1}};
    memcpy(t->dims, dims, (size_t)rank * sizeof(*dims));
    return (int)model->n_tensors++;
}

bb_model_node *bb_model_add_node(bb_model *model, const char *name, bb_node_kind kind, int n_in,
                                 const int *in, int n_out, const int *out) {
    if (model->n_nodes >= BB_MAX_NODES || n_in < 0 || n_in > BB_MAX_NODE_INPUTS || n_out < 0 ||
        n_out > BB_MAX_NODE_OUTPUTS)
        return NULL;
    bb_model_node *nodes = grow(model->arena, model->nodes, model->n_nodes, sizeof(*nodes));
    char *copy = bb_arena_strdup(model->arena, name);
    if (!nodes || !copy)
        return NULL;
    model->nodes = nodes;
    bb_model_node *node = &nodes[model->n_nodes++];
    *node = (bb_model_node){.name = copy, .kind = kind, .n_in = n_in, .n_out = n_out};
    memcpy(node->in, in, (size_t)n_in * sizeof(*in));
    memcpy(node->out, out, (size_t)n_out * sizeof(*out));
    return node;
}

static bool append_index(bb_arena *arena, int **list, size_t *n, int value) {
    int *bigger = grow(arena, *list, *n, sizeof(*bigger));
    if (!bigger)
        return false;
    *list = bigger;
    bigger[(*n)++] = value;
    return true;
}

bool bb_model_add_input(bb_model *model, int tensor) {
    return append_index(model->arena, &model->inputs, &model->n_inputs, tensor);
}

bool bb_model_add_output(bb_model *model, int tensor) {
    return append_index(model->arena, &model->outputs, &model->n_outputs, tensor);
}

bb_profile *bb_model_add_profile(bb_model *model, uint32_t weight_bits, uint32_t activation_bits) {
    bb_profile *profiles =
        grow(model->arena, model->profiles, model->n_profiles, sizeof(*profiles));
    if (!profiles)
        return NULL;
    model->profiles = profiles;
    bb_profile profile = {
        .name = bb_arena_printf(model->arena, "w%ua%u", weight_bits, activation_bits),
        .weight_bits = weight_bits,
        .activation_bits = activation_bits,
        .tensors = bb_arena_array(model->arena, model->n_tensors, sizeof(*profile.tensors)),
        .convs = bb_arena_array(model->arena, model->n_nodes, sizeof(*profile.convs)),
    };
    if (!profile.name || !profile.tensors || !profile.convs)
        return NULL;
    profiles[model->n_profiles] = profile;
    return &profiles[model->n_profiles++];
}

bb_status bb_model_find_profile(const bb_model *model, uint32_t weight_bits,
                                uint32_t activation_bits, size_t *profile, bb_error *err) {
    for (size_t i = 0; i < model->n_profiles; i++) {
        const bb_profile *p = &model->profiles[i];
        if ((weight_bits == 0 || p->weight_bits == weight_bits) &&
            (activation_bits == 0 || p->activation_bits == activation_bits)) {
            *profile = i;
            return BB_STATUS_OK;
        }
    }
    char wanted[32] = "", present[BB_ERROR_MESSAGE_SIZE / 2] = "";
    size_t used = 0;
    if (weight_bits)
        used += (size_t)snprintf(wanted, sizeof(wanted), "w%u", weight_bits);
    if (activation_bits)
        snprintf(wanted + used, sizeof(wanted) - used, "a%u", activation_bits);
    used = 0;
    for (size_t i = 0; i < model->n_profiles && used < sizeof(present); i++)
        used += (size_t)snprintf(present + used, sizeof(present) - used, "%s%s", i ? ", " : "",
                                 model->profiles[i].name);
    return bb_fail(err, BB_STATUS_NOT_FOUND, "the model has no profile %s; it has: %s", wanted,
                   present);
}
