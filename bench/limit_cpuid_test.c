/* SPDX-License-Identifier: Apache-2.0 */
/* With limit_cpuid.so preloaded, a prepared cpuid answers as the real one does, but without
 * AVX-512, AVX-VNNI and AMX. */
#include <cpuid.h>
#include <stdint.h>
#include <stdio.h>

typedef struct registers {
    uint32_t a, b, c, d;
} registers;

static registers real(uint32_t leaf, uint32_t subleaf) {
    registers r;
    __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
    return r;
}

static registers prepared(uint32_t leaf, uint32_t subleaf) {
    registers r;
    __asm__ volatile(".byte 0x27, 0xa2"
                     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
                     : "0"(leaf), "2"(subleaf));
    return r;
}

static int failures;

static void expect(const char *what, uint32_t value, uint32_t expected) {
    if (value != expected) {
        printf("%s: %08x, not %08x\n", what, value, expected);
        failures++;
    }
}

int main(void) {
    const registers seven = real(7, 0), limited = prepared(7, 0);
    expect("highest leaf", prepared(0, 0).a, real(0, 0).a);
    expect("vendor", prepared(0, 0).b, real(0, 0).b);
    expect("features", prepared(1, 0).c, real(1, 0).c);
    expect("AVX2", limited.b & 1u << 5, seven.b & 1u << 5);
    expect("AVX-512", limited.b & (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31), 0);
    expect("AVX-512 VNNI", limited.c & 1u << 11, 0);
    expect("AMX", limited.d & (1u << 22 | 1u << 24 | 1u << 25), 0);
    expect("AVX-VNNI", prepared(7, 1).a & 1u << 4, 0);
    return failures != 0;
}
