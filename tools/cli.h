/* SPDX-License-Identifier: Apache-2.0 */
/** @file cli.h  What all verbs of the command share: options, messages, progress, tables. */
#ifndef BB_TOOLS_CLI_H
#define BB_TOOLS_CLI_H

#include "bitbranch/status.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/** Lets the compiler check a format, argument `at`, and those behind it. */
#define CLI_PRINTF(at) __attribute__((format(printf, at, (at) + 1)))

/** Exit codes of the command. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef enum cli_kind {
    CLI_FLAG,   /**< target: bool */
    CLI_UINT,   /**< target: size_t, within min..max */
    CLI_STRING, /**< target: const char * */
    CLI_LIST    /**< target: cli_list; may be repeated */
} cli_kind;

enum { CLI_LIST_MAX = 256 };

typedef struct cli_list {
    size_t n;
    const char *items[CLI_LIST_MAX];
} cli_list;

typedef struct cli_option {
    const char *name; /**< long name without dashes */
    char letter;      /**< short form, or 0 */
    cli_kind kind;
    void *target;
    const char *argument; /**< name of the value in the help text */
    const char *help;
    size_t min, max; /**< CLI_UINT */
} cli_option;

/* clang-format off */
/** The options -w and -a of every verb that runs or reads one profile of a .bbm. */
#define CLI_PROFILE_OPTIONS(weight_bits, activation_bits) \
    {"weights", 'w', CLI_UINT, weight_bits, "K", "profile's weight bits", 1, 8}, \
    {"activations", 'a', CLI_UINT, activation_bits, "M", "profile's activation bits", 1, 8}
/* clang-format on */

/** One verb's command line. `options` ends with an entry whose name is NULL. */
typedef struct cli_spec {
    const char *verb, *usage, *summary;
    cli_option *options;
    size_t min_positional, max_positional;
} cli_spec;

/** The arguments that are no options, moved to the front of argv[2..]. */
typedef struct cli_args {
    size_t n;
    const char *const *positional;
    bool help; /**< --help was asked for and printed: exit 0 */
} cli_args;

/** Parses argv[2..]; false after a message on stderr (the caller then returns EXIT_USAGE). */
bool cli_parse(const cli_spec *spec, int argc, char **argv, cli_args *args);
/** Prints "bitbranch VERB: message" and returns EXIT_USAGE. */
int cli_usage_error(const char *verb, const char *fmt, ...) CLI_PRINTF(2);
/** Prints "bitbranch VERB: message" of err and returns EXIT_FAILED. */
int cli_failed(const char *verb, const bb_error *err);
/** Fills err and returns `status`. */
bb_status cli_error(bb_error *err, bb_status status, const char *fmt, ...) CLI_PRINTF(3);
/** Puts "what: " before the message of a failure that is being passed on; returns `status`. */
bb_status cli_prefix(bb_error *err, bb_status status, const char *what);
/** IO where no file can be created at `path`, INVALID_ARGUMENT where that is too long: asked before
 *  the work that would be lost. */
bb_status cli_check_output(const char *path, bb_error *err);
/** Makes the folder unless it is there. */
bb_status cli_make_folder(const char *path, bb_error *err);
/** One of the words in `choices` (NULL-terminated) -> its index; false after a message. */
bool cli_choice(const char *verb, const char *option, const char *value, const char *const *choices,
                int *index);

/** "w4a4" -> 4, 4; both 1..8. */
bool cli_parse_bits(const char *text, uint32_t *weight, uint32_t *activation);

/** Progress on stderr: a bar on a terminal, a line per tenth otherwise. bb_progress_fn. */
int cli_progress(void *user, const char *stage, size_t done, size_t total);

/** Seconds on a clock that never goes back. */
double cli_seconds(void);
void cli_sleep(double seconds);

/* ---- tables: one description, printed for people, as Markdown or CSV ---------------------- */

typedef enum cli_format { CLI_TABLE, CLI_MARKDOWN, CLI_CSV, CLI_JSON } cli_format;

enum { CLI_MAX_COLUMNS = 16, CLI_CELL_SIZE = 128 };

typedef struct cli_table {
    size_t columns, rows, capacity;
    const char *titles[CLI_MAX_COLUMNS];
    bool right[CLI_MAX_COLUMNS]; /**< numbers */
    char (*cells)[CLI_CELL_SIZE];
} cli_table;

/** titles: "name" or ">number" for right-aligned columns; NULL-terminated. */
void cli_table_init(cli_table *table, const char *const *titles);
/** Appends one cell; rows fill from left to right. Made printable, cut at CLI_CELL_SIZE. */
void cli_table_cell(cli_table *table, const char *fmt, ...) CLI_PRINTF(2);
void cli_table_print(const cli_table *table, cli_format format, FILE *out);
void cli_table_free(cli_table *table);

/** Text from files, for a terminal: control characters, which may move its cursor or worse, become
 *  '?'; cut after some thousand bytes. In one of four static buffers, which this function and
 *  cli_bytes and cli_count take in turn. */
const char *cli_text(const char *text);
/** One cell of a CSV line, in quotes where it needs them. */
void cli_csv_cell(const char *text, FILE *out);

/** "6.3 MB", "512 B" (decimal units), in one of those buffers. */
const char *cli_bytes(unsigned long long bytes);
/** "1.82 G", "41.3 M". */
const char *cli_count(unsigned long long count);

/** Prints one JSON object on stdout and releases it. root NULL is OUT_OF_MEMORY. */
bb_status cli_print_json(json_t *root, bb_error *err);

#endif
