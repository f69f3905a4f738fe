"""What runs beside generation: reward workers (grading, episodes), agent loops and vLLM servers (sampled answers)."""
