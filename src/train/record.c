/* SPDX-License-Identifier: Apache-2.0 */
#include "train/record.h"
#include "bitbranch/train.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bb_status bb_record_add_row(bb_record *r, const bb_epoch_row *row, bb_error *err) {
    if (r->n_rows == r->cap_rows) {
        size_t cap = r->cap_rows ? 2 * r->cap_rows : 64;
        bb_epoch_row *rows = bb_realloc_array(r->rows, cap, sizeof(*rows));
        if (!rows)
            return bb_fail_memory(err, "log");
        r->rows = rows;
        r->cap_rows = cap;
    }
    r->rows[r->n_rows++] = *row;
    return BB_STATUS_OK;
}

void bb_record_truncate(bb_record *r, size_t stages) {
    size_t rows = 0;
    for (size_t i = 0; i < r->n_rows; i++)
        if (r->rows[i].stage < stages)
            r->rows[rows++] = r->rows[i];
    r->n_rows = rows;
    if (r->n_results > stages)
        r->n_results = stages;
}

void bb_record_free(bb_record *r) {
    bb_free(r->rows);
    *r = (bb_record){0};
}

void bb_stage_bits(const bb_stage *stage, char *text, size_t size) {
    snprintf(text, size, "float");
    for (size_t i = 0; i < stage->n_profiles; i++) {
        size_t used = i ? strlen(text) : 0;
        snprintf(text + used, size - used, "%sw%ua%u", i ? "," : "", stage->profiles[i].weight,
                 stage->profiles[i].activation);
    }
}

static bb_status write_text(const char *folder, const char *name, bb_buffer *text, bb_error *err) {
    bb_buffer path = {0};
    bb_buffer_printf(&path, "%s/%s", folder, name);
    bb_status status = path.failed || text->failed
                           ? bb_fail_memory(err, name)
                           : bb_file_write(path.data, text->data, text->size, err);
    bb_buffer_free(&path);
    bb_buffer_free(text);
    return status;
}

/* ---- log.csv --------------------------------------------------------------------------------- */

static bb_status write_log(const bb_record *r, const bb_settings *s, const char *folder,
                           bb_error *err) {
    bb_buffer text = {0};
    bb_buffer_printf(&text, "stage,bits,epoch,rate,loss,accuracy,test_loss,test_accuracy,seconds,"
                            "images_per_second\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        const bb_epoch_row *row = &r->rows[i];
        char bits[64];
        bb_stage_bits(&s->stages[row->stage], bits, sizeof(bits));
        bb_buffer_printf(&text, "%s,\"%s\",%u,%.6g,%.5f,%.3f,%.5f,%.3f,%.1f,%.1f\n",
                         s->stages[row->stage].name, bits, row->epoch, row->rate, row->loss,
                         row->accuracy, row->test_loss, row->test_accuracy, row->seconds,
                         row->images_per_second);
    }
    return write_text(folder, "log.csv", &text, err);
}

/* ---- curve.svg: accuracy and loss over epochs, one stage after the other --------------------- */

enum { LEFT = 52, TOP = 16, WIDTH = 640, HEIGHT = 240, GAP = 24, BOTTOM = 76 };

typedef struct panel {
    bool loss;
    int top;
    double low, high;
    size_t n; /* epochs */
} panel;

static double value_of(const panel *p, const bb_epoch_row *row, bool test) {
    if (p->loss)
        return test ? row->test_loss : row->loss;
    return test ? row->test_accuracy : row->accuracy;
}

static panel accuracy_panel(const bb_record *r) {
    panel p = {false, TOP, 100, 0, r->n_rows};
    for (size_t i = 0; i < 2 * r->n_rows; i++) {
        double value = value_of(&p, &r->rows[i / 2], i % 2);
        p.low = value < p.low ? value : p.low;
        p.high = value > p.high ? value : p.high;
    }
    p.low = (double)((int)(p.low / 5) * 5);
    p.high = (double)(((int)(p.high / 5) + 1) * 5);
    p.high = p.high > 100 ? 100 : p.high;
    if (p.high <= p.low)
        p.low = p.high - 5;
    return p;
}

/* From 0 to the next of 1, 2 and 5 times a power of 10. */
static panel loss_panel(const bb_record *r) {
    panel p = {true, TOP + HEIGHT + GAP, 0, 0.001, r->n_rows};
    double most = 0;
    for (size_t i = 0; i < 2 * r->n_rows; i++) {
        double value = value_of(&p, &r->rows[i / 2], i % 2);
        most = value > most && value < 1e9 ? value : most;
    }
    for (int k = 0; p.high < most; k++)
        p.high *= k % 3 == 1 ? 2.5 : 2;
    return p;
}

static double x_of(const panel *p, size_t i) {
    return LEFT + WIDTH * ((double)i + 0.5) / (double)(p->n > 0 ? p->n : 1);
}

/* What lies outside, a loss without bound or no number, is at the upper edge. */
static double y_of(const panel *p, double value) {
    if (!(value <= p->high))
        value = p->high;
    return p->top + HEIGHT * (p->high - value) / (p->high - p->low);
}

static void draw_grid(bb_buffer *svg, const panel *p) {
    for (int k = 0; k <= 5; k++) {
        double value = p->low + (p->high - p->low) * k / 5, y = y_of(p, value);
        bb_buffer_printf(svg, "<path d=\"M%d %.1fh%d\" stroke=\"#ddd\"/>", LEFT, y, WIDTH);
        bb_buffer_printf(svg, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 6, y + 4);
        bb_buffer_printf(svg, p->loss ? "%.4g</text>\n" : "%.1f %%</text>\n", value);
    }
}

/* A line of each stage. */
static void draw_line(bb_buffer *svg, const bb_record *r, const panel *p, bool test) {
    for (size_t i = 0; i < r->n_rows; i++) {
        const bb_epoch_row *row = &r->rows[i];
        bool first = i == 0 || r->rows[i - 1].stage != row->stage;
        bool last = i + 1 == r->n_rows || r->rows[i + 1].stage != row->stage;
        if (first)
            bb_buffer_printf(svg,
                             "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"%s\" points=\"",
                             test ? "#c0392b" : "#2980b9");
        double x = x_of(p, i), y = y_of(p, value_of(p, row, test));
        if (first && last) /* a single point would not be seen */
            bb_buffer_printf(svg, "%.1f,%.1f %.1f,%.1f", x - 3, y, x + 3, y);
        else
            bb_buffer_printf(svg, "%.1f,%.1f ", x, y);
        if (last)
            bb_buffer_printf(svg, "\"/>\n");
    }
}

static void draw_panel(bb_buffer *svg, const bb_record *r, const panel *p) {
    draw_grid(svg, p);
    draw_line(svg, r, p, false);
    draw_line(svg, r, p, true);
}

/* A mark through both panels where a stage begins, and its name. */
static void draw_stages(bb_buffer *svg, const bb_record *r, const bb_settings *s) {
    const int bottom = TOP + 2 * HEIGHT + GAP;
    for (size_t i = 0; i < r->n_rows; i++) {
        if (i > 0 && r->rows[i - 1].stage == r->rows[i].stage)
            continue;
        double x = LEFT + WIDTH * (double)i / (double)r->n_rows;
        bb_buffer_printf(svg, "<path d=\"M%.1f %dV%d\" stroke=\"#bbb\"/>", x, TOP, bottom);
        bb_buffer_printf(svg, "<text transform=\"translate(%.1f %d) rotate(30)\">%s</text>\n",
                         x + 3, bottom + 14, s->stages[r->rows[i].stage].name);
    }
}

static bb_status write_curve(const bb_record *r, const bb_settings *s, const char *folder,
                             bb_error *err) {
    const int bottom = TOP + 2 * HEIGHT + GAP;
    const panel accuracy = accuracy_panel(r), loss = loss_panel(r);
    bb_buffer svg = {0};
    bb_buffer_printf(&svg,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                     "font-family=\"sans-serif\" font-size=\"11\">\n"
                     "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                     LEFT + WIDTH + 16, bottom + BOTTOM);
    draw_stages(&svg, r, s);
    draw_panel(&svg, r, &accuracy);
    draw_panel(&svg, r, &loss);
    bb_buffer_printf(&svg,
                     "<text x=\"%d\" y=\"%d\"><tspan fill=\"#c0392b\">test</tspan> "
                     "<tspan fill=\"#2980b9\">training</tspan> accuracy and loss, epoch by "
                     "epoch</text>\n</svg>\n",
                     LEFT, bottom + BOTTOM - 8);
    return write_text(folder, "curve.svg", &svg, err);
}

/* ---- results.json ---------------------------------------------------------------------------- */

static double rounded(double value, double steps) {
    return (double)(long long)(value * steps + (value < 0 ? -0.5 : 0.5)) / steps;
}

static json_t *profile_json(const bb_stage *stage, const bb_stage_result *result, size_t i) {
    char bits[16] = "float";
    if (stage->n_profiles > 0)
        snprintf(bits, sizeof(bits), "w%ua%u", stage->profiles[i].weight,
                 stage->profiles[i].activation);
    json_t *o =
        json_pack("{s:s, s:f}", "bits", bits, "test_top1", rounded(result->test_accuracy[i], 1000));
    if (o && result->model_bytes > 0)
        json_object_set_new(o, "model_top1", json_real(rounded(result->model_accuracy[i], 1000)));
    return o;
}

/* A stage may have been stopped and gone on in the other precision. */
static const char *precision_name(uint64_t precisions) {
    const uint64_t f32 = (uint64_t)1 << BB_PRECISION_F32, bf16 = (uint64_t)1 << BB_PRECISION_BF16;
    return !(precisions & bf16) ? "f32" : precisions & f32 ? "f32, bf16" : "bf16";
}

static json_t *stage_json(const bb_settings *s, const bb_stage_result *result) {
    const bb_stage *stage = &s->stages[result->stage];
    json_t *profiles = json_array();
    for (size_t i = 0; i < (stage->n_profiles ? stage->n_profiles : 1); i++)
        json_array_append_new(profiles, profile_json(stage, result, i));
    json_t *o = json_pack(
        "{s:s, s:i, s:f, s:i, s:f, s:f, s:s, s:o}", "stage", stage->name, "epochs", stage->epochs,
        "best_top1", rounded(result->best_accuracy, 1000), "best_epoch", (int)result->best_epoch,
        "test_loss", rounded(result->test_loss, 1e5), "seconds", rounded(result->seconds, 10),
        "precision", precision_name(result->precisions), "profiles", profiles);
    if (o && stage->from)
        json_object_set_new(o, "from", json_string(stage->from));
    if (o && result->model_bytes > 0)
        json_object_set_new(o, "model_bytes", json_integer((json_int_t)result->model_bytes));
    return o;
}

static bb_status write_results(const bb_record *r, const bb_settings *s, const char *folder,
                               size_t threads, bb_error *err) {
    json_t *stages = json_array();
    for (size_t i = 0; i < r->n_results; i++)
        json_array_append_new(stages, stage_json(s, &r->results[i]));
    const char *slash = strrchr(s->path, '/');
    json_t *root =
        json_pack("{s:s, s:b, s:i, s:o}", "config", slash ? slash + 1 : s->path, "finished",
                  r->n_results == s->n_stages, "threads", (int)threads, "stages", stages);
    char *dumped = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    bb_buffer text = {0};
    bb_buffer_printf(&text, "%s\n", dumped ? dumped : "");
    text.failed = text.failed || !dumped;
    free(dumped);
    return write_text(folder, "results.json", &text, err);
}

bb_status bb_record_write(const bb_record *record, const bb_settings *settings, const char *folder,
                          size_t threads, bb_error *err) {
    BB_TRY(write_log(record, settings, folder, err));
    BB_TRY(write_curve(record, settings, folder, err));
    return write_results(record, settings, folder, threads, err);
}
