/* SPDX-License-Identifier: Apache-2.0 */
/** @file fuzz_bbm.h  One hostile .bbm file: load it by the public functions, and run what loads. */
#ifndef FUZZ_BBM_H
#define FUZZ_BBM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fuzz_result {
    FUZZ_REFUSED, /**< with a message */
    FUZZ_SILENT,  /**< refused without one: a defect */
    FUZZ_LOADED,  /**< valid, not run */
    FUZZ_RAN
} fuzz_result;

fuzz_result fuzz_bbm(const uint8_t *data, size_t size, bool execute);
/** Corrects the file size and every checksum that can be reached, so that what lies behind them is
 *  tested and not the checksums alone. */
void fuzz_reseal(uint8_t *data, size_t size);

#endif
