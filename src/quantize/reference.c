/* SPDX-License-Identifier: Apache-2.0 */
/* What the float network has where the quantized one has codes. Layers are solved for inputs of
 * which a random half comes from it (QDrop, Wei et al. 2022, as second moments): what the codes of
 * a few hundred images have in common by chance then counts less. */
#include "quantize/quantizer.h"
#include <string.h>

/* Up to so many activation bits it helps; with four it harms (docs/quantization.md): what the
 * layers before do to an input is then mostly the work of their weights, the same for every image.
 */
enum { MIXED_BITS = 3 };

typedef struct reference_run {
    bb_quantization *q;
    const bb_block *b;
    bb_runners runners;
    float **scratch;   /* [workers] inputs */
    bb_status *status; /* [images] */
} reference_run;

/* ---- bfloat16: half the memory, and exact enough beside codes of 8 bits or fewer ------------- */

static void to_bf16(const float *x, size_t n, uint16_t *to) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        to[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
    }
}

static void from_bf16(const uint16_t *from, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)from[i] << 16;
        memcpy(&x[i], &u, sizeof u);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

bool bb_reference_mixes(const bb_quantization *q, size_t block) {
    bool few = q->options->effort == BB_EFFORT_BEST;
    for (size_t p = 0; p < q->n_profiles; p++)
        few &= bb_quantize_bits(q, block, p).activation <= MIXED_BITS;
    return few && q->plan.blocks[block].kind == BB_BLOCK_CONV &&
           !bb_quantize_is_pixels(q, q->plan.blocks[block].in[0]);
}

bool bb_reference_wanted(const bb_quantization *q) {
    for (size_t b = 0; b < q->plan.n; b++)
        if (bb_reference_mixes(q, b))
            return true;
    return false;
}

void bb_reference_read(const bb_quantization *q, int value, size_t image, float *x) {
    size_t n = bb_quantize_elements(q, value);
    if (q->reference[value])
        from_bf16(q->reference[value] + image * n, n, x);
    else
        bb_store_read(q, 0, value, 0, image, x); /* the network's input */
}

void bb_reference_mix(bb_rng *rng, const float *a, const float *b, float *x, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        uint64_t coins = bb_rng_next(rng);
        for (size_t k = i; k < n && k < i + 64; k++, coins >>= 1)
            x[k] = coins & 1 ? a[k] : b[k];
    }
}

void bb_reference_free(bb_quantization *q, int value) {
    bb_free(q->reference[value]);
    q->reference[value] = NULL;
}

/* ---- one block ------------------------------------------------------------------------------- */

static void image_task(void *user, size_t image, size_t worker) {
    reference_run *r = user;
    bb_array inputs[BB_MAX_NODE_INPUTS], output;
    bb_executor *ex = r->runners.executors[worker];
    size_t n = bb_quantize_elements(r->q, r->b->output);
    float *x = r->scratch[worker];
    for (int i = 0; i < r->b->n_in; i++) {
        bb_reference_read(r->q, r->b->in[i], image, x);
        x += bb_quantize_elements(r->q, r->b->in[i]);
    }
    bb_subgraph_list_inputs(r->q, r->b, r->b->n_in, r->scratch[worker], inputs);
    bb_status status = bb_executor_run(ex, inputs, NULL, NULL, NULL);
    if (status == BB_STATUS_OK)
        status = bb_executor_output(ex, 0, &output, NULL);
    if (status == BB_STATUS_OK)
        to_bf16(output.data, n, r->q->reference[r->b->output] + image * n);
    r->status[image] = status;
}

static bb_status run_images(reference_run *r, bb_error *err) {
    bb_pool_run(r->q->pool, r->q->images, image_task, r);
    for (size_t i = 0; i < r->q->images; i++)
        if (r->status[i] != BB_STATUS_OK)
            return bb_fail(err, r->status[i], "node '%s' cannot run in float",
                           r->q->graph->nodes[r->b->node].name);
    return BB_STATUS_OK;
}

static bb_status allocate(reference_run *r, bb_error *err) {
    bb_quantization *q = r->q;
    size_t in = 0, out = bb_quantize_elements(q, r->b->output);
    for (int i = 0; i < r->b->n_in; i++)
        in += bb_quantize_elements(q, r->b->in[i]);
    r->scratch = bb_calloc_array(q->threads, sizeof *r->scratch);
    r->status = bb_calloc_array(q->images, sizeof *r->status);
    q->reference[r->b->output] = bb_alloc_array(q->images, out * sizeof(uint16_t));
    bool ok = r->scratch && r->status && q->reference[r->b->output];
    for (size_t w = 0; ok && w < q->threads; w++)
        ok = (r->scratch[w] = bb_alloc_array(in, sizeof(float))) != NULL;
    return ok ? BB_STATUS_OK : bb_fail_memory(err, "float activations of the calibration images");
}

bb_status bb_reference_run(bb_quantization *q, size_t block, bb_error *err) {
    reference_run r = {.q = q, .b = &q->plan.blocks[block]};
    bb_graph *graph = NULL;
    if (!bb_reference_wanted(q) || q->last_reader[r.b->output] < 0)
        return BB_STATUS_OK;
    bb_status status = bb_subgraph_of_block(q, r.b, &graph, err);
    if (status == BB_STATUS_OK)
        status = bb_runners_create(&r.runners, graph, NULL, 0, q->threads, err);
    if (status == BB_STATUS_OK)
        status = allocate(&r, err);
    if (status == BB_STATUS_OK)
        status = run_images(&r, err);
    for (size_t w = 0; r.scratch && w < q->threads; w++)
        bb_free(r.scratch[w]);
    bb_free(r.scratch);
    bb_free(r.status);
    if (r.runners.executors)
        bb_runners_destroy(&r.runners);
    bb_graph_destroy(graph);
    return status;
}
