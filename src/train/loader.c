/* SPDX-License-Identifier: Apache-2.0 */
#include "train/loader.h"
#include "base/pool.h"
#include "train/augment.h"
#include "vision/config.h"
#include <pthread.h>
#include <string.h>

enum { SLOTS_AHEAD = 3, MAX_THREADS = 64 };

/* A batch being made or waiting. Numbered by the batch of the epoch it holds. */
typedef struct slot {
    float *images;
    int *labels;
    size_t n;
    size_t batch;
    bool ready;
    bb_status status;
    bb_error err;
} slot;

/* What one thread needs to prepare an image. */
typedef struct workspace {
    uint8_t *pixels, *copy;
} workspace;

struct bb_loader {
    const bb_dataset *dataset;
    const bb_config *config;
    bb_config stretch; /* the same, stretching parts of images to the input */
    bb_loader_options options;
    int channels, height, width;
    size_t image_elements;
    bb_image *cache; /* [images]; pixels NULL: read it every time */
    size_t *order;   /* of this epoch */
    uint64_t epoch;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool synchronised; /* lock and changed exist */
    pthread_t threads[MAX_THREADS];
    size_t n_threads;
    slot *slots;
    size_t n_slots;
    size_t next, taken, end; /* batch to make next, to hand out next, and of the epoch's end */
    size_t busy;             /* threads that make a batch */
    bool stop;
};

size_t bb_loader_images(const bb_loader *loader) {
    return bb_dataset_size(loader->dataset);
}

size_t bb_loader_batches(const bb_loader *l) {
    size_t n = bb_loader_images(l), batch = l->options.batch;
    return l->options.training ? n / batch : (n + batch - 1) / batch;
}

/* ---- one image ------------------------------------------------------------------------------- */

static bool takes_parts(const bb_loader *l) {
    return l->options.training && l->options.augment.resize_crop_max > 0;
}

/* Whole decoded images are kept where parts are cut out of them, else the input's pixels. */
static bb_status decode(const bb_loader *l, size_t i, bb_image *image, bb_error *err) {
    BB_TRY(bb_dataset_image(l->dataset, i, image, err));
    if (takes_parts(l))
        return BB_STATUS_OK;
    bb_image input = {l->width, l->height, l->channels, bb_alloc(l->image_elements)};
    bb_status status = input.pixels ? bb_config_pixels(l->config, image, input.pixels, err)
                                    : bb_fail_memory(err, "image");
    if (status != BB_STATUS_OK) {
        bb_free(input.pixels);
        bb_image_free(image);
        return bb_error_prefix(err, status, "%s", bb_dataset_name(l->dataset, i));
    }
    bb_image_free(image);
    *image = input;
    return BB_STATUS_OK;
}

static bb_status make_pixels(const bb_loader *l, const bb_image *image, bb_rng *rng,
                             uint8_t *pixels, bb_error *err) {
    if (!takes_parts(l)) {
        memcpy(pixels, image->pixels, l->image_elements);
        return BB_STATUS_OK;
    }
    bb_image part;
    BB_TRY(bb_augment_part(&l->options.augment, image, rng, &part, err));
    bb_status status = bb_config_pixels(&l->stretch, &part, pixels, err);
    bb_image_free(&part);
    return status;
}

static bb_rng image_rng(const bb_loader *l, size_t i) {
    bb_rng rng;
    bb_rng_seed(&rng, l->options.seed);
    bb_rng_seed(&rng, bb_rng_next(&rng) ^ l->epoch);
    bb_rng_seed(&rng, bb_rng_next(&rng) ^ i);
    return rng;
}

static bb_status prepare(const bb_loader *l, const workspace *w, size_t i, float *nchw,
                         bb_error *err) {
    bb_image read = {0};
    const bb_image *image = &l->cache[i];
    bb_rng rng = image_rng(l, i);
    if (!image->pixels) {
        BB_TRY(decode(l, i, &read, err));
        image = &read;
    }
    bb_status status = make_pixels(l, image, &rng, w->pixels, err);
    bb_image_free(&read);
    BB_TRY(status);
    if (l->options.training)
        bb_augment_pixels(&l->options.augment, l->width, l->height, l->channels, w->pixels, w->copy,
                          &rng);
    bb_config_normalize(l->config, w->pixels, nchw);
    return BB_STATUS_OK;
}

bb_status bb_loader_image(const bb_loader *l, size_t i, float *nchw, bb_error *err) {
    if (i >= bb_loader_images(l))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no image %zu", i);
    if (l->cache[i].pixels && !takes_parts(l)) {
        bb_config_normalize(l->config, l->cache[i].pixels, nchw);
        return BB_STATUS_OK;
    }
    bb_image image;
    BB_TRY(bb_dataset_image(l->dataset, i, &image, err));
    bb_status status = bb_config_tensor(l->config, &image, nchw, err);
    bb_image_free(&image);
    return status;
}

/* ---- the threads ----------------------------------------------------------------------------- */

static void make_batch(bb_loader *l, const workspace *w, slot *s, size_t batch) {
    size_t size = l->options.batch, first = batch * size, images = bb_loader_images(l);
    s->n = images - first < size ? images - first : size;
    s->status = BB_STATUS_OK;
    for (size_t k = 0; k < size; k++) {
        float *to = s->images + k * l->image_elements;
        s->labels[k] = -1;
        if (k >= s->n) {
            memset(to, 0, l->image_elements * sizeof(*to));
        } else if (s->status == BB_STATUS_OK) {
            size_t i = l->order[first + k];
            s->labels[k] = bb_dataset_label(l->dataset, i);
            s->status = prepare(l, w, i, to, &s->err);
        }
    }
}

static bool workspace_create(const bb_loader *l, workspace *w) {
    w->pixels = bb_alloc(l->image_elements);
    w->copy = bb_alloc(l->image_elements);
    return w->pixels && w->copy;
}

static void *work(void *user) {
    bb_loader *l = user;
    workspace w;
    bool memory = workspace_create(l, &w);
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && (l->next >= l->end || l->next - l->taken >= l->n_slots - 1))
            pthread_cond_wait(&l->changed, &l->lock);
        if (l->stop)
            break;
        size_t batch = l->next++;
        slot *s = &l->slots[batch % l->n_slots];
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        if (memory)
            make_batch(l, &w, s, batch);
        else
            s->status = bb_fail_memory(&s->err, "images");
        pthread_mutex_lock(&l->lock);
        s->batch = batch;
        s->ready = true;
        l->busy--;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    bb_free(w.pixels);
    bb_free(w.copy);
    return NULL;
}

/* Fisher-Yates, seeded by the epoch. */
static void shuffle(bb_loader *l) {
    size_t n = bb_loader_images(l);
    for (size_t i = 0; i < n; i++)
        l->order[i] = i;
    if (!l->options.training)
        return;
    bb_rng rng;
    bb_rng_seed(&rng, ~l->options.seed);
    bb_rng_seed(&rng, bb_rng_next(&rng) ^ l->epoch);
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)bb_rng_below(&rng, i), swap = l->order[i - 1];
        l->order[i - 1] = l->order[j];
        l->order[j] = swap;
    }
}

bb_status bb_loader_start(bb_loader *l, uint64_t epoch, size_t batch, bb_error *err) {
    if (batch > bb_loader_batches(l))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "an epoch has %zu batches, not %zu",
                       bb_loader_batches(l), batch);
    pthread_mutex_lock(&l->lock);
    l->end = 0; /* nobody starts a batch; then wait for those being made */
    while (l->busy > 0)
        pthread_cond_wait(&l->changed, &l->lock);
    for (size_t i = 0; i < l->n_slots; i++)
        l->slots[i].ready = false;
    l->epoch = epoch;
    shuffle(l);
    l->next = l->taken = batch;
    l->end = bb_loader_batches(l);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return BB_STATUS_OK;
}

bb_status bb_loader_next(bb_loader *l, bb_batch *batch, bb_error *err) {
    if (l->taken >= l->end)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "the epoch has no more batches");
    slot *s = &l->slots[l->taken % l->n_slots];
    pthread_mutex_lock(&l->lock);
    while (!s->ready || s->batch != l->taken)
        pthread_cond_wait(&l->changed, &l->lock);
    s->ready = false;
    l->taken++; /* its slot is not written again before the next call: n_slots - 1 ahead at most */
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (s->status != BB_STATUS_OK) {
        if (err)
            *err = s->err;
        return s->status;
    }
    *batch = (bb_batch){s->images, s->labels, s->n};
    return BB_STATUS_OK;
}

/* ---- creation -------------------------------------------------------------------------------- */

typedef struct reading {
    bb_loader *l;
    size_t first;
    bb_status status[MAX_THREADS];
    bb_error err[MAX_THREADS];
} reading;

static void read_one(void *user, size_t task, size_t worker) {
    reading *r = user;
    size_t i = r->first + task;
    bb_image *image = &r->l->cache[i];
    if (r->status[worker] != BB_STATUS_OK)
        return;
    r->status[worker] = decode(r->l, i, image, &r->err[worker]);
    if (r->status[worker] != BB_STATUS_OK)
        *image = (bb_image){0};
}

/* Fills the cache from the first image on while it fits. */
static bb_status fill_cache(bb_loader *l, bb_pool *pool, bb_progress_fn progress, void *user,
                            bb_error *err) {
    enum { RUN = 512 };
    size_t n = bb_loader_images(l), used = 0, done = 0;
    reading r = {.l = l};
    while (done < n && used < l->options.cache_bytes) {
        size_t run = n - done < RUN ? n - done : RUN;
        r.first = done;
        bb_pool_run(pool, run, read_one, &r);
        for (size_t t = 0; t < bb_pool_threads(pool); t++) {
            if (r.status[t] == BB_STATUS_OK)
                continue;
            if (err)
                *err = r.err[t];
            return r.status[t];
        }
        for (size_t i = done; i < done + run; i++)
            used += (size_t)l->cache[i].width * (size_t)l->cache[i].height *
                    (size_t)l->cache[i].channels;
        done += run;
        if (progress && progress(user, "reading images", done, n) != 0)
            return bb_fail(err, BB_STATUS_CANCELLED, "stopped by the caller");
    }
    return BB_STATUS_OK;
}

static bb_status read_cache(bb_loader *l, bb_progress_fn progress, void *user, bb_error *err) {
    bb_pool *pool;
    BB_TRY(bb_pool_create(l->options.threads, &pool, err));
    bb_status status = fill_cache(l, pool, progress, user, err);
    bb_pool_destroy(pool);
    return status;
}

static bb_status allocate(bb_loader *l, bb_error *err) {
    size_t n = bb_loader_images(l);
    l->n_slots = l->options.threads + SLOTS_AHEAD;
    l->cache = bb_calloc_array(n, sizeof(*l->cache));
    l->order = bb_calloc_array(n, sizeof(*l->order));
    l->slots = bb_calloc_array(l->n_slots, sizeof(*l->slots));
    bool memory = l->cache && l->order && l->slots;
    for (size_t i = 0; memory && i < l->n_slots; i++) {
        slot *s = &l->slots[i];
        size_t elements;
        s->images = bb_size_mul(l->options.batch, l->image_elements, &elements)
                        ? bb_alloc_array(elements, sizeof(float))
                        : NULL;
        s->labels = bb_alloc_array(l->options.batch, sizeof(int));
        memory = s->images && s->labels;
    }
    return memory ? BB_STATUS_OK : bb_fail_memory(err, "images");
}

static bb_status check(const bb_loader *l, bb_error *err) {
    size_t n = bb_loader_images(l);
    if (l->options.batch == 0 || (l->options.training && l->options.batch > n))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: a batch of %zu out of %zu images",
                       bb_dataset_source(l->dataset), l->options.batch, n);
    for (size_t i = 0; l->options.training && i < n; i++)
        if (bb_dataset_label(l->dataset, i) < 0)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: has no class",
                           bb_dataset_name(l->dataset, i));
    return BB_STATUS_OK;
}

static bb_status start_threads(bb_loader *l, bb_error *err) {
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->synchronised = true;
    for (; l->n_threads < l->options.threads; l->n_threads++)
        if (pthread_create(&l->threads[l->n_threads], NULL, work, l) != 0)
            return bb_fail(err, BB_STATUS_IO, "cannot start a thread");
    return BB_STATUS_OK;
}

static bb_status open_loader(bb_loader *l, bb_progress_fn progress, void *user, bb_error *err) {
    BB_TRY(check(l, err));
    BB_TRY(allocate(l, err));
    BB_TRY(read_cache(l, progress, user, err));
    return start_threads(l, err);
}

bb_status bb_loader_create(const bb_dataset *dataset, const bb_config *config,
                           const bb_loader_options *options, bb_progress_fn progress, void *user,
                           bb_loader **loader, bb_error *err) {
    bb_loader *l = bb_calloc_array(1, sizeof(*l));
    if (!l)
        return bb_fail_memory(err, "images");
    l->dataset = dataset;
    l->config = config;
    l->stretch = *config;
    l->stretch.resize = BB_RESIZE_STRETCH;
    l->stretch.crop_centre = false;
    l->options = *options;
    l->options.threads = options->threads == 0            ? 1
                         : options->threads > MAX_THREADS ? MAX_THREADS
                                                          : options->threads;
    bb_config_input(config, &l->channels, &l->height, &l->width);
    l->image_elements = (size_t)l->channels * (size_t)l->height * (size_t)l->width;
    bb_status status = open_loader(l, progress, user, err);
    if (status == BB_STATUS_OK)
        *loader = l;
    else
        bb_loader_destroy(l);
    return status;
}

static void stop_threads(bb_loader *l) {
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < l->n_threads; i++)
        pthread_join(l->threads[i], NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

void bb_loader_destroy(bb_loader *l) {
    if (!l)
        return;
    if (l->synchronised)
        stop_threads(l);
    for (size_t i = 0; l->cache && i < bb_loader_images(l); i++)
        bb_image_free(&l->cache[i]);
    for (size_t i = 0; l->slots && i < l->n_slots; i++) {
        bb_free(l->slots[i].images);
        bb_free(l->slots[i].labels);
    }
    bb_free(l->cache);
    bb_free(l->order);
    bb_free(l->slots);
    bb_free(l);
}
