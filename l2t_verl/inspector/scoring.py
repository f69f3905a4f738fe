"""One response at a time: tokens, episodes, J after each, penalty and reward, by the method's own functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from l2t_verl import compression, episodes, gain
from l2t_verl.config import L2TConfig
from l2t_verl.episodes.offsets import token_text
from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.gain.kinds import check_kind
from l2t_verl.inspector.records import Record, SourceError
from l2t_verl.inspector.rollouts import Episode, Rollout, key_of
from l2t_verl.packing import PackedRow, packed_forward, why_not_packed
from l2t_verl.thought import decode


class Scorer:
    """A causal language model that scores responses.

    Args:
        model: in Hugging Face's interface.
        tokenizer: the model's.
        config: the method's settings.
        reference: the model that the penalty is measured against, with the same tokenizer; None for no penalty.
        chat: whether problems go through the tokenizer's chat template, where it has one.

    Raises:
        NotImplementedError: sampled answers, which a forward cannot give.
        ValueError: settings that need training, or a tokenizer with more tokens than the model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        config: L2TConfig,
        reference: torch.nn.Module | None = None,
        *,
        chat: bool = True,
    ):
        check_kind(config.gain.kind)
        if reference is not None and config.compression.estimator not in compression.ESTIMATORS:
            known = ", ".join(compression.ESTIMATORS)
            raise ValueError(f"compression.estimator={config.compression.estimator} needs training; take one of {known}")
        # what follows is of transformers' models; torch's do not declare it
        sides: tuple[tuple[str, Any], ...] = (("model", model), ("reference", reference))
        for name, of in sides:
            if of is not None and len(tokenizer) > of.get_input_embeddings().num_embeddings:
                raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, more than the {name} has embeddings of")
        self.model, self.reference, self.tokenizer, self.config = model, reference, tokenizer, config
        self.chat = chat and getattr(tokenizer, "chat_template", None) is not None
        self.template = gain.ForcingTemplate.from_config(config.gain)

    @torch.no_grad()
    def rollout(self, record: Record, outcome: float | None, grading: str) -> Rollout:
        """Score one recorded response.

        Args:
            record: the response, with its problem and answers.
            outcome: whether its answer is right; None if that is not known.
            grading: how the outcome came about.

        Raises:
            ValueError: it cannot be scored; the message says why.
        """
        prompt, response = self.prompt(record), self.response(record)
        self.check_length(prompt, response, record.answers)
        own = self._own_log_probs(self.model, prompt, response) if self._needs_own() else None
        ends = self.ends(prompt, response, own=own)
        scores = self._scores(prompt, response, ends, record.answers)
        gains = gain.fitting_gains(scores).double()
        penalties = self._penalties(prompt, response, ends, own)
        rewards = gains if penalties is None else compression.process_rewards(gains, penalties, self.config.beta)
        text = token_text(response, self.tokenizer)
        cuts = [0, *(text.ends[end - 1] for end in ends)]
        pieces = [text.text[a:b] for a, b in itertools.pairwise(cuts)]
        return Rollout(
            key=key_of(record),
            place=record.place,
            label=record.label,
            problem=record.problem,
            answer=record.answers,
            outcome=outcome,
            grading=grading,
            tokens=len(response),
            answer_score_start=scores[0].item(),
            episodes=tuple(
                Episode(
                    text=piece,
                    start=start,
                    end=end,
                    answer_score=scores[k + 1].item(),
                    gain=gains[k].item(),
                    penalty=None if penalties is None else penalties[k].item(),
                    reward=rewards[k].item(),
                    states_answer=any(episodes.states_answer(piece, answer) for answer in record.answers),
                )
                for k, (piece, (start, end)) in enumerate(zip(pieces, itertools.pairwise([0, *ends]), strict=True))
            ),
            tail=text.text[cuts[-1] :],
        )

    def thinking(self, record: Record) -> bool | None:
        """True if the prompt has opened a thought; None: the response's own marks decide."""
        return self._opened(self.prompt(record))

    def text(self, record: Record) -> str:
        """The text that is graded: recorded tokens are decoded with the marks of the thought, which some tokenizers drop."""
        ids = (record.known or {}).get("response_ids")
        return record.response if ids is None else decode(ids, self.tokenizer, self.template.marks)

    def _opened(self, prompt: list[int]) -> bool | None:
        return gain.thinking_states(self.tokenizer, prompt, [], [], self.template)[0] == "open" or None

    def prompt(self, record: Record) -> list[int]:
        """The tokens of the problem as it is asked."""
        if self.chat:
            messages = record.messages or [{"role": "user", "content": record.problem}]
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        else:
            text = record.problem + "\n"
        return self.tokenizer.encode(text, add_special_tokens=not self.chat)

    def response(self, record: Record) -> list[int]:
        """The tokens that were sampled, where they are recorded; else those of the text.

        Raises:
            ValueError: they are not this tokenizer's.
        """
        ids = (record.known or {}).get("response_ids")
        if ids is not None:
            if max(ids, default=0) >= len(self.tokenizer):
                raise ValueError(f"its token {max(ids)} is none of this tokenizer's {len(self.tokenizer)}")
            texts = self.tokenizer.decode(ids, skip_special_tokens=True), self.text(record)
            if record.response.strip() not in [text.strip() for text in texts]:
                raise ValueError("its recorded tokens are not its text by this tokenizer: take the model that wrote it")
            return list(ids)
        ids = self.tokenizer.encode(record.response, add_special_tokens=False)
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids and self.tokenizer.unk_token not in record.response:
            raise ValueError(f"{ids.count(unknown)} of its {len(ids)} tokens are unknown to this tokenizer")
        if not ids:
            raise ValueError("the response is empty")
        return ids

    def check_length(self, prompt: list[int], response: list[int], answers: Sequence[str]) -> None:
        """Refuse what the model has no positions for, the longest forced answer included.

        Raises:
            ValueError: it has not, with both numbers.
        """
        settings: Any = self.model.config
        most = getattr(settings.get_text_config(), "max_position_embeddings", None)
        longest = max(len(self.tokenizer.encode(self.template.forcing("none") + answer)) for answer in answers)
        size = len(prompt) + len(response) + longest + 1
        if most is not None and size > most:
            raise ValueError(f"{size} tokens with its forced answer, but the model has positions for {most}")

    def _needs_own(self) -> bool:
        return self.reference is not None or self.config.episodes.method == "surprise"

    def _own_log_probs(self, model: torch.nn.Module, prompt: list[int], response: list[int]) -> torch.Tensor:
        """[T] log-probs of the response's tokens, in nats."""
        if why_not_packed(model) is None:
            return packed_forward(model, [PackedRow(prompt + response, first=len(prompt))]).tokens[0]
        return expanded_log_probs(model, prompt, response, [0], [[]], [response], len(prompt) + len(response))[0]

    def ends(
        self, prompt: list[int], response: list[int], config: L2TConfig | None = None, own: torch.Tensor | None = None
    ) -> list[int]:
        """The ends of a response's episodes, in tokens.

        Args:
            prompt: prompt tokens.
            response: its tokens.
            config: that says how it is cut; None: the scorer's.
            own: [T] log-probs of its tokens, where they are known already.
        """
        config = config or self.config
        if own is None and config.episodes.method == "surprise":
            own = self._own_log_probs(self.model, prompt, response)
        thinking, marks = self._opened(prompt), self.template.marks
        return episodes.segment_as_configured(
            response, self.tokenizer, config, thinking=thinking, marks=marks, log_probs=own
        )

    def _scores(self, prompt: list[int], response: list[int], ends: list[int], answers: Sequence[str]) -> torch.Tensor:
        """[K+1] J_0 … J_K, of the best of several answers."""
        found = []
        for answer in answers:
            targets = gain.answer_targets(self.tokenizer, prompt, response, ends, answer, self.template)
            found.append(
                gain.answer_scores(
                    self.model,
                    prompt,
                    response,
                    ends,
                    [list(target.suffix_ids) for target in targets],
                    [list(target.answer_ids) for target in targets],
                    kind=self.config.gain.kind,
                    max_tokens_per_micro_batch=self.config.gain.max_tokens_per_micro_batch,
                )
            )
        return gain.best_of_answers(torch.stack(found))

    def _penalties(
        self, prompt: list[int], response: list[int], ends: list[int], own: torch.Tensor | None
    ) -> torch.Tensor | None:
        """[K] penalties in nats."""
        if self.reference is None:
            return None
        reference = self._own_log_probs(self.reference, prompt, response)
        assert own is not None  # see `_needs_own`
        mask = torch.ones(1, len(response))
        deltas = compression.log_ratio_deltas(own[None], reference[None], mask)
        ids = episodes.episode_ids([ends], len(response))
        estimator = self.config.compression.estimator
        return compression.compression_penalty(deltas, ids, mask, num_episodes=len(ends), estimator=estimator)[0]


def place_of(device: str | None, dtype: str | None) -> tuple[str, str]:
    """Where and how a model is loaded: as given, else on a GPU if there is one; float32 on a CPU, its own elsewhere."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return place, dtype or ("float32" if place == "cpu" else "auto")


def load(name: str, device: str, dtype: str) -> torch.nn.Module:
    """Load a model from a folder or the hub, ready to score.

    Raises:
        SourceError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        raise SourceError(f"the model {name} cannot be loaded: {str(error)[:300]}; name a local folder") from error
    return model.to(device).eval()  # type: ignore[arg-type] # transformers' wrapper loses self


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a model.

    Raises:
        SourceError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SourceError(f"the tokenizer of {name} cannot be loaded: {str(error)[:300]}; name a local folder") from error
