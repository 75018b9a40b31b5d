"""Rebuilds of published tokenizers: their normalizers, splits, decoders, post-processors, special tokens and
configuration files as their repositories have them, around small vocabularies learned from this project's licence."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

ROOT = Path(__file__).resolve().parents[1]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"qwen2": _WORDS + r"\p{N}" + _REST, "llama-3": _WORDS + r"\p{N}{1,3}" + _REST}


@cache
def corpus() -> tuple[str, ...]:
    """Text that stays as it is: with other vocabularies, what tests train would come out otherwise."""
    return tuple((ROOT / "LICENSE").read_text().splitlines())


def learned(split: pre_tokenizers.PreTokenizer, size: int, alphabet: Sequence[str] = ()) -> tuple[list[str], Any]:
    """The pieces of a vocabulary in their order, and the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return pieces, [tuple(merge) for merge in model["merges"]]


def numbered(*pieces: str) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def written(out: Path, tokenizer: Tokenizer, **files: Any) -> Path:
    """Saves a tokenizer and what its files say; a config.json that is there says the rest of a model."""
    tokenizer.save(str(out / "tokenizer.json"))
    for name, content in files.items():
        path = out / f"{name}.json"
        there = json.loads(path.read_text()) if name == "config" and path.exists() else None
        path.write_text(json.dumps(there | content if there else content))
    return out


def _named(content: str) -> dict[str, Any]:
    """A special token as transformers 4 wrote it."""
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "single_word": False}


def _sentencepiece(first: Sequence[str], merges_of_spaces: str) -> tuple[dict[str, int], Any]:
    pieces, merges = learned(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), 700)
    spaces = [("▁", "▁"), ("▁▁", "▁▁")]
    joined = [left + right for left, right in spaces]
    # Llama-2 joins spaces last of all, so that the last of several begins the next word; Gemma joins them first
    merges = [*merges, *spaces] if merges_of_spaces == "last" else [*spaces, *merges]
    return numbered(*first, *BYTES, *joined, *map(chr, range(33, 127)), *pieces), merges


def llama_2(out: Path, *more: str, spaces: str = "last") -> Path:
    """`more`: special tokens of a finetune. `spaces`: whether several spaces are joined "last", or "first"."""
    vocabulary, merges = _sentencepiece(("<unk>", "<s>", "</s>"), spaces)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>", *more))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    configuration = {
        **{"add_bos_token": True, "add_eos_token": False, "bos_token": _named("<s>"), "eos_token": _named("</s>")},
        **{"unk_token": _named("<unk>"), "pad_token": None, "legacy": False, "tokenizer_class": "LlamaTokenizer"},
    }
    return written(out, tokenizer, tokenizer_config=configuration)


def llama_2_chatml(out: Path) -> Path:
    """A finetune of Llama-2 that ends turns with <|im_end|>, while </s> stays in the vocabulary."""
    llama_2(out, "<|im_start|>", "<|im_end|>")
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    return written(
        out,
        Tokenizer.from_file(str(out / "tokenizer.json")),
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **names},
        special_tokens_map=names,
    )


def gemma(out: Path) -> Path:
    first = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "<table>")
    vocabulary, merges = _sentencepiece(first, "first")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(special(*first[:6]))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("\n\n", "<table>")])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    configuration = {
        **{"add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>", "eos_token": "<eos>"},
        **{"unk_token": "<unk>", "pad_token": "<pad>", "tokenizer_class": "GemmaTokenizer"},
    }
    return written(out, tokenizer, tokenizer_config=configuration)


def _byte_level(
    split: pre_tokenizers.PreTokenizer, first: Sequence[str] = (), ignore_merges: bool = False
) -> Tokenizer:
    pieces, merges = learned(split, 900, sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = Tokenizer(models.BPE(numbered(*first, *pieces), merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split(family: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def smollm2(out: Path) -> Path:
    """Of the instruct model: its chat's tokens are bos and eos, and it puts nothing before a text."""
    first = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = _byte_level(pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]), first)
    tokenizer.add_special_tokens(special(*first))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    configuration = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>", **names}
    return written(out, tokenizer, tokenizer_config=configuration | {"clean_up_tokenization_spaces": False})


def gpt2(out: Path) -> Path:
    """Its tokenizer_config.json names no special token, its config.json gives their number."""
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens(special("<|endoftext|>"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    number = tokenizer.token_to_id("<|endoftext|>")
    numbers = {"bos_token_id": number, "eos_token_id": number}
    return written(out, tokenizer, tokenizer_config={"model_max_length": 1024}, config=numbers)


def qwen2(out: Path) -> Path:
    tokenizer = _byte_level(_split("qwen2"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    configuration = {
        **{"add_prefix_space": False, "bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        **{"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False},
    }
    return written(out, tokenizer, tokenizer_config=configuration)


def llama_3(out: Path) -> Path:
    tokenizer = _byte_level(_split("llama-3"), ignore_merges=True)
    tokenizer.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin]),
        ]
    )
    configuration = {
        **{"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "clean_up_tokenization_spaces": True},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return written(out, tokenizer, tokenizer_config=configuration)


def small(out: Path, **files: Any) -> Path:
    """A tokenizer of letters with two tokens that could end a text."""
    tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "<|im_end|>": 2, "a": 3, "b": 4}, []))
    tokenizer.add_special_tokens(special("<s>", "</s>", "<|im_end|>"))
    tokenizer.decoder = decoders.Fuse()
    return written(out, tokenizer, **files)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llama-2": llama_2,
    "llama-2-chatml": llama_2_chatml,
    "smollm2": smollm2,
    "gpt-2": gpt2,
    "qwen2": qwen2,
    "llama-3": llama_3,
    "gemma": gemma,
}
BEGIN_AND_END = {
    "llama-2": (["<s>"], "</s>"),
    "llama-2-chatml": (["<s>"], "<|im_end|>"),
    "smollm2": ([], "<|im_end|>"),
    "gpt-2": ([], "<|endoftext|>"),
    "qwen2": ([], "<|endoftext|>"),
    "llama-3": (["<|begin_of_text|>"], "<|end_of_text|>"),
    "gemma": (["<bos>"], "<eos>"),
}
"""What the makers' own tokenizer puts before a text, and which token they say ends one."""


def small_files() -> dict[str, bytes]:
    """Those of a tokenizer, as a repository of the hub has them."""
    with TemporaryDirectory() as directory:
        small(Path(directory), tokenizer_config={"eos_token": "</s>"})
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def directories(root: Path) -> Iterator[tuple[str, Path]]:
    for name, make in FAMILIES.items():
        (root / name).mkdir()
        yield name, make(root / name)


_CHATML = (
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    '{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}'
    '{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}{{- "Today Date: " + date_string + "\n\n" }}'
    '{{- system_message }}{{- "<|eot_id|>" }}{%- for message in messages %}'
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
_PHI_3 = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def _smollm2_system(text: str) -> str:
    return (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        f"{{{{ '<|im_start|>system\n{text}<|im_end|>\n' }}}}{{% endif %}}{_CHATML}"
    )


CHATS: dict[str, tuple[str, str, list[str], str]] = {
    "smollm2": ("smollm2", _smollm2_system("You are a helpful AI assistant named SmolLM"), [], "<|im_end|>"),
    "qwen2.5": ("qwen2", _smollm2_system("You are Qwen, created by Alibaba Cloud."), [], "<|im_end|>"),
    "chatml": ("llama-2-chatml", "{% for message in messages %}" + _CHATML, [], "<|im_end|>"),
    "llama-2": ("llama-2", _LLAMA_2, [], "</s>"),
    "llama-3": ("llama-3", _LLAMA_3, ["<|start_header_id|>", "<|end_header_id|>"], "<|eot_id|>"),
    "gemma": ("gemma", _GEMMA, [], "<end_of_turn>"),
    "phi-3": ("llama-2", _PHI_3, ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], "<|end|>"),
    "zephyr": ("llama-2", _ZEPHYR, [], "</s>"),
}
"""Published chat templates: the family of the tokenizer, the template (without tools), special tokens beside those of
the family, and the token that ends a turn. Those of Llama and Gemma trim messages."""


def chat(out: Path, name: str) -> Path:
    """The tokenizer of a chat model; half of them have the template in a file of its own, as newer ones do."""
    family, template, more, _ = CHATS[name]
    FAMILIES[family](out)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    # Phi-3's take the spaces behind them
    strips = {"rstrip": True} if name == "phi-3" else {}
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False, **strips) for text in more])
    tokenizer.save(str(out / "tokenizer.json"))
    if list(CHATS).index(name) % 2:
        (out / "chat_template.jinja").write_text(template)
    else:
        path = out / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return out
