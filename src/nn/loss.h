/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file loss.h
 * Losses of a batch and their gradients.
 *
 * Each function returns weight * L, where L is the mean over the batch, and ADDS the gradient of
 * weight * L to `gradient`, so that several losses on the same output sum up; the caller zeroes it
 * first. `scores` are [n][classes], row-major. Sums are taken in one fixed order, in double.
 */
#ifndef BB_NN_LOSS_H
#define BB_NN_LOSS_H

#include "base/base.h"

/**
 * Cross entropy of softmax(scores) against the labels, with label smoothing: the target gives
 * 1 - smoothing + smoothing/classes to the label and smoothing/classes to every other class.
 * Rows whose label is not in 0..classes-1 count nothing (and still divide the mean).
 */
double bb_loss_cross_entropy(const float *scores, const int *labels, size_t n, size_t classes,
                             double smoothing, double weight, float *gradient);

/** Squared hinge of the binary-network papers: the mean over all n*classes outputs of
 *  max(0, 1 - t*score)^2, t = +1 for the label and -1 for the others. */
double bb_loss_squared_hinge(const float *scores, const int *labels, size_t n, size_t classes,
                             double weight, float *gradient);

/**
 * Distillation (Hinton et al. 2015): T^2 * KL(softmax(teacher/T) || softmax(scores/T)), the mean
 * over the rows. T^2 keeps the gradient's size independent of the temperature.
 */
double bb_loss_distillation(const float *scores, const float *teacher, size_t n, size_t classes,
                            double temperature, double weight, float *gradient);

/** Mean of (a - b)^2 over n elements; the gradient is with respect to a. For features. */
double bb_loss_mean_square(const float *a, const float *b, size_t n, double weight,
                           float *gradient);

#endif
