"""Memory, tokens and hours of a training run by formulas; of it all, only `SCORES` was measured on a GPU.

python -m recipes.arithmetic        writes recipes/SCALE.md

One GPU of N holds, with FSDP2 over all of them and the mixed precision of verl's defaults:

    actor      16 P / N     float32 weights, gradients, two moments of AdamW
                            with LoRA 4 P + 16 A over N: A parameters of the adapter are all that is trained
    reference   4 P / N     float32 weights; 0 with FSDP2, which keeps what only goes forward in the host's memory
    gathered    2 · 2 P_layer + 2 · 2 V h    two layers (one is prefetched), embedding and head, bfloat16
    update      L M h · 2 + M (12 h + 6 i) · 2 + 4 M V    checkpoints of M tokens, one layer's activations, logits and their
                                                        gradient in bfloat16
    rollout     u · G       what vLLM takes of the GPU's G: weights 2 P / TP, the rest KV cache, whose heads are spread over
                            min(TP, heads of keys and values)
    log-probs   M (8 h + 4 i) · 2 + 12 M V    verl's old log-probs: one layer; logits and scaled logits in bfloat16 (2 + 2),
                            the softmax for their entropy and its product with them in float32 (4 + 4: CUDA's autocast widens
                            them); 8 M V less with entropy_from_logits_with_chunking, 2 M V less at temperature 1
    scoring     M' (8 h + 4 i) · 2    one layer of a forward without gradients, and log-probs a few tokens at a time

While vLLM samples, actor and reference stay, unless they are offloaded; while the actor is updated, vLLM sleeps. Each state
has to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2t_verl.files import write_whole

GIB = 2**30
RESERVE = 3 * GIB  # CUDA's context, NCCL's buffers, fragments
GPUS = {"A100-40": 40, "A100": 80, "H100": 80, "H200": 141}  # GiB as sold; a little less can be used
# Of an H100: bfloat16 FLOP/s and memory bytes/s, and the shares of them that trainers and engines usually reach (assumed)
FLOPS, BANDWIDTH, TRAINING_SHARE, SAMPLING_SHARE = 989e12, 3.35e12, 0.35, 0.5
# Recipe, its model, rollouts of a step, tokens of a response (assumed), steps
RUNS = (
    ("gsm8k_3b", "Qwen/Qwen2.5-3B-Instruct", 1280, 400, 29),
    ("deepscaler_1p5b", "agentica-org/DeepScaleR-1.5B-Preview", 1280, 8000, 30),
    ("r1_distill_1p5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1280, 8000, 150),
    ("r1_distill_7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 1280, 8000, 150),
    ("qwen2_7b_code", "Qwen/Qwen2-7B-Instruct", 320, 600, 50),
)
SCORES = 1.11  # of all answer scores of a rollout, in plain forwards: tests/bench/results/h200.json, T 8,192, K 30


@dataclass(frozen=True)
class ModelShape:
    """A Qwen2-like model, from its configuration.

    Attributes:
        hidden: width h.
        intermediate: width i of the MLP.
        layers: L.
        heads: of queries, of `head_size`.
        kv_heads: of keys and values.
        vocabulary: V.
        tied: whether embedding and head are one matrix.
        positions: the longest sequence.
        head_size: of a head.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    positions: int
    head_size: int = 128

    @property
    def layer(self) -> int:
        """Parameters of a layer: attention with biases on q, k, v, the MLP, two norms."""
        inner, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * inner + 2 * self.hidden * kv + inner + 2 * kv
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """P, all parameters."""
        return self.layers * self.layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA adapters of this rank on all linear layers but the head: rank · (in + out) each."""
        inner, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        sides = 2 * (self.hidden + inner) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * sides

    @property
    def cache(self) -> int:
        """Bytes of KV cache of one token, bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2


QWEN_7B = {"hidden": 3584, "intermediate": 18944, "layers": 28, "heads": 28, "kv_heads": 4, "vocabulary": 152064}
MODELS = {
    "agentica-org/DeepScaleR-1.5B-Preview": ModelShape(1536, 8960, 28, 12, 2, 151936, False, 131072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelShape(1536, 8960, 28, 12, 2, 151936, False, 131072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": ModelShape(**QWEN_7B, tied=False, positions=131072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": ModelShape(5120, 27648, 64, 40, 8, 152064, False, 131072),
    "Qwen/Qwen2-7B-Instruct": ModelShape(**QWEN_7B, tied=False, positions=32768),
    "Qwen/Qwen2.5-3B-Instruct": ModelShape(2048, 11008, 36, 16, 2, 151936, True, 32768),
}


def lora_rank(config: Any) -> int:
    """Rank of the adapter that verl's configuration asks for; 0 where all weights are trained."""
    model = config.actor_rollout_ref.model
    return (model.get("lora") or {}).get("rank", 0) or model.get("lora_rank", 0)


def shape_of(path: str) -> ModelShape | None:
    """The shape of a model of the recipes, or of a local folder; None of what is elsewhere."""
    if path in MODELS or not (Path(path) / "config.json").exists():
        return MODELS.get(path)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    return ModelShape(
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.vocab_size,
        config.tie_word_embeddings,
        config.max_position_embeddings,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
        gpus: N, all of them.
        memory: G of one, in bytes.
        tensor_parallel: TP of vLLM.
        utilization: u, the share of a GPU that vLLM takes.
        update_tokens: M, most tokens of a micro-batch.
        scoring_tokens: M', most tokens of a scoring forward.
        longest: tokens of the longest sequence.
        log_prob_tokens: most tokens of a forward for verl's old log-probs.
        scaled: whether they are at a temperature other than 1.
        chunked: whether their entropy is taken a few tokens at a time.
        rank: of the LoRA adapter that is trained in the weights' place; 0 without one.
        reference: whether a reference policy stays on the GPU.
        offloaded: whether the actor waits in the host's memory while vLLM samples.
    """

    gpus: int
    memory: float
    tensor_parallel: int
    utilization: float
    update_tokens: int
    scoring_tokens: int
    longest: int
    log_prob_tokens: int = 0
    scaled: bool = True
    chunked: bool = False
    rank: int = 0
    reference: bool = False
    offloaded: bool = False


def memory(model: ModelShape, plan: Plan) -> dict[str, float]:
    """Bytes on one GPU, by the formulas of this file; `margin, …` is what is left in each state."""
    parameters, width, inner = model.parameters, model.hidden, model.intermediate
    held = 4 * parameters + 16 * model.adapter(plan.rank) if plan.rank else 16 * parameters
    actor, reference = held / plan.gpus, 4 * parameters / plan.gpus * plan.reference
    gathered = 4 * model.layer + 4 * model.vocabulary * width
    tokens = plan.update_tokens
    update = 2 * model.layers * tokens * width + 2 * tokens * (12 * width + 6 * inner) + 4 * tokens * model.vocabulary
    scoring = 2 * max(plan.scoring_tokens, plan.longest) * (8 * width + 4 * inner)
    before = max(plan.log_prob_tokens, plan.longest)
    logits = (2 + 2 * plan.scaled + 8 * (not plan.chunked)) * before * model.vocabulary
    log_probs = 2 * before * (8 * width + 4 * inner) + logits
    rollout = plan.utilization * plan.memory
    resident = reference + (0 if plan.offloaded else actor)
    training = plan.memory - RESERVE - actor - reference - gathered
    cache = model.cache / min(plan.tensor_parallel, model.kv_heads)
    weights = 2 * parameters / plan.tensor_parallel
    return {
        "actor: weights, gradients, AdamW": actor,
        "reference": reference,
        "gathered layers": gathered,
        "update: activations and logits": update,
        "old log-probs: activations, logits, entropy": log_probs,
        "scoring: activations": scoring,
        "rollout: vLLM": rollout,
        "of it weights": weights,
        "of it KV cache": rollout - weights,
        "margin, updating": training - update,
        "margin, old log-probs": training - log_probs,
        "margin, scoring": training - scoring,
        "margin, sampling": plan.memory - RESERVE - resident - rollout,
        "margin, KV cache for one response": rollout - weights - cache * plan.longest,
    }


def seconds(model: ModelShape, plan: Plan, *, rollouts: int, tokens: int, prompt: int = 300) -> dict[str, float]:
    """Seconds of a step's parts, by arithmetic.

    Sampling reads weights and cache once for each token of as many sequences as the cache holds; a forward takes 2 P FLOP a
    token and the attention 2 L h T more; an update counts as four forwards, with the recomputed one.

    Args:
        model: its shape.
        plan: how it is trained.
        rollouts: of a step.
        tokens: of a response, on average.
        prompt: tokens.
    """
    replicas = plan.gpus / plan.tensor_parallel
    room = memory(model, plan)["of it KV cache"] * min(plan.tensor_parallel, model.kv_heads)
    together = max(1.0, min(rollouts / replicas, room / (model.cache * (prompt + tokens))))
    bytes_a_token = 2 * model.parameters + together * model.cache * (prompt + tokens / 2)
    seconds_a_token = bytes_a_token / plan.tensor_parallel / (BANDWIDTH * SAMPLING_SHARE)
    sampling = rollouts / replicas / together * tokens * seconds_a_token
    whole = prompt + tokens
    forward: float = rollouts * whole * (2 * model.parameters + 2 * model.layers * model.hidden * whole)
    forward /= plan.gpus * FLOPS * TRAINING_SHARE
    return {
        "sampling": sampling,
        "old log-probs": forward,
        "reference log-probs": forward,
        "answer scores": forward * SCORES,
        "update": 4 * forward,
    }


def page() -> str:
    """SCALE.md."""
    sizes = ("1.5B", "7B", "32B")
    rows = [_row(MODELS[f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}"], size, nodes) for size in sizes for nodes in (1, 8)]
    shares = {"flops": FLOPS / 1e12, "training": 100 * TRAINING_SHARE, "sampling": 100 * SAMPLING_SHARE, "scores": SCORES}
    runs = [_run(*run) for run in RUNS]
    tables = {"rows": "\n".join(rows), "runs": "\n".join(runs)}
    return PAGE.format(formulas=__doc__.split("\n\n", 2)[2].strip(), **tables, **shares)


def _run(recipe: str, path: str, rollouts: int, tokens: int, steps: int) -> str:
    plan = Plan(8, 80 * GIB, 1, 0.6, 20608, 20608, 20608)
    step = sum(seconds(MODELS[path], plan, rollouts=rollouts, tokens=tokens).values())
    cells = [f"`{recipe}`", f"{rollouts:,}", f"{tokens:,}", str(steps), f"{step / 60:.1f}", f"{steps * step / 3600:.1f}"]
    return f"| {' | '.join(cells)} |"


def _row(model: ModelShape, size: str, nodes: int) -> str:
    large = model.parameters > 20e9
    plan = Plan(8 * nodes, 80 * GIB, 4 if large else 1, 0.6, 20608, 20608, 20608, offloaded=large)
    held, spent = memory(model, plan), seconds(model, plan, rollouts=1280, tokens=8000)
    step = sum(spent.values())
    cells = [size, f"{nodes} × 8", f"{model.parameters / 1e9:.2f}", str(plan.tensor_parallel)]
    cells += [f"{held[f'margin, {state}'] / GIB:.0f}" for state in ("updating", "old log-probs", "scoring", "sampling")]
    cells += [
        f"{held['of it KV cache'] / GIB:.0f}",
        f"{spent['sampling'] / 60:.1f}",
        f"{(step - spent['sampling']) / 60:.1f}",
    ]
    cells += [f"{spent['answer scores'] / step:.0%}", f"{150 * step / 3600:.0f}"]
    return f"| {' | '.join(cells)} |"


PAGE = """# Scale, on paper

```bash
python -m recipes.arithmetic   # writes this page
```

| what | how long | hardware | number to expect |
|---|---|---|---|
| this page | not measured | any machine | the same page, to the letter (a test holds it) |
| an arm of a recipe | 0.1 to 33 hours by arithmetic; not measured | 8 × H100, 80 GB | the last table |

**Measured on a GPU: one number**, the answer scores' cost of {scores} plain forwards (one H200, 1.5B shape;
l2t_verl/guide/limits.md). All else is arithmetic from the models' shapes and an H100's data sheet:
80 GB, {flops:.0f} bfloat16 TFLOP/s of which {training:.0f} % are assumed in training, 3.35 TB/s of which {sampling:.0f} % in
sampling. A recipe's `--dry-run` does the same sums for your configuration and says what does not fit.

{formulas}

1,280 rollouts a step (256 prompts × 5), 8,000 tokens a response on average and 16,384 at most, 150 steps (10 epochs of 4,000
problems). Updating to sampling: margins in GiB of each GPU's 80, negative where it does not fit;
32B with the actor offloaded while vLLM samples.
"Rest of a step" is old and reference log-probs, scores and update; `share` is the scores' of the whole step.

| model | H100s | P, 10⁹ | TP | updating | log-probs | scoring | sampling | KV cache | sampling, min | rest | share | hours |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
{rows}

The recipes on one node of 8 H100s, an arm; the tokens of a response are assumed, everything scales with them:

| recipe | rollouts a step | tokens of one | steps | min a step | hours |
|---|---|---|---|---|---|
{runs}

What it does not know: how unevenly responses end (the longest holds everybody up), the network between nodes, and what your
kernels reach. Time a few steps before you book a week.
"""


def main() -> None:
    write_whole(Path(__file__).parent / "SCALE.md", page())


if __name__ == "__main__":
    main()
