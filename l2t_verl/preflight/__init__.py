"""`l2t-verl preflight`: before GPUs are spent, what a model's own responses say of a training with this reward.

A forward flow: responses in their groups → what J sees in each → figures → verdict.
"""
