/* SPDX-License-Identifier: Apache-2.0 */
/** @file base.h  Errors, checked sizes, memory, arenas, byte buffers, text, files. */
#ifndef BB_BASE_H
#define BB_BASE_H

#include "bitbranch/status.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define BB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define BB_PRINTF(fmt, args)
#endif

#define BB_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- errors ------------------------------------------------------------------------- */

/** Fills *err (may be NULL) and returns `status`, so that `return bb_fail(...)` reads well. */
bb_status bb_fail(bb_error *err, bb_status status, const char *fmt, ...) BB_PRINTF(3, 4);
/** bb_fail for allocation failures: names what was to be allocated. */
bb_status bb_fail_memory(bb_error *err, const char *what);
/** Puts "prefix: " before the message of an error that is being passed on. Returns status. */
bb_status bb_error_prefix(bb_error *err, bb_status status, const char *fmt, ...) BB_PRINTF(3, 4);

/** INVALID_ARGUMENT where options, named `what`, are not of this library's size: never initialised,
 *  or of another version, whose further wishes nobody here would hear. */
bb_status bb_check_options(size_t struct_size, size_t own_size, const char *what, bb_error *err);

/** Returns from the calling function when `expr` is not OK. */
#define BB_TRY(expr)                                                                               \
    do {                                                                                           \
        bb_status bb_try_status_ = (expr);                                                         \
        if (bb_try_status_ != BB_STATUS_OK)                                                        \
            return bb_try_status_;                                                                 \
    } while (0)

/* ---- checked sizes: true when the result fits, else *out is unspecified --------------- */

bool bb_size_add(size_t a, size_t b, size_t *out);
bool bb_size_mul(size_t a, size_t b, size_t *out);
/** Product of n non-negative dimensions; false on a negative one or on overflow. */
bool bb_dims_product(const int64_t *dims, size_t n, size_t *out);

/* ---- memory: every allocation of the library passes here ------------------------------ */

void *bb_alloc(size_t bytes);                /**< uninitialised; NULL on failure; bytes 0 is 1 */
void *bb_alloc_array(size_t n, size_t size); /**< overflow-checked, uninitialised */
void *bb_calloc_array(size_t n, size_t size);
void *bb_realloc_array(void *old, size_t n, size_t size);
void bb_free(void *p);
char *bb_strdup(const char *s);
/** 64-byte aligned, uninitialised; release with bb_free_aligned. */
void *bb_alloc_aligned(size_t bytes);
void bb_free_aligned(void *p);

/** Tests: after `countdown` more allocations every allocation fails; negative = never. */
void bb_alloc_fail_after(long countdown);

/* ---- arena: many small objects that die together --------------------------------------- */

typedef struct bb_arena bb_arena;
bb_arena *bb_arena_create(void);
void bb_arena_destroy(bb_arena *arena); /**< NULL is fine */
void *bb_arena_alloc(bb_arena *arena,
                     size_t bytes); /**< zeroed, 16-byte aligned; NULL on failure */
void *bb_arena_array(bb_arena *arena, size_t n, size_t size); /**< overflow-checked, zeroed */
char *bb_arena_strdup(bb_arena *arena, const char *s);
char *bb_arena_strndup(bb_arena *arena, const char *s, size_t n);
char *bb_arena_printf(bb_arena *arena, const char *fmt, ...) BB_PRINTF(2, 3);

/* ---- byte buffer: growing text or binary ----------------------------------------------- */

/** Zero-initialise. After a failed append `failed` is set and later appends do nothing. */
typedef struct bb_buffer {
    char *data; /**< always NUL-terminated when size > 0 */
    size_t size;
    size_t capacity;
    bool failed;
} bb_buffer;

void bb_buffer_append(bb_buffer *buf, const void *data, size_t size);
void bb_buffer_printf(bb_buffer *buf, const char *fmt, ...) BB_PRINTF(2, 3);
void bb_buffer_free(bb_buffer *buf);

/* ---- text --------------------------------------------------------------------------------- */

/** Bytes in front that are well-formed UTF-8 (RFC 3629). */
size_t bb_utf8_prefix(const char *text);
bool bb_utf8_valid(const char *text);

/* ---- files -------------------------------------------------------------------------------- */

/** A file in memory, read-only; mapped where the system can, else read. */
typedef struct bb_file {
    const uint8_t *data;
    size_t size;
    bool mapped;
} bb_file;

/** Opens a regular file. An empty file gives size 0. */
bb_status bb_file_open(const char *path, bb_file *file, bb_error *err);
/** The same of an open descriptor, which stays open; `path` is for messages. */
bb_status bb_file_from_descriptor(int fd, const char *path, bb_file *file, bb_error *err);
/** Opens a file; a gzip stream is expanded (at most max_bytes). Only in libbitbranch-tools. */
bb_status bb_file_open_gz(const char *path, size_t max_bytes, bb_file *file, bb_error *err);
void bb_file_close(bb_file *file);

/**
 * Atomic output: bytes go to a temporary file beside `path`; commit flushes and renames it, so
 * `path` holds either its old contents or all of the new ones. abort removes the temporary.
 */
typedef struct bb_output bb_output;
bb_status bb_output_open(const char *path, bb_output **out, bb_error *err);
bb_status bb_output_write(bb_output *out, const void *data, size_t size, bb_error *err);
bb_status bb_output_commit(bb_output *out, bb_error *err); /**< frees out, also on failure */
void bb_output_abort(bb_output *out);                      /**< frees out; NULL is fine */
/** Whether a file of this name is a temporary that a killed process left behind. */
bool bb_output_is_temporary(const char *name);
/** open + write + commit of one block. */
bb_status bb_file_write(const char *path, const void *data, size_t size, bb_error *err);

/* ---- time ----------------------------------------------------------------------------------- */

uint64_t bb_now_ns(void); /**< of a clock that only moves forward */

/* ---- random numbers: seeded, the same on every machine -------------------------------------- */

typedef struct bb_rng {
    uint64_t state;
} bb_rng;
void bb_rng_seed(bb_rng *rng, uint64_t seed);
uint64_t bb_rng_next(bb_rng *rng); /**< splitmix64 (Steele, Lea, Flood 2014) */
/** Uniform in 0..n-1, n > 0. */
uint64_t bb_rng_below(bb_rng *rng, uint64_t n);
double bb_rng_uniform(bb_rng *rng); /**< [0,1) */
double bb_rng_normal(bb_rng *rng);  /**< mean 0, variance 1 */

#endif
