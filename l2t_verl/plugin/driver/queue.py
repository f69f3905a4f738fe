"""Rows of a batch in verl's TransferQueue."""

from __future__ import annotations

from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta


def fetch(batch: KVBatchMeta, *names: str) -> TensorDict:
    """Get fields of a batch's rows; fields that no row has are left out."""
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))


def store(batch: KVBatchMeta, name: str, rows: torch.Tensor) -> None:
    """Add a nested field to a batch's rows, for the workers to get."""
    data = TensorDict({name: rows}, batch_size=len(batch))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data)


def with_settings(batch: KVBatchMeta, extra_info: dict[str, Any], names: list[str] | None = None) -> KVBatchMeta:
    """The same rows with these settings alone; what earlier calls left in the batch's does not reach the workers."""
    return KVBatchMeta(
        keys=batch.keys, tags=batch.tags, partition_id=batch.partition_id, fields=names, extra_info=extra_info
    )


def padded(nested: torch.Tensor) -> torch.Tensor:
    """Pad a nested column with zeros; another column is returned as it is."""
    return nested.to_padded_tensor(padding=0) if nested.is_nested else nested
