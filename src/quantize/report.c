/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of the report: one per layer with weights and per node that stays float. */
#include "quantize/quantizer.h"
#include <math.h>
#include <string.h>

/* Requantizer constants of one output channel of one copy: mult, add, shift. */
enum { CHANNEL_BYTES = 13, NODE_BYTES = 256 };

/* The names of bb_layer_info.kind. */
static const char *kind_name(const bb_quantization *q, size_t b) {
    const bb_block *block = &q->plan.blocks[b];
    const bb_conv_shape *s = &q->targets[b].shape;
    switch (block->kind) {
    case BB_BLOCK_CONV:
        if (q->graph->nodes[block->node].op != BB_OP_CONV)
            return "fully_connected";
        if (s->groups > 1)
            return s->depth == 1 ? "depthwise" : "grouped_conv";
        return "conv";
    case BB_BLOCK_ADD:
        return "add";
    case BB_BLOCK_MUL:
        return "mul";
    case BB_BLOCK_ACTIVATION:
        return "activation";
    case BB_BLOCK_MAX_POOL:
        return "max_pool";
    case BB_BLOCK_AVERAGE_POOL:
        return "average_pool";
    case BB_BLOCK_CONCAT:
        return "concat";
    case BB_BLOCK_CHANNELS:
        return "channels";
    case BB_BLOCK_RESHAPE:
        return "reshape";
    case BB_BLOCK_RESIZE:
        return "resize";
    default:
        return bb_op_name(q->graph->nodes[block->node].op);
    }
}

/** Weight elements and multiply-accumulates of a node that stays float. */
static void float_costs(const bb_quantization *q, const bb_block *block, bb_quantize_row *row) {
    const bb_node *node = &q->graph->nodes[block->node];
    const bb_value *w = bb_node_input(q->graph, node, 1);
    size_t n;
    if ((node->op != BB_OP_CONV && node->op != BB_OP_GEMM) || !w || !bb_value_elements(w, &n))
        return;
    row->parameters = n;
    row->bytes = n * sizeof(float);
    size_t out = bb_quantize_elements(q, node->out[0]);
    size_t rows = (size_t)q->graph->values[node->out[0]].dims[1];
    row->macs = n * (rows ? out / rows : 0);
}

static void conv_costs(const bb_quantization *q, size_t b, bb_quantize_row *row) {
    const bb_conv_shape *s = &q->targets[b].shape;
    const bb_block *block = &q->plan.blocks[b];
    uint64_t d = (uint64_t)s->taps * s->depth, most = 0, copies = 0;
    for (size_t p = 0; p < q->n_profiles; p++) {
        uint32_t bits = bb_quantize_bits(q, b, p).weight;
        most = bits > most ? bits : most;
        int n = q->profiles[p].values[block->output].n;
        copies += n ? (uint64_t)n : 1;
    }
    row->bits = bb_quantize_bits(q, b, 0);
    row->parameters = s->rows * d;
    row->macs = bb_quantize_elements(q, block->pre_activation) * d;
    row->bytes = (d + 63) / 64 * 8 * s->rows * most + copies * CHANNEL_BYTES * s->rows;
}

static void fill_row(const bb_quantization *q, size_t b, bb_quantize_row *row) {
    const bb_block *block = &q->plan.blocks[b];
    row->layer = q->graph->nodes[block->node].name;
    row->kind = kind_name(q, b);
    row->sqnr_db = q->sqnr[b];
    row->note = block->reason;
    if (block->kind == BB_BLOCK_CONV)
        conv_costs(q, b, row);
    else if (block->kind == BB_BLOCK_FLOAT)
        float_costs(q, block, row);
}

static bool own_strings(bb_arena *arena, bb_quantize_row *row) {
    row->layer = bb_arena_strdup(arena, row->layer);
    row->kind = bb_arena_strdup(arena, row->kind);
    bool ok = row->layer && row->kind;
    if (row->note)
        ok = (row->note = bb_arena_strdup(arena, row->note)) != NULL && ok;
    return ok;
}

bb_status bb_quantize_fill_report(const bb_quantization *q, bb_quantize_report *report,
                                  bb_error *err) {
    bb_arena *arena = bb_arena_create();
    bb_quantize_row *rows = arena ? bb_arena_array(arena, q->plan.n + 1, sizeof *rows) : NULL;
    bool ok = rows != NULL;
    *report = (bb_quantize_report){
        .rows = rows, .storage = arena, .float32_bytes = q->graph->parameter_bytes};
    report->judged_images = q->held;
    memcpy(report->divergence, q->divergence, sizeof report->divergence);
    report->estimated_bytes = NODE_BYTES * q->plan.n;
    for (size_t b = 0; ok && b < q->plan.n; b++) {
        bb_quantize_row *row = &rows[report->n_rows];
        fill_row(q, b, row);
        ok = own_strings(arena, row);
        report->n_rows++;
        report->macs += row->macs;
        report->integer_macs += row->bits.weight ? row->macs : 0;
        report->estimated_bytes += row->bytes;
    }
    if (ok)
        return BB_STATUS_OK;
    bb_quantize_report_free(report);
    return bb_fail_memory(err, "quantization report");
}

void bb_quantize_report_free(bb_quantize_report *report) {
    if (!report)
        return;
    bb_arena_destroy(report->storage);
    memset(report, 0, sizeof *report);
}
