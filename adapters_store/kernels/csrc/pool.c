#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { SPINS = 20000 /* looks at the next call before a thread goes to sleep: some tenths of a millisecond */ };

static struct {
    pthread_mutex_t caller; /* held by the one call under way */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    int num_threads; /* started, beside the callers; under `caller` */
    atomic_int num_asleep;
    atomic_int num_inside; /* threads that may be reading what follows */
    atomic_int is_open;
    atomic_long call; /* counts calls */
    void (*task)(void *, int64_t, int);
    void *context;
    int64_t count;
    int threads;
    atomic_long next;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void take_tasks(int thread) {
    for (int64_t index; (index = atomic_fetch_add(&pool.next, 1)) < pool.count;) pool.task(pool.context, index, thread);
}

static long wait_for_call(long seen) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&pool.call) != seen) return atomic_load(&pool.call);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.num_asleep, 1);
    while (atomic_load(&pool.call) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.num_asleep, 1);
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load(&pool.call);
}

static void *work(void *number) {
    const int thread = (int)(intptr_t)number;
    for (long seen = 0;;) {
        seen = wait_for_call(seen);
        atomic_fetch_add(&pool.num_inside, 1);
        if (atomic_load(&pool.is_open) && thread < pool.threads) take_tasks(thread);
        atomic_fetch_sub(&pool.num_inside, 1);
    }
    return NULL;
}

/* A child of fork has none of the threads. */
static void forget_threads(void) {
    const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;
    const pthread_cond_t nobody = PTHREAD_COND_INITIALIZER;
    pool.caller = pool.sleep = unlocked;
    pool.wake = nobody;
    pool.num_threads = 0;
    pool.num_asleep = pool.num_inside = pool.is_open = 0;
}

static void start_threads(int wanted) {
    static int knows_forks;
    if (!knows_forks) knows_forks = pthread_atfork(NULL, NULL, forget_threads) == 0;
    while (pool.num_threads < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)(pool.num_threads + 1))) return;
        pthread_detach(thread);
        pool.num_threads++;
    }
}

void shira_pool_run(void (*task)(void *, int64_t, int), void *context, int64_t count, int threads) {
    if (threads > POOL_MAX_THREADS) threads = POOL_MAX_THREADS;
    if (threads <= 1 || count <= 1 || pthread_mutex_trylock(&pool.caller)) {
        for (int64_t index = 0; index < count; index++) task(context, index, 0);
        return;
    }
    start_threads(threads - 1);
    pool.task = task;
    pool.context = context;
    pool.count = count;
    pool.threads = threads;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.is_open, 1);
    atomic_fetch_add(&pool.call, 1);
    if (atomic_load(&pool.num_asleep)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    take_tasks(0);
    atomic_store(&pool.is_open, 0);
    while (atomic_load(&pool.num_inside)) sched_yield();
    pthread_mutex_unlock(&pool.caller);
}
