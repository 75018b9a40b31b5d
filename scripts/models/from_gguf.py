"""A Llama in a GGUF file, as llama.cpp converts one: its numbers and its tokenizer as a plain transformers directory.

Weights are dequantized by gguf-py. transformers reads such a file too, but counts the model as quantized and does
not save it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.common.errors import UserError
from scripts.common.files import write_json
from scripts.data.encoding import TOKENIZER
from scripts.models.architecture import measured, skeleton
from scripts.models.fetch import CONFIG

if TYPE_CHECKING:
    from numpy import ndarray
    from tokenizers import AddedToken, Tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
_LLAMA = "llama"
_OF_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OF_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_NOT_READ = ("rope.scaling.type", "expert_count", "attention.sliding_window")
"""Fields that make another model of a Llama, unless they say that there is none."""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
"""Types of tokens in GGUF; the others are unused ones and bytes."""
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_SPACE = "▁"


class Gguf:
    """The fields and tensors of a file.

    Args:
        path: of the file.
        where: what a sentence calls it.

    Raises:
        UserError: it is no GGUF, or holds no plain Llama.
    """

    def __init__(self, path: Path, where: object) -> None:
        from gguf import GGUFReader

        self.where = where
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise UserError(f"{where}: cannot be read as GGUF ({error})") from error
        if (kind := self.value("general.architecture")) != _LLAMA:
            raise UserError(f"{where}: is a GGUF of the architecture {kind!r}; {_LLAMA!r} is the one that is read")
        for name in _NOT_READ:
            if (found := self.value(f"{_LLAMA}.{name}")) not in (None, 0, "none"):
                raise UserError(
                    f"{where}: its {_LLAMA}.{name} is {found!r}; a Llama without it is the one that is read"
                )

    def value(self, key: str, otherwise: Any = None) -> Any:
        """What a field says."""
        field = self._reader.fields.get(key)
        return otherwise if field is None else field.contents()

    def of_llama(self, key: str, otherwise: Any = None) -> Any:
        """What a field of the architecture says.

        Raises:
            UserError: there is none, and nothing is otherwise.
        """
        found = self.value(f"{_LLAMA}.{key}", otherwise)
        if found is None:
            raise UserError(f"{self.where}: has no field {_LLAMA}.{key}")
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors by their names in transformers, [rows, columns]."""
        return {_name(tensor.name): tuple(int(n) for n in reversed(tensor.shape)) for tensor in self._reader.tensors}

    def require_numbers(self) -> None:
        """Raises UserError where gguf-py cannot dequantize a tensor; of each a row is tried."""
        for tensor in self._reader.tensors:
            self._dequantized(tensor, tensor.data[:1])

    def tensors(self, config: Mapping[str, Any]) -> Iterator[tuple[str, "ndarray[Any, Any]"]]:
        """Name in transformers to weights in fp32, of a model of this config.json."""
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        for tensor in self._reader.tensors:
            weights = self._dequantized(tensor, tensor.data).astype("float32")
            name = _name(tensor.name)
            if count := heads.get(name.split(".")[-2]):
                # llama.cpp rotates neighbours of a head, transformers channels that are half a head apart
                rows, columns = weights.shape
                weights = weights.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            yield name, weights

    def _dequantized(self, tensor: Any, data: "ndarray[Any, Any]") -> "ndarray[Any, Any]":
        from gguf import dequantize

        try:
            found: ndarray[Any, Any] = dequantize(data, tensor.tensor_type)
        except NotImplementedError as error:
            kind = getattr(tensor.tensor_type, "name", tensor.tensor_type)
            raise UserError(f"{self.where}: {tensor.name} is in {kind}, which gguf-py cannot dequantize") from error
        return found


def _name(name: str) -> str:
    """A tensor's name in transformers; one that no Llama has stays as it is."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        return f"model.layers.{layer}.{_OF_LAYER[part]}.{kind}" if part in _OF_LAYER else name
    return f"{_OF_MODEL[stem]}.{kind}" if stem in _OF_MODEL else name


def architecture(gguf: Gguf) -> dict[str, Any]:
    """What ``config/data.lock`` has of it, see `scripts.components.models.LockedArchitecture`.

    Raises:
        UserError: its tensors are not those of a Llama of its fields, or cannot be dequantized.
    """
    config = read_config(gguf)
    network = skeleton(config, gguf.where)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if config["tie_word_embeddings"]:
        del expected["lm_head.weight"]
    found = gguf.shapes()
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        has, needs = (str(shapes.get(wrong[0], "missing")) for shapes in (found, expected))
        raise UserError(
            f"{gguf.where}: is no Llama of its own fields: {wrong[0]} is {has}, "
            f"{'which no Llama has' if needs == 'missing' else f'not {needs}'}"
        )
    gguf.require_numbers()
    return measured(network, gguf.where)


def read_config(gguf: Gguf) -> dict[str, Any]:
    """The config.json that its fields say."""
    shapes = gguf.shapes()
    if (embedding := shapes.get("model.embed_tokens.weight")) is None:
        raise UserError(f"{gguf.where}: has no token_embd.weight, so it holds no model (a vocabulary, perhaps)")
    hidden, heads = gguf.of_llama("embedding_length"), gguf.of_llama("attention.head_count")
    head_dim = gguf.of_llama("attention.key_length", hidden // heads)
    if (rotated := gguf.of_llama("rope.dimension_count", head_dim)) != head_dim:
        raise UserError(f"{gguf.where}: rotates {rotated} of the {head_dim} channels of a head; a Llama rotates all")
    ids = {name: gguf.value(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": gguf.of_llama("feed_forward_length"),
        "num_hidden_layers": gguf.of_llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.of_llama("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": embedding[0],
        "max_position_embeddings": gguf.of_llama("context_length"),
        "rms_norm_eps": _as_written(gguf.of_llama("attention.layer_norm_rms_epsilon")),
        "rope_theta": _as_written(gguf.of_llama("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
        "dtype": "float32",
    }


def _as_written(value: float) -> float:
    """The shortest number that is this one in fp32, in which the file has it: 1e-05, and not 9.999999747378752e-06."""
    from numpy import float32

    return float(str(float32(value)))


def write_model(gguf: Gguf, out: Path) -> None:
    """Writes config.json, safetensors in fp32 and the tokenizer."""
    from huggingface_hub import save_torch_state_dict
    from torch import from_numpy

    config = read_config(gguf)
    write_json(out / CONFIG, config)
    write_tokenizer(gguf, out)
    weights = {name: from_numpy(values.copy()) for name, values in gguf.tensors(config)}
    save_torch_state_dict(weights, out, metadata={"format": "pt"})


def write_tokenizer(gguf: Gguf, out: Path) -> None:
    """Writes tokenizer.json, and tokenizer_config.json with the special tokens and the chat template.

    Raises:
        UserError: its tokenizer is of a kind that is not read.
    """
    from tokenizers import processors

    pieces: list[str] = gguf.value("tokenizer.ggml.tokens") or []
    types: list[int] = gguf.value("tokenizer.ggml.token_type") or [_NORMAL] * len(pieces)
    kind, pre = gguf.value("tokenizer.ggml.model"), gguf.value("tokenizer.ggml.pre")
    if not pieces or kind not in ("llama", "gpt2"):
        raise UserError(f"{gguf.where}: has a tokenizer of the kind {kind!r}; 'llama' and 'gpt2' are read")
    special = {
        name: pieces[number]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (number := gguf.value(f"tokenizer.ggml.{key}_token_id")) is not None and number < len(pieces)
    }
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = (
        _sentencepiece(gguf, pieces, types, vocabulary) if kind == "llama" else _byte_level(gguf, vocabulary, str(pre))
    )
    tokenizer.add_special_tokens(_added(pieces, types, (_UNKNOWN, _CONTROL)))
    tokenizer.add_tokens(_added(pieces, types, (_USER_DEFINED,)))
    begins = gguf.value("tokenizer.ggml.add_bos_token", kind == "llama" or pre == "llama-bpe") and "bos" in special
    if begins:
        bos = special["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    tokenizer.save(str(out / TOKENIZER))
    configuration = {
        **{f"{name}_token": piece for name, piece in special.items()},
        "add_bos_token": bool(begins),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if template := gguf.value("tokenizer.chat_template"):
        configuration["chat_template"] = template
    write_json(out / TOKENIZER_CONFIG, configuration)


def _added(pieces: list[str], types: list[int], wanted: tuple[int, ...]) -> list["AddedToken"]:
    from tokenizers import AddedToken

    return [
        AddedToken(piece, special=kind != _USER_DEFINED, normalized=False)
        for piece, kind in zip(pieces, types, strict=True)
        if kind in wanted
    ]


def _byte_level(gguf: Gguf, vocabulary: dict[str, int], pre: str) -> "Tokenizer":
    """One like GPT-2's; `pre` is what llama.cpp calls the way in which it splits text into words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splits: dict[str, pre_tokenizers.PreTokenizer] = {
        "gpt-2": gpt2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }
    if pre not in splits:
        raise UserError(
            f"{gguf.where}: its tokenizer splits text as {pre!r} does; those that are read are {', '.join(splits)}"
        )
    merges = [tuple(merge.split(" ")) for merge in gguf.value("tokenizer.ggml.merges") or []]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = splits[pre]
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(gguf: Gguf, pieces: list[str], types: list[int], vocabulary: dict[str, int]) -> "Tokenizer":
    """One like Llama-2's: pieces are put together in the order of their scores, from any two that there are."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = gguf.value("tokenizer.ggml.scores") or [0.0] * len(pieces)
    merges = []
    for piece, kind, score in zip(pieces, types, scores, strict=True):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece))) if kind == _NORMAL else ()
        known = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(score, pair) for pair in known]
    merges.sort(key=lambda merge: -merge[0])
    unknown = next((piece for piece, kind in zip(pieces, types, strict=True) if kind == _UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [pair for _, pair in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = gguf.value("tokenizer.ggml.add_space_prefix", True)
    replaced = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Prepend(_SPACE)] if prefix else []), replaced])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer
