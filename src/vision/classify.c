/* SPDX-License-Identifier: Apache-2.0 */
/* From scores to decisions, and what a set of decisions is worth. */
#include "vision/config.h"
#include <math.h>
#include <string.h>

size_t bb_classify_count(const bb_config *config, size_t n) {
    return n > config->drop_first ? n - config->drop_first : 0;
}

float bb_classify_score(const bb_config *config, const float *scores, size_t class_index) {
    return scores[config->drop_first + class_index];
}

void bb_classify_top(const bb_config *config, const float *scores, size_t n, size_t k,
                     size_t *classes) {
    size_t count = bb_classify_count(config, n), found = 0;
    for (size_t i = 0; i < count && k; i++) {
        float score = bb_classify_score(config, scores, i);
        size_t at = found;
        while (at && bb_classify_score(config, scores, classes[at - 1]) < score)
            at--;
        if (at == k)
            continue;
        found += found < k;
        memmove(classes + at + 1, classes + at, (found - at - 1) * sizeof(*classes));
        classes[at] = i;
    }
}

void bb_accuracy_add(bb_accuracy *counts, const size_t *classes, size_t n, int label) {
    counts->images++;
    for (size_t k = 0; k < n && k < 5; k++) {
        if (label < 0 || classes[k] != (size_t)label)
            continue;
        counts->top1 += k == 0;
        counts->top5++;
    }
}

void bb_paired_add(bb_paired *counts, size_t decision, size_t reference, int label) {
    bool right = label >= 0 && decision == (size_t)label;
    bool reference_right = label >= 0 && reference == (size_t)label;
    counts->images++;
    counts->changed += decision != reference;
    counts->gained += right && !reference_right;
    counts->lost += !right && reference_right;
    counts->reference_top1 += reference_right;
}

double bb_paired_difference(const bb_paired *counts) {
    double difference = (double)counts->gained - (double)counts->lost;
    return counts->images ? 100 * difference / (double)counts->images : 0;
}

/* Each image contributes -1, 0 or +1; the standard error is that of their mean. */
double bb_paired_error(const bb_paired *counts) {
    if (counts->images < 2)
        return 0;
    double n = (double)counts->images, sum = (double)counts->gained - (double)counts->lost;
    double squares = (double)(counts->gained + counts->lost);
    return 100 * sqrt((squares - sum * sum / n) / (n - 1) / n);
}
