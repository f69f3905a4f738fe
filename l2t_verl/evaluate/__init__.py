"""Accuracy and tokens of reasoning models on benchmarks: `python -m l2t_verl.evaluate`."""
