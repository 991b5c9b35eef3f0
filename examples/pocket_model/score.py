"""Scores a model on held-out instances of every task it was trained for.

    python examples/pocket_model/score.py --hf core/zif/bundled             # through transformers
    python examples/pocket_model/score.py --base-url http://127.0.0.1:30000/v1   # through a running server

Decoding is greedy, and a reply counts only when it equals the expected text (a story: when it is whole and about what was
asked). The instances are the same for the same ``--seed`` and ``--per-task``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cases import MAX_REPLY, Case, cases, prompt_text
from tool_tasks import call_text

Answerer = Callable[[Sequence[Case]], list[str]]


def hf_answerer(path: Path, device: str, dtype: str, batch_tokens: int = 65536) -> Answerer:
    """Greedy decoding with ``transformers``, in batches of prompts of similar length."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    model.to(device)

    def answer(asked: Sequence[Case]) -> list[str]:
        prompts = [tokenizer(prompt_text(case), add_special_tokens=False).input_ids for case in asked]
        # Long replies together, so that a batch of short ones ends early.
        order = sorted(
            range(len(asked)), key=lambda i: (len(asked[i].expected) > 80 or asked[i].judge == "story", len(prompts[i]))
        )
        replies = [""] * len(asked)
        while order:
            batch = order[:1]
            for i in order[1:256]:
                if (len(batch) + 1) * (len(prompts[i]) + MAX_REPLY) > batch_tokens:
                    break
                batch.append(i)
            order = order[len(batch) :]
            inputs = tokenizer.pad({"input_ids": [prompts[i] for i in batch]}, return_tensors="pt").to(device)
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=MAX_REPLY, do_sample=False)
            texts = tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
            for i, text in zip(batch, texts, strict=True):
                replies[i] = text
        return replies

    return answer


def api_answerer(base_url: str, model: str | None, concurrency: int) -> Answerer:
    """Greedy decoding through an OpenAI-compatible server."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none")
    name = model or client.models.list().data[0].id

    def one(case: Case) -> str:
        options: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": MAX_REPLY}
        if case.prompt is not None:
            text: str = client.completions.create(prompt=case.prompt, **options).choices[0].text
            return text
        if case.tools:
            options["tools"] = case.tools
        messages: Any = case.messages
        message = client.chat.completions.create(messages=messages, **options).choices[0].message
        calls = [call.function for call in message.tool_calls or [] if call.type == "function"]
        if calls:
            return "".join(call_text(call.name, json.loads(call.arguments)) for call in calls)
        return message.content or ""

    def answer(asked: Sequence[Case]) -> list[str]:
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(one, asked))

    return answer


def score(answer: Answerer, asked: Sequence[Case]) -> dict[str, Any]:
    """Accuracy per task and over all tasks, with up to three failures of each."""
    start = time.perf_counter()
    replies = answer(asked)
    tasks: dict[str, dict[str, Any]] = {}
    for case, reply in zip(asked, replies, strict=True):
        task = tasks.setdefault(case.task, {"cases": 0, "right": 0, "failures": []})
        task["cases"] += 1
        if case.passes(reply):
            task["right"] += 1
        elif len(task["failures"]) < 3:
            last = case.prompt if case.prompt is not None else case.messages[-1]["content"]
            task["failures"].append({"asked": last[-200:], "expected": case.expected, "reply": reply})
    for task in tasks.values():
        task["accuracy"] = task["right"] / task["cases"]
    mean = sum(t["accuracy"] for t in tasks.values()) / len(tasks)
    return {
        "tasks": tasks,
        "mean_accuracy": mean,
        "cases": len(asked),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--hf", type=Path, metavar="PATH", help="checkpoint folder, run with transformers")
    where.add_argument("--base-url", help="OpenAI-compatible server, such as http://127.0.0.1:30000/v1")
    parser.add_argument("--model", help="model name sent to the server (default: the first it lists)")
    parser.add_argument("--device", default="cpu", help="torch device for --hf")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="for --hf")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at a time for --base-url")
    parser.add_argument("--per-task", type=int, default=100)
    parser.add_argument("--tasks", nargs="*", metavar="TASK", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON with sample failures instead of the table")
    parser.add_argument("--json-file", type=Path, help="write that JSON here as well")
    parser.add_argument("--min-mean", type=float, default=0.0, help="exit 1 below this mean accuracy")
    args = parser.parse_args()

    asked = [case for case in cases(args.per_task, args.seed) if not args.tasks or case.task in args.tasks]
    if not asked:
        parser.error(f"no task is called {args.tasks}; there are: {sorted({c.task for c in cases(1, args.seed)})}")
    if args.hf:
        answer = hf_answerer(args.hf, args.device, args.dtype)
    else:
        answer = api_answerer(args.base_url, args.model, args.concurrency)
    result = score(answer, asked)
    if args.json_file:
        args.json_file.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        print("| task | cases | right |\n| --- | ---: | ---: |")
        for name, task in result["tasks"].items():
            print(f"| {name} | {task['cases']} | {task['accuracy']:.0%} |")
        print(f"| **mean over tasks** | {result['cases']} | **{result['mean_accuracy']:.1%}** |")
    return 0 if result["mean_accuracy"] >= args.min_mean else 1


if __name__ == "__main__":
    sys.exit(main())
