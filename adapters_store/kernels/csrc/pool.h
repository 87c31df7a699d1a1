/* Threads that share the tasks of one call with the thread that makes it. */
#ifndef SHIRA_POOL_H
#define SHIRA_POOL_H

#include <stdint.h>

enum { POOL_MAX_THREADS = 256 };

/* Calls task(context, index, thread) once for each index below `count`, `thread` being below `threads`. The caller
 * takes tasks itself and at the end waits only for threads that have taken one: one that the machine does not run costs
 * nothing. A call made while another one is under way runs on its own thread alone. */
void shira_pool_run(void (*task)(void *context, int64_t index, int thread), void *context, int64_t count, int threads);

#endif
