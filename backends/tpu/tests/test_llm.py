"""The whole of zif on this backend, as a user calls it."""

from __future__ import annotations

from zif import LLM, SamplingParams

PROMPTS = ["What is 3 plus 4?", "The capital of France is", "Hello"]


def answers(device: str, *options: str) -> list[str]:
    with LLM(
        device=device, device_opt=options, progress=False, max_running_requests=4, chunked_prefill_size=32,
        context_length=64, dtype="float32",
    ) as llm:  # fmt: skip
        found: list[str] = []
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature, seed=3, max_tokens=8, ignore_eos=True)
            found += [completion.text for completion in llm.generate(PROMPTS, params)]
        return found


def test_the_bundled_model_says_what_it_says_on_cpu() -> None:
    assert answers("tpu", "tpu.platform=cpu") == answers("cpu")
