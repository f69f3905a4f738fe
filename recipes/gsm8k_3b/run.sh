#!/usr/bin/env bash
# bash recipes/gsm8k_3b/run.sh ARM [--dry-run] [--launcher local|ray] [Hydra overrides …]; recipes/launch.py says the rest
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" gsm8k_3b "$@"
