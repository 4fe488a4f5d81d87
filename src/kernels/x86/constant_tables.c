/* SPDX-License-Identifier: Apache-2.0 */
/** @file constant_tables.c  Tables of look-up kernels that depend on no input. */
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#define TABLE_OF(entry, x)                                                                         \
    {                                                                                              \
        entry(x, 0), entry(x, 1), entry(x, 2), entry(x, 3), entry(x, 4), entry(x, 5), entry(x, 6), \
            entry(x, 7), entry(x, 8), entry(x, 9), entry(x, 10), entry(x, 11), entry(x, 12),       \
            entry(x, 13), entry(x, 14), entry(x, 15)                                               \
    }
#define TABLES_4(entry, x)                                                                         \
    TABLE_OF(entry, x), TABLE_OF(entry, (x) + 1), TABLE_OF(entry, (x) + 2), TABLE_OF(entry, (x) + 3)
#define TABLES_16(entry, x)                                                                        \
    TABLES_4(entry, x), TABLES_4(entry, (x) + 4), TABLES_4(entry, (x) + 8),                        \
        TABLES_4(entry, (x) + 12)
#define TABLES_64(entry, x)                                                                        \
    TABLES_16(entry, x), TABLES_16(entry, (x) + 16), TABLES_16(entry, (x) + 32),                   \
        TABLES_16(entry, (x) + 48)
#define TABLES(entry)                                                                              \
    { TABLES_64(entry, 0), TABLES_64(entry, 64), TABLES_64(entry, 128), TABLES_64(entry, 192) }

#define PART(x, i, j) ((((i) >> (j)) & 1) * (((x) >> (2 * (j))) & 3))
#define SUM(x, i) (PART(x, i, 0) + PART(x, i, 1) + PART(x, i, 2) + PART(x, i, 3))
_Alignas(64) const uint8_t bb_two_bit_tables_avx2[256][16] = TABLES(SUM);

#define BITS(n) (((n)&1) + ((n) >> 1 & 1) + ((n) >> 2 & 1) + ((n) >> 3 & 1))
#define COUNTS(x, i) (BITS((x) & (i)) + 16 * BITS((x) >> 4 & (i)))
_Alignas(64) const uint8_t bb_bit_pair_tables_avx2[256][16] = TABLES(COUNTS);

#endif
