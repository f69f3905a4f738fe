#!/usr/bin/env bash
# bash recipes/qwen2_7b_code/run.sh ARM [--dry-run] [--launcher local|ray] [Hydra overrides …]; recipes/launch.py says the rest
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" qwen2_7b_code "$@"
