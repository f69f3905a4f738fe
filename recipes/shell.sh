# Sourced by the scripts: none of their steps ends without a word, and all of them see the same machine.
set -Eeuo pipefail
script=$(basename "$0") doing= remedy=

# What the next commands do, and what helps where they fail; the trap below says both, with the line.
step() { doing=$1 remedy=$2; }
failed() { # status, file, line, command
  echo "$script: line $3 of $2 failed with exit status $1${doing:+, $doing} (${4%%$'\n'*})${remedy:+; $remedy}" >&2
  exit "$1"
}
trap 'failed $? "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND"' ERR

# Whether this machine has a GPU, by its driver; VERL_PLATFORM=cpu says that it is not to be used.
has_gpu() {
  [ "${VERL_PLATFORM:-}" != cpu ] && command -v nvidia-smi >/dev/null || return 1
  local said
  if said=$(nvidia-smi -L 2>&1); then
    case $said in *GPU\ *) return 0 ;; *) return 1 ;; esac
  fi
  case $said in *mismatch*)
    echo "$script: nvidia-smi fails: $said. Reload the driver or restart the machine; VERL_PLATFORM=cpu goes on without GPUs" >&2
    exit 1
    ;;
  esac
  echo "$script: nvidia-smi fails (${said%%$'\n'*}); this machine is taken for one without a GPU" >&2
  return 1
}
