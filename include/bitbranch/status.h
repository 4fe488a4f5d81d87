/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file status.h
 * Status codes, error details, version and progress reports.
 *
 * Every function of the library that can fail returns a bb_status. Where it takes a
 * `bb_error *err`, a non-NULL err is filled with one line naming file, node and reason;
 * err is only written on failure. The library never prints, exits or aborts on input.
 */
/*
 * What holds for all headers:
 *  - Results by output parameters mean something only after BB_STATUS_OK; after a failure there is
 *    nothing to release.
 *  - Options begin with `struct_size` and are initialised by their _init function, then changed.
 *    Options of another size (another version of the library) are INVALID_ARGUMENT.
 *  - Strings are UTF-8. Strings and arrays that a function returns belong to the object asked.
 *  - Objects may be used by several threads at once only where their header says so.
 */
#ifndef BITBRANCH_STATUS_H
#define BITBRANCH_STATUS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BB_API __declspec(dllexport)
#elif defined(__GNUC__)
#define BB_API __attribute__((visibility("default")))
#else
#define BB_API
#endif

#define BB_VERSION_MAJOR 0
#define BB_VERSION_MINOR 1
#define BB_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/** Numeric values are pinned: they never change between releases. */
typedef enum bb_status {
    BB_STATUS_OK = 0,
    BB_STATUS_INVALID_ARGUMENT = 1, /**< the caller broke the function's contract */
    BB_STATUS_OUT_OF_MEMORY = 2,
    BB_STATUS_IO = 3,          /**< the operating system refused to read or write */
    BB_STATUS_BAD_FILE = 4,    /**< a file is truncated, corrupt or contradicts itself */
    BB_STATUS_UNSUPPORTED = 5, /**< well formed, but this library cannot do it */
    BB_STATUS_LIMIT = 6,       /**< a stated size limit or an overflow bound is exceeded */
    BB_STATUS_NOT_FOUND = 7,   /**< a named profile, tensor, layer or split does not exist */
    BB_STATUS_CANCELLED = 8,   /**< a callback of the caller asked to stop */
    BB_STATUS_INTERNAL = 9     /**< a defect of the library */
} bb_status;

#define BB_ERROR_MESSAGE_SIZE 512

/** Details of a failure. The caller owns it; no initialisation is needed. */
typedef struct bb_error {
    bb_status status;
    char message[BB_ERROR_MESSAGE_SIZE]; /**< one line, no newline, UTF-8 */
} bb_error;

/** Short English name of a status; never NULL. */
BB_API const char *bb_status_string(bb_status status);

/** Version of the library in use, "MAJOR.MINOR.PATCH". */
BB_API const char *bb_version(void);

/**
 * Progress of long work: `done` of `total` steps of the stage named `stage`.
 * Return 0 to go on; anything else cancels the work with BB_STATUS_CANCELLED.
 */
typedef int (*bb_progress_fn)(void *user, const char *stage, size_t done, size_t total);

#ifdef __cplusplus
}
#endif
#endif
