"""Two checkpoints' answers to the same open questions, judged in pairs as Arena-Hard does (arXiv 2406.11939).

``judges.py``: who says which answer is better, asked in both orders; ``battles.py``: from verdicts to a win rate with
its interval, with style taken out.
"""
