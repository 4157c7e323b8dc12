"""Settings of the trainer. Defaults of SFT and RL are for the tiny model; the RPO paper's values are in parentheses."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.settings.models import Dtype, EngineKind
from infra.settings.section import Batch, Count, Kept, MicroBatch, Positive, Rate, Seconds, Section, Share, Threads, Tokens
from infra.settings.texts import Name, url_of
from schemas.domains import Domains


class SftSettings(Section):
    """Supervised fine-tuning."""

    k: Annotated[int, Field(ge=1, le=100)] = 1  # history items in a prompt (1); in domains with a k of their own, theirs
    k_max: Annotated[int, Field(ge=0, le=100)] = 0  # each prompt shows a random number of items from k to k_max; 0: always k. Not in domains with a k
    epochs: Annotated[float, Field(ge=0, le=10_000)] = 2.0  # 0: no SFT (1)
    max_steps: Count = 200  # maximum number of optimizer steps, even if `epochs` needs more; 0: no limit
    batch_size: Batch = 32  # examples in one optimizer step, over all processes (8)
    micro_batch: MicroBatch = 0  # examples in one forward pass of one process; 0: its whole share of the batch
    learning_rate: Rate = 1e-3  # (5e-6)
    warmup_share: Share = 0.05  # of the steps (0.05)
    max_length: Tokens = 2048  # tokens of an example (2048)

    def items(self, domain: str, entries: Domains) -> tuple[int, int]:
        """The smallest and the largest number of history items in a prompt of this domain: its own k, or `k` and `k_max`."""
        own = entries.own(domain).k
        return (own, own) if own else (self.k, max(self.k, self.k_max))


class RlSettings(Section):
    """REINFORCE++-baseline. The paper does not state its beta."""

    steps: Count = 60  # optimizer steps over all stages; 0: no RL
    prompts_per_step: Batch = 16
    candidates: Annotated[int, Field(ge=2, le=10_000)] = 16  # completions sampled for one prompt (16)
    temperature: Rate = 1.0  # (1.0)
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9  # (0.9)
    learning_rate: Rate = 2e-4  # (5e-7)
    beta: Annotated[float, Field(ge=0)] = 0.01  # weight of the KL divergence to the SFT policy; 0: none
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the probability ratio, as in PPO
    k_min: Positive = 2  # history items in a prompt at the first stage of the curriculum (2)
    k_max: Positive = 6  # and at the last one (6); in domains with a k of their own, theirs
    format_bonus: Annotated[float, Field(ge=0, le=1)] = 0.1  # added to the reward of a completion that can be parsed
    engine: Literal["shared_prompt", "trl"] = "shared_prompt"  # our own loop: one process, fast on a CPU; TRL: large models and many GPUs
    micro_batch: MicroBatch = 0  # trl: completions in one forward pass of one process; 0: its whole share of the batch
    rollouts: Literal["transformers", "vllm_colocate", "vllm_server"] = "transformers"  # trl: what samples completions; vLLM needs GPUs
    #: vllm_server: http://HOST:PORT of `trl vllm-serve`
    vllm_url: Annotated[str, url_of("http://HOST:PORT of a server started by `trl vllm-serve`", None)] | None = None
    vllm_memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.3  # vllm_colocate: of each GPU's memory

    @model_validator(mode="after")
    def _curriculum_grows(self) -> Self:
        if self.k_min > self.k_max:
            raise ValueError("k_min must not exceed k_max")
        return self

    def items(self, domain: str, entries: Domains) -> tuple[int, int]:
        """The number of history items in a prompt of this domain at the first stage of the curriculum, and at the last.

        A domain's own k takes the place of `k_max`, and that of `k_min` if it is smaller: training ends with what serving shows, and never shows more.
        """
        k_max = entries.k(domain, self.k_max)
        return min(self.k_min, k_max), k_max

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine != "trl" and (self.rollouts != "transformers" or self.micro_batch):
            raise ValueError("rollouts and micro_batch are settings of engine = trl; the shared_prompt engine samples by itself")
        if (self.rollouts == "vllm_server") != bool(self.vllm_url):
            raise ValueError("vllm_url and rollouts = vllm_server need each other")
        if self.rollouts != "vllm_colocate":
            self.refuse_unused(["vllm_memory_share"], f"with trainer.rl.rollouts=vllm_colocate, which is {self.rollouts}", "set that")
        if self.engine == "trl" and self.beta == 0:
            raise ValueError("beta must be above 0 with engine = trl, which loads no reference policy otherwise")
        return self


class LoraSettings(Section):
    """Low-rank adapters, which the paper does not use. SFT trains one, RL trains it further, and a version holds the merged full weights."""

    rank: Annotated[int, Field(ge=0, le=10_000)] = 0  # of the adapter's matrices; 0: no adapter, all weights are trained
    alpha: Rate = 32.0  # the adapter's product is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in SFT; RL uses none
    targets: Annotated[tuple[Name, ...], Field(min_length=1)] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # layers

    @model_validator(mode="after")
    def _adapter_is_trained(self) -> Self:
        if self.rank == 0:
            self.refuse_unused(["alpha", "dropout", "targets"], "with trainer.lora.rank, which is 0: all weights are trained")
        return self

    @field_validator("targets")
    @classmethod
    def _no_embeddings(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if tied := {"lm_head", "embed_tokens"} & set(targets):
            raise ValueError(f"{', '.join(sorted(tied))} may share one tensor with another layer, which an adapter would not change")
        return targets


class TrainerSettings(Section):
    """The trainer service."""

    holdout_share: Share = 0.3  # of users, by hash; they never train and judge every candidate
    min_trajectories: Positive = 50  # a run with fewer trains nothing
    min_heldout_users: Positive = 5  # with outcomes; a run with fewer trains nothing
    min_users: Positive = 10  # with trajectories; a run with fewer trains nothing, because a few users could steer it
    min_domains: Positive = 2  # with trajectories; a model trained on one kind of task forgets the others. A platform with one domain sets 1
    user_share: Share = 0.1  # of the training data that one user may contribute; the user's oldest records are left out
    replay_share: Share = 0.5  # of the training data that may come from the parent's data; 0: only new data, 1: all data
    judge_after: Share = 0.5  # held-out outcomes before this quantile of the training outcomes' times do not judge, if at least 100 are later; 0: all judge
    # At 0.5 half the questions of each held-out user judge. At 0.8 it would be a fifth: 216 of the demo's 1,080, fewer than its exam needs.
    eval_queries: Positive = 600  # held-out outcomes judged at most, spread over users
    every_s: Seconds = 3600.0  # interval of scheduled runs, if min_trajectories are new; also the pause after a failed run (after RetryLater: poll_s)
    new_outcomes: Count = 1000  # this many outcomes since the newest version start a run at once; 0: never
    drift_window: Kept = 500  # answers; the champion's first ones are compared with its latest ones
    drift_drop: Share = 0.05  # a drop of the mean score in [0, 1] by this much, beyond chance, starts a run at once; 1: never
    judge_engine: EngineKind = EngineKind.AUTO  # auto: vLLM, on CPUs, from 32 questions and checkpoints of 32 MB on; it runs in a process of its own
    generate_rows: Batch = 256  # completions at once at most, in judging and in the drafts of `retouch bench train`; memory bounds them too
    poll_s: Seconds = 10.0  # interval between two checks for new data
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start_from: Literal["champion", "shipped"] = "champion"  # version that a run trains further: the champion, or the newest one without a parent
    checkpoint_every: Positive = 10  # steps of SFT and RL between two stored states; a killed run loses at most this many
    micro_tokens: Tokens = 32_768  # of one forward pass in training, padding included, in one process; a larger batch is divided, for less memory
    threads: Threads = 1  # of torch; on busy cores a second one made SFT of the tiny model five times slower (36 s, 180 s of CPU, 2026-11-21)
    sft: SftSettings = SftSettings()
    rl: RlSettings = RlSettings()
    lora: LoraSettings = LoraSettings()
    #: Of the frozen weights under a LoRA; trained weights are float32. auto: bfloat16 if the checkpoint stores it and the device multiplies it, which a
    #: processor without AVX512-BF16, AMX or ARM's bf16 does 140 times slower than float32 (AMD EPYC with AVX2, 2026-11-30)
    frozen_dtype: Dtype = Dtype.FLOAT32
    processes_wait_s: Seconds = 3600.0  # a process of a launch ends if the others send nothing for this long; collecting and judging must be faster
    gradient_checkpointing: bool = False  # SFT, and RL by trl: repeats forward passes during the backward pass: less memory, slower. See micro_tokens

    @field_validator("holdout_share")
    @classmethod
    def _users_train_and_judge(cls, share: float) -> float:
        if not 0 < share < 1:
            raise ValueError("must lie between 0 (no user would judge a candidate) and 1 (no user would train one)")
        return share

    @model_validator(mode="after")
    def _large_models_fit(self) -> Self:
        if self.frozen_dtype is not Dtype.FLOAT32 and self.lora.rank == 0:
            raise ValueError("frozen_dtype is a LoRA's: set lora.rank, or leave it at float32")
        return self
