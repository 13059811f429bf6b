"""The stages of the recipe, as plain functions. They know neither Prefect nor MLflow nor where artifacts live;
what they may use is in ``stage.py``. May import ``model``; may not import ``flows``, ``infra`` or ``dashboard``.
"""
