"""`python -m trainer.judge.vllm_process FOLDER`: completes the prompts of FOLDER/request.json greedily by vLLM, into FOLDER/completions.json.

`trainer.judge.completion` starts it. The folder holds token ids, which are users' texts: it is deleted after use.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from infra.telemetry import json_logs
from infra.telemetry.foreign_output import log_output_of_child, logged_output

#: vLLM touches all of its cache at start, so this is resident memory.
CACHE_BYTES = 1 << 30
#: vLLM allocates the cache in blocks of 128 tokens on CPU.
BLOCK_TOKENS = 128


def complete(request: dict[str, Any]) -> list[list[int]]:
    """Token ids by prompt."""
    import torch
    from vllm import LLM, SamplingParams

    prompts, limits = request["prompts"], request["limits"]
    longest = max(len(ids) + limit for ids, limit in zip(prompts, limits, strict=True))
    on_gpu = torch.cuda.is_available()
    engine = LLM(
        request["checkpoint"],
        dtype=request["dtype"],
        max_model_len=longest,
        max_num_seqs=request["rows"],
        enforce_eager=not on_gpu,
        trust_remote_code=False,
        load_format="safetensors",
        generation_config="vllm",
        disable_log_stats=True,
        kv_cache_memory_bytes=None if on_gpu else cache_bytes(request, longest),
        seed=0,
    )
    sampling = [SamplingParams(temperature=0.0, max_tokens=limit, stop_token_ids=list(request["end_ids"]), detokenize=False) for limit in limits]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def cache_bytes(request: dict[str, Any], longest: int) -> int:
    """Enough for all rows at full length, at most CACHE_BYTES, but always enough for one. Keys and values."""
    config = json.loads((Path(request["checkpoint"]) / "config.json").read_text())
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = 2 if request["dtype"] == "bfloat16" else 4
    row: int = 2 * width * config["num_hidden_layers"] * heads * head_size * (longest + BLOCK_TOKENS)
    rows: int = request["rows"]
    return max(2 * row, min(rows * row, CACHE_BYTES))


def main() -> int:
    folder = Path(sys.argv[1])
    json_logs.configure("WARNING")
    with logged_output():
        completions = complete(json.loads((folder / "request.json").read_text()))
    (folder / "completions.json").write_text(json.dumps(completions))
    return 0


if __name__ == "__mp_main__":  # in a process that vLLM spawns
    log_output_of_child()

if __name__ == "__main__":
    raise SystemExit(main())
