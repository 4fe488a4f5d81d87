# SPDX-License-Identifier: Apache-2.0
# The paper's Table 2 (2 bits) and the branches of figure 1; numbers, ties at 0, clipping.
bitbranch explain -w 2 -a 2
echo
bitbranch explain -w 1 -a 3 0 -0.5 0.30 2
refuses 2 "'x' is not a number" bitbranch explain -w 1 -a 1 x
refuses 2 "are needed" bitbranch explain -w 1
