"""transformers' generate: one static batch, padded on the left, until the longest answer is done."""

from __future__ import annotations

import hf
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from work import Setting, requests, serve


def system(s: Setting):
    torch.set_num_threads(s.threads)
    torch.manual_seed(s.seed)
    model = transformers.AutoModelForCausalLM.from_config(hf.config()).eval()
    prompts = [ids for ids, _ in requests(s)]
    longest, most = max(map(len, prompts)), max(count for _, count in requests(s))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = dict(attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)

    def batch(count: int = most) -> None:
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=count, min_new_tokens=count, **options)
        assert made.shape == (len(prompts), longest + count)

    batch(2)
    return {"batch": batch}, model.num_parameters()


if __name__ == "__main__":
    serve(system)
