"""Guides, one page a question; `python -m l2t_verl.guide` writes the page of settings from the configuration itself."""
