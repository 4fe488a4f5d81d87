/* SPDX-License-Identifier: Apache-2.0 */
/* The training config: what is read, and that everything else is an error that names the key. */
#define _XOPEN_SOURCE 700 /* nftw, setenv */
#include "train/settings.h"
#include "train_data.h"

#define CONFIG(top, data, network, stages)                                                         \
    "{\"version\": 1, \"task\": " TASK ", \"data\": {\"train\": \"d\", \"test\": \"d\"" data       \
    "}, \"network\": {" network "}, \"stages\": [" stages "]" top "}"
#define NETWORK "\"kind\": \"resnet20\", \"classes\": 2"
#define STAGE "\"name\": \"s\", \"epochs\": 4, \"rate\": 0.1"

static bb_status load(const char *text, bb_settings *s, bb_error *err) {
    write_text("c.json", text);
    return bb_settings_load(at("c.json"), (const char *[]){"A=/x", "BC=y"}, 2, s, err);
}

static bb_settings good(const char *text) {
    bb_settings s;
    bb_error err;
    if (load(text, &s, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return s;
}

static void bad(const char *text, const char *word) {
    bb_settings s;
    bb_error err = {0};
    assert_int_not_equal(load(text, &s, &err), BB_STATUS_OK);
    if (!strstr(err.message, word) || !strstr(err.message, "c.json"))
        fail_msg("'%s' lacks '%s'", err.message, word);
}

static void defaults_are_as_documented(void **state) {
    bb_settings s = good(CONFIG("", "", NETWORK, "{" STAGE "}"));
    assert_int_equal(s.batch, 128);
    assert_int_equal(s.n_stages, 1);
    assert_int_equal(s.network.blocks, 0);
    assert_int_equal(s.network.channels, 1);
    assert_true(s.checkpoint_minutes == 5 && s.max_minutes == 0);
    const bb_stage *t = &s.stages[0];
    assert_int_equal(t->n_profiles, 0);
    assert_null(t->from);
    assert_int_equal(t->schedule.kind, BB_SCHEDULE_COSINE);
    assert_int_equal(t->optimizer.kind, BB_OPTIMIZER_SGD);
    assert_true(t->optimizer.nesterov && t->optimizer.momentum == 0.9f);
    assert_int_equal(t->first_last.weight, 8);
    assert_true(!t->keep_best);
    bb_settings_free(&s);
}

static void stages_build_on_defaults_and_on_each_other(void **state) {
    bb_settings s = good(CONFIG(
        ", \"defaults\": {\"rate\": 0.5, \"epochs\": 10, \"at\": [5], \"schedule\": \"step\"}", "",
        NETWORK,
        "{\"name\": \"f\"}, {\"name\": \"q\", \"bits\": [\"w8a8\", \"w2a3\"], \"epochs\": 20, "
        "\"teacher\": \"f\", \"layers\": {\"stem*\": \"w8a4\"}, \"first_last\": \"float\"}, "
        "{\"name\": \"x\", \"bits\": \"w1a1\", \"from\": \"new\", \"quantizer\": \"paper\"}, "
        "{\"name\": \"y\", \"bits\": \"w1a2\", \"from\": \"f\", \"teacher\": \"t.onnx\", "
        "\"warmup_epochs\": 1}"));
    assert_int_equal(s.n_stages, 4);
    const bb_stage *q = &s.stages[1];
    assert_string_equal(q->from, "f");
    assert_int_equal(q->n_profiles, 2);
    assert_int_equal(q->profiles[1].weight, 2);
    assert_int_equal(q->profiles[1].activation, 3);
    assert_true(q->schedule.rate == 0.5 && q->schedule.at[0] == 0.25);
    assert_true(s.stages[0].schedule.at[0] == 0.5);
    assert_true(q->first_last_float && !q->teacher_is_file);
    assert_int_equal(q->n_layers, 1);
    assert_string_equal(q->layers[0].layer, "stem*");
    assert_null(s.stages[2].from);
    assert_int_equal(s.stages[2].weights, BB_LOWBIT_WEIGHTS_PAPER);
    assert_int_equal(s.stages[2].activations, BB_LOWBIT_ACTIVATIONS_HRELU);
    assert_true(s.stages[3].teacher_is_file && s.stages[3].schedule.warmup == 0.1);
    assert_string_equal(s.stages[3].teacher, at("t.onnx"));
    bb_settings_free(&s);
}

static void variables_are_put_in(void **state) {
    setenv("BB_TEST_E", "env", 1);
    bb_settings s = good("{\"version\": 1, \"task\": " TASK
                         ", \"data\": {\"train\": \"${A}/${BC}z\", \"test\": \"${BB_TEST_E}/t\"}, "
                         "\"network\": {\"file\": \"sub/n.onnx\"}, \"out\": \"o/${BC}\", "
                         "\"stages\": [{" STAGE "}]}");
    assert_string_equal(s.train, "/x/yz");
    assert_string_equal(s.test, "env/t");
    assert_string_equal(s.out, "o/y");
    assert_string_equal(s.network_file, at("sub/n.onnx")); /* relative to the config */
    bb_settings_free(&s);
    bad("{\"version\": 1, \"task\": " TASK ", \"data\": {\"train\": \"${BB_NONE}\", \"test\": "
        "\"t\"}, \"network\": {}, \"stages\": []}",
        "${BB_NONE}");
}

static void mistakes_are_named(void **state) {
    bad("[1]", "not a JSON object");
    bad("{", "c.json:1");
    bad(CONFIG(", \"epochs\": 3", "", NETWORK, "{" STAGE "}"), "unknown key 'epochs'");
    bad(CONFIG("", ", \"x\": 1", NETWORK, "{" STAGE "}"), "unknown key 'data.x'");
    bad(CONFIG("", "", NETWORK ", \"depth\": 1", "{" STAGE "}"), "unknown key 'network.depth'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"lr\": 1}"), "unknown key 'stages[0].lr'");
    bad(CONFIG(", \"defaults\": {\"lr\": 1}", "", NETWORK, "{" STAGE "}"), "'defaults.lr'");
    bad(CONFIG("", "", NETWORK, "{\"name\": \"s\", \"rate\": 1}"), "'stages[0].epochs' is missing");
    bad(CONFIG("", "", NETWORK, "{\"name\": \"s\", \"epochs\": 1}"), "'stages[0].rate' is missing");
    bad(CONFIG("", "", NETWORK, "{" STAGE "}, {" STAGE "}"), "'stages[1].name'");
    bad(CONFIG("", "", NETWORK, "{\"name\": \"a/b\", \"epochs\": 1, \"rate\": 1}"), ".name'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"from\": \"t\"}"), "'stages[0].from'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"teacher\": \"t\"}"), "teacher 't'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"bits\": \"w9a1\"}"), "'stages[0].bits'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"bits\": []}"), "'stages[0].bits'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"layers\": {\"x\": \"w4\"}}"), "'stages[0].layers'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"at\": [3, 2]}"), "'stages[0].at'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"features\": []}"), "'stages[0].features'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"features\": [1]}"), "'stages[0].features'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"batch\": 8}"), "unknown key 'stages[0].batch'");
    bad(CONFIG("", "", NETWORK, "{" STAGE ", \"schedule\": \"sine\"}"), "cosine, linear");
    bad(CONFIG("", "", NETWORK, "{\"name\": \"s\", \"epochs\": 1.5, \"rate\": 1}"),
        "'stages[0].epochs'");
    bad(CONFIG("", "", NETWORK, ""), "'stages'");
    bad(CONFIG("", "", NETWORK, "3"), "'stages[0]' is not an object");
    bad(CONFIG("", "", "\"kind\": \"resnet20\"", "{" STAGE "}"), "'network.classes' is missing");
    bad(CONFIG("", "", NETWORK ", \"widths\": [8]", "{" STAGE "}"), "'network.widths'");
    bad(CONFIG("", "", NETWORK ", \"hidden\": [8]", "{" STAGE "}"), "'network.hidden'");
    bad(CONFIG("", "", "\"file\": \"n.onnx\", \"classes\": 2", "{" STAGE "}"), "network.classes");
    bad(CONFIG(", \"augment\": {\"resize_crop\": [0.5, 2]}", "", NETWORK, "{" STAGE "}"),
        "'augment.resize_crop'");
}

static void failing_allocations_are_reported(void **state) {
    write_text("c.json", CONFIG("", "", NETWORK,
                                "{" STAGE ", \"bits\": \"w2a2\", \"layers\": {\"a\": \"w8a8\"}}"));
    for (long n = 0;; n++) {
        bb_settings s;
        bb_error err;
        bb_alloc_fail_after(n);
        bb_status status = bb_settings_load(at("c.json"), NULL, 0, &s, &err);
        bb_alloc_fail_after(-1);
        if (status == BB_STATUS_OK) {
            bb_settings_free(&s);
            assert_true(n > 5);
            break;
        }
        assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_as_documented),
        cmocka_unit_test(stages_build_on_defaults_and_on_each_other),
        cmocka_unit_test(variables_are_put_in),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(failing_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
