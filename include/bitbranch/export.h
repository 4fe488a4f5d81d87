/* SPDX-License-Identifier: Apache-2.0 */
/** @file export.h  Writing a model for other tools (libbitbranch-tools). */
#ifndef BITBRANCH_EXPORT_H
#define BITBRANCH_EXPORT_H

#include "bitbranch/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Writes one profile as a QONNX file that gives the same codes when imported again. */
BB_API bb_status bb_export_qonnx(const bb_model *model, size_t profile, const char *path,
                                 bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
