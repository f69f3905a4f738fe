#!/usr/bin/env bash
# Makes .venv with the pinned CPU stack, or .venv-gpu with verl's for GPUs, and this project, editable. Does nothing when it
# is up to date. Run by the quickstart, the recipes and the tests: bash recipes/setup.sh [--gpu [--flash-attn]]
#   VENV=folder    another environment
#   WHEELS=folder  takes every package from there: no network
# Only the recipes' models want flash-attn, which is often compiled on the spot; it is tried once.
. "$(dirname "${BASH_SOURCE[0]}")/shell.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kind=cpu venv=.venv flash=
for word in "$@"; do
  case $word in
  --gpu) kind=gpu venv=.venv-gpu ;;
  --flash-attn) flash=yes ;;
  *) echo "setup: there is no option $word; known: --gpu, --flash-attn" >&2 && exit 2 ;;
  esac
done
venv=${VENV:-$root/$venv}
network="without a network, WHEELS=folder takes the packages from there; then start it again, what is installed stays"
if [ -n "${WHEELS:-}" ]; then
  [ -d "$WHEELS" ] || { echo "setup: WHEELS=$WHEELS is no folder" >&2 && exit 1; }
  export PIP_NO_INDEX=1 PIP_FIND_LINKS=$WHEELS
  network="$WHEELS has to hold wheels of all packages for this Python"
fi

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

constraints=$root/constraints-$kind.txt
step "reading what is to be installed" "the checkout is not whole: git restore pyproject.toml constraints-$kind.txt"
held=$(cat "$venv/.l2t-stamp" 2>/dev/null || true)
if [ -n "$held" ] && [ "${held##*-}" != "$kind" ]; then
  echo "setup: $venv holds the stack for ${held##*-}, and the one for $kind would break it; set VENV to another folder, or remove that one" >&2
  exit 1
fi
# what is installed editable is a checkout's own files: another one's would be run in the place of these
for told in "$venv"/lib/python*/site-packages/l2t_verl-*.dist-info/direct_url.json; do
  other=$(sed -n '/"editable": true/s/.*"url": "file:\/\/\([^"]*\)".*/\1/p' "$told" 2>/dev/null || true)
  other=$(printf '%b' "${other//%/\\x}") # a blank is %20 there
  if [ -n "$other" ] && ! [ "$other" -ef "$root" ]; then
    echo "setup: $venv has the checkout in $other installed, and would run its code in the place of $root; set VENV to another folder (or leave it unset), or remove that environment and start this again" >&2
    exit 1
  fi
done
stamp=$(cat "$root/pyproject.toml" "$constraints" | cksum | tr ' ' -)-$kind
pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)
failed_before=$venv/flash-attn.failed

flash_attn() { # tried once: an environment where it cannot be built is not kept waiting again
  [ -n "$flash" ] && ! compgen -G "$venv/lib/python*/site-packages/flash_attn-*" >/dev/null || return 0
  local again="to have it tried again: rm '$failed_before' && bash recipes/setup.sh --gpu --flash-attn"
  if [ -e "$failed_before" ]; then
    echo "setup: flash-attn failed here before ($failed_before says how) and is left out; $again" >&2
    return 0
  fi
  echo "setup: flash-attn, which may be compiled here (up to an hour; it needs CUDA's compiler)"
  step "installing what builds flash-attn" "$network"
  "${pip[@]}" install -c "$constraints" packaging ninja psutil wheel
  "${pip[@]}" install --no-build-isolation flash-attn==2.8.3 >"$failed_before.partial" 2>&1 && rm "$failed_before.partial" && return 0
  mv "$failed_before.partial" "$failed_before"
  tail -n 3 "$failed_before" >&2
  echo "setup: flash-attn could not be installed ($failed_before has all of it); a recipe's launch says what to set without it; $again" >&2
}

if [ -x "$venv/bin/python" ] && [ "$held" = "$stamp" ]; then
  flash_attn
  exit 0
fi

step "making $venv" "remove that folder, see that the disk has room ($([ $kind = gpu ] && echo 12 || echo 4) GB), start it again"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if [ "$kind" = gpu ]; then
  # before 11 GB are fetched for a driver that cannot run them; it says what to do
  "$venv/bin/python" "$root/recipes/environment.py" driver "$constraints" || exit 1
  # Without verl's extra `fsdp`, which wants flash-attn built; cupy is what l2t_separate_async sends weights with
  echo "setup: verl, vLLM for GPUs and what they need ($(grep -c "^[^#]*==" "$constraints") packages, some 11 GB)"
  step "installing the GPU stack into $venv" "pip's own message stands above; $network"
  "${pip[@]}" install -c "$constraints" "verl[vllm,math,cupy-cu130]==0.9.1" -e "$root[dev,tools]"
else
  # PyTorch's own CPU index first; where it cannot be reached, whatever the configured index offers.
  echo "setup: torch (CPU build)"
  torch=$(grep '^torch==' "$constraints")
  step "installing torch into $venv" "pip's own message stands above; $network"
  "${pip[@]}" install --no-deps --retries 1 --timeout 20 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
    "${pip[@]}" install --no-deps "$torch"
  echo "setup: verl, vLLM for CPUs and what they need ($(grep -c "^[^#]*==" "$constraints") packages)"
  step "installing the CPU stack into $venv" "pip's own message stands above; $network"
  "${pip[@]}" install --no-deps -r "$constraints"
  "${pip[@]}" install --no-deps -e "$root"
fi
"$venv/bin/python" "$root/recipes/environment.py" "$kind" || exit 1
echo "$stamp" >"$venv/.l2t-stamp"
flash_attn
