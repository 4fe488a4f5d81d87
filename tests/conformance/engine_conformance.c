/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engine == plain integer arithmetic, bit for bit: every tensor and every accumulator of random
 * models, on every instruction set of this machine, with 1, 2 and 3 threads and little memory.
 *
 *     engine_conformance [--all | --sample CONVS NETWORKS] [--seed N] [--only M K]
 *
 * Without either: 40 convolutions for each of the 64 pairs (M,K) and 300 networks.
 */
#include "bitbranch/engine.h"
#include "cpu/cpu.h"
#include "kernels/kernels.h"
#include "random_model.h"
#include "reference.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct setting {
    const char *cpu, *kernel;
    size_t threads, packed_limit;
} setting;

typedef struct comparison {
    const ref_result *expected;
    const char *label;
    size_t differences, seen;
} comparison;

static size_t failures;

static void report(const char *label, const char *what, const char *detail) {
    if (failures++ < 20)
        printf("FAIL %s: %s %s\n", label, what, detail);
}

/* ---- one run --------------------------------------------------------------------------------- */

static size_t count_different(const ref_tensor *t, bb_element_type type, const void *data) {
    size_t n = 0;
    if (type == BB_TYPE_F32)
        return memcmp(t->floats, data, t->n * sizeof(float)) != 0;
    for (size_t i = 0; i < t->n; i++)
        n += t->codes[i] !=
             (type == BB_TYPE_U8 ? ((const uint8_t *)data)[i] : ((const uint16_t *)data)[i]);
    return n;
}

static void check_event(void *user, const bb_tap_event *event) {
    comparison *c = user;
    const ref_result *r = c->expected;
    const bb_model_node *node = &r->model->nodes[event->node];
    const ref_tensor *t = NULL;
    for (int i = 0; i < node->n_out; i++)
        if (strcmp(r->model->tensors[node->out[i]].name, event->tensor_name) == 0)
            t = &r->tensors[node->out[i]];
    c->seen++;
    const bool sized = t && memcmp(t->dims, event->dims, sizeof(t->dims)) == 0 &&
                       (event->type == BB_TYPE_F32) == (t->floats != NULL);
    if (!sized || count_different(t, event->type, event->data) != 0) {
        report(c->label, "tensor", event->tensor_name);
        c->differences++;
    }
    const int32_t *p = r->accumulators[event->node];
    if ((p != NULL) != (event->accumulators != NULL) ||
        (p && memcmp(p, event->accumulators, t->n * sizeof(*p)) != 0)) {
        report(c->label, "accumulators of", event->node_name);
        c->differences++;
    }
}

/* Fills `desc` shaped memory from a tensor: codes NHWC, floats NCHW. */
static void *to_caller(const ref_tensor *t, const bb_tensor_desc *desc) {
    void *p = malloc(desc->bytes ? desc->bytes : 1);
    if (!p)
        exit(1);
    const size_t pixels = (size_t)t->dims[1] * (size_t)t->dims[2], c = (size_t)t->dims[3];
    for (size_t i = 0; i < t->n; i++) {
        const size_t n = i / (pixels * c), pixel = i / c % pixels, channel = i % c;
        if (desc->type == BB_TYPE_F32)
            ((float *)p)[(n * c + channel) * pixels + pixel] = t->floats[i];
        else if (desc->type == BB_TYPE_U8)
            ((uint8_t *)p)[i] = (uint8_t)t->codes[i];
        else
            ((uint16_t *)p)[i] = (uint16_t)t->codes[i];
    }
    return p;
}

static void run_engine(const bb_engine *engine, bb_context *context, const ref_result *r,
                       const char *label) {
    const bb_model *model = r->model;
    void **inputs = calloc(model->n_inputs, sizeof(*inputs));
    void **outputs = calloc(model->n_outputs, sizeof(*outputs));
    bb_error err;
    bb_tensor_desc desc;
    for (size_t i = 0; i < model->n_inputs; i++) {
        bb_engine_input(engine, i, &desc, NULL);
        inputs[i] = to_caller(&r->tensors[model->inputs[i]], &desc);
    }
    for (size_t i = 0; i < model->n_outputs; i++) {
        bb_engine_output(engine, i, &desc, NULL);
        outputs[i] = malloc(desc.bytes);
    }
    bb_alloc_fail_after(0); /* a run allocates nothing */
    if (bb_context_run(context, (const void *const *)inputs, outputs, &err) != BB_STATUS_OK)
        report(label, "run:", err.message);
    bb_alloc_fail_after(-1);
    for (size_t i = 0; i < model->n_outputs; i++) {
        bb_engine_output(engine, i, &desc, NULL);
        void *expected = to_caller(&r->tensors[model->outputs[i]], &desc);
        if (memcmp(expected, outputs[i], desc.bytes) != 0)
            report(label, "output", desc.name);
        free(expected);
        free(outputs[i]);
    }
    for (size_t i = 0; i < model->n_inputs; i++)
        free(inputs[i]);
    free(inputs);
    free(outputs);
}

static void check_setting(const ref_result *r, size_t profile, const setting *s,
                          const char *title) {
    char label[256];
    bb_engine_options options;
    bb_engine *engine;
    bb_context *context;
    bb_error err;
    comparison c = {.expected = r, .label = label};
    snprintf(label, sizeof(label), "%s, cpu %s, kernel %s, %zu threads", title,
             s->cpu ? s->cpu : "best", s->kernel ? s->kernel : "chosen", s->threads);
    bb_engine_options_init(&options);
    options.cpu = s->cpu;
    options.kernel = s->kernel;
    options.threads = s->threads;
    options.packed_limit = s->packed_limit;
    options.profile = profile;
    if (bb_engine_create(r->model, &options, &engine, &err) != BB_STATUS_OK) {
        report(label, "engine:", err.message);
        return;
    }
    if (bb_context_create(engine, &context, &err) != BB_STATUS_OK) {
        report(label, "context:", err.message);
    } else {
        run_engine(engine, context, r, label); /* fused, without accumulators */
        bb_context_set_tap(context, check_event, &c, NULL);
        run_engine(engine, context, r, label);
        if (c.seen < r->model->n_nodes)
            report(label, "missing", "tap events");
    }
    bb_context_destroy(context);
    bb_engine_destroy(engine);
}

/* ---- one model ------------------------------------------------------------------------------- */

/* Instruction sets to mask down to; those this machine lacks fall back to less, which is fine. */
static const char *const levels[] = {"ref", "ssse3", "avx2", "avx512", "neon"};

static void check_model(const bb_model *model, size_t profile, uint64_t seed, const char *title) {
    ref_result r;
    bb_shapes shapes;
    bb_error err;
    bb_rng rng;
    size_t n_kernels;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n_kernels);
    if (bb_model_bind(model, NULL, &shapes, &err) != BB_STATUS_OK) {
        if (err.status != BB_STATUS_LIMIT && !strstr(err.message, "pool window"))
            report(title, "bind:", err.message);
        return;
    }
    ref_start(&r, model, profile, &shapes);
    bb_rng_seed(&rng, seed);
    for (size_t i = 0; i < model->n_inputs; i++) {
        ref_tensor *t = &r.tensors[model->inputs[i]];
        random_tensor(&rng, &r.profile->tensors[model->inputs[i]], t->n, t->codes, t->floats);
    }
    ref_run(&r);
    for (size_t threads = 1; threads <= 3; threads++)
        check_setting(&r, profile, &(setting){.threads = threads}, title);
    check_setting(&r, profile, &(setting){.threads = 1, .packed_limit = 1}, title);
    for (size_t i = 0; i < BB_COUNT(levels); i++) {
        uint32_t flags;
        if (bb_cpu_parse(levels[i], &flags, NULL) == BB_STATUS_OK &&
            (flags & ~bb_cpu_detect()) == 0)
            check_setting(&r, profile, &(setting){.cpu = levels[i], .threads = 1}, title);
    }
    check_setting(&r, profile,
                  &(setting){.kernel = kernels[bb_rng_below(&rng, n_kernels)]->name, .threads = 1},
                  title);
    ref_free(&r);
    bb_shapes_free(&shapes);
}

static void check_conv(uint64_t seed, uint32_t m, uint32_t k) {
    char title[64];
    snprintf(title, sizeof(title), "conv w%ua%u seed %llu", k, m, (unsigned long long)seed);
    bb_model *model = random_conv_model(seed * 64 + (m - 1) * 8 + k - 1, m, k);
    check_model(model, 0, seed, title);
    bb_model_destroy(model);
}

static void check_network(uint64_t seed) {
    char title[64];
    bb_model *model = random_network(seed);
    for (size_t profile = 0; profile < model->n_profiles; profile++) {
        snprintf(title, sizeof(title), "network seed %llu profile %zu", (unsigned long long)seed,
                 profile);
        check_model(model, profile, seed, title);
    }
    bb_model_destroy(model);
}

int main(int argc, char **argv) {
    uint64_t seed = 1, convs = 40, networks = 300;
    uint32_t only_m = 0, only_k = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0) {
            convs = 1000;
            networks = 10000;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--sample") == 0 && i + 2 < argc) {
            convs = strtoull(argv[++i], NULL, 10);
            networks = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--only") == 0 && i + 2 < argc) {
            only_m = (uint32_t)strtoul(argv[++i], NULL, 10);
            only_k = (uint32_t)strtoul(argv[++i], NULL, 10);
            networks = 0;
        } else {
            fprintf(stderr, "usage: %s [--all | --sample CONVS NETWORKS] [--seed N] [--only M K]\n",
                    argv[0]);
            return 2;
        }
    }
    size_t checked = 0;
    for (uint32_t m = 1; m <= 8; m++)
        for (uint32_t k = 1; k <= 8; k++)
            for (uint64_t i = 0; i < convs && (!only_m || (m == only_m && k == only_k)); i++) {
                check_conv(seed + i, m, k);
                checked++;
            }
    for (uint64_t i = 0; i < networks; i++, checked++)
        check_network(seed + i);
    printf("%zu models checked from seed %llu, %zu differences\n", checked,
           (unsigned long long)seed, failures);
    return failures ? 1 : 0;
}
