"""Benchmarks of others, run on our checkpoints: what to ask, how to ask it, who judges the answers.

A task is data and two functions (``task.py``); ``subject.py`` is the checkpoint that is asked; ``measure.py`` brings
them together. Names, prompts and metrics are those of lm-eval or of the benchmark's owners.
"""
