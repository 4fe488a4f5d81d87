/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void message(const char *verb, const char *fmt, va_list args) {
    fflush(stdout);
    fprintf(stderr, verb[0] ? "bitbranch %s: " : "bitbranch: ", verb);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
}

int cli_usage_error(const char *verb, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    message(verb, fmt, args);
    va_end(args);
    fprintf(stderr, "See 'bitbranch %s%s--help'.\n", verb, verb[0] ? " " : "");
    return EXIT_USAGE;
}

int cli_failed(const char *verb, const bb_error *err) {
    fflush(stdout);
    fprintf(stderr, "bitbranch %s: %s\n", verb, cli_text(err->message));
    return EXIT_FAILED;
}

bb_status cli_error(bb_error *err, bb_status status, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof(err->message), fmt, args);
    va_end(args);
    return err->status = status;
}

bb_status cli_prefix(bb_error *err, bb_status status, const char *what) {
    if (status == BB_STATUS_OK)
        return status;
    const bb_error reason = *err;
    return cli_error(err, status, "%.200s: %s", what, reason.message);
}

bb_status cli_check_output(const char *path, bb_error *err) {
    const char *slash = strrchr(path, '/');
    char folder[4096] = ".";
    struct stat st;
    if (slash && (size_t)snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path + 1), path) >=
                     sizeof(folder))
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT, "%s: path too long", path);
    if (access(folder, W_OK | X_OK) != 0)
        return cli_error(err, BB_STATUS_IO, "%s: cannot create: %s", path, strerror(errno));
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return cli_error(err, BB_STATUS_IO, "%s: not a regular file", path);
    return BB_STATUS_OK;
}

bb_status cli_make_folder(const char *path, bb_error *err) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return cli_error(err, BB_STATUS_IO, "%s: cannot create folder: %s", path, strerror(errno));
    return BB_STATUS_OK;
}

bb_status cli_print_json(json_t *root, bb_error *err) {
    if (!root)
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for the JSON output");
    json_dumpf(root, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    putchar('\n'); /* whether all of it could be written is asked once, in main */
    json_decref(root);
    return BB_STATUS_OK;
}

double cli_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_sleep(double seconds) {
    const time_t whole = (time_t)seconds;
    if (seconds > 0)
        nanosleep(&(struct timespec){whole, (long)(1e9 * (seconds - (double)whole))}, NULL);
}

/* ---- options ------------------------------------------------------------------------------ */

static void print_help(const cli_spec *spec) {
    printf("Usage: bitbranch %s %s\n\n%s\n\nOptions:\n", spec->verb, spec->usage, spec->summary);
    for (const cli_option *o = spec->options; o->name; o++) {
        char left[64];
        int n = o->letter ? snprintf(left, sizeof(left), "  -%c, --%s", o->letter, o->name)
                          : snprintf(left, sizeof(left), "      --%s", o->name);
        if (o->argument)
            snprintf(left + n, sizeof(left) - (size_t)n, " %s", o->argument);
        printf("%-32s %s\n", left, o->help);
    }
    printf("%-32s %s\n", "  -h, --help", "print this text");
}

static bool parse_uint(const char *text, size_t min, size_t max, size_t *value) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || v < min || v > max)
        return false;
    *value = (size_t)v;
    return true;
}

static bool store(const cli_spec *spec, const cli_option *o, const char *value) {
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->target = true;
        return true;
    case CLI_UINT:
        if (parse_uint(value, o->min, o->max, o->target))
            return true;
        cli_usage_error(spec->verb, "--%s takes a number from %zu to %zu, not '%s'", o->name,
                        o->min, o->max, value);
        return false;
    case CLI_STRING:
        *(const char **)o->target = value;
        return true;
    case CLI_LIST: {
        cli_list *list = o->target;
        if (list->n == CLI_LIST_MAX) {
            cli_usage_error(spec->verb, "more than %d times --%s", CLI_LIST_MAX, o->name);
            return false;
        }
        list->items[list->n++] = value;
        return true;
    }
    }
    return false;
}

static const cli_option *find_long(const cli_spec *spec, const char *name, size_t length) {
    for (const cli_option *o = spec->options; o->name; o++)
        if (strlen(o->name) == length && memcmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static const cli_option *find_letter(const cli_spec *spec, char letter) {
    for (const cli_option *o = spec->options; o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

/* Parses the option at argv[*i]; accepts --name=value, --name value, -xvalue and -x value. */
static bool parse_option(const cli_spec *spec, int argc, char **argv, int *i) {
    const char *arg = argv[*i], *value = NULL;
    const cli_option *o;
    if (arg[1] == '-') {
        const char *equals = strchr(arg, '=');
        o = find_long(spec, arg + 2, equals ? (size_t)(equals - arg - 2) : strlen(arg + 2));
        value = equals ? equals + 1 : NULL;
    } else {
        o = find_letter(spec, arg[1]);
        value = arg[2] ? arg + 2 : NULL;
    }
    if (!o) {
        cli_usage_error(spec->verb, "unknown option '%s'", arg);
        return false;
    }
    if (o->kind == CLI_FLAG && value) {
        cli_usage_error(spec->verb, "--%s takes no value", o->name);
        return false;
    }
    if (o->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc) {
            cli_usage_error(spec->verb, "--%s needs a value (%s)", o->name, o->argument);
            return false;
        }
        value = argv[++*i];
    }
    return store(spec, o, value);
}

/* "-0.5" is an argument, not options -0 and so on. */
static bool is_number(const char *arg) {
    return arg[1] == '.' || (arg[1] >= '0' && arg[1] <= '9');
}

bool cli_parse(const cli_spec *spec, int argc, char **argv, cli_args *args) {
    const char **positional = (const char **)argv + 2; /* never overtakes argv[i] */
    *args = (cli_args){.positional = positional};
    bool options_end = false;
    for (int i = 2; i < argc; i++) {
        const char *arg = argv[i];
        if (!options_end && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            print_help(spec);
            args->help = true;
            return true;
        }
        if (!options_end && strcmp(arg, "--") == 0) {
            options_end = true;
        } else if (!options_end && arg[0] == '-' && arg[1] != '\0' && !is_number(arg)) {
            if (!parse_option(spec, argc, argv, &i))
                return false;
        } else if (args->n == spec->max_positional) {
            cli_usage_error(spec->verb, "unexpected argument '%s'", arg);
            return false;
        } else {
            positional[args->n++] = arg;
        }
    }
    if (args->n < spec->min_positional) {
        cli_usage_error(spec->verb, "missing argument; usage: bitbranch %s %s", spec->verb,
                        spec->usage);
        return false;
    }
    return true;
}

bool cli_choice(const char *verb, const char *option, const char *value, const char *const *choices,
                int *index) {
    char list[256] = "";
    for (int i = 0; choices[i]; i++) {
        if (strcmp(value, choices[i]) == 0) {
            *index = i;
            return true;
        }
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "",
                 choices[i]);
    }
    cli_usage_error(verb, "%s is one of %s, not '%s'", option, list, value);
    return false;
}

bool cli_parse_bits(const char *text, uint32_t *weight, uint32_t *activation) {
    if (strlen(text) != 4 || (text[0] | 32) != 'w' || (text[2] | 32) != 'a' || text[1] < '1' ||
        text[1] > '8' || text[3] < '1' || text[3] > '8')
        return false;
    *weight = (uint32_t)(text[1] - '0');
    *activation = (uint32_t)(text[3] - '0');
    return true;
}

/* ---- progress ----------------------------------------------------------------------------- */

int cli_progress(void *user, const char *stage, size_t done, size_t total) {
    enum { WIDTH = 30 };
    static size_t last_tenth;
    static double last_time;
    if (!total)
        return 0;
    if (!isatty(STDERR_FILENO)) {
        size_t tenth = done * 10 / total;
        if (done == 0 || tenth != last_tenth)
            fprintf(stderr, "%s: %zu/%zu\n", stage, done, total);
        last_tenth = tenth;
        return 0;
    }
    double now = cli_seconds();
    if (done < total && now - last_time < 0.05)
        return 0;
    last_time = now;
    char bar[WIDTH + 1];
    size_t filled = done * WIDTH / total;
    for (size_t i = 0; i < WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r\x1b[K%-24s [%s] %zu/%zu%s", stage, bar, done, total,
            done == total ? "\n" : "");
    fflush(stderr);
    return 0;
}
