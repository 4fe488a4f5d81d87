/* SPDX-License-Identifier: Apache-2.0 */
/** @file record.h  What training measured: rows of the log, results of stages, and their files. */
#ifndef BB_TRAIN_RECORD_H
#define BB_TRAIN_RECORD_H

#include "train/settings.h"

/** One epoch. Accuracies in percent. */
typedef struct bb_epoch_row {
    uint32_t stage, epoch; /**< epoch counted from 1 */
    double rate;           /**< of its last step */
    double loss, accuracy, test_loss, test_accuracy;
    double seconds, images_per_second;
} bb_epoch_row;

/** One finished stage; accuracies of its profiles (one entry for float). */
typedef struct bb_stage_result {
    uint32_t stage, best_epoch;
    double best_accuracy; /**< of profile 0, over the epochs */
    double test_loss, test_accuracy[BB_TRAIN_MAX_PROFILES];
    double model_accuracy[BB_TRAIN_MAX_PROFILES]; /**< on the engine */
    uint64_t model_bytes;                         /**< 0: no model */
    double seconds;
    uint64_t precisions; /**< as in bb_position */
    uint64_t until;      /**< as in bb_settings; 0: written before there was one */
} bb_stage_result;

typedef struct bb_record {
    size_t n_rows, cap_rows;
    bb_epoch_row *rows; /**< bb_realloc_array */
    size_t n_results;
    bb_stage_result results[BB_TRAIN_MAX_STAGES];
} bb_record;

bb_status bb_record_add_row(bb_record *record, const bb_epoch_row *row, bb_error *err);
/** Keeps what the first `stages` stages measured. */
void bb_record_truncate(bb_record *record, size_t stages);
void bb_record_free(bb_record *record);

/** "float", "w4a4" or "w8a8,w4a4". */
void bb_stage_bits(const bb_stage *stage, char *text, size_t size);

/** Writes log.csv, curve.svg and results.json into the folder. */
bb_status bb_record_write(const bb_record *record, const bb_settings *settings, const char *folder,
                          size_t threads, bb_error *err);

#endif
