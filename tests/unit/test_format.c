/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "format/format.h"
#include "format/wire.h"
#include "sample_model.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static bb_buffer written(const bb_model *m) {
    bb_buffer out;
    bb_error err = {0};
    if (bb_format_write(m, &out, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return out;
}

static bb_model *loaded(const bb_buffer *bytes) {
    bb_model *m = NULL;
    bb_error err = {0};
    if (bb_model_load_buffer(bytes->data, bytes->size, &m, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return m;
}

static void assert_array(const void *a, const void *b, size_t n, size_t size) {
    assert_int_equal(a == NULL, b == NULL);
    if (a && n)
        assert_memory_equal(a, b, n * size);
}

static void assert_same_requant(const bb_requant *a, const bb_requant *b, uint32_t bits) {
    size_t n = a->channels;
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->channels, b->channels);
    assert_array(a->mult, b->mult, n, 4);
    assert_array(a->mult2, b->mult2, n, 4);
    assert_array(a->add, b->add, n, 8);
    assert_array(a->shift, b->shift, n, 1);
    assert_array(a->neg_mult, b->neg_mult, n, 4);
    assert_array(a->neg_mult2, b->neg_mult2, n, 4);
    assert_array(a->neg_add, b->neg_add, n, 8);
    assert_array(a->off, b->off, n, 8);
    assert_array(a->thresholds, b->thresholds, n * ((1u << bits) - 1), 4);
    assert_array(a->rising, b->rising, n, 1);
    assert_int_equal(a->index_bits, b->index_bits);
    assert_array(a->table, b->table, (size_t)1 << a->index_bits, 2);
    assert_array(a->scale, b->scale, n, 4);
    assert_array(a->scale2, b->scale2, n, 4);
    assert_array(a->bias, b->bias, n, 4);
}

static void assert_same_planes(const bb_planes *a, const bb_planes *b) {
    assert_int_equal(a == NULL, b == NULL);
    if (!a)
        return;
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->taps, b->taps);
    assert_int_equal(a->depth, b->depth);
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->row_words, b->row_words);
    assert_memory_equal(a->weight, b->weight, a->count * sizeof(a->weight[0]));
    assert_memory_equal(a->words, b->words, bb_planes_words(a) * 8);
}

static void assert_same_node(const bb_model_node *a, const bb_model_node *b) {
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n_in, b->n_in);
    assert_int_equal(a->n_out, b->n_out);
    assert_memory_equal(a->in, b->in, (size_t)a->n_in * sizeof(int));
    assert_memory_equal(a->out, b->out, (size_t)a->n_out * sizeof(int));
    assert_same_planes(a->planes, b->planes);
    if (a->planes || a->kind == BB_NODE_MAX_POOL || a->kind == BB_NODE_AVERAGE_POOL)
        assert_memory_equal(&a->geometry, &b->geometry, sizeof(a->geometry));
    assert_array(a->channel_index, b->channel_index, a->n_channel_index, 4);
    assert_int_equal(a->n_float_weights, b->n_float_weights);
    assert_array(a->float_weights, b->float_weights, a->n_float_weights, 4);
    assert_array(a->float_bias, b->float_bias, a->n_float_bias, 4);
    assert_memory_equal(a->resize_factor, b->resize_factor, sizeof(a->resize_factor));
    if (a->reason)
        assert_string_equal(a->reason, b->reason);
}

static void assert_same_profile(const bb_model *m, const bb_profile *a, const bb_profile *b) {
    assert_string_equal(a->name, b->name);
    for (size_t t = 0; t < m->n_tensors; t++) {
        const bb_tensor_params *x = &a->tensors[t], *y = &b->tensors[t];
        assert_int_equal(x->bits, y->bits);
        assert_memory_equal(&x->step, &y->step, sizeof(x->step));
        assert_int_equal(x->a0, y->a0);
        assert_same_requant(&x->requant, &y->requant, x->bits);
    }
    for (size_t i = 0; i < m->n_nodes; i++) {
        const bb_planes *planes = m->nodes[i].planes;
        if (!planes)
            continue;
        assert_int_equal(a->convs[i].planes, b->convs[i].planes);
        assert_array(a->convs[i].weight_offset, b->convs[i].weight_offset, planes->rows, 4);
        assert_array(a->convs[i].tap_add, b->convs[i].tap_add, planes->rows * planes->taps, 4);
        assert_array(a->convs[i].weight_scale, b->convs[i].weight_scale, planes->rows, 4);
    }
}

static void assert_same_model(const bb_model *a, const bb_model *b) {
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->n_tensors, b->n_tensors);
    assert_int_equal(a->n_nodes, b->n_nodes);
    assert_int_equal(a->n_profiles, b->n_profiles);
    assert_int_equal(a->float32_bytes, b->float32_bytes);
    for (size_t t = 0; t < a->n_tensors; t++) {
        assert_string_equal(a->tensors[t].name, b->tensors[t].name);
        assert_int_equal(a->tensors[t].kind, b->tensors[t].kind);
        assert_memory_equal(a->tensors[t].dims, b->tensors[t].dims, sizeof(a->tensors[t].dims));
    }
    for (size_t i = 0; i < a->n_nodes; i++)
        assert_same_node(&a->nodes[i], &b->nodes[i]);
    for (size_t i = 0; i < a->n_profiles; i++)
        assert_same_profile(a, &a->profiles[i], &b->profiles[i]);
    assert_memory_equal(a->inputs, b->inputs, a->n_inputs * sizeof(int));
    assert_memory_equal(a->outputs, b->outputs, a->n_outputs * sizeof(int));
    assert_string_equal(a->config_json, b->config_json);
    assert_string_equal(a->labels, b->labels);
}

static void test_round_trip_is_exact(void **state) {
    bb_model *m = sample_model();
    bb_buffer first = written(m);
    bb_model *again = loaded(&first);
    assert_same_model(m, again);
    bb_buffer second = written(again);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    bb_model_destroy(again);
    bb_model_destroy(m);
    bb_buffer_free(&first);
    bb_buffer_free(&second);
}

static void test_planes_are_used_in_place(void **state) {
    bb_model *m = bb_model_create();
    const int64_t in[] = {1, 64}, out[] = {1, 4};
    bb_model_add_tensor(m, "x", BB_TENSOR_CODE, 2, in);
    bb_model_add_tensor(m, "y", BB_TENSOR_FLOAT, 2, out);
    sample s = {.model = m};
    sample_conv(&s, "fc", 0, 1, 1, 1, 3, false);
    bb_model_add_input(m, 0);
    bb_model_add_output(m, 1);
    bb_profile *p = bb_model_add_profile(m, 3, 3);
    p->tensors[0] = (bb_tensor_params){.bits = 3, .step = 1};
    p->convs[0].planes = 3;
    sample_float_requant(&s, &p->tensors[1].requant, 4, false);
    bb_buffer bytes = written(m);
    bb_model *again = loaded(&bytes);
    const uint8_t *words = (const uint8_t *)again->nodes[0].planes->words;
    assert_true(words >= again->file.data && words < again->file.data + again->file.size);
    assert_int_equal((words - again->file.data) % 64, 0);
    assert_memory_equal(words, m->nodes[0].planes->words, 3 * 4 * 8);
    bb_model_destroy(again);
    bb_model_destroy(m);
    bb_buffer_free(&bytes);
}

static void test_saved_files_load(void **state) {
    char dir[] = "/tmp/bb_format_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/m.bbm", dir);
    bb_model *m = sample_model(), *again;
    bb_error err;
    assert_int_equal(bb_model_save(m, path, &err), BB_STATUS_OK);
    assert_int_equal(bb_model_load(path, &again, &err), BB_STATUS_OK);
    assert_same_model(m, again);
    bb_model_destroy(again);
    m->nodes[0].groups = 7; /* an invalid model is not written, and the old file stays */
    assert_int_equal(bb_model_save(m, path, &err), BB_STATUS_BAD_FILE);
    assert_int_equal(bb_model_load(path, &again, &err), BB_STATUS_OK);
    bb_model_destroy(again);
    bb_model_destroy(m);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(bb_model_load(path, &again, &err), BB_STATUS_IO);
}

static void test_truncation_keeps_one_profile(void **state) {
    bb_model *m = sample_model(), *small;
    bb_error err;
    assert_int_equal(bb_model_truncate(m, 2, &small, &err), BB_STATUS_NOT_FOUND);
    assert_int_equal(bb_model_truncate(m, 1, &small, &err), BB_STATUS_OK);
    assert_int_equal(small->n_profiles, 1);
    assert_same_profile(m, &m->profiles[1], &small->profiles[0]);
    assert_int_equal(small->nodes[0].planes->count, 2);
    for (size_t i = 0; i < m->n_nodes; i++) {
        const bb_planes *a = m->nodes[i].planes, *b = small->nodes[i].planes;
        if (!a)
            continue;
        uint32_t used = m->profiles[1].convs[i].planes;
        int16_t x[4096], y[4096];
        assert_int_equal(bb_planes_levels(a, used, x, &err), BB_STATUS_OK);
        assert_int_equal(bb_planes_levels(b, b->count, y, &err), BB_STATUS_OK);
        assert_memory_equal(x, y, (size_t)a->rows * a->taps * a->depth * sizeof(x[0]));
    }
    bb_model_destroy(m); /* shares nothing */
    bb_buffer bytes = written(small);
    bb_buffer_free(&bytes);
    bb_model_destroy(small);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static uint8_t *find_chunk(bb_buffer *bytes, const char *id) {
    uint8_t *data = (uint8_t *)bytes->data;
    for (size_t at = BB_FILE_HEADER; at < bytes->size;) {
        if (memcmp(data + at, id, 4) == 0)
            return data + at;
        at += bb_align_chunk(BB_CHUNK_HEADER + (size_t)bb_get_u64(data + at + 16));
    }
    return NULL;
}

static void reseal(uint8_t *header) {
    bb_crc crc;
    bb_crc_init(&crc);
    bb_put_u32(header + 12, bb_crc_chunk(&crc, header, header + BB_CHUNK_HEADER,
                                         (size_t)bb_get_u64(header + 16)));
}

static void assert_refused(const bb_buffer *bytes, bb_status wanted, const char *part) {
    bb_model *m = NULL;
    bb_error err = {0};
    bb_status status = bb_model_load_buffer(bytes->data, bytes->size, &m, &err);
    if (status != wanted || !strstr(err.message, part))
        fail_msg("status %d, '%s' does not mention '%s'", (int)status, err.message, part);
}

static void append_chunk(bb_buffer *bytes, const char *id, uint32_t version, uint32_t flags,
                         const char *text) {
    uint8_t header[BB_CHUNK_HEADER] = {0};
    size_t at = bytes->size;
    memcpy(header, id, 4);
    bb_put_u32(header + 4, version);
    bb_put_u32(header + 8, flags);
    bb_put_u64(header + 16, strlen(text));
    bb_buffer_append(bytes, header, sizeof(header));
    bb_buffer_append(bytes, text, strlen(text));
    reseal((uint8_t *)bytes->data + at);
    bb_encode_align(bytes);
    uint8_t *file = (uint8_t *)bytes->data;
    bb_crc crc;
    bb_crc_init(&crc);
    bb_put_u32(file + 12, bb_get_u32(file + 12) + 1);
    bb_put_u64(file + 16, bytes->size);
    bb_put_u32(file + 60, bb_crc_header(&crc, file));
}

static void test_unknown_chunks(void **state) {
    bb_model *m = sample_model();
    bb_buffer bytes = written(m);
    append_chunk(&bytes, "NEAT", 3, 0, "something new");
    append_chunk(&bytes, "TASK", 2, 0, "newer settings");
    bb_model *again = loaded(&bytes);
    assert_int_equal(again->n_extra, 2);
    bb_buffer rewritten = written(again);
    assert_int_equal(rewritten.size, bytes.size);
    assert_memory_equal(rewritten.data, bytes.data, bytes.size);
    append_chunk(&bytes, "MUST", 1, BB_CHUNK_REQUIRED, "x");
    assert_refused(&bytes, BB_STATUS_UNSUPPORTED, "chunk MUST");
    bb_buffer_free(&bytes);
    bytes = written(m);
    append_chunk(&bytes, "TASK", 1, 0, "again");
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "chunk TASK");
    bb_buffer_free(&bytes);
    bytes = written(m);
    append_chunk(&bytes, "NEAT", 1, 2, "x");
    assert_refused(&bytes, BB_STATUS_UNSUPPORTED, "flags");
    bb_buffer_free(&bytes);
    bb_buffer_free(&rewritten);
    bb_model_destroy(again);
    bb_model_destroy(m);
}

static void test_damage_is_named(void **state) {
    bb_model *m = sample_model();
    bb_buffer bytes = written(m);
    uint8_t *data = (uint8_t *)bytes.data;
#define DAMAGE(byte, value, status, part)                                                          \
    do {                                                                                           \
        uint8_t *at_ = (byte);                                                                     \
        uint8_t kept_ = *at_;                                                                      \
        *at_ = (uint8_t)(value);                                                                   \
        assert_refused(&bytes, status, part);                                                      \
        *at_ = kept_;                                                                              \
    } while (0)
    DAMAGE(data, 'x', BB_STATUS_BAD_FILE, "not a .bbm file");
    DAMAGE(data + 8, 2, BB_STATUS_BAD_FILE, "corrupt file header");
    DAMAGE(find_chunk(&bytes, "PLAN") + BB_CHUNK_HEADER, 0x55, BB_STATUS_BAD_FILE, "PLAN");
    DAMAGE(find_chunk(&bytes, "PROF") + 16, 255, BB_STATUS_BAD_FILE, "chunk PROF");
    DAMAGE(find_chunk(&bytes, "MODL") + 23, 255, BB_STATUS_BAD_FILE, "longer than the file");
    size_t size = bytes.size;
    bytes.size = 40;
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "truncated");
    bytes.size = 0;
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "not a .bbm");
    bytes.size = size - 64;
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "header says");
    bytes.size = size;
    bb_model_destroy(loaded(&bytes));
    bb_buffer_free(&bytes);
    bb_model_destroy(m);
}

/* Behind a good checksum the contents are still not trusted. */
static void test_sealed_nonsense_is_refused(void **state) {
    bb_model *m = sample_model();
    bb_buffer bytes = written(m);
    uint8_t *prof = find_chunk(&bytes, "PROF"), *modl = find_chunk(&bytes, "MODL");
    prof[BB_CHUNK_HEADER] = 9;
    reseal(prof);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "profile 0");
    prof[BB_CHUNK_HEADER] = 2;
    prof[BB_CHUNK_HEADER + 1] = 2;
    reseal(prof);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "twice");
    prof[BB_CHUNK_HEADER] = prof[BB_CHUNK_HEADER + 1] = 4;
    reseal(prof);
    bb_put_u64(prof + 16, bb_get_u64(prof + 16) - 1);
    prof[BB_CHUNK_HEADER + bb_get_u64(prof + 16)] = 0;
    reseal(prof);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "too early");
    bb_buffer_free(&bytes);
    bytes = written(m);
    modl = find_chunk(&bytes, "MODL");
    modl[BB_CHUNK_HEADER + 2] = 0xff; /* first byte of the model's name */
    reseal(modl);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "UTF-8");
    bb_buffer_free(&bytes);
    bb_model_destroy(m);
}

static void test_nothing_hides_in_gaps(void **state) {
    bb_model *m = sample_model();
    bb_buffer bytes = written(m);
    uint8_t *prof = find_chunk(&bytes, "PROF"), *task = find_chunk(&bytes, "TASK");
    prof[40] = 1;
    reseal(prof);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "padding");
    prof[40] = 0;
    reseal(prof);
    task[BB_CHUNK_HEADER + bb_get_u64(task + 16)] = 1;
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "chunk TASK");
    task[BB_CHUNK_HEADER + bb_get_u64(task + 16)] = 0;
    assert_true(bb_get_u64(prof + 16) % 64 != 0);
    bb_put_u64(prof + 16, bb_get_u64(prof + 16) + 1);
    reseal(prof);
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "longer than its contents");
    bb_put_u64(prof + 16, bb_get_u64(prof + 16) - 1);
    reseal(prof);
    bb_crc crc;
    bb_crc_init(&crc);
    uint8_t *file = (uint8_t *)bytes.data;
    bb_put_u32(file + 12, bb_get_u32(file + 12) - 1); /* one chunk less than there is */
    bb_put_u32(file + 60, bb_crc_header(&crc, file));
    assert_refused(&bytes, BB_STATUS_BAD_FILE, "after the last chunk");
    bb_buffer_free(&bytes);
    bb_model_destroy(m);
}

static void test_integer_arrays_use_few_bytes(void **state) {
    static const struct {
        int32_t values[3];
        size_t size;
    } cases[] = {
        {{0, 0, 0}, 1},           {{1, -1, 0}, 4},
        {{127, -128, 0}, 4},      {{128, 0, 0}, 7},
        {{-129, 0, 0}, 7},        {{32767, 0, 0}, 7},
        {{32768, 0, 0}, 10},      {{1 << 23, 0, 0}, 13},
        {{-(1 << 23), 0, 0}, 10}, {{INT32_MAX, INT32_MIN, 5}, 13},
    };
    bb_arena *arena = bb_arena_create();
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        bb_buffer out = {0};
        size_t budget = 1000;
        bb_encode_ints(&out, cases[i].values, 3, BB_INT_I32);
        assert_int_equal(out.size, cases[i].size);
        bb_decoder d = {
            .data = (uint8_t *)out.data, .size = out.size, .arena = arena, .budget = &budget};
        int32_t *values = bb_decode_ints(&d, 3, BB_INT_I32);
        assert_non_null(values);
        assert_memory_equal(values, cases[i].values, sizeof(cases[i].values));
        assert_int_equal(d.at, d.size);
        d.at = 0;
        assert_true(bb_decode_ints(&d, 300, BB_INT_I32) ==
                    NULL); /* over the budget, or too short */
        bb_buffer_free(&out);
    }
    const int64_t wide[] = {INT64_MIN, INT64_MAX};
    bb_buffer out = {0};
    size_t budget = 1000;
    bb_encode_ints(&out, wide, 2, BB_INT_I64);
    bb_decoder d = {
        .data = (uint8_t *)out.data, .size = out.size, .arena = arena, .budget = &budget};
    assert_memory_equal(bb_decode_ints(&d, 2, BB_INT_I64), wide, sizeof(wide));
    d.at = 0;
    assert_null(bb_decode_ints(&d, 2, BB_INT_I32)); /* out of range */
    bb_buffer_free(&out);
    bb_arena_destroy(arena);
}

static void test_checksum_is_crc32(void **state) {
    bb_crc crc;
    bb_crc_init(&crc);
    assert_int_equal(bb_crc_update(&crc, 0, "123456789", 9), 0xcbf43926u); /* the check value */
    const char *text = "The quick brown fox jumps over the lazy dog";
    assert_int_equal(bb_crc_update(&crc, 0, text, 43), 0x414fa339u);
    assert_int_equal(bb_crc_update(&crc, bb_crc_update(&crc, 0, text, 5), text + 5, 38),
                     0x414fa339u);
}

/* ---- public functions ------------------------------------------------------------------------ */

static void test_info_adds_up(void **state) {
    bb_model *m = sample_model();
    bb_buffer bytes = written(m);
    bb_model_info info;
    bb_error err;
    bb_model_info_init(&info);
    assert_int_equal(bb_model_get_info(m, &info, &err), BB_STATUS_OK);
    assert_int_equal(info.file_bytes, bytes.size);
    assert_int_equal(info.plane_bytes + info.constant_bytes + info.other_bytes, bytes.size);
    assert_int_equal(info.layers, m->n_nodes);
    assert_int_equal(info.profiles, 2);
    /* conv1, depthwise, ternary, fc; the float convolution has two groups */
    const uint64_t c = S_CHANNELS;
    uint64_t integer = 63 * c * 27 + 63 * c * 9 + 16 * c * c + 2 * c * S_CLASSES;
    assert_int_equal(info.integer_macs, integer);
    assert_int_equal(info.macs, integer + 32 * 2 * c * c);
    info.struct_size = 0;
    assert_int_equal(bb_model_get_info(m, &info, &err), BB_STATUS_INVALID_ARGUMENT);
    bb_buffer_free(&bytes);
    bb_model_destroy(m);
}

static void test_layers_are_described(void **state) {
    bb_model *m = sample_model();
    bb_layer_info info;
    bb_error err;
    assert_int_equal(bb_model_get_layer(m, 1, 0, &info, &err), BB_STATUS_OK);
    assert_string_equal(info.kind, "conv");
    assert_int_equal(info.weight_bits, 2);
    assert_int_equal(info.input_bits, 8);
    assert_int_equal(info.output_bits, 2);
    assert_int_equal(info.macs, 9 * 7 * S_CHANNELS * 27);
    assert_int_equal(info.bops, info.macs * 16);
    assert_int_equal(info.weight_bytes, S_CHANNELS * 27 * 2 / 8);
    assert_int_equal(bb_model_get_layer(m, 0, 1, &info, &err), BB_STATUS_OK);
    assert_string_equal(info.kind, "depthwise");
    assert_int_equal(bb_model_get_layer(m, 0, 12, &info, &err), BB_STATUS_OK);
    assert_string_equal(info.kind, "float conv");
    assert_string_equal(info.float_reason, "kept float by --bits");
    assert_int_equal(info.input_bits, 32);
    assert_int_equal(bb_model_get_layer(m, 0, 17, &info, &err), BB_STATUS_OK);
    assert_string_equal(info.kind, "fully_connected");
    assert_int_equal(bb_model_get_layer(m, 0, 18, &info, &err), BB_STATUS_NOT_FOUND);
    assert_int_equal(bb_model_get_layer(m, 2, 0, &info, &err), BB_STATUS_NOT_FOUND);
    bb_profile_info profile;
    assert_int_equal(bb_model_get_profile(m, 1, &profile, &err), BB_STATUS_OK);
    assert_string_equal(profile.name, "w2a2");
    assert_int_equal(bb_model_get_profile(m, 2, &profile, &err), BB_STATUS_NOT_FOUND);
    bb_model_destroy(m);
}

/* Every single allocation fails once; nothing leaks (checked by the sanitizer build) or crashes. */
static void test_allocation_failures_are_survived(void **state) {
    bb_model *m = sample_model(), *again;
    bb_buffer bytes = written(m), out;
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    for (long n = 0; status != BB_STATUS_OK; n++) {
        bb_error err;
        bb_alloc_fail_after(n);
        status = bb_model_load_buffer(bytes.data, bytes.size, &again, &err);
        bb_alloc_fail_after(-1);
        if (status != BB_STATUS_OK)
            assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
    bb_model_destroy(again);
    status = BB_STATUS_OUT_OF_MEMORY;
    for (long n = 0; status != BB_STATUS_OK; n++) {
        bb_alloc_fail_after(n);
        status = bb_format_write(m, &out, NULL);
        bb_alloc_fail_after(-1);
        if (status != BB_STATUS_OK)
            assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
    bb_buffer_free(&out);
    bb_buffer_free(&bytes);
    bb_model_destroy(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_is_exact),
        cmocka_unit_test(test_planes_are_used_in_place),
        cmocka_unit_test(test_saved_files_load),
        cmocka_unit_test(test_truncation_keeps_one_profile),
        cmocka_unit_test(test_unknown_chunks),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_sealed_nonsense_is_refused),
        cmocka_unit_test(test_nothing_hides_in_gaps),
        cmocka_unit_test(test_integer_arrays_use_few_bytes),
        cmocka_unit_test(test_checksum_is_crc32),
        cmocka_unit_test(test_info_adds_up),
        cmocka_unit_test(test_layers_are_described),
        cmocka_unit_test(test_allocation_failures_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
