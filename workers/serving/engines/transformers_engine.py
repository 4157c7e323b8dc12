"""A backend on plain transformers: the waiting requests form one left-padded batch, which runs to its end.

It starts at once and is as fast as vLLM for single requests. At 64 concurrent ones vLLM answers about 2.8 times as many
(docs/decisions/0002-what-was-measured.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.checkpoints.precision import engine_dtype
from infra.settings.models import Dtype
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import FinishReason, SamplingParameters


@dataclass(frozen=True)
class TransformersOptions:
    max_batch: int
    threads: int
    dtype: Dtype = Dtype.AUTO


class TransformersBackend:
    def __init__(self, checkpoint: Path, options: TransformersOptions) -> None:
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(options.threads)
        self._options = options
        self._tokenizer = ChatTokenizer.load(checkpoint).tokenizer
        self._admitted: dict[int, tuple[list[int], SamplingParameters]] = {}
        self.load(checkpoint)

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        self._admitted[request_id] = (token_ids, sampling)

    def abort(self, request_id: int) -> None:
        self._admitted.pop(request_id, None)

    def step(self) -> Sequence[BackendCompletion]:
        """One batch of requests with equal sampling parameters, oldest first."""
        sampling = next(iter(self._admitted.values()))[1]
        equal = [request_id for request_id, (_, parameters) in self._admitted.items() if parameters == sampling]
        batch = {request_id: self._admitted.pop(request_id)[0] for request_id in equal[: self._options.max_batch]}
        rows = self._generate(list(batch.values()), sampling)
        return [self._completion(request_id, row, sampling) for request_id, row in zip(batch, rows, strict=True)]

    def load(self, checkpoint: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        on_gpu = torch.cuda.is_available()
        model, info = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=engine_dtype(self._options.dtype, checkpoint, on_gpu=on_gpu),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        if info["missing_keys"] or info["mismatched_keys"]:
            raise RuntimeError(f"weights are missing: {sorted(info['missing_keys'])[:3]}")
        self._model: Any = model.eval().to("cuda" if on_gpu else "cpu")

    def close(self) -> None:
        del self._model

    def _generate(self, prompts: list[list[int]], sampling: SamplingParameters) -> list[list[int]]:
        """The generated token ids of each prompt, with padding."""
        import torch
        from transformers import GenerationConfig

        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        width = max(map(len, prompts))
        padded_ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self._model.device)
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            top_p=sampling.top_p if sampling.temperature > 0 else None,
            stop_strings=list(sampling.stop) or None,
            pad_token_id=pad,
            eos_token_id=self._end_ids(),
        )
        with torch.inference_mode():
            output = self._model.generate(input_ids=padded_ids, attention_mask=mask, generation_config=config, tokenizer=self._tokenizer)
        rows: list[list[int]] = output[:, width:].tolist()
        return rows

    def _end_ids(self) -> list[int]:
        from_config = self._model.generation_config.eos_token_id
        ids = from_config if isinstance(from_config, list) else [from_config]
        return sorted({token_id for token_id in [*ids, self._tokenizer.eos_token_id] if token_id is not None})

    def _completion(self, request_id: int, row: list[int], sampling: SamplingParameters) -> BackendCompletion:
        ends = [index for index, token_id in enumerate(row) if token_id in self._end_ids()]
        row = row[: ends[0] + 1] if ends else row
        text = self._tokenizer.decode(row[: ends[0]] if ends else row, skip_special_tokens=True)
        stops = [text.index(stop) + len(stop) for stop in sampling.stop if stop in text]
        if stops:
            return BackendCompletion(request_id, text[: min(stops)], tuple(row), FinishReason.STOP)
        return BackendCompletion(request_id, text, tuple(row), FinishReason.STOP if ends else FinishReason.LENGTH)
