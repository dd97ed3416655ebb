"""The measure half: a plan of arms, run on real vLLM, becomes one dataset a task.

Nothing here imports vLLM, torch or transformers at module level: the command line, the plan and the dry run work
without them.
"""
