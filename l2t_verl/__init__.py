"""L2T (Learning to Think, arXiv 2505.10425): dense process rewards for training reasoning models with verl.

The method is in `episodes`, `gain`, `compression` and `credit`: pure functions on tensors, without verl.
`plugin` is the only package that touches verl; it is loaded by verl itself through an entry point.
"""

__version__ = "0.1.0"
