"""Continued pretraining: data, sharding, loss, optimizer, step, checkpoints, loop.

`step` and what it needs import neither grain nor orbax, so that the compiled step runs wherever jax does.
"""
