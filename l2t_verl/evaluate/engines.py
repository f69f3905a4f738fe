"""What samples responses: vLLM in this process, or a server that speaks OpenAI's protocol."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from l2t_verl.thought import MARKS, Marks, decode, special_marks, without_special

logger = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """An engine that cannot be started or reached, with the remedy."""


@dataclass(frozen=True)
class Request:
    """What is asked of an engine.

    Attributes:
        question: the user's message.
        thought: a thought to be continued, with the text that forces an answer; empty for a new response.
        seed: of this sample alone, so that it does not depend on what is sampled beside it.
        max_tokens: of what is generated.
        temperature: of the sampling; 0 takes the likeliest token.
        top_p: of the sampling.
        kept: tokens of the thought that is continued, without the text that forces an answer.
    """

    question: str
    thought: str
    seed: int
    max_tokens: int
    temperature: float
    top_p: float
    kept: int = 0


@dataclass(frozen=True)
class Generated:
    """What came back.

    Attributes:
        text: without special tokens.
        tokens: how many.
        finish: `stop` or `length`.
    """

    text: str
    tokens: int
    finish: str


class Engine(Protocol):
    """Samples a batch; `tokenizer` is None where nobody knows it."""

    tokenizer: Any

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """One response for each request, in their order."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class VllmEngine:
    """vLLM in this process, GPU or CPU.

    Prefix caching is off: with it, what a batch computes depends on the batches before, and a resumed run would differ.

    Raises:
        EngineError: the model does not load.
    """

    def __init__(self, model: str, *, max_model_len: int | None, seed: int, options: dict[str, Any], marks: Marks = MARKS):
        import torch

        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # bound, it leaves a core to itself
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM

        try:
            options = (_cpu_options(model, max_model_len) if on_cpu else {}) | options
            self.llm = LLM(model, max_model_len=max_model_len, seed=seed, enable_prefix_caching=False, **options)
        except Exception as error:  # vLLM's and the hub's, of many kinds
            where = "" if Path(model).exists() else f"there is no folder {model}, and as a name on the hub: "
            raise EngineError(f"vLLM does not load {model}: {where}{type(error).__name__}: {str(error)[:300]}") from error
        self.tokenizer, self.marks = self.llm.get_tokenizer(), marks

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """See `Engine`."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": prompt_ids(self.tokenizer, request)} for request in requests]
        settings = [
            SamplingParams(temperature=r.temperature, top_p=r.top_p, max_tokens=r.max_tokens, seed=r.seed) for r in requests
        ]
        try:
            outputs = self.llm.generate(prompts, settings, use_tqdm=False)
        except Exception as error:  # vLLM's own, whose cause stands in its log
            raise EngineError(f"vLLM failed: {str(error)[:300]}; VLLM_LOGGING_LEVEL=INFO shows more") from error
        firsts = [output.outputs[0] for output in outputs]
        texts = [decode(o.token_ids, self.tokenizer, self.marks) for o in firsts]
        return [
            Generated(text, len(o.token_ids), "length" if o.finish_reason == "length" else "stop")
            for text, o in zip(texts, firsts, strict=True)
        ]

    def close(self) -> None:
        """End vLLM's processes."""
        self.llm.llm_engine.engine_core.shutdown()


class ServerEngine:
    """A server with OpenAI's protocol; answers are forced by its plain completions, for which a tokenizer has to be named.

    The key in OPENAI_API_KEY goes to the address that is named and to no other: the server is not followed elsewhere.

    Args:
        url: of the server, with /v1.
        model: as the server calls it.
        tokenizer: of that model; None where nobody knows it.
        parallel: requests at once.
        marks: of the thought.
        seconds: how long one response may take.

    Raises:
        EngineError: it is not reached, refuses, leads on to another address, or answers in another form.
        ValueError: see `check_address`.
    """

    def __init__(
        self, url: str, model: str, *, tokenizer: Any, parallel: int, marks: Marks = MARKS, seconds: float = 3600.0
    ):
        from openai import DefaultHttpxClient, OpenAI

        check_address(url)
        self.key = os.environ.get("OPENAI_API_KEY", "none")
        own = DefaultHttpxClient(follow_redirects=False)
        self.client = OpenAI(base_url=url, api_key=self.key, timeout=seconds, max_retries=3, http_client=own)
        self.url, self.model, self.tokenizer, self.parallel, self.marks = url, model, tokenizer, parallel, marks
        self.noted: set[str] = set()  # what has been said of its replies
        # a server leaves special tokens out unless it is asked for them; not every one knows the question
        self.asks_for_marks = tokenizer is not None and bool(special_marks(tokenizer, marks))

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """See `Engine`."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._one, requests))

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def _one(self, request: Request) -> Generated:
        found: Any  # a completion or a chat's, of which the client checks nothing
        settings: dict[str, Any] = {"model": self.model, "seed": request.seed, "max_tokens": request.max_tokens}
        settings |= {"temperature": request.temperature, "top_p": request.top_p}
        if self.asks_for_marks:
            settings["extra_body"] = {"skip_special_tokens": False}
        try:
            if request.thought:
                text = self.tokenizer.decode(prompt_ids(self.tokenizer, request))
                found = self.client.completions.create(prompt=text, **settings)
                said = found.choices[0].text
                if not isinstance(said, str):
                    raise TypeError("the text of a completion is none")
            else:
                found = self.client.chat.completions.create(
                    messages=[{"role": "user", "content": request.question}], **settings
                )
                said = _whole_text(found.choices[0].message, found.choices[0].finish_reason == "length", self.marks)
            cut = found.choices[0].finish_reason == "length"
        except Exception as error:  # the client's, of many kinds, and what a reply in another form leads to
            # no chain: what the client's error holds is the request, with its key
            raise EngineError(f"{self.url} does not answer for {self.model}: {self._why(error)}") from None
        answering = getattr(found, "model", None)
        if answering != self.model:
            self._note(f"{self.url} answers as {str(answering)[:100]!r} where {self.model!r} was asked for")
        if self.asks_for_marks:
            said = without_special(said, self.tokenizer, self.marks)
        said = whole_characters(said)
        return Generated(said, self._tokens(found, said), "length" if cut else "stop")

    def _tokens(self, found: Any, said: str) -> int:
        """Tokens of a response, as the server counts them; else as the tokenizer does."""
        count = getattr(getattr(found, "usage", None), "completion_tokens", None)
        if type(count) is int and count >= 0:
            return count
        known = self.tokenizer is not None
        self._note(
            f"{self.url} does not say how many tokens a response has: {'counted here' if known else 'they count as 0'}"
        )
        return len(self.tokenizer.encode(said, add_special_tokens=False)) if known else 0

    def _note(self, text: str) -> None:
        """Say something once."""
        if text not in self.noted:
            self.noted.add(text)
            logger.warning("l2t: %s", text)

    def _why(self, error: Exception) -> str:
        """What went wrong, without the key, which some servers repeat."""
        response = getattr(error, "response", None)
        if response is not None and 300 <= response.status_code < 400:
            text = f"it leads on to {response.headers.get('location')}; name that address by --server if it is meant"
        else:
            text = f"{type(error).__name__}: {str(error)[:500]}"
        return text if self.key == "none" else text.replace(self.key, "[key]")


def check_address(url: str) -> None:
    """See that a server's address is one, and holds nothing secret: it is written down beside the samples.

    Raises:
        ValueError: it is none, or has a user, a password or a query.

    Example:
        >>> check_address("http://127.0.0.1:8000/v1")
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--server {url}: take an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"--server takes {parts.hostname}'s address without a user, a password or a query, which would be written down "
            "with the results; the key goes in the variable OPENAI_API_KEY"
        )


def _cpu_options(model: str, max_model_len: int | None) -> dict[str, Any]:
    """What vLLM needs on a CPU: it cannot seed a request there whose prompt is read in several pieces."""
    from transformers import AutoConfig

    longest = max_model_len or AutoConfig.from_pretrained(model).max_position_embeddings
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": longest}
    return {"dtype": "float32", "enforce_eager": True} | whole_prompts


def prompt_ids(tokenizer: Any, request: Request) -> list[int]:
    """The chat's prompt, and the thought that is continued.

    The two are tokenised one by one, as a model had them when it thought.
    """
    message = [{"role": "user", "content": request.question}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids + (tokenizer.encode(request.thought, add_special_tokens=False) if request.thought else [])


def _whole_text(message: Any, is_cut: bool = False, marks: Marks = MARKS) -> str:
    """What was thought and said; some servers give the thought apart, and nothing else where it was cut off.

    A thought without an answer is one that is closed, with nothing after it, or that is still open where it was cut off.
    """
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    for part in (thought, message.content):
        if not isinstance(part, str | None):
            raise TypeError(f"a {type(part).__name__} where a text is needed")
    if not thought:
        return message.content or ""
    is_over = message.content or not is_cut
    return f"{marks.opening}{thought}{marks.closing if is_over else ''}{message.content or ''}"


def whole_characters(text: str) -> str:
    r"""A text in which halves of characters (lone surrogates), which no tokenizer takes, are replaced by U+FFFD.

    Example:
        >>> whole_characters("a\ud83d b") == "a\ufffd b", whole_characters("\ud83d\ude00") == "\U0001f600"
        (True, True)
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
