"""The only package that touches verl: reward manager, estimator, trainer, worker and the CPU platform."""
