"""RULER (arXiv 2404.06654): tasks that are made, not collected, so that they exist at every length of context.

A module a family makes ``Example``s from random numbers and a size; ``tasks.py`` finds the size that fills a length
and judges. Names, prompts and metrics are those of lm-eval's ``ruler``.
"""
