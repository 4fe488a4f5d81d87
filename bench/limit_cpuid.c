/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a process whose libraries were prepared by scripts/limit_cpuid.py: executes their
 * `cpuid` instructions and hides everything beyond AVX2 and FMA. For rivals that choose their
 * kernels by cpuid and have no setting for it.
 *
 * The first byte of each cpuid (0f a2) was replaced by 27, an instruction that 64-bit mode does not
 * have, so it raises SIGILL; a plain ud2 (0f 0b) stays what it is.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (UINT32_C(1) << (n))

static const unsigned char prepared[2] = {0x27, 0xa2};

typedef struct registers {
    uint32_t a, b, c, d;
} registers;

static registers read_cpuid(uint32_t leaf, uint32_t subleaf) {
    registers r;
    __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
    return r;
}

/* Intel SDM volume 2A, CPUID; leaf 7. */
static void hide(uint32_t leaf, uint32_t subleaf, registers *r) {
    if (leaf == 7 && subleaf == 0) {
        r->b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        r->c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        r->d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && subleaf == 1) {
        r->a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(22) | BIT(23));
        r->d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) { /* AMX and AVX10 */
        *r = (registers){0, 0, 0, 0};
    }
}

static void on_illegal(int sig, siginfo_t *info, void *context) {
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)info;
    if (memcmp((const void *)g[REG_RIP], prepared, sizeof(prepared)) != 0) {
        signal(sig, SIG_DFL);
        return;
    }
    const uint32_t leaf = (uint32_t)g[REG_RAX], subleaf = (uint32_t)g[REG_RCX];
    registers r = read_cpuid(leaf, subleaf);
    hide(leaf, subleaf, &r);
    g[REG_RAX] = r.a;
    g[REG_RBX] = r.b;
    g[REG_RCX] = r.c;
    g[REG_RDX] = r.d;
    g[REG_RIP] += (greg_t)sizeof(prepared);
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
}
