"""Computes the logits of a Llama in a GGUF file with transformers, alone and with each of some PEFT adapters.

Usage: peft_logits.py MODEL.gguf SEQUENCES FOLDER...
SEQUENCES is JSON, a list of lists of token ids. Each FOLDER holds an adapter, which PEFT saves again in FOLDER/saved.
Prints JSON: {"base": LOGITS, "adapters": [LOGITS, ...]}, where LOGITS is [tokens][vocabulary] for each sequence.
"""

import json
import os
import pathlib
import sys

# One thread, no accelerator and no network: the same numbers on every machine, and nothing but the given files.
os.environ.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM


def logits(model, sequences):
    with torch.inference_mode():
        return [model(torch.tensor([tokens])).logits[0].tolist() for tokens in sequences]


def main(gguf, sequences, folders):
    torch.set_num_threads(1)
    gguf = pathlib.Path(gguf)
    # transformers undoes GGUF's order of the query and key rows, and turns every tensor into F32.
    base = LlamaForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    answer = {"base": logits(base, sequences), "adapters": []}
    for folder in folders:
        adapted = PeftModel.from_pretrained(base, folder).eval()
        answer["adapters"].append(logits(adapted, sequences))
        adapted.save_pretrained(pathlib.Path(folder) / "saved")
        base = adapted.unload()
    if logits(base, sequences) != answer["base"]:
        sys.exit("the last adapter was not unloaded: the logits of the adapters are not comparable")
    json.dump(answer, sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:])
