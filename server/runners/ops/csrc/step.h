/* The operations over all rows of a step, in parallel. None touches Python. */
#ifndef SHIRA_DECODER_STEP_H
#define SHIRA_DECODER_STEP_H

#include "ops.h"

typedef void TaskOf(void *context, int64_t index, int thread);
/* As shira_pool_run of the adapters' kernels, whose threads these operations share: two pools would be in each other's
 * way. Until one is given, all runs on the thread that calls. */
typedef void RunTasks(TaskOf *task, void *context, int64_t count, int threads);
void shira_use_pool(RunTasks *run);

void shira_add_norm(const Ops *ops, const AddNorm *args, int threads);
void shira_rope_and_store(const Ops *ops, const Rope *args, int threads);
/* False: no memory, nothing was written. */
int shira_attend(const Ops *ops, const Attention *args, int threads);
void shira_gate(const Ops *ops, const Gate *args, int threads);

#endif
