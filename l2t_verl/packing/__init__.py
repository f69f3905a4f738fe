"""One forward over many responses without padding, each followed by forced answers that branch off it.

Glossary: a row is prompt and response as one context of N tokens; a branch is a forced answer after a prefix of it.
"""

from l2t_verl.packing.forward import PackedLogProbs, packed_forward, why_not_packed
from l2t_verl.packing.head import token_log_probs
from l2t_verl.packing.rows import Branch, PackedRow, micro_batches

__all__ = [
    "Branch",
    "PackedLogProbs",
    "PackedRow",
    "micro_batches",
    "packed_forward",
    "token_log_probs",
    "why_not_packed",
]
