/* SPDX-License-Identifier: Apache-2.0 */
/** @file two_bit_tables.c  Constant tables of look-up kernels: four two-bit numbers. */
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

/* Entry i of table x: those of its four two-bit numbers whose bit of i is set. */
#define PART(x, i, j) ((((i) >> (j)) & 1) * (((x) >> (2 * (j))) & 3))
#define ENTRY(x, i) (PART(x, i, 0) + PART(x, i, 1) + PART(x, i, 2) + PART(x, i, 3))
#define TABLE_OF(x)                                                                                \
    {                                                                                              \
        ENTRY(x, 0), ENTRY(x, 1), ENTRY(x, 2), ENTRY(x, 3), ENTRY(x, 4), ENTRY(x, 5), ENTRY(x, 6), \
            ENTRY(x, 7), ENTRY(x, 8), ENTRY(x, 9), ENTRY(x, 10), ENTRY(x, 11), ENTRY(x, 12),       \
            ENTRY(x, 13), ENTRY(x, 14), ENTRY(x, 15)                                               \
    }
#define TABLES_4(x) TABLE_OF(x), TABLE_OF((x) + 1), TABLE_OF((x) + 2), TABLE_OF((x) + 3)
#define TABLES_16(x) TABLES_4(x), TABLES_4((x) + 4), TABLES_4((x) + 8), TABLES_4((x) + 12)
#define TABLES_64(x) TABLES_16(x), TABLES_16((x) + 16), TABLES_16((x) + 32), TABLES_16((x) + 48)

_Alignas(64) const uint8_t bb_two_bit_tables_avx2[256][16] = {TABLES_64(0), TABLES_64(64),
                                                              TABLES_64(128), TABLES_64(192)};

#endif
