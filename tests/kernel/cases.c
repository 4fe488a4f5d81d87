/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CANARY = 0xa5, MARGIN = 64 };

static void die(const char *what) {
    fprintf(stderr, "kcheck: %s\n", what);
    exit(2);
}

void guarded_create(guarded *g, size_t bytes, size_t align, bool at_end) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t body = (bytes + align + page - 1) / page * page;

    g->map_bytes = body + 2 * page;
    g->map = mmap(NULL, g->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || mprotect(g->map + page, body, PROT_READ | PROT_WRITE) != 0)
        die("no memory for a guarded buffer");
    g->bytes = bytes;
    g->data = at_end ? g->map + page + (body - bytes) / align * align : g->map + page;
    g->canary[0] = g->map + page;
    g->canary_bytes[0] = (size_t)(g->data - g->canary[0]);
    g->canary[1] = g->data + bytes;
    g->canary_bytes[1] = body - bytes - g->canary_bytes[0];
    memset(g->map + page, CANARY, body);
}

bool guarded_intact(const guarded *g) {
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < g->canary_bytes[side]; i++)
            if (g->canary[side][i] != CANARY)
                return false;
    return true;
}

void guarded_destroy(guarded *g) {
    munmap(g->map, g->map_bytes);
}

static int32_t between(bb_rng *rng, int32_t lo, int32_t hi) {
    return lo + (int32_t)bb_rng_below(rng, (uint64_t)(hi - lo + 1));
}

static int32_t random_channels(bb_rng *rng) {
    static const int32_t usual[] = {1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256};
    const int32_t kind = between(rng, 0, 9);

    if (kind < 4)
        return usual[bb_rng_below(rng, BB_COUNT(usual))];
    return kind < 9 ? between(rng, 1, 70) : between(rng, 70, 300);
}

static void random_channel_counts(bb_rng *rng, bb_conv_desc *desc) {
    const int32_t kind = between(rng, 0, 9);

    desc->groups = 1;
    desc->in_channels = random_channels(rng);
    desc->out_channels = random_channels(rng);
    if (kind < 2) { /* depthwise, sometimes with a multiplier */
        desc->groups = desc->in_channels;
        desc->out_channels = desc->in_channels * (kind == 0 ? 1 : between(rng, 1, 3));
    } else if (kind < 4) {
        desc->groups = between(rng, 2, 5);
        desc->in_channels = desc->groups * between(rng, 1, 40);
        desc->out_channels = desc->groups * between(rng, 1, 40);
    }
}

/** One in five is the plain 3x3 window that some kernels are made for. */
static void random_window(bb_rng *rng, bb_conv_desc *desc) {
    static const int32_t kernels[] = {1, 1, 1, 2, 3, 3, 3, 4, 5, 7};
    const bool plain = between(rng, 0, 4) == 0;

    for (int a = 0; a < 2; a++) {
        desc->kernel[a] = plain ? 3 : kernels[bb_rng_below(rng, BB_COUNT(kernels))];
        desc->stride[a] = plain || between(rng, 0, 2) ? 1 : between(rng, 1, 3);
        desc->dilation[a] = plain || between(rng, 0, 3) ? 1 : between(rng, 1, 3);
        desc->pad_begin[a] = between(rng, 0, 1) ? 0 : between(rng, 0, desc->kernel[a]);
    }
}

/** Output sizes for random input sizes and end pads; 0 where the window does not fit. */
static void random_sizes(bb_rng *rng, bb_conv_desc *desc) {
    int32_t *in[2] = {&desc->in_height, &desc->in_width};
    int32_t *out[2] = {&desc->out_height, &desc->out_width};

    for (int a = 0; a < 2; a++) {
        const int32_t window = (desc->kernel[a] - 1) * desc->dilation[a] + 1;
        const int32_t pad_end = between(rng, 0, 1) ? 0 : between(rng, 0, desc->kernel[a]);
        int32_t room;

        *in[a] = between(rng, 0, 3) ? between(rng, 1, 20) : between(rng, 1, 40);
        room = *in[a] + desc->pad_begin[a] + pad_end - window;
        *out[a] = room < 0 ? 0 : room / desc->stride[a] + 1;
    }
}

/** A window of one pixel, without padding. */
static void single_window(bb_conv_desc *desc) {
    for (int a = 0; a < 2; a++) {
        desc->kernel[a] = desc->stride[a] = desc->dilation[a] = 1;
        desc->pad_begin[a] = 0;
    }
    desc->groups = 1;
}

/** A fully connected layer of any depth up to 5000. */
static void dense_desc(bb_rng *rng, bb_conv_desc *desc) {
    single_window(desc);
    desc->in_channels = between(rng, 1, 5000);
    desc->out_channels = between(rng, 1, 40);
    desc->in_height = desc->out_height = 1;
    desc->in_width = desc->out_width = between(rng, 0, 1) ? 1 : between(rng, 1, 9);
}

/** A 1x1 layer of up to 40x40 pixels, with as many inputs as max_macs leaves room for. Every other
 *  one has outputs in eights, which fill whole blocks of channels. */
static void pointwise_desc(bb_rng *rng, double max_macs, bb_conv_desc *desc) {
    double room;

    single_window(desc);
    desc->in_height = desc->out_height = between(rng, 1, 40);
    desc->in_width = desc->out_width = between(rng, 1, 40);
    desc->out_channels = between(rng, 0, 1) ? between(rng, 1, 200) : 8 * between(rng, 1, 25);
    room = max_macs / desc->out_height / desc->out_width / desc->out_channels;
    desc->in_channels = between(rng, 1, room < 1 ? 1 : room > 100 ? 100 : (int32_t)room);
}

void random_desc(bb_rng *rng, uint32_t m, uint32_t k, double max_macs, bb_conv_desc *desc) {
    memset(desc, 0, sizeof(*desc));
    desc->activation_bits = m;
    desc->weight_bits = k;
    desc->pad_code = (uint32_t)bb_rng_below(rng, 1u << m);
    desc->native = between(rng, 0, 3) > 0;
    do {
        const int32_t kind = between(rng, 0, 7);

        if (kind == 0) {
            dense_desc(rng, desc);
        } else if (kind == 1) {
            pointwise_desc(rng, max_macs, desc);
        } else {
            random_channel_counts(rng, desc);
            random_window(rng, desc);
            random_sizes(rng, desc);
        }
    } while (desc->out_height == 0 || desc->out_width == 0 || bb_conv_macs(desc) > max_macs);
}

/** Largest magnitude of this grid: native, or any sum of planes and offset. */
static int32_t grid_max(bb_rng *rng, const bb_conv_desc *desc) {
    const int32_t native = (1 << desc->weight_bits) - 1;
    const double depth = bb_conv_macs(desc) / desc->out_height / desc->out_width /
                         desc->out_channels * ((1 << desc->activation_bits) - 1);
    const double room = 2147483647.0 / depth;
    const int32_t wide = between(rng, 0, 1) ? between(rng, 1, 300) : between(rng, 1, 32767);

    if (desc->native)
        return native;
    return wide < room ? wide : native;
}

static int16_t random_weight(bb_rng *rng, int32_t max, int32_t parity, case_fill fill) {
    const int32_t top = max - ((max ^ parity) & 1); /* largest of this parity */
    int32_t w;

    if (fill == FILL_MAX)
        return (int16_t)top;
    if (fill == FILL_MIN)
        return (int16_t)-top;
    if (fill == FILL_MIXED)
        return (int16_t)(between(rng, 0, 1) ? top : -top);
    w = between(rng, -max, max);
    return (int16_t)(((w ^ parity) & 1) ? (w > 0 ? w - 1 : w + 1) : w);
}

static void fill_weights(conv_case *c, bb_rng *rng, case_fill fill) {
    const size_t row = (size_t)(c->desc.kernel[0] * c->desc.kernel[1]) *
                       (size_t)(c->desc.in_channels / c->desc.groups);
    const int32_t max = grid_max(rng, &c->desc);

    c->desc.max_weight = c->desc.native ? max : 0;
    for (size_t r = 0; r < (size_t)c->desc.out_channels; r++) {
        const int32_t parity = c->desc.native ? 1 : between(rng, 0, 1);

        for (size_t i = 0; i < row; i++) {
            const int16_t w = random_weight(rng, max, parity, fill);

            c->weights[r * row + i] = w;
            if (abs(w) > c->desc.max_weight)
                c->desc.max_weight = abs(w);
        }
    }
}

void case_create(conv_case *c, bb_rng *rng, const bb_conv_desc *desc, case_fill fill) {
    const size_t n = (size_t)desc->in_height * (size_t)desc->in_width * (size_t)desc->in_channels;
    const uint32_t top = (1u << desc->activation_bits) - 1;
    const size_t n_weights = (size_t)desc->out_channels *
                             (size_t)(desc->kernel[0] * desc->kernel[1]) *
                             (size_t)(desc->in_channels / desc->groups);

    c->desc = *desc;
    c->n_out = (size_t)desc->out_height * (size_t)desc->out_width * (size_t)desc->out_channels;
    guarded_create(&c->in, n + 2 * MARGIN, 1, between(rng, 0, 1));
    c->codes = c->in.data + MARGIN;
    for (size_t i = 0; i < c->in.bytes; i++)
        c->in.data[i] = (uint8_t)bb_rng_next(rng);
    for (size_t i = 0; i < n; i++)
        c->codes[i] = (uint8_t)(fill == FILL_RANDOM  ? bb_rng_below(rng, top + 1)
                                : fill == FILL_MIXED ? top * bb_rng_below(rng, 2)
                                                     : top);
    c->weights = bb_alloc_array(n_weights, sizeof(*c->weights));
    if (!c->weights)
        die("out of memory");
    fill_weights(c, rng, fill);
}

void case_destroy(conv_case *c) {
    guarded_destroy(&c->in);
    bb_free(c->weights);
}

typedef struct collector {
    const bb_conv_desc *desc;
    int32_t *out;
    uint8_t *seen;
    int32_t y0, y1;
    const char *error;
} collector;

static void collect(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                    int32_t n_channels, const int32_t *acc, size_t stride) {
    collector *c = user;

    if (y < c->y0 || x < 0 || x >= c->desc->out_width || n_pixels < 1 ||
        x + n_pixels > (c->y1 - y) * c->desc->out_width || c0 < 0 || n_channels < 1 ||
        c0 + n_channels > c->desc->out_channels) {
        c->error = "tile outside the output";
        return;
    }
    for (int32_t p = 0; p < n_pixels; p++)
        for (int32_t i = 0; i < n_channels; i++) {
            const size_t at = ((size_t)y * (size_t)c->desc->out_width + (size_t)(x + p)) *
                                  (size_t)c->desc->out_channels +
                              (size_t)(c0 + i);

            c->out[at] = acc[(size_t)p * stride + (size_t)i];
            c->seen[at]++;
        }
}

static const char *check_seen(const collector *c) {
    const size_t row = (size_t)c->desc->out_width * (size_t)c->desc->out_channels;

    for (size_t i = (size_t)c->y0 * row; i < (size_t)c->y1 * row; i++)
        if (c->seen[i] != 1)
            return c->seen[i] ? "an element came twice" : "an element never came";
    return NULL;
}

const char *case_run(const conv_case *c, const bb_conv_kernel *kernel, int32_t y0, int32_t y1,
                     bool at_end, int32_t *out) {
    collector sink = {&c->desc, out, NULL, y0, y1, NULL};
    guarded packed, scratch;

    sink.seen = bb_calloc_array(c->n_out, 1);
    if (!sink.seen)
        die("out of memory");
    guarded_create(&packed, kernel->packed_size(&c->desc), 64, at_end);
    guarded_create(&scratch, kernel->scratch_size(&c->desc), 64, at_end);
    kernel->pack(&c->desc, c->weights, packed.data);
    kernel->run(&c->desc, packed.data, c->codes, y0, y1, scratch.data, collect, &sink);
    if (!sink.error)
        sink.error = check_seen(&sink);
    if (!guarded_intact(&packed))
        sink.error = "wrote outside packed weights";
    if (!guarded_intact(&scratch))
        sink.error = "wrote outside scratch";
    if (!guarded_intact(&c->in))
        sink.error = "wrote to the input";
    guarded_destroy(&packed);
    guarded_destroy(&scratch);
    bb_free(sink.seen);
    return sink.error;
}

void desc_print(const bb_conv_desc *d, char *text, size_t size) {
    snprintf(text, size,
             "w%ua%u %dx%dx%d -> %dx%dx%d kernel %dx%d stride %d,%d dilation %d,%d pad %d,%d "
             "groups %d pad_code %u %s max_weight %d",
             d->weight_bits, d->activation_bits, d->in_height, d->in_width, d->in_channels,
             d->out_height, d->out_width, d->out_channels, d->kernel[0], d->kernel[1], d->stride[0],
             d->stride[1], d->dilation[0], d->dilation[1], d->pad_begin[0], d->pad_begin[1],
             d->groups, d->pad_code, d->native ? "native" : "imported", d->max_weight);
}
