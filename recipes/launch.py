"""Launches an arm of a recipe by verl's own `main_ppo`, after checks; `--dry-run` stops there.

bash recipes/deepscaler_1p5b/run.sh l2t --dry-run
bash recipes/deepscaler_1p5b/run.sh grpo trainer.nnodes=2 --launcher ray
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2t_verl.files import did_you_mean
from l2t_verl.thought import MARKS, Marks
from recipes import workers
from recipes.checks import gpus_of, memory_lines, penalty_lines, problems_of
from recipes.disk import disk_lines, disk_problem
from recipes.environment import OWN_RAY, bare_machine
from recipes.run_folder import differences, keep

FOLDER = Path(__file__).parent.resolve()
ROOT = FOLDER.parent
RECIPES = sorted(file.parent.name for file in FOLDER.glob("*/run.sh") if "launch.sh" in file.read_text())
ARMS = sorted(file.stem for file in (FOLDER / "arm").glob("*.yaml"))


@dataclass(frozen=True)
class Start:
    """What is started: the whole configuration, the run's folder, the command line and its environment."""

    config: Any
    folder: Path
    line: list[str]
    variables: dict[str, str]


def composed(recipe: str, overrides: list[str]) -> Any:
    """verl's whole configuration, as main_ppo gets it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(FOLDER), version_base=None):
        return compose(f"{recipe}/{recipe}", overrides=overrides)


def command(recipe: str, overrides: list[str]) -> list[str]:
    """The command line of verl's own entry point with this project's configuration."""
    config = ["--config-path", str(FOLDER), "--config-name", f"{recipe}/{recipe}"]
    return [sys.executable, "-m", "verl.trainer.main_ppo", *config, *overrides]


def variables_of(run: Path) -> dict[str, str]:
    """Where verl logs the metrics: it empties the file at each start, so each start has its own."""
    return {"VERL_FILE_LOGGER_PATH": str(run / f"metrics-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")}


def through_ray(line: list[str], variables: dict[str, str]) -> list[str]:
    """The same as a job of a Ray cluster whose nodes see this checkout at this path; RAY_ADDRESS names the cluster.

    The job has no runtime environment of its own: Ray would refuse to merge it with the one that verl is given.
    """
    settings = [f"{name}={value}" for name, value in variables.items()]
    there = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(['env', *settings, *line])}"
    ray = str(Path(sys.executable).with_name("ray"))  # this environment's
    return [ray, "job", "submit", "--", "sh", "-c", there]


def chosen(kind: str, name: str, known: list[str]) -> str:
    """The name, if it is known.

    Raises:
        SystemExit: it is not; with the one that is probably meant.
    """
    if name in known:
        return name
    raise SystemExit(f"launch: there is no {kind} {name!r}. {did_you_mean(name, known)}")


def make_data(config: Any) -> None:
    """Build data that is not there, where the path says of which data set; look whether what is there suits the model.

    Raises:
        SystemExit: it cannot be built, nobody knows how, or its prompts are for another chat template.
    """
    from l2t_verl.data import TRAINING

    given = {key: config.data[key] for key in ("train_files", "val_files")}
    files = [(key, Path(file)) for key, value in given.items() for file in ([value] if isinstance(value, str) else value)]
    missing = [(key, file) for key, file in files if not file.exists()]
    for key, file in missing:
        name, folder = file.parent.name, file.parent
        if folder != Path("runs/data") / name or name not in TRAINING:
            raise SystemExit(
                f"launch: data.{key}={file} is not there; make it with python -m l2t_verl.data, or name another"
            )
        if (folder / "manifest.json").exists():
            against = " ".join(f"--against {benchmark}" for benchmark in TRAINING[name].validation)
            raise SystemExit(
                f"launch: data.{key}={file} is not there, though {folder} was built: without the problems for it. Build it "
                f"again with {against} (NAME=PATH without a hub), or name another file"
            )
    marks = marks_of(config)
    for folder in {file.parent for _, file in missing}:
        print(f"data: {folder} is not there yet and is built", flush=True)
        build = [sys.executable, "-m", "l2t_verl.data", folder.name, "--out", str(folder)]
        build += ["--tokenizer", str(config.actor_rollout_ref.model.path), *marks_options(marks)]
        if subprocess.run(build, check=False).returncode:
            raise SystemExit(
                "launch: the data could not be built; build it by hand (--from PATH without a hub), start again"
            )
    for folder in {file.parent for _, file in files}:
        check_prompts(folder, str(config.actor_rollout_ref.model.path), marks)


def marks_of(config: Any) -> Marks:
    """The marks of the thought that the run cuts and grades by."""
    from omegaconf import OmegaConf

    select = lambda key, default: OmegaConf.select(config, f"algorithm.l2t.gain.{key}", default=default)  # noqa: E731
    return Marks.of(select("think_open", MARKS.opening), select("think_close", MARKS.closing))


def marks_options(marks: Marks) -> list[str]:
    """What a data build is told of the marks; nothing where they are its own."""
    return [] if marks == MARKS else [f"--think-open={marks.opening}", f"--think-close={marks.closing}"]


def check_prompts(folder: Path, model: str, marks: Marks = MARKS) -> None:
    """Whether the prompts there ask for a thought by the run's marks, and to open it just where the model's chat template
    has not.

    Raises:
        SystemExit: they do not.
    """
    from l2t_verl.data.instruction import opens_thinking

    manifest = folder / "manifest.json"
    made = json.loads(manifest.read_text()) if manifest.exists() else {"instruction": ""}
    asked = Marks(*made.get("marks of the thought", ()))
    if asked.closing not in made["instruction"]:
        return
    build = ["python", "-m", "l2t_verl.data", made["data set"], "--out", str(folder), "--tokenizer", model]
    again = shlex.join([*build, *marks_options(marks)])
    if asked != marks:
        raise SystemExit(
            f"launch: the prompt in {folder} asks for a thought between {asked.opening} and {asked.closing}, but "
            f"algorithm.l2t.gain.think_open and think_close are {marks.opening} and {marks.closing}: answers would count as "
            f"thoughts; build it again: {again}"
        )
    from transformers import AutoTokenizer

    try:
        opens = opens_thinking(AutoTokenizer.from_pretrained(model), marks)
    except (OSError, ValueError) as error:
        print(f"data: {model}'s chat template could not be looked at: {str(error)[:200]}", flush=True)
        return
    if bool(made["prompt opens <think>"]) != opens:
        does, asks = ("opens", "asks for it again") if opens else ("does not open", "takes it for open")
        raise SystemExit(
            f"launch: {model}'s chat template {does} {marks.opening}, and the prompt in {folder} {asks}; build it again: "
            f"{again}"
        )


def attention_problem(config: Any) -> str | None:
    """What is missing for the attention that is asked for."""
    model = config.actor_rollout_ref.model
    asked = (model.get("override_config") or {}).get("attn_implementation", "flash_attention_2")  # verl's default
    if asked != "flash_attention_2" or importlib.util.find_spec("flash_attn"):
        return None
    return (
        f"verl attends with flash-attn, which is not in {sys.prefix}: pip install flash-attn==2.8.3 --no-build-isolation; "
        "or, slower, for every token is then compared with all of a micro-batch, "
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa (padding stays removed). Without flash-attn "
        "verl's cross-entropy loops over tokens, keeps up to 4 bytes × tokens × vocabulary more for the update, and rounds "
        "log-probs of bfloat16 logits to 0.4 % (0.002 to 0.02 nats) where CUDA's autocast does not widen them"
    )


def check_model(path: str) -> None:
    """See that the model's configuration can be had: in a folder, in the hub's cache, or from the hub.

    Raises:
        SystemExit: it cannot; with the hub's own reason and the remedy.
    """
    from huggingface_hub import hf_hub_download

    if Path(path).is_dir():
        return
    try:
        hf_hub_download(path, "config.json", etag_timeout=20)
    except Exception as error:  # the hub's and the network's, of many kinds
        raise SystemExit(
            f"launch: actor_rollout_ref.model.path={path} is no folder here, and the hub does not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): where there is a network, hf download {path} "
            "--local-dir FOLDER; then bring it here and set actor_rollout_ref.model.path=FOLDER"
        ) from None


def ready(recipe: str, arm: str, overrides: list[str], launcher: str, memory: float, dry_run: bool) -> Start:
    """Compose and check an arm, and say what was found.

    Raises:
        SystemExit: it would not train, or not on this machine; of the latter a dry run takes note.
    """
    print(f"{recipe}, arm {arm}")
    overrides = [f"arm={arm}", f"trainer.experiment_name={recipe}-{arm}", *overrides]
    try:
        config = composed(recipe, overrides)
    except Exception as error:  # Hydra's, of many kinds
        raise SystemExit(f"launch: the configuration does not compose: {error}") from error
    print("\n".join(memory_lines(config, memory) + disk_lines(config)))
    folder = ROOT / "runs" / config.trainer.experiment_name
    variables = variables_of(folder)
    joins = launcher == "ray" or os.environ.get("RAY_ADDRESS", "local") != "local"
    if not joins:  # else Ray would join any cluster that runs on this machine
        variables |= OWN_RAY
    whole = bare_machine() | variables
    # what this machine lacks says nothing of the nodes of a Ray that runs elsewhere: they get what was set by hand
    handed = dict(os.environ) | variables if joins else whole
    seen = workers.overrides(config, handed, root=ROOT, python=sys.executable, running_ray=joins)
    line = command(recipe, overrides + seen)
    if launcher == "ray":
        variables = {name: handed[name] for name in ("VERL_PLATFORM", "VLLM_TARGET_DEVICE") if name in handed} | variables
        line = through_ray(line, variables)
    print("command:\n  " + shlex.join(line), flush=True)
    if problems := problems_of(config, memory) + differences(config, folder):
        raise SystemExit("launch: this would not train:\n" + "\n".join(f"  {problem}" for problem in problems))
    print("\n".join([*penalty_lines(config), "checks: passed"]), flush=True)
    missing = [problem for problem in (attention_problem(config), disk_problem(config)) if problem]  # of this machine
    if missing and not dry_run:
        raise SystemExit("launch: " + "\n  ".join(missing))
    for problem in missing:
        print(f"note: {problem}", flush=True)
    return Start(config, folder, line, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help=", ".join(RECIPES))
    parser.add_argument("arm", help=f"{', '.join(ARMS)}; a dry run takes several, with commas between them")
    parser.add_argument("--dry-run", action="store_true", help="compose, check, print the command; start nothing")
    parser.add_argument("--launcher", choices=("local", "ray"), default="local", help="ray: a job for the cluster that runs")
    parser.add_argument("--gpu", default="H100", help="for the memory's sums: A100-40, A100, H100, H200, or GiB")
    arguments, overrides = parser.parse_known_args()
    for word in overrides:
        if word.startswith("-"):
            parser.error(f"there is no option {word}")
        if word.startswith("arm="):
            parser.error(f"{word}: the arm is the second word, by which the run is named, too")
    recipe = chosen("recipe", arguments.recipe, RECIPES)
    arms = [chosen("arm", name, ARMS) for name in arguments.arm.split(",")]
    if len(arms) > 1 and not arguments.dry_run:
        parser.error(f"{arguments.arm}: only a dry run takes several arms; bash recipes/sweep.sh {recipe} trains them")
    memory = gpus_of(arguments.gpu)
    starts = [ready(recipe, arm, overrides, arguments.launcher, memory, arguments.dry_run) for arm in arms]
    if arguments.dry_run:
        return
    (start,) = starts
    check_model(str(start.config.actor_rollout_ref.model.path))
    make_data(start.config)
    keep(start.config, start.folder)
    os.execvpe(start.line[0], start.line, start.variables)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
