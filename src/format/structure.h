/* SPDX-License-Identifier: Apache-2.0 */
/** @file structure.h  Decoders of the chunks that all profiles share. */
#ifndef BB_FORMAT_STRUCTURE_H
#define BB_FORMAT_STRUCTURE_H

#include "format/chunks.h"

/** MODL: tensors, inputs, outputs and nodes; *packing[n_nodes] says how PLAN holds their planes. */
void bb_decode_structure(bb_decoder *d, bb_model *model, bb_packing **packing);
/** PLAN: the words of every convolution, in node order. */
void bb_decode_planes(bb_decoder *d, bb_model *model, const bb_packing *packing);
/** FLTB: the tables of every float node, in node order. */
void bb_decode_float_tables(bb_decoder *d, bb_model *model);

#endif
