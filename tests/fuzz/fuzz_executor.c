/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged networks through the float executor: whatever the importer still accepts must run or be
 * refused with a message. `fuzz_executor FOLDER [SEED]`; FOLDER holds the ONNX operator tests. */
#include "../unit/proto.h"
#include "nn/program.h"
#include "onnx/onnx.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { FLIPS = 8, MAX_INPUTS = 16 };
/* Larger ones are only built: running them would take long and find nothing more. */
#define MAX_RUN_BYTES ((size_t)1 << 24)

typedef struct counts {
    size_t refused_files, refused, built, ran;
} counts;

/* Dims of an input: those of the file, small numbers for what is open or huge. */
static void choose_dims(const bb_value *value, int64_t *dims) {
    for (int d = 0; d < value->rank; d++)
        dims[d] = value->dims[d] < 0 || value->dims[d] > 64 ? 3 : value->dims[d];
}

static bb_status run(const bb_graph *graph, bb_executor *ex, int64_t dims[][BB_MAX_RANK],
                     bb_arena *arena, bb_error *err) {
    bb_array inputs[MAX_INPUTS];
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const bb_value *value = &graph->values[graph->inputs[i]];
        size_t n = 1;
        inputs[i] = (bb_array){.dtype = value->dtype, .rank = value->rank};
        for (int d = 0; d < value->rank; d++)
            n *= (size_t)(inputs[i].dims[d] = dims[i][d]);
        inputs[i].data = bb_arena_array(arena, n + 1, bb_dtype_size(value->dtype));
        if (!inputs[i].data)
            return bb_fail_memory(err, "input");
    }
    return bb_executor_run(ex, inputs, NULL, NULL, err);
}

static bb_status execute(const bb_graph *graph, counts *c, bb_error *err) {
    int64_t dims[MAX_INPUTS][BB_MAX_RANK];
    const int64_t *given[MAX_INPUTS];
    size_t total = 1;
    if (graph->n_inputs > MAX_INPUTS)
        return BB_STATUS_OK;
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const bb_value *value = &graph->values[graph->inputs[i]];
        if (value->rank < 0)
            return BB_STATUS_OK;
        choose_dims(value, dims[i]);
        given[i] = dims[i];
        for (int d = 0; d < value->rank; d++)
            total *= (size_t)dims[i][d] + 1;
        if (total > MAX_RUN_BYTES)
            return BB_STATUS_OK;
    }
    bb_executor *ex = NULL;
    BB_TRY(bb_executor_create(graph, given, NULL, &ex, err));
    c->built++;
    bb_arena *arena = bb_arena_create();
    bb_status status = BB_STATUS_OK;
    if (arena && ex->memory_bytes <= MAX_RUN_BYTES) {
        status = run(graph, ex, dims, arena, err);
        c->ran += status == BB_STATUS_OK;
    }
    bb_arena_destroy(arena);
    bb_executor_destroy(ex);
    return status;
}

/* False where a failure came without a message or blames the library or the caller. */
static bool attempt(const char *data, size_t size, counts *c) {
    bb_graph *graph = NULL;
    bb_error err = {.message = ""};
    if (bb_onnx_read_buffer(data, size, NULL, "fuzz.onnx", &graph, &err) != BB_STATUS_OK) {
        c->refused_files++;
        return true;
    }
    bb_status status = execute(graph, c, &err);
    bb_graph_destroy(graph);
    if (status == BB_STATUS_OK)
        return true;
    c->refused++;
    if (err.message[0] != '\0' && status != BB_STATUS_INTERNAL &&
        status != BB_STATUS_INVALID_ARGUMENT)
        return true;
    fprintf(stderr, "status %d, message '%s'\n", (int)status, err.message);
    return false;
}

static bool fuzz(const char *name, const char *data, size_t size, bb_rng *rng, counts *c) {
    char *copy = malloc(size + 1);
    bool ok = copy != NULL;
    for (size_t i = 0; ok && i <= FLIPS; i++) {
        memcpy(copy, data, size);
        for (size_t k = 0; k < i % 4; k++)
            copy[bb_rng_below(rng, size)] ^= (char)(1 + bb_rng_below(rng, 255));
        ok = attempt(copy, size, c);
        if (!ok)
            fprintf(stderr, "attempt %zu of %s\n", i, name);
    }
    free(copy);
    return ok;
}

static bool fuzz_folder(const char *folder, bb_rng *rng, counts *c) {
    DIR *dir = opendir(folder);
    bool ok = true;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        bb_buffer path = {0};
        bb_file file;
        if (strncmp(entry->d_name, "test_", 5) != 0)
            continue;
        bb_buffer_printf(&path, "%s/%s/model.onnx", folder, entry->d_name);
        if (!path.failed && bb_file_open(path.data, &file, NULL) == BB_STATUS_OK) {
            ok = fuzz(path.data, (const char *)file.data, file.size, rng, c) && ok;
            bb_file_close(&file);
        }
        bb_buffer_free(&path);
    }
    if (dir)
        closedir(dir);
    return ok;
}

static void limit_memory(void) {
#if !defined(__SANITIZE_ADDRESS__)
    struct rlimit limit = {(rlim_t)4 << 30, (rlim_t)4 << 30};
    setrlimit(RLIMIT_AS, &limit);
#endif
}

int main(int argc, char **argv) {
    bb_rng rng;
    counts c = {0};
    limit_memory();
    bb_rng_seed(&rng, argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
    bb_buffer model = onnx_sample(21);
    bool ok = true;
    for (int i = 0; i < 100; i++)
        ok = fuzz("the sample", model.data, model.size, &rng, &c) && ok;
    bb_buffer_free(&model);
    ok = fuzz_folder(argc > 1 ? argv[1] : ".", &rng, &c) && ok;
    printf("%zu files refused; of the others %zu programs refused, %zu built, %zu ran\n",
           c.refused_files, c.refused, c.built, c.ran);
    return ok && c.ran > 0 ? 0 : 1;
}
