"""What runs in the process of verl's trainer (its TaskRunner): start-up, steps, metrics, checkpoints, credit."""
