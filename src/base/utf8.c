/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"

/* Length of one well-formed UTF-8 sequence (RFC 3629), 0 if there is none. */
static size_t sequence_length(const unsigned char *s) {
    unsigned char c = s[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : 4;
    if ((c >= 0x80 && c < 0xc2) || c > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (c == 0xe0 && s[1] < 0xa0) || (c == 0xf0 && s[1] < 0x90);
    bool surrogate = c == 0xed && s[1] >= 0xa0, beyond = c == 0xf4 && s[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

size_t bb_utf8_prefix(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        size_t n = sequence_length(s);
        if (n == 0)
            break;
        s += n;
    }
    return (size_t)(s - (const unsigned char *)text);
}

bool bb_utf8_valid(const char *text) {
    return text[bb_utf8_prefix(text)] == '\0';
}
