"""vLLM on a CPU, its engine in this process: the requests come at once, and are batched continuously over pages."""

from __future__ import annotations

import os
import sys
import tempfile

from work import CONTEXT, Setting, requests, serve


def system(s: Setting):
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }  # read when it is imported
    sys.stdout = sys.stderr  # it logs there
    import hf
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    import vllm  # pyright: ignore[reportMissingImports]

    torch.manual_seed(s.seed)
    model = transformers.AutoModelForCausalLM.from_config(hf.config())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        engine = vllm.LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=CONTEXT,
            max_num_seqs=32,
            seed=s.seed,
        )
    prompts = [{"prompt_token_ids": ids} for ids, _ in requests(s)]
    settings = [
        vllm.SamplingParams(max_tokens=count, ignore_eos=True, detokenize=False, seed=None)
        for _, count in requests(s)
    ]

    def batch() -> None:
        engine.reset_prefix_cache()
        made = engine.generate(prompts, settings, use_tqdm=False)
        for answer, (_, count) in zip(made, requests(s), strict=True):
            assert len(answer.outputs[0].token_ids) == count

    batch()
    return {"batch": batch}, model.num_parameters()


if __name__ == "__main__":
    serve(system)
