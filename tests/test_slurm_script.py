"""slurm.sh with stubs of Slurm's commands and of Ray's: what is asked for, how long is waited, how it ends."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from recipes import nodes

ROOT = Path(__file__).parent.parent
# srun runs what it is given, as on one node; hostname and ray are stubs, and so are the launcher and the count of nodes
STUBS = {
    "srun": """#!/bin/bash
echo "SRUN_CPUS_PER_TASK=$SRUN_CPUS_PER_TASK $*" >>"$CALLS"
while [[ $1 == -* ]]; do case $1 in -w) shift 2 ;; *) shift ;; esac; done
exec "$@"
""",
    "scontrol": "#!/bin/bash\nprintf 'n1\\nn2\\n'\n",
    # as where a machine's name is its loopback's
    "hostname": "#!/bin/bash\ncase $1 in -I) echo 192.0.2.1 fd00::2 ;; *) echo 127.0.1.1 ;; esac\n",
}
VENV = {
    "ray": """#!/bin/bash
token="a token of ${#RAY_AUTH_TOKEN} characters in mode $RAY_AUTH_MODE"
echo "ray with $token, ROCR: ${ROCR_VISIBLE_DEVICES:-}: $*" >>"$CALLS"
case "$*" in
"start --head"*) [ -z "${HEAD_DIES:-}" ] || { echo "port taken" >&2; exit 1; }; exec sleep 60 ;;
start*) exec sleep 60 ;;
status*) [ -z "${HEAD_SILENT:-}" ] || { echo "no connection"; exit 1; } ;;
esac
""",
    "python": """#!/bin/bash
[ "$1" != -c ] || exec python3 "$@"
echo "python RAY_ADDRESS=${RAY_ADDRESS:-} $*" >>"$CALLS"
case "$*" in *recipes.nodes*)
  [ -z "${NODE_MISSING:-}" ] || exit 1
  until grep -q "start --address" "$CALLS"; do sleep 0.1; done ;;
esac
[ -z "${TRAINS:-}" ] || case "$*" in *--dry-run*) ;; *recipes.launch*)
  trap 'echo "asked to end" >>"$CALLS"; sleep 0.5; exit "$TRAINS"' TERM
  sleep 20 >/dev/null 2>&1 &  # nothing of the job is held open by it
  wait ;;
esac
""",
}


@pytest.fixture
def slurm(tmp_path):
    for folder, scripts in ((tmp_path / "bin", STUBS), (tmp_path / "venv" / "bin", VENV)):
        folder.mkdir(parents=True)
        for name, text in scripts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def run(ends: bool = False, **variables: str) -> tuple[subprocess.CompletedProcess, str]:
        calls = tmp_path / "calls"
        calls.write_text("")
        job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
        job |= {"SLURM_CPUS_ON_NODE": "96", "SLURM_GPUS_ON_NODE": "8", "CALLS": str(calls), "POLL": "0.1"}
        job |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VENV": str(tmp_path / "venv")}
        line = ["bash", str(ROOT / "recipes" / "slurm.sh"), "r1_distill_7b", "l2t", "data.seed=1"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(line, env=os.environ | job | variables, **pipes) as started:
            while (
                ends and started.poll() is None and "RAY_ADDRESS=192.0.2.1:6379 -m recipes.launch" not in calls.read_text()
            ):
                time.sleep(0.05)
            if ends:
                started.send_signal(signal.SIGTERM)
            said = started.communicate(timeout=30)
        return subprocess.CompletedProcess(line, started.returncode, *said), calls.read_text()

    return run


def test_the_job_takes_whole_nodes_and_tells_ray_of_what_it_has(slurm):
    text = (ROOT / "recipes" / "slurm.sh").read_text()
    assert "#SBATCH --exclusive\n" in text
    assert "#SBATCH --mem=0\n" in text
    done, calls = slurm()
    assert done.returncode == 0, done.stderr
    starts = [line for line in calls.splitlines() if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        assert "--cpus-per-task=96" in line
        assert "SRUN_CPUS_PER_TASK=96" in line
        assert "--num-gpus 8 --num-cpus 96" in line
    *_, last = calls.splitlines()
    assert re.match(r"python RAY_ADDRESS=192\.0\.2\.1:6379 -m recipes\.launch r1_distill_7b l2t trainer\.nnodes=2", last)
    assert calls.index("-m recipes.nodes 192.0.2.1:6379 2 8") < calls.rindex("recipes.launch")
    _, calls = slurm(SLURM_CPUS_PER_TASK="32")
    assert "--num-cpus 32" in calls


def test_all_parts_of_ray_ask_for_the_same_token_and_see_one_name_of_the_gpus(slurm):
    """Ray's start asks for one as soon as some program has left one at home; its `status` does not hand it over unasked.
    Slurm sets CUDA's and AMD's variable, and verl's workers refuse to have both."""
    told = {"ROCR_VISIBLE_DEVICES": "0", "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}
    _, calls = slurm(**told)
    rays = [line for line in calls.splitlines() if line.startswith("ray with ")]
    assert len(rays) >= 3
    assert all(line.startswith("ray with a token of 64 characters in mode token, ROCR: : ") for line in rays)
    _, calls = slurm(**told | {"RAY_AUTH_MODE": "disabled"})
    assert "ray with a token of 0 characters in mode disabled, ROCR: : start --head" in calls


@pytest.mark.parametrize("status", ["0", "3"])
def test_the_end_of_the_job_s_time_is_the_driver_s_to_know(slurm, status):
    """It finishes its step and saves; the job waits for it, and ends as it does."""
    assert "#SBATCH --signal=B:TERM@1800\n" in (ROOT / "recipes" / "slurm.sh").read_text()
    done, calls = slurm(ends=True, TRAINS=status)
    assert calls.count("asked to end") == 1
    assert done.returncode == int(status), done.stderr
    assert ("with exit status 3, training" in done.stderr) == (status == "3")


def test_too_few_cpus_are_refused_before_anything_is_started(slurm):
    done, calls = slurm(SLURM_CPUS_ON_NODE="1")
    assert done.returncode == 1
    assert "1 CPUs a node for 8 GPUs are too few" in done.stderr
    assert calls == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"HEAD_SILENT": "1", "NODE_WAIT": "1"},
            "no connection\nslurm: Ray's start on n1 did not happen within 1 s (NODE_WAIT); another",
        ),
        ({"HEAD_SILENT": "1", "HEAD_DIES": "1"}, "Ray ended on a node before Ray's start on n1"),
        ({"NODE_MISSING": "1", "NODE_WAIT": "1"}, "the start of all 2 nodes did not happen within 1 s"),
    ],
)
def test_the_wait_has_an_end(slurm, variables, said):
    done, calls = slurm(**variables)
    assert done.returncode == 1
    assert said in done.stderr
    assert not any("recipes.launch" in line and "RAY_ADDRESS=192" in line for line in calls.splitlines())


def test_nodes_are_counted_by_their_gpus(monkeypatch):
    """As the trainer counts them; the cluster is asked for by the address that slurm.sh gives."""
    there = [
        {"Alive": True, "NodeName": "n1", "Resources": {"GPU": 8.0}},
        {"Alive": True, "NodeName": "n2", "Resources": {}},
    ]
    gone = {"Alive": False, "NodeName": "n3", "Resources": {"GPU": 8.0}}
    asked = []
    monkeypatch.setattr("ray.init", lambda address, **_: asked.append(address))
    monkeypatch.setattr("ray.nodes", lambda: [there[0]])
    nodes.main("192.0.2.1:6379", "1", "8")
    assert asked == ["192.0.2.1:6379"]
    monkeypatch.setattr("ray.nodes", lambda: [*there, gone])
    with pytest.raises(SystemExit) as said:
        nodes.main("192.0.2.1:6379", "2", "8")
    assert str(said.value) == (
        "trainer.nnodes=2 × trainer.n_gpus_per_node=8 GPUs are asked for, but this Ray cluster has (n1: 8, n2: 0); start "
        "the others, or set the two to what is there"
    )
