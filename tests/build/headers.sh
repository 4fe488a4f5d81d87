#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, as strict C99 and as C++ where a C++ compiler is there.
set -eu
root=$1
for header in "$root"/include/bitbranch/*.h; do
    printf '#include "bitbranch/%s"\nint main(void) { return 0; }\n' "$(basename "$header")" |
        ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -I"$root/include" -fsyntax-only -x c -
    if command -v c++ >/dev/null; then
        printf '#include "bitbranch/%s"\nint main() { return 0; }\n' "$(basename "$header")" |
            c++ -std=c++11 -Wall -Werror -I"$root/include" -fsyntax-only -x c++ -
    fi
done
