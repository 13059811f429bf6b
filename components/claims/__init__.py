"""Claims of the Qwen2.5 report put to the test at small scale: a module for each family, an experiment for each claim.

``evaluation/claims.py`` is another thing: what a finished recipe run has shown of itself, on its report card. Here both
sides of every claim are trained or measured side by side, from several seeds.
"""
