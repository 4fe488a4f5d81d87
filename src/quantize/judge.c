/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/judge.h"
#include "nn/loss.h"
#include <math.h>
#include <string.h>

enum { BATCH = 16 };
static const double TEMPERATURE = 1.0;

/* ---- losses ---------------------------------------------------------------------------------- */

double bb_judge_loss(const bb_array *is, const bb_array *want, float *gradient) {
    if (is->rank == 2 && is->dims[1] > 1)
        return bb_loss_distillation(is->data, want->data, (size_t)is->dims[0], (size_t)is->dims[1],
                                    TEMPERATURE, 1.0, gradient);
    return bb_tuning_square(is, want, 1.0, gradient);
}

/* ---- what training changes ------------------------------------------------------------------- */

/** Constants of one layer, -1 where there is none. */
enum { LAYER_CONSTANTS = 4 };
static void list_constants(const bb_student_layer *layer, int values[LAYER_CONSTANTS]) {
    values[0] = layer->latent;
    values[1] = layer->gain;
    values[2] = layer->bias;
    values[3] = layer->input_step;
}

/** Copies all constants one after the other, to or from `store` (NULL: neither). Returns their
 *  number. Steps that several layers share are copied as often. */
static size_t copy_constants(const bb_student *s, float *store, bool back) {
    size_t at = 0;
    for (size_t b = 0; b < s->q->plan.n; b++) {
        int values[LAYER_CONSTANTS];
        list_constants(&s->layers[b], values);
        for (int i = 0; i < LAYER_CONSTANTS; i++) {
            size_t n = 0;
            if (values[i] < 0 || !bb_value_elements(&s->graph->values[values[i]], &n))
                continue;
            float *own = bb_student_constant(s, values[i]);
            if (store)
                memcpy(back ? own : store + at, back ? store + at : own, n * sizeof *own);
            at += n;
        }
    }
    return at;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static bb_status add_outputs(bb_tuning *student, bb_tuning *teacher, double *sum, bb_error *err) {
    for (size_t i = 0; i < student->graph->n_outputs; i++) {
        bb_array is, want;
        size_t n = 1;
        BB_TRY(bb_gradient_value(student->program,
                                 bb_tuning_score(student->graph, student->graph->outputs[i]), &is,
                                 err));
        BB_TRY(bb_gradient_value(teacher->program,
                                 bb_tuning_score(teacher->graph, teacher->graph->outputs[i]), &want,
                                 err));
        bb_dims_product(is.dims, (size_t)is.rank, &n);
        float *unused = bb_calloc_array(n, sizeof *unused);
        if (!unused)
            return bb_fail_memory(err, "scores");
        *sum += bb_judge_loss(&is, &want, unused);
        bb_free(unused);
    }
    return BB_STATUS_OK;
}

/** The last batch overlaps the one before. */
static bb_status run_images(const bb_judge *j, bb_tuning *student, bb_tuning *teacher,
                            double *divergence, bb_error *err) {
    size_t elements = bb_quantize_elements(j->s->q, j->s->q->graph->inputs[0]), batches = 0;
    double sum = 0.0;
    for (size_t first = 0; first < j->n; first += student->batch, batches++) {
        size_t at = first + student->batch > j->n ? j->n - student->batch : first;
        BB_TRY(bb_tuning_forward(teacher, j->images + at * elements, err));
        BB_TRY(bb_tuning_forward(student, j->images + at * elements, err));
        BB_TRY(add_outputs(student, teacher, &sum, err));
    }
    *divergence = sum / (double)batches;
    return BB_STATUS_OK;
}

static bb_status measure(const bb_judge *j, double *divergence, bb_error *err) {
    bb_student *s = j->s;
    bb_span all = {0, s->q->plan.n, s->q->graph->inputs[0], -1};
    size_t batch = bb_tuning_batch(s, BATCH);
    batch = batch < j->n ? batch : j->n;
    bb_tuning teacher, student;
    BB_TRY(bb_tuning_open(s, false, &all, NULL, 0, batch, NULL, &teacher, err));
    bb_status status = bb_tuning_open(s, true, &all, NULL, 0, batch, NULL, &student, err);
    if (status == BB_STATUS_OK) {
        status = run_images(j, &student, &teacher, divergence, err);
        bb_tuning_close(&student);
    }
    bb_tuning_close(&teacher);
    return status;
}

bb_status bb_judge_create(bb_student *s, float *images, size_t n, bb_judge *judge, bb_error *err) {
    *judge = (bb_judge){.s = s, .n = n, .images = images, .n_kept = copy_constants(s, NULL, false)};
    judge->kept = bb_alloc_array(judge->n_kept, sizeof *judge->kept);
    if (!judge->kept)
        return bb_fail_memory(err, "weights to go back to");
    copy_constants(s, judge->kept, false);
    bb_status status = n ? measure(judge, &judge->divergence, err) : BB_STATUS_OK;
    if (status != BB_STATUS_OK)
        bb_judge_destroy(judge);
    return status;
}

void bb_judge_destroy(bb_judge *judge) {
    bb_free(judge->kept);
    judge->kept = NULL;
}

bb_status bb_judge_decide(bb_judge *judge, double *divergence, bool *better, bb_error *err) {
    *divergence = 0.0;
    if (judge->n)
        BB_TRY(measure(judge, divergence, err));
    /* NaN is no improvement; without images everything is. */
    *better = judge->n == 0 || *divergence < judge->divergence;
    copy_constants(judge->s, judge->kept, !*better);
    if (*better)
        judge->divergence = *divergence;
    return BB_STATUS_OK;
}
