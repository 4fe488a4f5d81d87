/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <stdlib.h>
#include <string.h>

typedef struct info_arguments {
    bool layers;
    const char *format;
    size_t weight_bits, activation_bits, threads;
    const char *cpu;
} info_arguments;

static const char *dims_text(const int32_t dims[4]) {
    static char text[64];
    snprintf(text, sizeof(text), "%dx%dx%d", dims[1], dims[2], dims[3]);
    return text;
}

/* Kernel of a node as an engine on this machine would choose it, or "". */
static const char *kernel_of(const bb_engine *engine, size_t node) {
    bb_plan_info plan;
    if (!engine || bb_engine_get_plan(engine, node, &plan, NULL) != BB_STATUS_OK || !plan.kernel)
        return "";
    return plan.kernel;
}

static bb_status print_model_layers(const bb_model *model, const bb_model_info *info,
                                    size_t profile, const bb_engine *engine, bb_error *err) {
    cli_table table;
    cli_table_init(&table, (const char *[]){"layer", "kind", "bits", ">out HxWxC", ">MACs", ">BOPs",
                                            ">weight bytes", "kernel", "why float", NULL});
    for (size_t i = 0; i < info->layers; i++) {
        bb_layer_info layer;
        bb_status status = bb_model_get_layer(model, profile, i, &layer, err);
        if (status != BB_STATUS_OK) {
            cli_table_free(&table);
            return status;
        }
        cli_table_cell(&table, "%s", layer.name);
        cli_table_cell(&table, "%s", layer.kind);
        if (layer.weight_bits)
            cli_table_cell(&table, "w%ua%u", layer.weight_bits, layer.input_bits);
        else
            cli_table_cell(&table, layer.input_bits == 32 ? "float" : "a%u", layer.input_bits);
        cli_table_cell(&table, "%s", dims_text(layer.out_dims));
        cli_table_cell(&table, "%s", layer.macs ? cli_count(layer.macs) : "");
        cli_table_cell(&table, "%s", layer.bops ? cli_count(layer.bops) : "");
        cli_table_cell(&table, "%s", layer.weight_bytes ? cli_bytes(layer.weight_bytes) : "");
        cli_table_cell(&table, "%s", kernel_of(engine, i));
        cli_table_cell(&table, "%s", layer.float_reason ? layer.float_reason : "");
    }
    cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
    return BB_STATUS_OK;
}

static json_t *layer_json(const bb_layer_info *layer, const char *kernel) {
    json_t *dims = json_array();
    for (int d = 0; d < 4; d++)
        json_array_append_new(dims, json_integer(layer->out_dims[d]));
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:i, s:o, s:I, s:I, s:I}", "name", layer->name,
                          "kind", layer->kind, "weight_bits", (int)layer->weight_bits, "input_bits",
                          (int)layer->input_bits, "output_bits", (int)layer->output_bits,
                          "out_nhwc", dims, "macs", (json_int_t)layer->macs, "bops",
                          (json_int_t)layer->bops, "weight_bytes", (json_int_t)layer->weight_bytes);
    if (*kernel)
        json_object_set_new(o, "kernel", json_string(kernel));
    if (layer->float_reason)
        json_object_set_new(o, "float_reason", json_string(layer->float_reason));
    return o;
}

static bb_status model_json(const bb_model *model, const bb_model_info *info, size_t profile,
                            const bb_engine *engine, bb_error *err) {
    json_t *layers = json_array(), *profiles = json_array();
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < info->layers && status == BB_STATUS_OK; i++) {
        bb_layer_info layer;
        status = bb_model_get_layer(model, profile, i, &layer, err);
        if (status == BB_STATUS_OK)
            json_array_append_new(layers, layer_json(&layer, kernel_of(engine, i)));
    }
    for (size_t i = 0; i < info->profiles && status == BB_STATUS_OK; i++) {
        bb_profile_info p;
        status = bb_model_get_profile(model, i, &p, err);
        if (status == BB_STATUS_OK)
            json_array_append_new(profiles, json_string(p.name));
    }
    bb_engine_memory memory = {0};
    if (engine)
        bb_engine_get_memory(engine, &memory);
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:o}", "name", info->name,
        "file_bytes", (json_int_t)info->file_bytes, "plane_bytes", (json_int_t)info->plane_bytes,
        "constant_bytes", (json_int_t)info->constant_bytes, "other_bytes",
        (json_int_t)info->other_bytes, "float32_bytes", (json_int_t)info->float32_bytes, "ratio",
        info->file_bytes ? (double)info->float32_bytes / (double)info->file_bytes : 0.0, "macs",
        (json_int_t)info->macs, "integer_macs", (json_int_t)info->integer_macs, "engine_bytes",
        (json_int_t)memory.engine_bytes, "context_bytes", (json_int_t)memory.context_bytes,
        "profiles", profiles, "layers", layers);
    if (status == BB_STATUS_OK)
        return cli_print_json(root, err);
    json_decref(root);
    return status;
}

/* Planes by K: bytes of the layers' planes beside the paper's 32/K. */
static bb_status print_plane_split(const bb_model *model, const bb_model_info *info, size_t profile,
                                   bb_error *err) {
    uint64_t bytes[9] = {0}, macs[9] = {0};
    for (size_t i = 0; i < info->layers; i++) {
        bb_layer_info layer;
        bb_status status = bb_model_get_layer(model, profile, i, &layer, err);
        if (status != BB_STATUS_OK)
            return status;
        bytes[layer.weight_bits & 15] += layer.weight_bytes;
        macs[layer.weight_bits & 15] += layer.weight_bits ? layer.macs : 0;
    }
    for (unsigned k = 1; k <= 8; k++)
        if (bytes[k])
            printf("  K=%u layers   %s of planes, %s MACs; the paper's 32/K = %.2f times smaller\n",
                   k, cli_bytes(bytes[k]), cli_count(macs[k]), 32.0 / k);
    return BB_STATUS_OK;
}

static bb_status print_model_summary(const bb_model *model, const bb_model_info *info,
                                     size_t profile, const bb_engine *engine, bb_error *err) {
    printf("%s\n", cli_text(info->name));
    printf("  profiles     ");
    for (size_t i = 0; i < info->profiles; i++) {
        bb_profile_info p;
        bb_status status = bb_model_get_profile(model, i, &p, err);
        if (status != BB_STATUS_OK)
            return status;
        printf("%s%s", cli_text(p.name), i == profile ? " (shown) " : " ");
    }
    printf("\n  file         %s = planes %s + constants %s + other %s\n",
           cli_bytes(info->file_bytes), cli_bytes(info->plane_bytes),
           cli_bytes(info->constant_bytes), cli_bytes(info->other_bytes));
    if (info->float32_bytes && info->file_bytes)
        printf("  float32      %s, %.2f times the file\n", cli_bytes(info->float32_bytes),
               (double)info->float32_bytes / (double)info->file_bytes);
    bb_status status = print_plane_split(model, info, profile, err);
    if (status != BB_STATUS_OK)
        return status;
    printf("  MACs         %s an image, %.2f %% in integer layers\n", cli_count(info->macs),
           info->macs ? 100.0 * (double)info->integer_macs / (double)info->macs : 0.0);
    if (engine) {
        bb_engine_memory memory;
        bb_engine_get_memory(engine, &memory);
        printf("  memory       engine %s + context %s (besides the mapped file)\n",
               cli_bytes(memory.engine_bytes), cli_bytes(memory.context_bytes));
        printf("  processor    %s\n", bb_engine_cpu(engine));
    }
    return BB_STATUS_OK;
}

static bb_status info_model(const char *path, const info_arguments *a, bool json, bb_error *err) {
    bb_model *model = NULL;
    bb_engine *engine = NULL;
    bb_model_info info;
    size_t profile = 0;
    bb_model_info_init(&info);
    bb_status status =
        net_load_model(path, a->weight_bits, a->activation_bits, &model, &profile, err);
    if (status == BB_STATUS_OK)
        status = bb_model_get_info(model, &info, err);
    if (status == BB_STATUS_OK) {
        bb_engine_options options;
        bb_engine_options_init(&options);
        options.profile = profile;
        options.threads = a->threads;
        options.cpu = a->cpu;
        status = cli_prefix(err, bb_engine_create(model, &options, &engine, err), path);
    }
    if (status == BB_STATUS_OK && json)
        status = model_json(model, &info, profile, engine, err);
    if (status == BB_STATUS_OK && !json)
        status = print_model_summary(model, &info, profile, engine, err);
    if (status == BB_STATUS_OK && !json && a->layers)
        status = print_model_layers(model, &info, profile, engine, err);
    bb_engine_destroy(engine);
    bb_model_destroy(model);
    return status;
}

/* ---- float networks ------------------------------------------------------------------------- */

static void node_dims(const bb_graph_node_info *node, char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int d = 0; d < node->out_rank && used < size; d++)
        used += (size_t)snprintf(text + used, size - used, node->out_dims[d] < 0 ? "%s?" : "%s%lld",
                                 d ? "x" : "", (long long)node->out_dims[d]);
}

static bb_status graph_layers(const bb_graph *graph, const bb_graph_info *info, json_t *array,
                              bb_error *err) {
    cli_table table;
    cli_table_init(&table, (const char *[]){"node", "op", ">output", ">MACs", ">parameters", NULL});
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < info->nodes && status == BB_STATUS_OK; i++) {
        bb_graph_node_info node;
        status = bb_graph_get_node(graph, i, &node, err);
        if (status != BB_STATUS_OK)
            break;
        char dims[96];
        node_dims(&node, dims, sizeof(dims));
        if (array)
            json_array_append_new(array,
                                  json_pack("{s:s, s:s, s:s, s:I, s:I}", "name", node.name, "op",
                                            node.op, "output", dims, "macs", (json_int_t)node.macs,
                                            "parameters", (json_int_t)node.parameters));
        cli_table_cell(&table, "%s", node.name);
        cli_table_cell(&table, "%s", node.op);
        cli_table_cell(&table, "%s", dims);
        cli_table_cell(&table, "%s", node.macs ? cli_count(node.macs) : "");
        cli_table_cell(&table, "%s", node.parameters ? cli_count(node.parameters) : "");
    }
    if (status == BB_STATUS_OK && !array)
        cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
    return status;
}

static bb_status graph_json(const bb_graph *graph, const bb_graph_info *info, bb_error *err) {
    json_t *layers = json_array();
    bb_status status = graph_layers(graph, info, layers, err);
    json_t *root =
        json_pack("{s:s, s:i, s:b, s:I, s:I, s:o}", "name", info->name, "opset", info->opset,
                  "quantized", info->quantized, "float32_bytes", (json_int_t)info->float32_bytes,
                  "macs", (json_int_t)info->macs, "layers", layers);
    if (status == BB_STATUS_OK)
        return cli_print_json(root, err);
    json_decref(root);
    return status;
}

static bb_status info_graph(const char *path, const info_arguments *a, bool json, bb_error *err) {
    bb_graph *graph;
    bb_status status = bb_import_onnx(path, &graph, err);
    if (status != BB_STATUS_OK)
        return status;
    bb_graph_info info;
    bb_graph_info_init(&info);
    status = bb_graph_get_info(graph, &info, err);
    if (status == BB_STATUS_OK && json)
        status = graph_json(graph, &info, err);
    if (status == BB_STATUS_OK && !json) {
        printf("%s: ONNX opset %d, %zu nodes, %s\n", cli_text(info.name), info.opset, info.nodes,
               info.quantized ? "carries its own quantizers" : "float");
        printf("  float32      %s of parameters\n  MACs         %s an image\n",
               cli_bytes(info.float32_bytes), info.macs ? cli_count(info.macs) : "unknown");
        if (a->layers)
            status = graph_layers(graph, &info, NULL, err);
    }
    bb_graph_destroy(graph);
    return status;
}

int cmd_info(int argc, char **argv) {
    info_arguments a = {.format = "table", .threads = 1};
    const cli_spec spec = {
        "info",
        "MODEL [OPTIONS]",
        "Shows what a model holds: size, MACs, bit operations, bits and kernel per layer, memory,\n"
        "and what stayed float with the reason.",
        (cli_option[]){
            {"layers", 'l', CLI_FLAG, &a.layers, NULL, "one line per layer", 0, 0},
            {"format", 'o', CLI_STRING, &a.format, "table|json", "output format", 0, 0},
            CLI_PROFILE_OPTIONS(&a.weight_bits, &a.activation_bits),
            {"threads", 't', CLI_UINT, &a.threads, "N", "plan for N threads (1)", 1, 1024},
            {"cpu", 0, CLI_STRING, &a.cpu, "NAME", "instruction set: ref, ssse3, avx2, ...", 0, 0},
            {0}},
        1,
        1};
    cli_args args;
    int format;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!cli_choice("info", "--format", a.format, (const char *[]){"table", "json", NULL}, &format))
        return EXIT_USAGE;
    const char *path = args.positional[0];
    if (net_is_onnx(path) && (a.weight_bits || a.activation_bits || a.cpu))
        return cli_usage_error("info", "-w, -a and --cpu are for .bbm models, not '%s'", path);
    bb_error err = {0};
    bb_status status = net_is_onnx(path) ? info_graph(path, &a, format == 1, &err)
                                         : info_model(path, &a, format == 1, &err);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("info", &err);
}
