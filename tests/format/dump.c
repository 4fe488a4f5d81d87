/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the sample model to a file (or loads a given one) and prints what the C reader makes of
 * it, in the words of python/bbm_reader.py --dump. */
#include "../unit/sample_model.h"
#include "format/format.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void print_ints(const char *key, const int *v, int n) {
    fputs(key, stdout);
    for (int i = 0; i < n; i++)
        printf(" %d", v[i]);
}

static void print_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    printf(" %08" PRIx32, bits);
}

static void print_floats(const char *key, const float *v, size_t n, bool always) {
    if (!v && !always)
        return;
    fputs(key, stdout);
    for (size_t i = 0; v && i < n; i++)
        print_float(v[i]);
    if (!v)
        putchar(' ');
    putchar('\n');
}

/* One line of numbers of any of the array types of a requantizer. */
#define PRINT_ARRAY(key, v, n, always)                                                             \
    do {                                                                                           \
        if ((v) || (always)) {                                                                     \
            fputs("  " key, stdout);                                                               \
            for (size_t i_ = 0; (v) && i_ < (n); i_++)                                             \
                printf(" %" PRId64, (int64_t)(v)[i_]);                                             \
            fputs((v) ? "\n" : " \n", stdout);                                                     \
        }                                                                                          \
    } while (0)

static void print_requant(const bb_requant *r, uint32_t bits) {
    size_t n = r->channels;
    printf("  requant %d\n", (int)r->kind);
    PRINT_ARRAY("mult", r->mult, n, false);
    PRINT_ARRAY("mult2", r->mult2, n, false);
    PRINT_ARRAY("add", r->add, n, false);
    PRINT_ARRAY("shift", r->shift, n, false);
    PRINT_ARRAY("neg_mult", r->neg_mult, n, false);
    PRINT_ARRAY("neg_mult2", r->neg_mult2, n, false);
    PRINT_ARRAY("neg_add", r->neg_add, n, false);
    PRINT_ARRAY("off", r->off, n, false);
    PRINT_ARRAY("rising", r->rising, n, false);
    PRINT_ARRAY("t", r->thresholds, n * ((1u << bits) - 1), false);
    PRINT_ARRAY("table", r->table, (size_t)1 << r->index_bits, false);
    print_floats("  scale", r->scale, n, false);
    print_floats("  scale2", r->scale2, n, false);
    print_floats("  bias", r->bias, n, false);
}

static bool has_window(const bb_model_node *n) {
    bool op = n->float_op == BB_FLOAT_CONV || n->float_op == BB_FLOAT_MAX_POOL ||
              n->float_op == BB_FLOAT_AVERAGE_POOL;
    return n->kind == BB_NODE_CONV || n->kind == BB_NODE_MAX_POOL ||
           n->kind == BB_NODE_AVERAGE_POOL || (n->kind == BB_NODE_FLOAT && op);
}

static void print_window(const bb_geometry *g) {
    print_ints("  window", g->kernel, 2);
    print_ints("", g->stride, 2);
    print_ints("", g->dilation, 2);
    print_ints("", g->pad_begin, 2);
    print_ints("", g->pad_end, 2);
    printf(" %d %d\n", g->ceil_mode, g->count_include_pad);
}

static void print_node(const bb_model_node *n) {
    printf("node %s kind %d", n->name, (int)n->kind);
    print_ints(" in", n->in, n->n_in);
    print_ints(" out", n->out, n->n_out);
    putchar('\n');
    if (has_window(n))
        print_window(&n->geometry);
    if (n->planes) {
        printf("  weights %u %u %u groups %u planes", n->planes->rows, n->planes->taps,
               n->planes->depth, n->groups);
        for (uint32_t p = 0; p < n->planes->count; p++)
            printf(" %d", n->planes->weight[p]);
        putchar('\n');
    }
    if (n->channel_index)
        PRINT_ARRAY("index", n->channel_index, n->n_channel_index, true);
    if (n->kind == BB_NODE_RESIZE_NEAREST)
        PRINT_ARRAY("factor", n->resize_factor, 2u, true);
    if (n->kind != BB_NODE_FLOAT)
        return;
    printf("  op %d", (int)n->float_op);
    print_float(n->alpha);
    print_float(n->beta);
    printf(" groups %u reason %s\n", n->float_op == BB_FLOAT_CONV ? n->groups : 1,
           n->reason ? n->reason : "");
    print_floats("  table", n->float_weights, n->n_float_weights, true);
    print_floats("  bias", n->float_bias, n->n_float_bias, true);
}

static void print_conv(const bb_model_node *node, const bb_conv_params *p) {
    size_t row = (size_t)node->planes->taps * node->planes->depth;
    int16_t *b = malloc(row * sizeof(*b));
    printf(" conv %s planes %u\n", node->name, p->planes);
    PRINT_ARRAY("offset", p->weight_offset, node->planes->rows, true);
    PRINT_ARRAY("tap_add", p->tap_add, (size_t)node->planes->taps * node->planes->rows, true);
    print_floats("  scale", p->weight_scale, node->planes->rows, true);
    for (uint32_t r = 0; b && r < node->planes->rows; r++) {
        bb_planes_row_levels(node->planes, p->planes, r, b);
        PRINT_ARRAY("b", b, row, true);
    }
    free(b);
}

static void print_profile(const bb_model *m, const bb_profile *p) {
    printf("profile %s\n", p->name);
    for (size_t t = 0; t < m->n_tensors; t++) {
        printf(" %s %u", m->tensors[t].name, p->tensors[t].bits);
        print_float(p->tensors[t].step);
        printf(" %d\n", p->tensors[t].a0);
        print_requant(&p->tensors[t].requant, p->tensors[t].bits);
    }
    for (size_t i = 0; i < m->n_nodes; i++)
        if (m->nodes[i].planes)
            print_conv(&m->nodes[i], &p->convs[i]);
}

static void print_labels(const char *labels) {
    fputs("labels ", stdout);
    for (const char *s = labels ? labels : ""; *s; s++)
        putchar(*s == '\n' ? '|' : *s);
    putchar('\n');
}

static void print_model(const bb_model *m) {
    printf("model %s float32 %" PRIu64 "\n", m->name, m->float32_bytes);
    for (size_t t = 0; t < m->n_tensors; t++) {
        printf("tensor %s kind %d dims", m->tensors[t].name, (int)m->tensors[t].kind);
        for (int i = 0; i < m->tensors[t].rank; i++)
            printf(" %d", (int)m->tensors[t].dims[i]);
        putchar('\n');
    }
    print_ints("inputs", m->inputs, (int)m->n_inputs);
    print_ints(" outputs", m->outputs, (int)m->n_outputs);
    putchar('\n');
    for (size_t i = 0; i < m->n_nodes; i++)
        print_node(&m->nodes[i]);
    for (size_t i = 0; i < m->n_profiles; i++)
        print_profile(m, &m->profiles[i]);
    printf("task %s\n", m->config_json ? m->config_json : "None");
    print_labels(m->labels);
}

/* The sample model, or its second profile alone. */
static bb_status write_sample(const char *path, bool truncated, bb_error *err) {
    bb_model *m = sample_model(), *small = NULL;
    bb_status status = truncated ? bb_model_truncate(m, 1, &small, err) : BB_STATUS_OK;
    if (status == BB_STATUS_OK)
        status = bb_model_save(truncated ? small : m, path, err);
    bb_model_destroy(small);
    bb_model_destroy(m);
    return status;
}

static bb_status dump(const char *path, bb_error *err) {
    bb_model *m = NULL;
    bb_status status = bb_model_load(path, &m, err);
    if (status == BB_STATUS_OK)
        print_model(m);
    bb_model_destroy(m);
    return status;
}

int main(int argc, char **argv) {
    bb_error err = {0};
    bb_status status;
    if (argc == 3 && strcmp(argv[1], "--sample") == 0)
        status = write_sample(argv[2], false, &err);
    else if (argc == 3 && strcmp(argv[1], "--truncated") == 0)
        status = write_sample(argv[2], true, &err);
    else if (argc == 2)
        status = dump(argv[1], &err);
    else
        status = bb_fail(&err, BB_STATUS_INVALID_ARGUMENT,
                         "usage: bbm_dump FILE | --sample FILE | --truncated FILE");
    if (status != BB_STATUS_OK)
        fprintf(stderr, "%s\n", err.message);
    return status != BB_STATUS_OK;
}
