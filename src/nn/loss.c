/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/loss.h"
#include <math.h>

/* log(sum exp(scores*scale)), safe for any scores: the largest term is exp(0). */
static double log_sum_exp(const float *scores, size_t classes, double scale) {
    double max = -INFINITY, sum = 0;
    for (size_t c = 0; c < classes; c++)
        max = fmax(max, (double)scores[c] * scale);
    for (size_t c = 0; c < classes; c++)
        sum += exp((double)scores[c] * scale - max);
    return max + log(sum);
}

static bool in_classes(int label, size_t classes) {
    return label >= 0 && (size_t)label < classes;
}

double bb_loss_cross_entropy(const float *scores, const int *labels, size_t n, size_t classes,
                             double smoothing, double weight, float *gradient) {
    double sum = 0, share = weight / (double)n, other = smoothing / (double)classes;
    for (size_t i = 0; i < n; i++, scores += classes, gradient += classes) {
        if (!in_classes(labels[i], classes))
            continue;
        double log_total = log_sum_exp(scores, classes, 1);
        for (size_t c = 0; c < classes; c++) {
            double target = other + (c == (size_t)labels[i] ? 1 - smoothing : 0);
            double log_p = (double)scores[c] - log_total;
            if (target > 0)
                sum -= target * log_p;
            gradient[c] += (float)(share * (exp(log_p) - target));
        }
    }
    return share * sum;
}

double bb_loss_squared_hinge(const float *scores, const int *labels, size_t n, size_t classes,
                             double weight, float *gradient) {
    double sum = 0, share = weight / ((double)n * (double)classes);
    for (size_t i = 0; i < n; i++, scores += classes, gradient += classes) {
        for (size_t c = 0; c < classes && in_classes(labels[i], classes); c++) {
            double target = c == (size_t)labels[i] ? 1 : -1;
            double missing = fmax(0, 1 - target * (double)scores[c]);
            sum += missing * missing;
            gradient[c] -= (float)(share * 2 * target * missing);
        }
    }
    return share * sum;
}

double bb_loss_distillation(const float *scores, const float *teacher, size_t n, size_t classes,
                            double temperature, double weight, float *gradient) {
    double sum = 0, share = weight / (double)n, scale = 1 / temperature;
    for (size_t i = 0; i < n; i++, scores += classes, teacher += classes, gradient += classes) {
        double total = log_sum_exp(scores, classes, scale);
        double teacher_total = log_sum_exp(teacher, classes, scale);
        for (size_t c = 0; c < classes; c++) {
            double log_q = (double)scores[c] * scale - total;
            double log_p = (double)teacher[c] * scale - teacher_total;
            double p = exp(log_p);
            sum += p * (log_p - log_q);
            gradient[c] += (float)(share * temperature * (exp(log_q) - p));
        }
    }
    return share * temperature * temperature * sum;
}

double bb_loss_mean_square(const float *a, const float *b, size_t n, double weight,
                           float *gradient) {
    enum { LANES = 16, RUN = 256 * LANES };
    const float slope = (float)(2 * weight / (double)n);
    double sum = 0;
    for (size_t start = 0; start < n; start += RUN) {
        /* A fixed number of partial sums, so that the compiler may use vectors. */
        float lanes[LANES] = {0};
        size_t end = n - start < RUN ? n : start + RUN, i = start;
        for (; i + LANES <= end; i += LANES)
            for (size_t k = 0; k < LANES; k++) {
                float d = a[i + k] - b[i + k];
                gradient[i + k] += slope * d;
                lanes[k] += d * d;
            }
        for (; i < end; i++) {
            float d = a[i] - b[i];
            gradient[i] += slope * d;
            lanes[i % LANES] += d * d;
        }
        for (size_t k = 0; k < LANES; k++)
            sum += (double)lanes[k];
    }
    return weight / (double)n * sum;
}
