/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/program.h"
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

typedef struct interval {
    size_t bytes, offset;
    int first, last, buffer;
} interval;

static int by_size(const void *a, const void *b) {
    const interval *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->buffer - y->buffer;
}

static int by_offset(const interval *const *sorted, size_t n, size_t offset) {
    size_t low = 0;
    while (low < n && sorted[low]->offset <= offset)
        low++;
    return (int)low;
}

/* Lowest offset where `item` meets none of the placed intervals that live at the same time. */
static size_t lowest_fit(const interval *const *placed, size_t n, const interval *item) {
    size_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const interval *other = placed[i];
        if (other->last < item->first || item->last < other->first)
            continue;
        if (other->offset >= offset + item->bytes)
            break;
        if (other->offset + other->bytes > offset)
            offset = other->offset + other->bytes;
    }
    return offset;
}

/* Greedy by size: a few percent above the optimum on networks, and simple. */
static size_t place(interval *items, size_t n, const interval **placed) {
    size_t total = 0;
    qsort(items, n, sizeof(*items), by_size);
    for (size_t i = 0; i < n; i++) {
        items[i].offset = lowest_fit(placed, i, &items[i]);
        size_t at = (size_t)by_offset(placed, i, items[i].offset);
        for (size_t k = i; k > at; k--)
            placed[k] = placed[k - 1];
        placed[at] = &items[i];
        if (items[i].offset + items[i].bytes > total)
            total = items[i].offset + items[i].bytes;
    }
    return total;
}

static bb_status place_buffers(bb_executor *ex, bb_error *err) {
    interval *items = bb_alloc_array(ex->n_buffers, sizeof(*items));
    const interval **placed = bb_alloc_array(ex->n_buffers, sizeof(const interval *));
    size_t n = 0;
    if (items && placed) {
        for (size_t i = 0; i < ex->n_buffers; i++) {
            const bb_nn_buffer *buffer = &ex->buffers[i];
            if (buffer->fixed || buffer->last < buffer->first)
                continue;
            size_t bytes = (buffer->bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
            items[n++] = (interval){bytes, 0, buffer->first, buffer->last, (int)i};
        }
        ex->memory_bytes = place(items, n, placed);
        for (size_t i = 0; i < n; i++)
            ex->buffers[items[i].buffer].offset = items[i].offset;
    }
    bool ok = items && placed;
    bb_free(items);
    bb_free(placed);
    return ok ? BB_STATUS_OK : bb_fail_memory(err, "buffer plan");
}

void *bb_nn_pointer(const bb_executor *ex, int buffer) {
    const bb_nn_buffer *b = &ex->buffers[buffer];
    return b->fixed ? (void *)(uintptr_t)b->fixed : ex->memory + b->offset;
}

bool bb_nn_has_padding(const bb_dn_channels *form) {
    return form->blocks * form->lanes > form->channels;
}

void bb_nn_clear_padding(const bb_dn_channels *form, float *data) {
    size_t used = form->channels - (form->blocks - 1) * form->lanes;
    size_t image = form->blocks * form->pixels * form->lanes;
    for (size_t n = 0; n < form->images && used < form->lanes; n++) {
        float *pixel = data + n * image + (form->blocks - 1) * form->pixels * form->lanes;
        for (size_t p = 0; p < form->pixels; p++, pixel += form->lanes)
            memset(pixel + used, 0, (form->lanes - used) * sizeof(*pixel));
    }
}

static bb_status bind_step(bb_executor *ex, bb_nn_step *step, bb_error *err) {
    for (int i = 0; i < step->n_args; i++) {
        step->data[i] = bb_nn_pointer(ex, step->args[i].buffer);
        if (step->op)
            BB_TRY(
                bb_dn_op_bind(ex->dn, step->op, (bb_dn_arg)step->args[i].role, step->data[i], err));
    }
    if (step->op && bb_dn_op_scratch(step->op) > 0)
        return bb_dn_op_bind(ex->dn, step->op, BB_DN_SCRATCH, ex->scratch, err);
    return BB_STATUS_OK;
}

bb_status bb_nn_place(bb_executor *ex, bb_error *err) {
    BB_TRY(place_buffers(ex, err));
    ex->memory = bb_alloc_aligned(ex->memory_bytes);
    ex->scratch = bb_alloc_aligned(ex->scratch_bytes);
    if (!ex->memory || !ex->scratch)
        return bb_fail_memory(err, "activation memory");
    for (size_t i = 0; i < ex->n_steps; i++)
        BB_TRY(bind_step(ex, &ex->steps[i], err));
    return BB_STATUS_OK;
}
