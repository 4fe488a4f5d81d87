/* SPDX-License-Identifier: Apache-2.0 */
/* onnx_nodes SKIPS FOLDER [-v | TEST...]
 * Runs the ONNX project's operator tests (Debian: libonnx-testdata) through the importer and the
 * float executor. Every test either passes or is listed in SKIPS with its reason; a listed test
 * that passes, or that does not exist, is an error as well. With TEST names only those run.
 *
 * The tests feed every operand as a run-time input, also shapes, axes, sizes: what is a constant in
 * networks. A test that cannot run so is tried again with the inputs after the first, then with
 * all inputs, given as constants; the summary counts these. */
#include "nn/executor.h"
#include "onnx/reader.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_IO = 32, MAX_TESTS = 4096, PATH_SIZE = 1024 };

typedef struct skip {
    char name[160];
    char reason[200];
    bool used;
} skip;

typedef struct suite {
    const char *folder;
    bool verbose;
    skip skips[MAX_TESTS];
    size_t n_skips;
    char *names[MAX_TESTS];
    size_t n_names, passed, with_constants, skipped, failed;
} suite;

BB_PRINTF(2, 3) static void make_path(char path[PATH_SIZE], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(path, PATH_SIZE, format, args);
    va_end(args);
}

/* ---- one test -------------------------------------------------------------------------------- */

/* A tensor file becomes constant `*value` of `store`. NOT_FOUND: no such file. */
static bb_status read_tensor(bb_graph *store, const char *path, int *value, bb_error *err) {
    bb_file file;
    struct stat st;
    if (stat(path, &st) != 0)
        return BB_STATUS_NOT_FOUND;
    BB_TRY(bb_file_open(path, &file, err));
    Onnx__TensorProto *proto = onnx__tensor_proto__unpack(NULL, file.size, file.data);
    bb_status status =
        proto ? BB_STATUS_OK : bb_fail(err, BB_STATUS_UNSUPPORTED, "%s is not a tensor", path);
    if (status == BB_STATUS_OK) {
        bb_onnx_reader reader = {.graph = store, .err = err};
        status = bb_onnx_read_tensor(&reader, proto, proto->name ? proto->name : "", value);
    }
    if (proto)
        onnx__tensor_proto__free_unpacked(proto, NULL);
    bb_file_close(&file);
    return status;
}

static bb_status read_tensors(bb_graph *store, const char *folder, const char *kind,
                              bb_array *arrays, const char **names, size_t *n, bb_error *err) {
    for (*n = 0; *n < MAX_IO; ++*n) {
        char path[PATH_SIZE];
        int value;
        make_path(path, "%s/%s_%zu.pb", folder, kind, *n);
        bb_status status = read_tensor(store, path, &value, err);
        if (status == BB_STATUS_NOT_FOUND)
            break;
        if (status != BB_STATUS_OK)
            return status;
        const bb_value *v = &store->values[value];
        arrays[*n] =
            (bb_array){.dtype = v->dtype, .rank = v->rank, .data = (void *)(uintptr_t)v->data};
        memcpy(arrays[*n].dims, v->dims, sizeof(arrays[*n].dims));
        names[*n] = v->name;
    }
    return BB_STATUS_OK;
}

static double element(const bb_array *array, size_t i) {
    switch (array->dtype) {
    case BB_DTYPE_F32:
        return (double)((const float *)array->data)[i];
    case BB_DTYPE_F64:
        return ((const double *)array->data)[i];
    case BB_DTYPE_I64:
        return (double)((const int64_t *)array->data)[i];
    case BB_DTYPE_I32:
        return (double)((const int32_t *)array->data)[i];
    case BB_DTYPE_I16:
        return (double)((const int16_t *)array->data)[i];
    case BB_DTYPE_U16:
        return (double)((const uint16_t *)array->data)[i];
    case BB_DTYPE_I8:
    case BB_DTYPE_I4:
        return (double)((const int8_t *)array->data)[i];
    case BB_DTYPE_U8:
    case BB_DTYPE_U4:
    case BB_DTYPE_BOOL:
        break;
    }
    return (double)((const uint8_t *)array->data)[i];
}

/* Tolerances of the ONNX backend tests for floats; integers are exact. */
static bool close_enough(bb_dtype dtype, double got, double want) {
    if (isnan(want))
        return isnan(got);
    if ((dtype != BB_DTYPE_F32 && dtype != BB_DTYPE_F64) || isinf(want))
        return got == want;
    return fabs(got - want) <= 1e-6 + 1e-3 * fabs(want);
}

static bb_status compare(const bb_array *got, const bb_array *want, size_t index, bb_error *err) {
    size_t n = 1;
    bool same = got->dtype == want->dtype && got->rank == want->rank;
    for (int d = 0; same && d < want->rank; d++) {
        same = got->dims[d] == want->dims[d];
        n *= (size_t)want->dims[d];
    }
    if (!same)
        return bb_fail(err, BB_STATUS_INTERNAL, "output %zu has another type or shape", index);
    for (size_t i = 0; i < n; i++)
        if (!close_enough(want->dtype, element(got, i), element(want, i)))
            return bb_fail(err, BB_STATUS_INTERNAL, "output %zu, element %zu is %g, not %g", index,
                           i, element(got, i), element(want, i));
    return BB_STATUS_OK;
}

/* Puts the test's inputs in the order of the graph's; the importer drops unused ones. */
static bb_status order_inputs(const bb_graph *graph, const bb_array *given, const char **names,
                              size_t n, bb_array *inputs, const int64_t **dims, bb_error *err) {
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const char *wanted = graph->values[graph->inputs[i]].name;
        size_t k = 0;
        while (k < n && strcmp(names[k], wanted) != 0)
            k++;
        if (k == n && (i >= n || names[i][0] != '\0'))
            return bb_fail(err, BB_STATUS_NOT_FOUND, "the test has no input '%s'", wanted);
        inputs[i] = given[k == n ? i : k];
        dims[i] = inputs[i].dims;
    }
    return BB_STATUS_OK;
}

static bb_status execute(const bb_graph *graph, const bb_array *inputs, const int64_t **dims,
                         const bb_array *wanted, size_t n_wanted, bb_error *err) {
    bb_executor *ex = NULL;
    BB_TRY(bb_executor_create(graph, dims, NULL, &ex, err));
    bb_status status = bb_executor_run(ex, inputs, NULL, NULL, err);
    if (status == BB_STATUS_OK && n_wanted != graph->n_outputs)
        status = bb_fail(err, BB_STATUS_INTERNAL, "%zu outputs instead of %zu", graph->n_outputs,
                         n_wanted);
    for (size_t i = 0; status == BB_STATUS_OK && i < n_wanted; i++) {
        bb_array got;
        status = bb_executor_output(ex, i, &got, err);
        if (status == BB_STATUS_OK)
            status = compare(&got, &wanted[i], i, err);
    }
    bb_executor_destroy(ex);
    return status;
}

/* Inputs from `first` on become constants of the graph. */
static void fix_inputs(bb_graph *graph, size_t first, const bb_array *inputs) {
    for (size_t i = first; i < graph->n_inputs; i++) {
        bb_value *value = &graph->values[graph->inputs[i]];
        value->dtype = inputs[i].dtype;
        value->rank = inputs[i].rank;
        memcpy(value->dims, inputs[i].dims, sizeof(value->dims));
        value->data = inputs[i].data;
    }
    if (first < graph->n_inputs)
        graph->n_inputs = first;
}

/* `fixed`: how many of the inputs stay run-time inputs is all, one, none for 0, 1, 2. */
static bb_status run_data_set(bb_graph *graph, const char *folder, int fixed, bb_error *err) {
    bb_array given[MAX_IO], wanted[MAX_IO], inputs[MAX_IO];
    const char *names[MAX_IO], *out_names[MAX_IO];
    const int64_t *dims[MAX_IO];
    size_t n_given, n_wanted;
    bb_graph *store = bb_graph_create();
    if (!store)
        return bb_fail_memory(err, "test data");
    bb_status status = read_tensors(store, folder, "input", given, names, &n_given, err);
    if (status == BB_STATUS_OK)
        status = read_tensors(store, folder, "output", wanted, out_names, &n_wanted, err);
    if (status == BB_STATUS_OK && graph->n_inputs > MAX_IO)
        status = bb_fail(err, BB_STATUS_LIMIT, "too many inputs");
    if (status == BB_STATUS_OK)
        status = order_inputs(graph, given, names, n_given, inputs, dims, err);
    if (status == BB_STATUS_OK && fixed > 0)
        fix_inputs(graph, fixed == 1 ? 1 : 0, inputs);
    if (status == BB_STATUS_OK)
        status = execute(graph, inputs, dims, wanted, n_wanted, err);
    bb_graph_destroy(store);
    return status;
}

static bb_status run_test(const char *folder, int fixed, bb_error *err) {
    char path[PATH_SIZE];
    bb_status status = BB_STATUS_OK;
    for (int i = 0; status == BB_STATUS_OK; i++) {
        struct stat st;
        bb_graph *graph = NULL;
        make_path(path, "%s/test_data_set_%d", folder, i);
        if (stat(path, &st) != 0)
            return i > 0 ? BB_STATUS_OK : bb_fail(err, BB_STATUS_NOT_FOUND, "no test data");
        char model[PATH_SIZE];
        make_path(model, "%s/model.onnx", folder);
        status = bb_onnx_read(model, &graph, err);
        if (status == BB_STATUS_OK)
            status = run_data_set(graph, path, fixed, err);
        bb_graph_destroy(graph);
    }
    return status;
}

/* ---- the suite ------------------------------------------------------------------------------- */

static int read_skips(suite *s, const char *path) {
    FILE *file = fopen(path, "r");
    char line[400];
    if (!file) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    while (fgets(line, sizeof(line), file) && s->n_skips < MAX_TESTS) {
        skip *k = &s->skips[s->n_skips];
        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (sscanf(line, "%159s %199[^\n]", k->name, k->reason) != 2) {
            fprintf(stderr, "%s: a test without a reason: %s", path, line);
            fclose(file);
            return 1;
        }
        s->n_skips++;
    }
    fclose(file);
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void collect(suite *s, const char *group) {
    char path[PATH_SIZE];
    make_path(path, "%s/%s", s->folder, group);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char name[PATH_SIZE];
        if (strncmp(entry->d_name, "test_", 5) != 0 || s->n_names == MAX_TESTS)
            continue;
        make_path(name, "%s/%s", group, entry->d_name);
        s->names[s->n_names] = bb_strdup(name);
        if (s->names[s->n_names])
            s->n_names++;
    }
    if (dir)
        closedir(dir);
}

static skip *find_skip(suite *s, const char *name) {
    for (size_t i = 0; i < s->n_skips; i++)
        if (strcmp(s->skips[i].name, name) == 0)
            return &s->skips[i];
    return NULL;
}

static void judge(suite *s, const char *name) {
    char path[PATH_SIZE];
    bb_error err = {.message = ""};
    make_path(path, "%s/%s", s->folder, name);
    int fixed = 0;
    while (fixed < 3 && run_test(path, fixed, &err) != BB_STATUS_OK)
        fixed++;
    bool good = fixed < 3;
    skip *listed = find_skip(s, name);
    if (listed)
        listed->used = true;
    if (good && !listed) {
        s->passed++;
        s->with_constants += fixed > 0;
    } else if (!good && listed) {
        s->skipped++;
        if (s->verbose)
            printf("SKIP %s: %s (%s)\n", name, listed->reason, err.message);
    } else {
        s->failed++;
        printf("FAIL %s: %s\n", name, good ? "passes, but is listed as skipped" : err.message);
    }
}

static int run_suite(suite *s) {
    static const char *const groups[] = {"node", "simple"};
    for (size_t i = 0; i < BB_COUNT(groups); i++)
        collect(s, groups[i]);
    if (s->n_names == 0) {
        printf("no ONNX operator tests in %s: install libonnx-testdata; skipped\n", s->folder);
        return 77;
    }
    qsort(s->names, s->n_names, sizeof(s->names[0]), by_name);
    for (size_t i = 0; i < s->n_names; i++)
        judge(s, s->names[i]);
    for (size_t i = 0; i < s->n_skips; i++)
        if (!s->skips[i].used) {
            s->failed++;
            printf("FAIL %s: listed as skipped, but there is no such test\n", s->skips[i].name);
        }
    printf("%zu tests passed (%zu of them with operands as constants), %zu skipped (each with its "
           "reason in the list), %zu failed\n",
           s->passed, s->with_constants, s->skipped, s->failed);
    return s->failed > 0;
}

int main(int argc, char **argv) {
    static suite s;
    if (argc < 3) {
        fprintf(stderr, "usage: onnx_nodes SKIPS FOLDER [-v | TEST...]\n");
        return 2;
    }
    s.folder = argv[2];
    s.verbose = argc > 3 && strcmp(argv[3], "-v") == 0;
    if (read_skips(&s, argv[1]) != 0)
        return 1;
    if (argc == 3 || s.verbose) {
        int status = run_suite(&s);
        for (size_t i = 0; i < s.n_names; i++)
            bb_free(s.names[i]);
        return status;
    }
    for (int i = 3; i < argc; i++)
        judge(&s, argv[i]);
    return s.failed > 0;
}
