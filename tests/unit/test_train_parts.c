/* SPDX-License-Identifier: Apache-2.0 */
/* Schedules, networks, checkpoints: the parts of training that stand alone. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "bitbranch/export.h"
#include "nn/executor.h"
#include "train/checkpoint.h"
#include "train/network.h"
#include "train/schedule.h"
#include "train_data.h"
#include <math.h>
#include <unistd.h>
#include <zlib.h>

static void near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * (1 + fabs(want))))
        fail_msg("%.12g, not %.12g", got, want);
}

/* ---- schedules ------------------------------------------------------------------------------- */

static void rates_follow_their_formulas(void **state) {
    bb_schedule s = {.kind = BB_SCHEDULE_COSINE, .rate = 2, .end_rate = 1};
    near(bb_schedule_rate(&s, 0, 100), 2);
    near(bb_schedule_rate(&s, 50, 100), 1.5);
    near(bb_schedule_rate(&s, 25, 100), 1 + 0.5 * (1 + cos(acos(-1) / 4)));
    s.kind = BB_SCHEDULE_LINEAR;
    near(bb_schedule_rate(&s, 25, 100), 1.75);
    s.kind = BB_SCHEDULE_CONSTANT;
    near(bb_schedule_rate(&s, 99, 100), 2);
    s = (bb_schedule){
        .kind = BB_SCHEDULE_STEP, .rate = 1, .factor = 0.5, .n_at = 2, .at = {.5, .75}};
    near(bb_schedule_rate(&s, 49, 100), 1);
    near(bb_schedule_rate(&s, 50, 100), 0.5);
    near(bb_schedule_rate(&s, 75, 100), 0.25);
}

static void warm_up_rises_to_the_rate(void **state) {
    bb_schedule s = {.kind = BB_SCHEDULE_COSINE, .rate = 1, .warmup = 0.1};
    for (uint64_t i = 0; i < 9; i++)
        near(bb_schedule_rate(&s, i, 100), (double)(i + 1) / 10);
    near(bb_schedule_rate(&s, 10, 100), 1);
    near(bb_schedule_rate(&s, 55, 100), 0.5);
    assert_true(bb_schedule_rate(&s, 99, 100) < 0.01);
}

/* ---- networks -------------------------------------------------------------------------------- */

static size_t count_parameters(const bb_graph *g) {
    size_t sum = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const bb_node *node = &g->nodes[i];
        /* mean and variance are not counted */
        int last = node->op == BB_OP_BATCH_NORMALIZATION ? 3 : node->n_in;
        for (int k = 1; k < last; k++) {
            size_t n = 0;
            const bb_value *v = bb_node_input(g, node, k);
            if (v && v->data && bb_value_elements(v, &n) && v->rank > 0)
                sum += n;
        }
    }
    return sum;
}

static bb_graph *build(bb_network_options *o) {
    bb_graph *g = NULL;
    bb_error err;
    if (bb_network_build(o, &g, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return g;
}

static size_t parameters_of(bb_network_options o) {
    bb_graph *g = build(&o);
    size_t n = count_parameters(g);
    bb_graph_destroy(g);
    return n;
}

static bb_network_options options_of(bb_network_kind kind, int channels, int side) {
    return (bb_network_options){.kind = kind,
                                .channels = channels,
                                .height = side,
                                .width = side,
                                .classes = 10,
                                .seed = 1};
}

/* Known sizes: ResNet-20 with projections has 272474, ResNet-18 11689512 (1000 classes), VGG-small
 * 4.66 M. */
static void networks_have_the_published_sizes(void **state) {
    assert_int_equal(parameters_of(options_of(BB_NETWORK_RESNET20, 3, 32)), 272474);
    bb_network_options o = options_of(BB_NETWORK_RESNET18, 3, 224);
    o.classes = 1000;
    assert_int_equal(parameters_of(o), 11689512);
    assert_int_equal(parameters_of(options_of(BB_NETWORK_RESNET18, 3, 32)), 11173962);
    size_t convs = 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512);
    assert_int_equal(parameters_of(options_of(BB_NETWORK_VGG_SMALL, 3, 32)),
                     convs + 2 * 2 * (128 + 256 + 512) + 8192 * 10 + 10);
    o = options_of(BB_NETWORK_VGG_SMALL, 3, 32);
    o.hidden[0] = o.hidden[1] = 1024;
    o.n_hidden = 2;
    assert_int_equal(parameters_of(o), convs + 2 * 2 * (128 + 256 + 512) + 1025 * 1024 * 2 +
                                           7 * 1024 * 1024 + 4 * 1024 + 1025 * 10 - 10 + 10);
    convs = 9 * (32 + 32 * 32 + 32 * 64 + 2 * 64 * 64);
    assert_int_equal(parameters_of(options_of(BB_NETWORK_FASHION_SMALL, 1, 28)),
                     convs + 2 * (32 + 32 + 64 * 3) + 64 * 10 + 10);
}

/* Scores of a batch are numbers of ordinary size: the initialisation keeps the scale. */
static void networks_run(bb_network_kind kind, bb_network_activation activation) {
    bb_network_options o = options_of(kind, 3, 32);
    o.activation = activation;
    for (int i = 0; i < bb_network_widths(kind); i++)
        o.widths[i] = 8;
    bb_graph *g = build(&o);
    const int64_t dims[4] = {2, 3, 32, 32}, *input_dims[1] = {dims};
    bb_executor *ex = NULL;
    bb_error err;
    float *x = malloc(2 * 3 * 32 * 32 * sizeof(*x));
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    for (int i = 0; i < 2 * 3 * 32 * 32; i++)
        x[i] = (float)bb_rng_normal(&rng);
    bb_array input = {BB_DTYPE_F32, 4, {2, 3, 32, 32}, x}, out;
    if (bb_executor_create(g, input_dims, NULL, &ex, &err) != BB_STATUS_OK ||
        bb_executor_run(ex, &input, NULL, NULL, &err) != BB_STATUS_OK ||
        bb_executor_output(ex, 0, &out, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(out.rank, 2);
    assert_int_equal(out.dims[0], 2);
    assert_int_equal(out.dims[1], 10);
    const float *y = out.data;
    double square = 0;
    for (int i = 0; i < 20; i++)
        square += (double)y[i] * (double)y[i] / 20;
    if (!(square > 1e-4 && square < 1e4))
        fail_msg("kind %d: mean square of the scores %g", (int)kind, square);
    free(x);
    bb_executor_destroy(ex);
    bb_graph_destroy(g);
}

static void every_network_runs(void **state) {
    for (int kind = 0; kind <= BB_NETWORK_BIREAL20; kind++)
        for (int activation = 0; activation <= BB_NETWORK_HRELU; activation++)
            networks_run((bb_network_kind)kind, (bb_network_activation)activation);
}

static void weights_depend_on_the_seed_alone(void **state) {
    bb_network_options o = options_of(BB_NETWORK_FASHION_SMALL, 1, 28);
    bb_graph *a = build(&o), *b = build(&o);
    o.seed = 2;
    bb_graph *c = build(&o);
    int v = a->nodes[0].in[1];
    assert_memory_equal(a->values[v].data, b->values[v].data, 32 * 9 * sizeof(float));
    assert_memory_not_equal(a->values[v].data, c->values[v].data, 32 * 9 * sizeof(float));
    const float *w = a->values[a->nodes[4].in[1]].data; /* 32x32x3x3 behind the pool */
    double square = 0;
    for (int i = 0; i < 9216; i++)
        square += (double)w[i] * (double)w[i] / 9216;
    assert_true(fabs(square * 288 / 2 - 1) < 0.1); /* 2 / fan-in */
    bb_graph_destroy(a);
    bb_graph_destroy(b);
    bb_graph_destroy(c);
}

static void tiny_images_are_refused(void **state) {
    bb_network_options o = options_of(BB_NETWORK_VGG_SMALL, 3, 7);
    bb_graph *g = NULL;
    bb_error err;
    assert_int_equal(bb_network_build(&o, &g, &err), BB_STATUS_INVALID_ARGUMENT);
}

static bb_status build_and_write(bb_error *err) {
    bb_network_options o = options_of(BB_NETWORK_BIREAL20, 1, 8);
    bb_graph *g = NULL;
    BB_TRY(bb_network_build(&o, &g, err));
    bb_status status = bb_export_onnx(g, at("n.onnx"), err);
    bb_graph_destroy(g);
    return status;
}

static void failing_allocations_are_reported(void **state) {
    for (long n = 0;; n++) {
        bb_error err;
        bb_alloc_fail_after(n);
        bb_status status = build_and_write(&err);
        bb_alloc_fail_after(-1);
        if (status == BB_STATUS_OK) {
            assert_true(n > 20);
            break;
        }
        assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

static float first[3] = {1, 2, 3}, second[2] = {4, 5};

static void write_checkpoint(void) {
    bb_position position = {.stage = 1, .epoch = 2, .batch = 3, .loss_sum = 0.5, .precisions = 2};
    bb_record record = {.n_results = 1};
    bb_checkpoint_array arrays[2] = {{first, 3}, {second, 2}};
    bb_epoch_row row = {.stage = 0, .epoch = 7};
    record.results[0].test_accuracy[0] = 12.5;
    assert_int_equal(bb_record_add_row(&record, &row, NULL), BB_STATUS_OK);
    assert_int_equal(bb_checkpoint_write(at("c.bin"), &position, &record, arrays, 2, NULL),
                     BB_STATUS_OK);
    bb_record_free(&record);
}

static void checkpoints_come_back(void **state) {
    bb_checkpoint c;
    bb_record record = {0};
    bb_error err;
    float a[3], b[2];
    bb_checkpoint_array arrays[2] = {{a, 3}, {b, 2}};
    write_checkpoint();
    assert_int_equal(bb_checkpoint_open(at("c.bin"), &c, &record, &err), BB_STATUS_OK);
    assert_int_equal(c.position.batch, 3);
    assert_true(c.position.loss_sum == 0.5);
    assert_int_equal(record.n_rows, 1);
    assert_int_equal(record.rows[0].epoch, 7);
    assert_true(record.results[0].test_accuracy[0] == 12.5);
    assert_int_equal(bb_checkpoint_read(&c, arrays, 2, &err), BB_STATUS_OK);
    assert_memory_equal(a, first, sizeof(a));
    assert_memory_equal(b, second, sizeof(b));
    assert_int_equal(bb_checkpoint_read(&c, arrays, 1, &err), BB_STATUS_BAD_FILE);
    arrays[0].n = 2;
    assert_int_equal(bb_checkpoint_read(&c, arrays, 2, &err), BB_STATUS_BAD_FILE);
    bb_checkpoint_close(&c);
    bb_record_free(&record);
    assert_int_equal(bb_checkpoint_open(at("none.bin"), &c, &record, &err), BB_STATUS_NOT_FOUND);
}

/* ---- the curve ------------------------------------------------------------------------------- */

/* Losses without bound end at the edge; a stage of one epoch is seen. */
static void curves_stay_within_their_panels(void **state) {
    static bb_stage stages[2] = {{.name = "wild"}, {.name = "tame"}};
    const bb_settings s = {.path = "c.json", .n_stages = 2, .stages = stages};
    const bb_epoch_row rows[3] = {{.epoch = 1, .loss = 1e30, .test_loss = NAN, .accuracy = 100},
                                  {.epoch = 2, .loss = INFINITY, .test_loss = 3, .accuracy = 10},
                                  {.stage = 1, .epoch = 1, .loss = 0.7, .test_accuracy = 55}};
    bb_record record = {0};
    bb_file file;
    bb_buffer text = {0};
    for (size_t i = 0; i < BB_COUNT(rows); i++)
        assert_int_equal(bb_record_add_row(&record, &rows[i], NULL), BB_STATUS_OK);
    assert_int_equal(bb_record_write(&record, &s, root, 1, NULL), BB_STATUS_OK);
    bb_record_free(&record);
    assert_int_equal(bb_file_open(at("curve.svg"), &file, NULL), BB_STATUS_OK);
    bb_buffer_append(&text, file.data, file.size);
    bb_buffer_append(&text, "", 1);
    bb_file_close(&file);
    assert_null(strstr(text.data, "nan"));
    assert_null(strstr(text.data, "inf"));
    assert_non_null(strstr(text.data, "tame"));
    size_t lines = 0;
    const char *line = text.data;
    for (; (line = strstr(line, " points=\"")) != NULL; lines++) {
        double x[2], y[2];
        line += strlen(" points=\"");
        assert_int_equal(sscanf(line, "%lf,%lf %lf,%lf", &x[0], &y[0], &x[1], &y[1]), 4);
        for (int i = 0; i < 2; i++)
            assert_true(x[i] > 50 && x[i] < 700 && y[i] >= 15.9 && y[i] < 530);
    }
    assert_int_equal(lines, 8); /* two stages, accuracy and loss, training and test */
    bb_buffer_free(&text);
}

/* The header is magic[8], version, sizes of position, row and result, ... */
static void shorter_structures_of_older_checkpoints_are_filled_up(void **state) {
    enum { SIZES = 12, POSITION = 48, SHORTER = 8 };
    bb_file file;
    bb_checkpoint c;
    bb_record record = {0};
    write_checkpoint();
    assert_int_equal(bb_file_open(at("c.bin"), &file, NULL), BB_STATUS_OK);
    size_t size = file.size - SHORTER, cut = POSITION + sizeof(bb_position) - SHORTER;
    uint8_t *bytes = malloc(file.size);
    memcpy(bytes, file.data, cut);
    memcpy(bytes + cut, file.data + cut + SHORTER, size - cut);
    bb_file_close(&file);
    uint32_t shorter = sizeof(bb_position) - SHORTER;
    memcpy(bytes + SIZES, &shorter, sizeof(shorter));
    uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), bytes, (uInt)(size - sizeof(crc)));
    memcpy(bytes + size - sizeof(crc), &crc, sizeof(crc));
    assert_int_equal(bb_file_write(at("old.bin"), bytes, size, NULL), BB_STATUS_OK);
    free(bytes);
    assert_int_equal(bb_checkpoint_open(at("old.bin"), &c, &record, NULL), BB_STATUS_OK);
    assert_int_equal(c.position.batch, 3);
    assert_int_equal(c.position.precisions, 0);
    assert_int_equal(record.rows[0].epoch, 7);
    bb_checkpoint_close(&c);
    bb_record_free(&record);
}

/* Any byte changed, any length cut. */
static void damaged_checkpoints_are_refused(void **state) {
    bb_file file;
    bb_error err;
    write_checkpoint();
    assert_int_equal(bb_file_open(at("c.bin"), &file, &err), BB_STATUS_OK);
    uint8_t *bytes = malloc(file.size);
    memcpy(bytes, file.data, file.size);
    size_t size = file.size;
    bb_file_close(&file);
    for (size_t i = 0; i < 2 * size; i += i < size ? 1 : 7) {
        bb_checkpoint c;
        bb_record record = {0};
        if (i < size)
            bytes[i] ^= 0x40;
        assert_int_equal(
            bb_file_write(at("d.bin"), bytes, i < size ? size : 2 * size - i - 1, &err),
            BB_STATUS_OK);
        if (i < size)
            bytes[i] ^= 0x40;
        assert_int_equal(bb_checkpoint_open(at("d.bin"), &c, &record, &err), BB_STATUS_BAD_FILE);
    }
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_follow_their_formulas),
        cmocka_unit_test(warm_up_rises_to_the_rate),
        cmocka_unit_test(networks_have_the_published_sizes),
        cmocka_unit_test(every_network_runs),
        cmocka_unit_test(weights_depend_on_the_seed_alone),
        cmocka_unit_test(tiny_images_are_refused),
        cmocka_unit_test(failing_allocations_are_reported),
        cmocka_unit_test(curves_stay_within_their_panels),
        cmocka_unit_test(checkpoints_come_back),
        cmocka_unit_test(shorter_structures_of_older_checkpoints_are_filled_up),
        cmocka_unit_test(damaged_checkpoints_are_refused),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
