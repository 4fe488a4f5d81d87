/* SPDX-License-Identifier: Apache-2.0 */
/** @file io.h  Tensors on their way into and out of a context. */
#ifndef BB_ENGINE_IO_H
#define BB_ENGINE_IO_H

#include "engine/internal.h"

bb_element_type bb_public_type(bb_element type);
/** From the caller's layout; refuses codes above the tensor's largest. */
bb_status bb_input_load(bb_context *context, int tensor, const void *data, bb_error *err);
/** From real values in NCHW (or NC), quantized where the tensor holds codes. */
void bb_input_load_f32(bb_context *context, int tensor, const float *data);
void bb_output_store(const bb_context *context, int tensor, void *data);
/** To real values in NCHW (or NC), dequantized where the tensor holds codes. */
void bb_output_store_f32(const bb_context *context, int tensor, float *data);

#endif
