"""What a machine without a GPU needs, in every process; nothing of it is loaded unless `VERL_PLATFORM=cpu` is set."""
