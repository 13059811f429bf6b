"""Orchestration and nothing else: recipes, Prefect flows and tasks, the plan, the command line."""
