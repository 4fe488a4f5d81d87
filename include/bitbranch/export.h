/* SPDX-License-Identifier: Apache-2.0 */
/** @file export.h  Writing networks and models for other tools (libbitbranch-tools). */
#ifndef BITBRANCH_EXPORT_H
#define BITBRANCH_EXPORT_H

#include "bitbranch/import.h"
#include "bitbranch/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Writes one profile as a QONNX file that gives the same codes when imported again. */
BB_API bb_status bb_export_qonnx(const bb_model *model, size_t profile, const char *path,
                                 bb_error *err);

/** Writes a network as an ONNX file of opset 21: the same operators, names and constants, so that
 *  importing it again gives the same graph. The file is there whole or not at all. UNSUPPORTED
 *  names a node that ONNX has no form for. */
BB_API bb_status bb_export_onnx(const bb_graph *graph, const char *path, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
