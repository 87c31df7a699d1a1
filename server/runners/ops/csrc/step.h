/* The operations over all rows of a step, in parallel. None touches Python. */
#ifndef SHIRA_DECODER_STEP_H
#define SHIRA_DECODER_STEP_H

#include "ops.h"

void shira_add_norm(const Ops *ops, const AddNorm *args, int threads);
void shira_rope_and_store(const Ops *ops, const Rope *args, int threads);
/* False: no memory, nothing was written. */
int shira_attend(const Ops *ops, const Attention *args, int threads);
void shira_gate(const Ops *ops, const Gate *args, int threads);

#endif
