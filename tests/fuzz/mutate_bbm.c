/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Truncates and damages a real .bbm file in seeded random ways, with and without repairing the
 * checksums; replays the files named on the command line first. What survives loading is run.
 * Sanitizers find what goes wrong; this program itself fails on refusals without a message, on
 * too little variety and on too much memory.
 */
#include "../unit/sample_model.h"
#include "format/format.h"
#include "fuzz_bbm.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { TRUNCATIONS = 200, FLIPS = 2000, SEALED = 2000, STARVED = 300 };
enum { MAX_RESIDENT_KB = 2 << 20 };

typedef struct tally {
    unsigned count[FUZZ_RAN + 1];
} tally;

static void try_one(tally *t, const uint8_t *data, size_t size) {
    t->count[fuzz_bbm(data, size, true)]++;
}

static void report(const char *what, const tally *t) {
    printf("%-22s refused %4u  loaded %4u  ran %4u\n", what, t->count[FUZZ_REFUSED],
           t->count[FUZZ_LOADED], t->count[FUZZ_RAN]);
}

/* Values that sit on the edges of types and checks. */
static uint8_t nasty_byte(bb_rng *rng) {
    static const uint8_t bytes[] = {0, 1, 2, 0x7f, 0x80, 0xff};
    return bb_rng_below(rng, 2) ? bytes[bb_rng_below(rng, sizeof(bytes))]
                                : (uint8_t)bb_rng_next(rng);
}

/* Half of the damage goes into the structure, which is a small part of the file. */
static void damage(bb_rng *rng, uint8_t *data, size_t size) {
    size_t n = 1 + bb_rng_below(rng, 3);
    for (size_t i = 0; i < n; i++) {
        size_t reach = bb_rng_below(rng, 2) && size > 1600 ? 1600 : size;
        size_t at = bb_rng_below(rng, reach);
        data[at] = nasty_byte(rng);
    }
}

static tally truncated(bb_rng *rng, const bb_buffer *file, uint8_t *work) {
    tally t = {{0}};
    for (int i = 0; i < TRUNCATIONS; i++) {
        size_t size = bb_rng_below(rng, file->size);
        memcpy(work, file->data, size);
        if (i % 2)
            fuzz_reseal(work, size);
        try_one(&t, work, size);
    }
    return t;
}

static tally flipped(bb_rng *rng, const bb_buffer *file, uint8_t *work) {
    tally t = {{0}};
    for (int i = 0; i < FLIPS; i++) {
        memcpy(work, file->data, file->size);
        work[bb_rng_below(rng, file->size)] ^= (uint8_t)(1u << bb_rng_below(rng, 8));
        try_one(&t, work, file->size);
    }
    return t;
}

static tally sealed(bb_rng *rng, const bb_buffer *file, uint8_t *work) {
    tally t = {{0}};
    for (int i = 0; i < SEALED; i++) {
        memcpy(work, file->data, file->size);
        damage(rng, work, file->size);
        fuzz_reseal(work, file->size);
        try_one(&t, work, file->size);
    }
    return t;
}

/* Damage and a failing allocation together. */
static tally starved(bb_rng *rng, const bb_buffer *file, uint8_t *work) {
    tally t = {{0}};
    for (int i = 0; i < STARVED; i++) {
        memcpy(work, file->data, file->size);
        if (i % 2)
            damage(rng, work, file->size);
        fuzz_reseal(work, file->size);
        bb_alloc_fail_after((long)bb_rng_below(rng, 120));
        fuzz_result result = fuzz_bbm(work, file->size, true);
        bb_alloc_fail_after(-1);
        t.count[result]++;
    }
    return t;
}

static tally replayed(int n, char **paths) {
    tally t = {{0}};
    for (int i = 0; i < n; i++) {
        bb_file file;
        if (bb_file_open(paths[i], &file, NULL) != BB_STATUS_OK) {
            fprintf(stderr, "%s: cannot be read\n", paths[i]);
            t.count[FUZZ_SILENT]++;
            continue;
        }
        try_one(&t, file.data, file.size);
        bb_file_close(&file);
    }
    return t;
}

static int expect(bool condition, const char *what) {
    if (!condition)
        fprintf(stderr, "FAILED: %s\n", what);
    return !condition;
}

int main(int argc, char **argv) {
    bb_rng rng;
    bb_buffer file;
    bb_model *model = sample_model();
    bb_rng_seed(&rng, 2026);
    if (bb_format_write(model, &file, NULL) != BB_STATUS_OK)
        return 1;
    bb_model_destroy(model);
    uint8_t *work = bb_alloc(file.size);
    tally whole = {{0}};
    try_one(&whole, (const uint8_t *)file.data, file.size);
    tally corpus = replayed(argc - 1, argv + 1), cut = truncated(&rng, &file, work),
          flip = flipped(&rng, &file, work), seal = sealed(&rng, &file, work),
          poor = starved(&rng, &file, work);
    report("corpus", &corpus);
    report("truncated", &cut);
    report("flipped", &flip);
    report("damaged and resealed", &seal);
    report("short of memory", &poor);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    unsigned silent = corpus.count[FUZZ_SILENT] + cut.count[FUZZ_SILENT] + flip.count[FUZZ_SILENT] +
                      seal.count[FUZZ_SILENT] + poor.count[FUZZ_SILENT];
    int failed = expect(whole.count[FUZZ_RAN] == 1, "the undamaged file runs");
    failed += expect(silent == 0, "every refusal has a message");
    failed += expect(cut.count[FUZZ_REFUSED] == TRUNCATIONS, "every truncation is refused");
    failed += expect(flip.count[FUZZ_REFUSED] == FLIPS, "checksums notice every flipped bit");
    failed += expect(seal.count[FUZZ_REFUSED] > SEALED / 10, "checks behind the checksums refuse");
    failed += expect(seal.count[FUZZ_RAN] > SEALED / 10, "harmless damage still runs");
    failed += expect(usage.ru_maxrss < MAX_RESIDENT_KB, "memory stays bounded");
    bb_free(work);
    bb_buffer_free(&file);
    return failed != 0;
}
