/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file float_math.h
 * Elementary functions that give the same bits on every machine: additions, multiplications and
 * divisions in double, rounded once to float at the end. No libm, no contraction.
 *
 * Largest error over all floats: 0.5 ulp + 2^-25 ulp, i.e. almost always the correctly rounded
 * result. NaN gives NaN.
 */
#ifndef BB_FLOAT_MATH_H
#define BB_FLOAT_MATH_H

/** e^x in double, relative error below 2^-50; x is first limited to [-745, 709]. */
double bb_exp(double x);
float bb_sigmoid_f32(float x); /**< 1 / (1 + e^-x) */
float bb_tanh_f32(float x);
float bb_silu_f32(float x); /**< x / (1 + e^-x) */

#endif
