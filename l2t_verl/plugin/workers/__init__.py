"""What runs in the actor's workers, one process per GPU: answer scores, derivatives, displacement."""
