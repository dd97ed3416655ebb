"""A quantized cache stored in its bits (CUDA): pages of codes and scales, the recent tokens exact, Triton kernels.

`Quantized` says which numbers a cache holds; here is how they are held. What attention sees is, to the last bit, what
the simulation of the other backends sees: `Quantized.rounded`, in the type of the model.

Pages. A page of the pool holds the codes and scales of `group` consecutive tokens (`layout.py`). The exact tokens of a
sequence lie in pages of the same pool, the first of its block table, used as a ring: token t at place t modulo
`residual + group`. So vLLM's own accounting covers every byte, a sequence's state is in its pages and nowhere else, and
one that is preempted or replayed comes to the same state as one that is not. `manager.py` asks the pool for them.

Steps. Nothing is destroyed while a step runs, so a step is not cut into rounds: first the groups that grow old in it
are packed (from the ring, or from the step's own keys and values), then every tile of queries attends to the pages that
were packed when its turn came and to the exact tokens since, then the last tokens go into the ring. `plan.py` derives
all that from lengths which the engine knows: no step asks the device for anything.
"""
