"""Trains the bundled model, in minutes on one data-centre GPU, and scores it.

    python examples/pocket_model/train.py --out /tmp/zif-pocket --minutes 8

Documents are generated and tokenized by worker processes while the model trains, so that hardly a document is seen twice.
The learning rate follows the clock: a short rise, then a straight fall to zero when the minutes are over.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.multiprocessing as mp
from corpus import TRAINED, document, pack
from model import Model, Shape, export
from muon import Muon
from tokenizers import Tokenizer
from torch import Tensor

HERE = Path(__file__).parent
Shard = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def produce(tokenizer_file: str, seed: int, shard_documents: int, shards: Any) -> None:
    """A worker: puts shards of packed documents on the queue for ever."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(tokenizer_file)
    rng = random.Random(seed)
    while True:
        shards.put(pack(tokenizer, [document(rng) for _ in range(shard_documents)]))


def cut(shard: Shard, size: int, device: torch.device) -> Iterator[Batch]:
    """Batches of ``size`` tokens from one shard: tokens, targets, positions, bounds of documents.

    The rest of a document that began in the batch before is not trained.
    """
    packed, starts = shard
    for low in range(0, len(packed) - size + 1, size):
        window = packed[low : low + size]
        first, last = np.searchsorted(starts, [low + 1, low + size])
        inner = starts[first:last] - low
        bounds = np.concatenate([[0], inner, [size]]).astype(np.int32)
        tokens = (window & (TRAINED - 1)).astype(np.int64)
        targets = np.full(size, -100, np.int64)
        targets[:-1] = np.where(window[1:] & TRAINED, tokens[1:], -100)
        if low not in starts and len(inner):
            targets[: inner[0]] = -100
        positions = np.arange(size) - np.repeat(bounds[:-1], np.diff(bounds))
        arrays = [torch.from_numpy(x) for x in (tokens, targets, positions.astype(np.int64), bounds)]
        if device.type == "cuda":
            arrays = [x.pin_memory().to(device, non_blocking=True) for x in arrays]
        yield arrays[0], arrays[1], arrays[2], arrays[3]


class Feed:
    """Batches without end, from a thread of its own; old shards again when no new one is ready."""

    def __init__(self, shards: Any, size: int, device: torch.device) -> None:
        self.fresh = self.repeated = 0
        self._batches: queue.Queue[Batch] = queue.Queue(maxsize=8)
        threading.Thread(target=self._fill, args=(shards, size, device), daemon=True).start()

    def _fill(self, shards: Any, size: int, device: torch.device) -> None:
        kept: list[Shard] = []
        while True:
            try:
                shard = shards.get(block=not kept)
                kept.append(shard)
                self.fresh += 1
            except queue.Empty:
                shard = random.choice(kept)
                self.repeated += 1
            for batch in cut(shard, size, device):
                self._batches.put(batch)

    def next(self) -> Batch:
        return self._batches.get()


def rate(progress: float, warmup: float = 0.02) -> float:
    """The learning rate's factor at ``progress`` from 0 to 1: up, flat to 0.3, then straight down to 0."""
    return max(0.0, min(progress / warmup, 1.0, (1.0 - progress) / 0.7))


def optimizers(model: Model, name: str, lr: float) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    embedding = [model.embed_tokens.weight]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    fused = embedding[0].is_cuda
    if name == "adamw":
        groups = [{"params": matrices + embedding, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)]
    rest = [{"params": embedding, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}]
    return [Muon(matrices, lr=lr, weight_decay=0.01), torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), fused=fused)]


def train(model: Model, feed: Feed, args: argparse.Namespace, device: torch.device, began: float) -> dict[str, Any]:
    """Runs until ``args.minutes`` after ``began``; returns figures about the run."""
    used = optimizers(model, args.optimizer, args.lr or (0.02 if args.optimizer == "muon" else 3e-3))
    base = [[g["lr"] for g in o.param_groups] for o in used]
    loss_of = torch.compile(model, dynamic=False) if device.type == "cuda" else model
    step, start, losses = 0, 0.0, []
    end = began + args.minutes * 60
    window = time.monotonic()
    while True:
        now = time.monotonic()
        if step == 3:  # compilation and the first launches are not training
            start, window = now, now
        progress = (now - start) / (end - start) if step >= 3 else 0.0
        if progress >= 1:
            break
        for optimizer, rates in zip(used, base, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * max(rate(progress), 1e-3)
        tokens, targets, positions, bounds = feed.next()
        torch._dynamo.mark_dynamic(bounds, 0)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(tokens, targets, positions, bounds)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        step += 1
        if step % args.log_every == 0:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            spent, window = time.monotonic() - window, time.monotonic()
            print(
                f"step {step} {progress:.0%} loss {mean:.4f} {args.log_every * args.batch / spent / 1e6:.2f} Mtok/s "
                f"shards fresh {feed.fresh} repeated {feed.repeated}",
                flush=True,
            )
    seconds = time.monotonic() - start
    return {
        "steps": step,
        "tokens": step * args.batch,
        "seconds": round(seconds),
        "fresh_shards": feed.fresh,
        "repeated_shards": feed.repeated,
        "optimizer": args.optimizer,
    }


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="from the start of the script to the end of training"
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=HERE.parents[1] / "core/zif/bundled", help="folder of its two files"
    )
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=131072, help="tokens a step")
    parser.add_argument("--shard-documents", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--score", type=int, default=100, metavar="CASES", help="cases a task to score at the end; 0: none"
    )
    args = parser.parse_args()

    context = mp.get_context("spawn")
    shards = context.Queue(maxsize=64)
    workers = [
        context.Process(
            target=produce,
            daemon=True,
            args=(str(args.tokenizer / "tokenizer.json"), args.seed * 1000 + i, args.shard_documents, shards),
        )
        for i in range(args.workers)
    ]
    for worker in workers:
        worker.start()

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model(Shape()).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}", flush=True)
    figures = train(model, Feed(shards, args.batch, device), args, device, began)
    for worker in workers:
        worker.terminate()

    args.out.mkdir(parents=True, exist_ok=True)
    export(model, args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.tokenizer / name, args.out / name)
    (args.out / "training.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(json.dumps(figures), flush=True)
    if args.score:
        command = [
            sys.executable,
            str(HERE / "score.py"),
            "--hf",
            str(args.out),
            "--device",
            device.type,
            "--dtype",
            "bfloat16",
            "--per-task",
            str(args.score),
        ]
        subprocess.run([*command, "--json-file", str(args.out / "score.json")], check=True)
    # Leaves at once: the feeding thread waits on a queue that nobody fills any more.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
