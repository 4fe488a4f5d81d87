/* SPDX-License-Identifier: Apache-2.0 */
/* oneDNN's own best: any layout, u8 in and u8 out with per-channel scales and ReLU fused, or f32
 * with ReLU fused. Primitive creation and reorders stay outside the clock. */
#include "bench.h"
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct conv_state {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[3]; /* source, weights, destination */
} conv_state;

static bool ok(dnnl_status_t status, const char *what) {
    if (status != dnnl_success)
        fprintf(stderr, "oneDNN: %s: status %d\n", what, (int)status);
    return status == dnnl_success;
}

/* Small values: no saturation for int8, no denormals for float. */
static void fill(dnnl_memory_t memory, const dnnl_memory_desc_t *desc, bool is_float,
                 bool is_signed) {
    void *data;
    dnnl_memory_get_data_handle(memory, &data);
    size_t bytes = dnnl_memory_desc_get_size(desc);
    unsigned state = 1;
    for (size_t i = 0; i < bytes / (is_float ? 4 : 1); i++) {
        state = state * 1664525u + 1013904223u;
        int v = (int)(state >> 25);
        if (is_float)
            ((float *)data)[i] = (float)(v - 64) / 64.0f;
        else
            ((int8_t *)data)[i] = (int8_t)(is_signed ? v - 64 : v);
    }
}

static dnnl_primitive_attr_t attributes(const bench_shape *s, bool int8) {
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    dnnl_primitive_attr_create(&attr);
    dnnl_post_ops_create(&post);
    dnnl_post_ops_append_eltwise(post, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
    dnnl_primitive_attr_set_post_ops(attr, post);
    dnnl_post_ops_destroy(post);
    if (int8) {
        float *scales = malloc((size_t)s->out_channels * sizeof(*scales));
        for (int i = 0; scales && i < s->out_channels; i++)
            scales[i] = 0.001f + 0.00001f * (float)i;
        dnnl_primitive_attr_set_output_scales(attr, s->out_channels, 1 << 1, scales);
        free(scales);
    }
    return attr;
}

static bool create_primitive(conv_state *c, const bench_shape *s, bool int8, char *name,
                             size_t name_size) {
    dnnl_dims_t src = {1, s->in_channels, s->height, s->width};
    dnnl_dims_t dst = {1, s->out_channels, s->height, s->width};
    dnnl_dims_t grouped_weights = {s->groups, s->out_channels / s->groups,
                                   s->in_channels / s->groups, s->kernel, s->kernel};
    dnnl_dims_t weights = {s->out_channels, s->in_channels, s->kernel, s->kernel};
    dnnl_dims_t one = {1, 1}, zero = {0}, pad = {s->kernel / 2, s->kernel / 2};
    dnnl_memory_desc_t md[3];
    bool grouped = s->groups > 1;
    dnnl_memory_desc_init_by_tag(&md[0], 4, src, int8 ? dnnl_u8 : dnnl_f32, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&md[1], grouped ? 5 : 4, grouped ? grouped_weights : weights,
                                 int8 ? dnnl_s8 : dnnl_f32, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&md[2], 4, dst, int8 ? dnnl_u8 : dnnl_f32, dnnl_format_tag_any);
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_attr_t attr = attributes(s, int8);
    bool good = ok(dnnl_dilated_convolution_forward_desc_init(
                       &desc, dnnl_forward_inference, dnnl_convolution_direct, &md[0], &md[1], NULL,
                       &md[2], one, zero, pad, pad),
                   "descriptor") &&
                ok(dnnl_primitive_desc_create(&pd, &desc, attr, c->engine, NULL), "primitive");
    dnnl_primitive_attr_destroy(attr);
    if (!good)
        return false;
    const char *info;
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &info);
    snprintf(name, name_size, "%s", info);
    static const dnnl_query_t queries[3] = {dnnl_query_src_md, dnnl_query_weights_md,
                                            dnnl_query_dst_md};
    good = ok(dnnl_primitive_create(&c->primitive, pd), "create");
    for (int i = 0; i < 3 && good; i++) {
        const dnnl_memory_desc_t *actual = dnnl_primitive_desc_query_md(pd, queries[i], 0);
        good = ok(dnnl_memory_create(&c->memory[i], actual, c->engine, DNNL_MEMORY_ALLOCATE),
                  "memory");
        if (good)
            fill(c->memory[i], actual, !int8, i == 1);
    }
    dnnl_primitive_desc_destroy(pd);
    return good;
}

static void run_conv(void *state) {
    conv_state *c = state;
    dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, c->memory[0]},
                               {DNNL_ARG_WEIGHTS, c->memory[1]},
                               {DNNL_ARG_DST, c->memory[2]}};
    dnnl_primitive_execute(c->primitive, c->stream, 3, args);
    dnnl_stream_wait(c->stream);
}

static void destroy_conv(void *state) {
    conv_state *c = state;
    for (int i = 0; i < 3; i++)
        if (c->memory[i])
            dnnl_memory_destroy(c->memory[i]);
    if (c->primitive)
        dnnl_primitive_destroy(c->primitive);
    dnnl_stream_destroy(c->stream);
    dnnl_engine_destroy(c->engine);
    free(c);
}

bool bench_onednn_conv(const bench_shape *shape, bool int8, bench_runner *runner) {
    conv_state *c = calloc(1, sizeof(*c));
    if (!c || !ok(dnnl_engine_create(&c->engine, dnnl_cpu, 0), "engine") ||
        !ok(dnnl_stream_create(&c->stream, c->engine, dnnl_stream_default_flags), "stream")) {
        free(c);
        return false;
    }
    *runner = (bench_runner){.state = c, .run = run_conv, .destroy = destroy_conv};
    snprintf(runner->name, sizeof(runner->name), "oneDNN %s", int8 ? "u8s8" : "f32");
    if (!create_primitive(c, shape, int8, runner->implementation, sizeof(runner->implementation))) {
        destroy_conv(c);
        return false;
    }
    if (strncmp(runner->implementation, "ref", 3) == 0) {
        fprintf(stderr, "%s: oneDNN fell to its reference; not a fair rival\n", shape->name);
        destroy_conv(c);
        return false;
    }
    return true;
}
