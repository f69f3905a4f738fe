"""Training and evaluation data in verl's form: `python -m l2t_verl.data NAME`."""

from l2t_verl.data.datasets import ALL, BENCHMARKS, TRAINING, load
from l2t_verl.data.problems import Problem
from l2t_verl.data.rows import DataError

__all__ = ["ALL", "BENCHMARKS", "TRAINING", "DataError", "Problem", "load"]
