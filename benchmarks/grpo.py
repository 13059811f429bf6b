"""Hypothesis: reinforcement learning goes through four times as many samples a second as TRL, and learns no less.

Peer: TRL's GRPOTrainer with the same policy, prompts in the same order, answers a prompt, longest answer, verifier,
loss, optimizer and precision. The policy is of the pocket shape, half taught by a minute of supervised fine-tuning.
Both run in processes of their own and take turns of a few updates; the seconds are split by where they went.

    qwenforge bench grpo [--json FILE]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from benchmarks.harness import Measured, Pace, Step, ratio, take_turns
from benchmarks.post_training import WINDOW, Clock, prepare_rl, quiet, rl_inputs, run_in, same_prompts

QUERIES, GROUP, LONGEST = 8, 8, 32  # an update: 64 answers
RATE, BETA2, FORMAT_WEIGHT = 2e-4, 0.95, 1.0


def main(arguments: list[str] | None = None) -> int:
    """Print samples/s, where the time went and what was learnt; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--updates", type=int, default=5, help="a turn")
    parser.add_argument("--teach", type=int, default=120, help="updates of fine-tuning before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    updates = given.turns * given.updates + 2
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare_rl(folder, queries=updates * QUERIES, teach=given.teach, threads=given.threads)
        found = take_turns(
            {"TRL": (trl_run, (folder, updates)), "ours": (our_run, (folder, updates))},
            turns=given.turns, steps=given.updates, threads=given.threads,
        )  # fmt: skip
    times, low, high = ratio(found["TRL"], found["ours"])
    sides = {name: _facts(measured) for name, measured in found.items()}
    result = {"times": times, "times_quartiles": [low, high], "answers_an_update": QUERIES * GROUP, **sides}
    for name, facts in sides.items():
        parts = ", ".join(f"{part} {share:.0%}" for part, share in facts["shares"].items())
        print(
            f"{name}: {facts['samples_per_second']:.1f} samples/s ({parts}; {facts['answer_tokens']:.1f} tokens each)"
        )
        print(
            f"  reward {facts['reward_first']:.3f} in the first quarter of {facts['samples']:,} samples, "
            f"{facts['reward_last']:.3f} +- {facts['reward_last_error']:.3f} in the last"
        )
    print(f"times: {times:.2f} ({low:.2f} to {high:.2f})")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **result}, indent=1) + "\n")
    return 0


def _facts(measured: Measured) -> dict[str, Any]:
    """Figures of one side. The first update, with all that comes before it, counts for the rewards only."""
    seconds, rewards, lengths = measured.last
    before = measured.first[0]
    spent = {part: seconds[part] - before[part] for part in seconds}
    total = measured.median * (len(rewards) - 1)
    spent["update"] = max(0.0, sum(measured.seconds) / len(measured.seconds) * (len(rewards) - 1) - sum(spent.values()))
    quarter = max(2, len(rewards) // 4)
    return {
        "samples_per_second": QUERIES * GROUP * (len(rewards) - 1) / total,
        "shares": {part: value / sum(spent.values()) for part, value in spent.items()},
        "samples": QUERIES * GROUP * len(rewards),
        "answer_tokens": mean(lengths),
        "reward_first": mean(rewards[:quarter]),
        "reward_last": mean(rewards[-quarter:]),
        "reward_last_error": stdev(rewards[-quarter:]) / quarter**0.5,
    }


def our_run(folder: Path, updates: int, idle: Callable[[], None]) -> Step:
    from components.preference import grpo_worker
    from components.preference.grpo import GRPOConfig, train_grpo

    idle()
    clock, rewards, lengths = Clock(), [], []
    reward_answers = grpo_worker.reward_answers

    def rewarded(queries: Any, answers: Any, *others: Any) -> Any:
        found = reward_answers(queries, answers, *others)
        rewards.append(float(found.total.mean()))
        lengths.append(mean(len(answer.tokens) for group in answers for answer in group))
        return found

    grpo_worker.sample_answers = clock.timed("generation", grpo_worker.sample_answers)
    grpo_worker.reward_answers = clock.timed("reward", rewarded)
    config = GRPOConfig(
        steps=updates, queries_per_rollout=QUERIES, group_size=GROUP, max_new_tokens=LONGEST, sequence_length=WINDOW,
        learning_rate=RATE, schedule="constant", warmup_ratio=0.0, beta2=BETA2, format_weight=FORMAT_WEIGHT,
        reward_model_weight=0.0, evaluate_every=10 * updates, evaluation_prompts=1, evaluation_samples=1,
        checkpoint_every=10 * updates, log_every=10,
    )  # fmt: skip
    inputs = rl_inputs(folder)

    def work(pace: Pace) -> None:
        run = run_in(Path(mkdtemp()), pace)
        # The same order for both: what stands there is not computed again.
        (run.state / "order.json").write_text((folder / "order.json").read_text())
        train_grpo(config, inputs, run)

    return _stepping(Pace(work), clock, rewards, lengths)


def trl_run(folder: Path, updates: int, idle: Callable[[], None]) -> Step:
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from components.sft.conversation_store import read_conversations
    from components.sft.tasks import verify
    from model.tokenizer import Tokenizer

    idle()
    policy = folder / "policy" / "output"
    tokenizer = AutoTokenizer.from_pretrained(policy)
    queries = read_conversations(folder / "talks" / "output", "rl")
    queries = [queries[i] for i in json.loads((folder / "order.json").read_text())]
    own = Tokenizer.load(policy)
    same_prompts(
        [own.render_chat(query.prompt) for query in queries[:20]],
        [tokenizer.apply_chat_template(query.prompt, add_generation_prompt=True, return_dict=False)
         for query in queries[:20]],
    )  # fmt: skip
    clock, rewards, lengths = Clock(), [], []

    def reward(completions: Any, completion_ids: Any, task: Any, answer: Any, **_: Any) -> list[float]:
        found = []
        for talk, ids, family, wanted in zip(completions, completion_ids, task, answer, strict=True):
            verdict = verify((family, json.loads(wanted)), talk[0]["content"])
            ended = ids[-1] == tokenizer.eos_token_id
            found.append(ended * (verdict.correct + FORMAT_WEIGHT * verdict.format))
        rewards.append(mean(found))
        lengths.append(mean(map(len, completion_ids)))
        return found

    config = GRPOConfig(
        output_dir=mkdtemp(), per_device_train_batch_size=QUERIES * GROUP, num_generations=GROUP,
        max_completion_length=LONGEST, max_steps=updates, temperature=1.0, top_p=1.0, top_k=0, beta=0.0,
        loss_type="grpo", scale_rewards="group", learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0,
        adam_beta2=BETA2, max_grad_norm=1.0, optim="adamw_torch_fused", shuffle_dataset=False, use_cpu=True, bf16=False,
        gradient_checkpointing=False, logging_steps=10, save_strategy="no", report_to=[], log_level="error",
        disable_tqdm=True, seed=0,
    )  # fmt: skip

    class Waits(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace.wait()

    rows = [{"prompt": q.prompt, "task": q.task, "answer": json.dumps(q.answer)} for q in queries]
    trainer = GRPOTrainer(
        Qwen2ForCausalLM.from_pretrained(policy), reward, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[Waits()],
    )  # fmt: skip
    quiet(trainer)
    trainer._generate = clock.timed("generation", trainer._generate)
    trainer._calculate_rewards = clock.timed("reward", trainer._calculate_rewards)
    pace = Pace(lambda _: trainer.train())
    return _stepping(pace, clock, rewards, lengths)


def _stepping(pace: Pace, clock: Clock, rewards: list[float], lengths: list[float]) -> Step:
    """A step tells the seconds by part, the rewards and the answers' lengths so far."""

    def step() -> tuple[dict[str, float], list[float], list[float]]:
        pace.step()
        return dict(clock.seconds), list(rewards), list(lengths)

    return step


if __name__ == "__main__":
    raise SystemExit(main())
