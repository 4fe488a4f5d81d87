/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool bb_size_add(size_t a, size_t b, size_t *out) {
    *out = a + b;
    return *out >= a;
}

bool bb_size_mul(size_t a, size_t b, size_t *out) {
    *out = a * b;
    return b == 0 || a <= SIZE_MAX / b;
}

bool bb_dims_product(const int64_t *dims, size_t n, size_t *out) {
    size_t product = 1;
    for (size_t i = 0; i < n; i++) {
        if (dims[i] < 0 || (uint64_t)dims[i] > SIZE_MAX ||
            !bb_size_mul(product, (size_t)dims[i], &product))
            return false;
    }
    *out = product;
    return true;
}

/* Test hook: allocations left before every one fails; negative switches it off. */
static atomic_long allocations_left = -1;

void bb_alloc_fail_after(long countdown) {
    atomic_store(&allocations_left, countdown);
}

static bool allocation_must_fail(void) {
    if (atomic_load(&allocations_left) < 0)
        return false;
    long left = atomic_load(&allocations_left);
    if (left > 0)
        atomic_store(&allocations_left, left - 1);
    return left == 0;
}

void *bb_alloc(size_t bytes) {
    return allocation_must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *bb_alloc_array(size_t n, size_t size) {
    size_t bytes;
    return bb_size_mul(n, size, &bytes) ? bb_alloc(bytes) : NULL;
}

void *bb_calloc_array(size_t n, size_t size) {
    if (allocation_must_fail())
        return NULL;
    return n && size ? calloc(n, size) : calloc(1, 1);
}

void *bb_realloc_array(void *old, size_t n, size_t size) {
    size_t bytes;
    if (!bb_size_mul(n, size, &bytes) || allocation_must_fail())
        return NULL;
    return realloc(old, bytes ? bytes : 1);
}

void bb_free(void *p) {
    free(p);
}

char *bb_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = bb_alloc(n);
    return copy ? memcpy(copy, s, n) : NULL;
}

enum { ALIGNMENT = 64 };

void *bb_alloc_aligned(size_t bytes) {
    size_t padded;
    if (!bb_size_add(bytes, ALIGNMENT, &padded) || allocation_must_fail())
        return NULL;
    return aligned_alloc(ALIGNMENT, padded & ~(size_t)(ALIGNMENT - 1));
}

void bb_free_aligned(void *p) {
    free(p);
}

/* ---- arena ---------------------------------------------------------------------------------- */

typedef struct arena_block {
    struct arena_block *next;
    size_t used, capacity;
} arena_block;

struct bb_arena {
    arena_block *blocks;
};

enum { ARENA_ALIGN = 16, ARENA_BLOCK = 32 * 1024 };
static const size_t header_size =
    (sizeof(arena_block) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;

bb_arena *bb_arena_create(void) {
    return bb_calloc_array(1, sizeof(bb_arena));
}

void bb_arena_destroy(bb_arena *arena) {
    if (!arena)
        return;
    for (arena_block *b = arena->blocks, *next; b; b = next) {
        next = b->next;
        bb_free(b);
    }
    bb_free(arena);
}

static arena_block *add_block(bb_arena *arena, size_t bytes) {
    size_t capacity = bytes > ARENA_BLOCK ? bytes : ARENA_BLOCK, total;
    if (!bb_size_add(header_size, capacity, &total))
        return NULL;
    arena_block *block = bb_alloc(total);
    if (!block)
        return NULL;
    block->next = arena->blocks;
    block->used = 0;
    block->capacity = capacity;
    return arena->blocks = block;
}

void *bb_arena_alloc(bb_arena *arena, size_t bytes) {
    size_t size;
    if (!bb_size_add(bytes ? bytes : 1, ARENA_ALIGN - 1, &size))
        return NULL;
    size &= ~(size_t)(ARENA_ALIGN - 1);
    arena_block *block = arena->blocks;
    if (!block || block->capacity - block->used < size)
        block = add_block(arena, size);
    if (!block)
        return NULL;
    void *p = (char *)block + header_size + block->used;
    block->used += size;
    return memset(p, 0, size);
}

void *bb_arena_array(bb_arena *arena, size_t n, size_t size) {
    size_t bytes;
    return bb_size_mul(n, size, &bytes) ? bb_arena_alloc(arena, bytes) : NULL;
}

char *bb_arena_strndup(bb_arena *arena, const char *s, size_t n) {
    char *copy = n < SIZE_MAX ? bb_arena_alloc(arena, n + 1) : NULL;
    return copy ? memcpy(copy, s, n) : NULL;
}

char *bb_arena_strdup(bb_arena *arena, const char *s) {
    return bb_arena_strndup(arena, s, strlen(s));
}

char *bb_arena_printf(bb_arena *arena, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = n < 0 ? NULL : bb_arena_alloc(arena, (size_t)n + 1);
    if (!text)
        return NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)n + 1, fmt, args);
    va_end(args);
    return text;
}
