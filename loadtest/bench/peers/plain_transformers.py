"""Plain transformers as a contestant: a JSON line of token id lists in, a JSON line of scores out."""

from __future__ import annotations

import json
import sys


def main(folder: str) -> None:
    """Answer until the input ends. One padded batch, bf16, as the documentation of transformers does it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    pad = model.config.pad_token_id
    for line in sys.stdin:
        sequences = json.loads(line)
        width = max(map(len, sequences))
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids in sequences])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences])
        with torch.inference_mode():
            scores = model(input_ids=ids, attention_mask=mask).logits[:, 0]
        print(json.dumps(scores.float().tolist()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
