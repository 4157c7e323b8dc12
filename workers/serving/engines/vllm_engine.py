"""A backend on vLLM: its synchronous LLMEngine, in this process, stepped by the engine's thread.

In this process it starts in 3 to 8 s instead of 45 and takes far less memory. Our thread alone decides when a step happens, so a swap needs
no pause protocol. Batching, paged cache and kernels are the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.checkpoints.precision import engine_dtype
from infra.settings.models import Dtype
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import FinishReason, SamplingParameters

#: vLLM touches all of its cache at start, so this is resident memory.
CPU_KV_CACHE_BYTES = 1 << 30
#: Share of a GPU's memory, for all versions together.
GPU_MEMORY_SHARE = 0.9
#: vLLM allocates the cache in blocks of 128 tokens on CPU.
BLOCK_TOKENS = 128


@dataclass(frozen=True)
class VllmOptions:
    max_model_len: int
    max_num_seqs: int
    threads: int
    engines: int = 1  # number of engines that share the GPU
    dtype: Dtype = Dtype.AUTO
    adapters: int = 0  # number of adapters over the one model (workers.serving.engines.lora)
    adapter_rank: int = 64


class VllmBackend:
    """Import and load take 20 to 40 s. A second one in the process takes 0.3 s and has its own cache."""

    def __init__(self, checkpoint: Path, options: VllmOptions) -> None:
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.layers import rotary_embedding
        from vllm.v1.engine.llm_engine import LLMEngine

        on_gpu = torch.cuda.is_available()
        dtype = engine_dtype(options.dtype, checkpoint, on_gpu=on_gpu)
        if not on_gpu:
            torch.set_num_threads(options.threads)  # for this thread; vLLM binds threads only in worker processes
        arguments = EngineArgs(
            model=str(checkpoint),
            dtype=dtype,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            enforce_eager=not on_gpu,
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",  # sampling parameters come from the request, never from the checkpoint
            disable_log_stats=True,
            use_tqdm_on_load=False,
            gpu_memory_utilization=GPU_MEMORY_SHARE / options.engines,
            kv_cache_memory_bytes=None if on_gpu else _kv_cache_bytes(checkpoint, options, dtype),
            seed=0,  # of the engine, not of requests
            **_adapter_arguments(options),
        )
        # vLLM 0.31 shares rotary embeddings among all models of a process. A failed load leaves them without data, which breaks the other
        # engines (2026-11-21).
        rotary_embedding._ROPE_DICT.clear()
        self._engine: Any = LLMEngine.from_engine_args(arguments)
        self._names: dict[int, str] = {}  # vLLM's request id by ours

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters, adapter: Any = None) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._names[request_id] = self._engine.add_request(str(request_id), {"type": "token", "prompt_token_ids": token_ids}, params, lora_request=adapter)

    def abort(self, request_id: int) -> None:
        if name := self._names.pop(request_id, None):
            self._engine.abort_request([name], internal=True)

    def step(self) -> Sequence[BackendCompletion]:
        finished = [output for output in self._engine.step() if output.finished]
        return [self._completion(output) for output in finished]

    def load(self, checkpoint: Path) -> None:
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
        self._engine.apply_model(_repack_tied_head)
        # False: blocks of the old weights are still in use, and later answers would reuse them.
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not clear its prefix cache")

    def add_adapter(self, name: str, number: int, folder: Path) -> Any:
        """The `adapter` argument of `admit`. `number` must be new."""
        from vllm.lora.request import LoRARequest

        adapter = LoRARequest(name, number, str(folder))
        if not self._engine.add_lora(adapter):
            raise RuntimeError(f"vLLM did not take the adapter {folder}")
        return adapter

    def remove_adapter(self, adapter: Any) -> None:
        self._engine.remove_lora(adapter.lora_int_id)

    def close(self) -> None:
        """May be called twice."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
        self._engine = None

    def _completion(self, output: Any) -> BackendCompletion:
        request_id = int(output.request_id)
        self._names.pop(request_id, None)
        first = output.outputs[0]
        reason = FinishReason.LENGTH if first.finish_reason == "length" else FinishReason.STOP
        return BackendCompletion(request_id, first.text, tuple(first.token_ids), reason)


def _adapter_arguments(options: VllmOptions) -> dict[str, Any]:
    if not options.adapters:
        return {}
    # One more than there are slots: a new adapter is loaded before the old one is removed.
    return {"enable_lora": True, "max_loras": options.adapters + 1, "max_cpu_loras": options.adapters + 1, "max_lora_rank": options.adapter_rank}


def _repack_tied_head(model: Any) -> None:
    """Packs the weights of a tied output head again after a reload. Otherwise two versions make every answer.

    vLLM 0.31 on CPU packs a layer's weights into a copy when it loads them. The checkpoint has no own tensor for a tied head
    ("ParallelLMHead: Failed to load weights"), so a reload changes the embedding and not the head's packed copy (2026-11-21).
    """
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight is model.model.embed_tokens.weight:
        head.quant_method.process_weights_after_loading(head)


def _kv_cache_bytes(checkpoint: Path, options: VllmOptions, dtype: str) -> int:
    """Enough for all requests at full length, at most CPU_KV_CACHE_BYTES, but always enough for one. Keys and values, of `dtype`."""
    config = json.loads((checkpoint / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = 2 if dtype == "bfloat16" else 4
    sequence: int = 2 * width * config["num_hidden_layers"] * heads * head_dim * (options.max_model_len + BLOCK_TOKENS)
    return max(2 * sequence, min(options.max_num_seqs * sequence, CPU_KV_CACHE_BYTES))
