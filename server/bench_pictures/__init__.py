"""``shira bench pictures``: what blends cost a server that draws, beside what diffusers does with LoRA."""
