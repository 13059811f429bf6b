"""The Qwen2.5 architecture and what a model is made of: config, layers, tokenizer, generation, conversion.
Knows torch and no sibling: no trainer, no recipe, no store.
"""
