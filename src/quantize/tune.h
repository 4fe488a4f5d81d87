/* SPDX-License-Identifier: Apache-2.0 */
/** @file tune.h  Parts of a student in training, and the stages of `--effort best` made of them. */
#ifndef BB_QUANTIZE_TUNE_H
#define BB_QUANTIZE_TUNE_H

#include "nn/gradient.h"
#include "nn/optimizer.h"
#include "quantize/student.h"

/** Blocks first..end-1 of the plan, which read nothing that changes but `in`. */
typedef struct bb_span {
    size_t first, end;
    int in, out; /**< values; out -1: all outputs of the graph */
} bb_span;

/** A span as a program for batches of images; the student's constants are its parameters. */
typedef struct bb_tuning {
    bb_student *student;
    bb_graph *graph;
    bb_gradient *program;
    bb_optimizer *optimizer; /**< NULL: forward only */
    bb_span span;
    float latent_rate;
    size_t batch;
} bb_tuning;

/** How far parameters move in one step at full rate, in units of their own size. */
typedef struct bb_tune_rates {
    float latent;     /**< of the row's mean magnitude of weights */
    float gain;       /**< of the gain, which is about 1 */
    float input_step; /**< of the activation step */
    float bias;       /**< of the layer's root mean square */
} bb_tune_rates;

/** `rates` NULL: forward only. The span's graph is cut from the student, or from the float network
 *  where `student` is false. Outputs (bb_tuning_score) and what lies behind the `inner` spans can
 * be read and given a gradient. */
bb_status bb_tuning_open(bb_student *s, bool student, const bb_span *span, const bb_span *inner,
                         size_t n_inner, size_t batch, const bb_tune_rates *rates, bb_tuning *t,
                         bb_error *err);
/** Something in the span can be learned: weights of fewer than 8 bits, or an activation step. */
bool bb_tuning_learns(const bb_student *s, const bb_span *span);
/** Images a step can have where `wanted` would be right. */
size_t bb_tuning_batch(const bb_student *s, size_t wanted);
void bb_tuning_close(bb_tuning *t);
/** Runs the batch at x, [batch][elements of the input]. */
bb_status bb_tuning_forward(bb_tuning *t, const float *x, bb_error *err);
/** Squared error relative to the size of what is right; adds weight times its gradient. */
double bb_tuning_square(const bb_array *is, const bb_array *want, double weight, float *gradient);
/** The value that losses of an output look at: what goes into a final Softmax, else the output. */
int bb_tuning_score(const bb_graph *graph, int output);
/** Another order of n images. */
void bb_tuning_shuffle(bb_rng *rng, uint32_t *order, size_t n);
/** Step i of n: along the gradients of the last backward run. */
void bb_tuning_step(bb_tuning *t, size_t i, size_t n);

/** Spans between values that alone carry everything on, in order; *n of them, in q's arena. */
bb_status bb_tune_spans(bb_quantization *q, bb_span **spans, size_t *n, bb_error *err);

/** Span by span: outputs like those of the float network, on inputs that the quantized spans before
 *  make. */
bb_status bb_reconstruct(bb_student *s, const float *images, bb_error *err);
/** The whole network: outputs like those of the float network. */
bb_status bb_distill(bb_student *s, const float *images, bb_error *err);

/** A stage of training on q->images images at `images`. */
typedef struct bb_tune_phase {
    bb_status (*run)(bb_student *s, const float *images, bb_error *err);
} bb_tune_phase;
/** Runs the phases; what one does to the student is undone where the network was nearer to the
 * float network before, on the `held` images. found[0] is the divergence before the first phase,
 * found[i] after phase i. `changed`: a phase helped. */
bb_status bb_tune_phases(bb_student *s, const float *images, float *held_images, size_t held,
                         const bb_tune_phase *phases, size_t n, double *found, bool *changed,
                         bb_error *err);

/** True where bb_quantize_tune will train. */
bool bb_quantize_can_tune(const bb_quantization *q);
/** Both, on the first profile; the results replace what the solver found where they are better on
 *  the q->held calibration images behind the q->count that all else uses. */
bb_status bb_quantize_tune(bb_quantization *q, bb_error *err);

#endif
