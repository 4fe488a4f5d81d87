/* SPDX-License-Identifier: Apache-2.0 */
/* rewrite IN.onnx OUT.onnx: imports a network and writes it again. */
#include "bitbranch/export.h"
#include <stdio.h>

int main(int argc, char **argv) {
    bb_graph *graph = NULL;
    bb_error err;
    if (argc != 3)
        return 2;
    bb_status status = bb_import_onnx(argv[1], &graph, &err);
    if (status == BB_STATUS_OK)
        status = bb_export_onnx(graph, argv[2], &err);
    if (status != BB_STATUS_OK)
        fprintf(stderr, "%s\n", err.message);
    bb_graph_destroy(graph);
    return status != BB_STATUS_OK;
}
