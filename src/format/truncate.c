/* SPDX-License-Identifier: Apache-2.0 */
/* One profile of a model with the planes it needs (paper.md 9.10: planes are prefixes). */
#include "format/format.h"

/* The first `used` planes lie in front; on the native grid they weigh 2^(used-1) .. 1. */
static bb_planes shortened(const bb_planes *planes, uint32_t used) {
    bb_planes result = *planes;
    if (used == planes->count)
        return result;
    result.count = used;
    for (uint32_t p = 0; p < BB_MAX_PLANES; p++)
        result.weight[p] = p < used ? (int16_t)bb_planes_weight(planes, used, p) : 0;
    return result;
}

/* A view of `model` that shares all its data: only what changes is copied. */
static bb_status make_view(const bb_model *model, size_t profile, bb_arena *arena, bb_model *view,
                           bb_error *err) {
    *view = *model;
    view->profiles = &model->profiles[profile];
    view->n_profiles = 1;
    view->nodes = bb_arena_array(arena, model->n_nodes, sizeof(*view->nodes));
    if (!view->nodes)
        return bb_fail_memory(err, "the truncated model");
    for (size_t i = 0; i < model->n_nodes; i++) {
        view->nodes[i] = model->nodes[i];
        if (model->nodes[i].kind != BB_NODE_CONV)
            continue;
        bb_planes *planes = bb_arena_alloc(arena, sizeof(*planes));
        if (!planes)
            return bb_fail_memory(err, "the truncated model");
        *planes = shortened(model->nodes[i].planes, view->profiles->convs[i].planes);
        view->nodes[i].planes = planes;
    }
    return BB_STATUS_OK;
}

/* Through the bytes of a file: the result then shares nothing, and is what a reader would see. */
bb_status bb_format_truncate(const bb_model *model, size_t profile, bb_model **result,
                             bb_error *err) {
    if (profile >= model->n_profiles)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "the model has %zu profiles, not %zu",
                       model->n_profiles, profile + 1);
    BB_TRY(bb_model_validate(model, err));
    bb_arena *arena = bb_arena_create();
    if (!arena)
        return bb_fail_memory(err, "the truncated model");
    bb_model view;
    bb_buffer bytes = {0};
    bb_status status = make_view(model, profile, arena, &view, err);
    if (status == BB_STATUS_OK)
        status = bb_format_write(&view, &bytes, err);
    bb_arena_destroy(arena);
    if (status != BB_STATUS_OK)
        return status;
    bb_file file = {(const uint8_t *)bytes.data, bytes.size, false};
    return bb_format_read(&file, model->name, result, err);
}
