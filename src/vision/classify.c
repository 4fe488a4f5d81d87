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

void bb_compare_decisions(const int *labels, const size_t *before, const size_t *now, size_t n,
                          bb_paired_result *result) {
    *result = (bb_paired_result){0};
    for (size_t i = 0; i < n; i++) {
        if (labels[i] < 0)
            continue;
        bool was_right = before[i] == (size_t)labels[i], is_right = now[i] == (size_t)labels[i];
        result->images++;
        result->changed += before[i] != now[i];
        result->gained += is_right && !was_right;
        result->lost += was_right && !is_right;
    }
    if (result->images < 2)
        return;
    /* Each image contributes -1, 0 or +1; the standard error is that of their mean. */
    double images = (double)result->images;
    double sum = (double)result->gained - (double)result->lost;
    double squares = (double)(result->gained + result->lost);
    result->difference = 100 * sum / images;
    result->standard_error = 100 * sqrt((squares - sum * sum / images) / (images - 1) / images);
}
