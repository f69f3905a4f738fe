#!/usr/bin/env bash
# bash recipes/deepscaler_1p5b/run.sh ARM [--dry-run] [--launcher local|ray] [Hydra overrides …]; recipes/launch.py says the rest
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" deepscaler_1p5b "$@"
