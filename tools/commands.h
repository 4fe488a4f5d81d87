/* SPDX-License-Identifier: Apache-2.0 */
/** @file commands.h  The verbs. Each parses argv[2..] itself and returns the exit code. */
#ifndef BB_TOOLS_COMMANDS_H
#define BB_TOOLS_COMMANDS_H

int cmd_info(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_truncate(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_export(int argc, char **argv);

#endif
