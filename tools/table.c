/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool continues_character(char byte) {
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* U+0080 to U+009F: some terminals obey them. */
static bool is_c1_control(const char *c) {
    return (unsigned char)c[0] == 0xc2 && ((unsigned char)c[1] & 0xe0) == 0x80;
}

/* Control characters become '?'; a UTF-8 character cut at the end goes. */
static void make_printable(char *text) {
    char *c = text;
    for (; *c; c++)
        if (is_c1_control(c))
            c[0] = c[1] = '?';
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    char *last = c;
    while (last > text && c - last < 4 && continues_character(last[-1]))
        last--;
    if (last == text || (unsigned char)last[-1] < 0xc0)
        return;
    const unsigned char first = (unsigned char)*--last;
    if (c - last < (first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2))
        *last = '\0';
}

/* Characters of UTF-8 text: what it takes on a terminal, but for wide ones. */
static size_t text_width(const char *text) {
    size_t width = 0;
    for (; *text; text++)
        width += !continues_character(*text);
    return width;
}

void cli_table_init(cli_table *table, const char *const *titles) {
    *table = (cli_table){0};
    for (; titles[table->columns] && table->columns < CLI_MAX_COLUMNS; table->columns++) {
        const char *title = titles[table->columns];
        table->right[table->columns] = title[0] == '>';
        table->titles[table->columns] = title + (title[0] == '>');
    }
}

void cli_table_cell(cli_table *table, const char *fmt, ...) {
    if (table->rows == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 256;
        char(*cells)[CLI_CELL_SIZE] = realloc(table->cells, capacity * sizeof(*cells));
        if (!cells) {
            fputs("bitbranch: out of memory for a table\n", stderr);
            exit(EXIT_FAILED);
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    char *cell = table->cells[table->rows++];
    va_list args;
    va_start(args, fmt);
    vsnprintf(cell, CLI_CELL_SIZE, fmt, args);
    va_end(args);
    make_printable(cell);
}

/* table->rows counts cells; a row is `columns` of them. */
static size_t column_width(const cli_table *table, size_t column) {
    size_t width = text_width(table->titles[column]);
    for (size_t i = column; i < table->rows; i += table->columns) {
        const size_t cell = text_width(table->cells[i]);
        width = cell > width ? cell : width;
    }
    return width;
}

void cli_csv_cell(const char *text, FILE *out) {
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void print_row(const cli_table *table, cli_format format, const size_t *widths,
                      const char *const *cells, FILE *out) {
    for (size_t c = 0; c < table->columns; c++) {
        if (format == CLI_CSV) {
            if (c)
                fputc(',', out);
            cli_csv_cell(cells[c], out);
            continue;
        }
        fputs(format == CLI_MARKDOWN ? "| " : c ? "  " : "", out);
        bool last = format == CLI_TABLE && c + 1 == table->columns && !table->right[c];
        const int padding = last ? 0 : (int)(widths[c] - text_width(cells[c]));
        fprintf(out, "%*s%s%*s", table->right[c] ? padding : 0, "", cells[c],
                table->right[c] ? 0 : padding, "");
        if (format == CLI_MARKDOWN)
            fputc(' ', out);
    }
    fputs(format == CLI_MARKDOWN ? "|\n" : "\n", out);
}

static void print_rule(const cli_table *table, cli_format format, const size_t *widths, FILE *out) {
    for (size_t c = 0; c < table->columns; c++) {
        fputs(format == CLI_MARKDOWN ? "|-" : c ? "  " : "", out);
        for (size_t i = 0; i < widths[c]; i++)
            fputc('-', out);
        if (format == CLI_MARKDOWN)
            fputc(table->right[c] ? ':' : '-', out);
    }
    fputs(format == CLI_MARKDOWN ? "|\n" : "\n", out);
}

void cli_table_print(const cli_table *table, cli_format format, FILE *out) {
    size_t widths[CLI_MAX_COLUMNS];
    for (size_t c = 0; c < table->columns; c++)
        widths[c] = column_width(table, c);
    print_row(table, format, widths, table->titles, out);
    if (format != CLI_CSV)
        print_rule(table, format, widths, out);
    for (size_t i = 0; i + table->columns <= table->rows; i += table->columns) {
        const char *cells[CLI_MAX_COLUMNS];
        for (size_t c = 0; c < table->columns; c++)
            cells[c] = table->cells[i + c];
        print_row(table, format, widths, cells, out);
    }
}

void cli_table_free(cli_table *table) {
    free(table->cells);
    *table = (cli_table){0};
}

enum { TEXTS = 4, TEXT_SIZE = 4352 };

static char *next_text(void) {
    static char texts[TEXTS][TEXT_SIZE];
    static size_t next;
    return texts[next++ % TEXTS];
}

const char *cli_text(const char *text) {
    char *copy = next_text();
    snprintf(copy, TEXT_SIZE, "%s", text);
    make_printable(copy);
    return copy;
}

static const char *scaled(unsigned long long value, const char *unit, bool plain_unit) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    char *text = next_text();
    double v = (double)value;
    size_t p = 0;
    for (; v >= 999.5 && p < 6; p++)
        v /= 1000;
    if (p == 0)
        snprintf(text, TEXT_SIZE, plain_unit ? "%llu %s" : "%llu", value, unit);
    else
        snprintf(text, TEXT_SIZE,
                 v < 9.995   ? "%.2f %s%s"
                 : v < 99.95 ? "%.1f %s%s"
                             : "%.0f %s%s",
                 v, prefixes[p], unit);
    return text;
}

const char *cli_bytes(unsigned long long bytes) {
    return scaled(bytes, "B", true);
}

const char *cli_count(unsigned long long count) {
    return scaled(count, "", false);
}
