#!/usr/bin/env bash
# bash recipes/r1_distill_1p5b_one_gpu/run.sh ARM [--dry-run] [--launcher local|ray] [Hydra overrides …]; recipes/launch.py says the rest
exec bash "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" r1_distill_1p5b_one_gpu "$@"
