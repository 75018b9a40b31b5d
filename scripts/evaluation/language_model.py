"""The model as lm-eval sees it. Imports torch and lm-eval: only the harness imports this module."""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM, eval_logger
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from transformers import DynamicCache, PreTrainedTokenizerFast

from scripts.common.progress import Progress
from scripts.data.encoding import Encoding
from scripts.evaluation import memory
from scripts.evaluation.journal import Journal
from scripts.evaluation.noise import uniform
from scripts.evaluation.placement import device_name, free_bytes
from scripts.loading.hidden import last_hidden


class _Row(NamedTuple):
    """A text to be written: the tokens of its prompt, and which of the texts to that prompt it is.

    `occurrence` counts the items with the prompt, `sample` the texts to one item: so the first texts to an item are
    the same however many are asked for. `key` stands for all that the text depends on.
    """

    prompt: tuple[int, ...]
    occurrence: int
    sample: int
    key: str


class _Reading(NamedTuple):
    """A sequence that is read, for what the model expects at its last positions.

    Several requests may have the same: they differ in the last token of their continuation, which is not read.
    """

    ids: tuple[int, ...]
    scored: int  # positions, the most that a request asks of
    asked: list[tuple[str, list[int]]]  # the requests' keys and continuations

    @property
    def context(self) -> tuple[int, ...]:
        """What stands before the first scored position."""
        return self.ids[: -self.scored]


class _Answers:
    """What is asked, by keys that stand for all that the answers depend on. What the journal has is there already."""

    def __init__(
        self, keys: Iterable[str], unit: str, journal: Journal | None, progress: Callable[[str, int, int], Progress]
    ) -> None:
        keys = set(keys)
        self._journal = journal
        self.found: dict[str, Any] = {} if journal is None else {key: journal[key] for key in keys if key in journal}
        self._progress = progress(unit, len(keys), len(self.found))

    def keep(self, answers: Mapping[str, Any]) -> None:
        new = {key: answer for key, answer in answers.items() if key not in self.found}
        self.found |= new
        if self._journal is not None:
            self._journal.keep(new)
        self._progress.add(len(new))


def _key(*of: Any) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _silent(unit: str, total: int, done: int) -> Progress:
    return Progress("", unit, total, done, say=lambda _: None)


class LanguageModel(HFLM):  # type: ignore[misc]
    """lm-eval's model for transformers, without progress bars, and with its own loop for writing text.

    The loop of transformers goes on for a whole batch until its last row is done, and reads a prompt again for
    each of its samples. Here a row leaves the batch when it is done and samples share the prompt, which takes
    less than half the time (0.85 instead of 2.2 CPU-seconds for 4 programs to each of 100 problems).

    Tokens are those of the encoding, never of transformers' tokenizer, and begin as rows do. As many sequences go
    through the model together as fit (`scripts.evaluation.memory`); no answer depends on it, but for rounding.

    Args:
        model: the transformers model, on its device.
        seed: decides what is sampled, with the prompt and the number of the sample (`scripts.evaluation.noise`).
        as_rows: whether a text and what follows it become tokens as prompts and responses do in rows; else as lm-eval
            has it, as one text that is cut behind as many tokens as the first has alone.
        free: the bytes that sequences may take beside the model, now; of the model's device, unless given.
        journal: keeps answers of this model and encoding as they come; those that it has are not computed again.
        progress: makes what counts them, of their unit, how many there are, and how many the journal had.
    """

    def __init__(
        self,
        model: Any,
        encoding: Encoding,
        *,
        seed: int = 0,
        as_rows: bool = False,
        free: Callable[[], int] | None = None,
        journal: Journal | None = None,
        progress: Callable[[str, int, int], Progress] = _silent,
    ) -> None:
        self._encoding = encoding
        self._seed = seed
        self._as_rows = as_rows
        self._free = free or partial(free_bytes, model.device)
        self._journal = journal
        self._answers = partial(_Answers, journal=journal, progress=progress)
        self._shape = memory.Shape.of(model.config, model.dtype.itemsize)
        super().__init__(
            pretrained=model,
            # lm-eval wants one, and asks it for nothing but what stands here
            tokenizer=PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
                tokenizer_object=encoding.backend(),
                eos_token=encoding.token(encoding.eos),
                pad_token=encoding.token(encoding.pad),
            ),
            batch_size=sys.maxsize,  # batches are made here, of whatever there is
            prefix_token_id=encoding.before,
        )

    @property
    def eot_token_id(self) -> int:
        return self._encoding.eos

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """A text alone. What begins a document is lm-eval's prefix token, and a prompt gets its beginning below."""
        (ids,) = self._encoding.texts([string])
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._as_rows:
            return next(self._encoding.examples([context], [continuation]))
        first, second = super()._encode_pair(context, continuation)
        return [*self._encoding.prefix, *first], second

    def tok_decode(self, tokens: Sequence[int] | int, skip_special_tokens: bool = True) -> str:
        """What tokens that the model wrote add to their prompt, up to the eos token.

        lm-eval asks for the text of the eos token to stop at it. It has none: what looks like it is text.
        """
        if isinstance(tokens, int):
            return ""
        ids = list(tokens)
        (text,) = self._encoding.continuations(
            [ids[: ids.index(self.eot_token_id)] if self.eot_token_id in ids else ids]
        )
        return text

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Of each request's continuation its likelihood in nats, and whether it is what greedy decoding would write.

        As lm-eval has it, but for memory and time: logits are computed at the scored positions alone, and a context
        that several readings begin with is read once.
        """
        keys = [_key("likelihood", context, continuation) for _, context, continuation in requests]
        answers = self._answers(keys, "likelihoods")
        asked: defaultdict[tuple[int, ...], dict[str, list[int]]] = defaultdict(dict)
        for key, (_, context, continuation) in zip(keys, requests, strict=True):
            assert context
            assert 0 < len(continuation) <= self.max_length
            if key not in answers.found:
                asked[tuple((context + continuation)[-(self.max_length + 1) : -1])][key] = continuation
        if cut := sum(len(context) + len(continuation) > self.max_length + 1 for _, context, continuation in requests):
            eval_logger.warning(
                f"{cut} of {len(requests)} contexts lost their beginning: with what follows they have more than the "
                f"{self.max_length} tokens that the model can hold"
            )
        readings = [_Reading(ids, max(map(len, asks.values())), list(asks.items())) for ids, asks in asked.items()]
        counted = Counter(reading.context for reading in readings)
        shared = [reading for reading in readings if reading.context and counted[reading.context] > 1]
        alone = [reading for reading in readings if not reading.context or counted[reading.context] == 1]
        alone.sort(key=lambda reading: (-len(reading.ids), reading.ids))
        shared.sort(key=lambda reading: (-len(reading.context), reading.context, -reading.scored, reading.ids))
        most = max((reading.scored for reading in shared), default=0)
        for some, read, fit in (
            (alone, self._read, lambda first: self._sequences_that_fit(len(first.ids))),
            (
                shared,
                self._read_behind,
                lambda first: self._sequences_that_fit(len(first.context) + most, len(first.context)),
            ),
        ):
            keep = partial(self._keep_scores, answers, read)
            memory.in_batches(some, fit, keep, device_name(self.device))
        return [tuple(answers.found[key]) for key in keys]  # a journal has lists

    @staticmethod
    def _keep_scores(answers: _Answers, read: Callable[..., list[tuple[float, bool]]], some: list[_Reading]) -> None:
        keys = [key for reading in some for key, _ in reading.asked]
        answers.keep(dict(zip(keys, read(some), strict=True)))

    def _sequences_that_fit(self, length: int, kept: int = 0) -> int:
        return memory.sequences_scored(self._shape, self._free(), length, kept)

    @torch.inference_mode()
    def _read(self, readings: Sequence[_Reading]) -> list[tuple[float, bool]]:
        """What `_loglikelihood_tokens` returns, of all requests of the readings."""
        ids = _padded_right([reading.ids for reading in readings])
        ends = [row * ids.shape[1] + len(reading.ids) for row, reading in enumerate(readings)]
        return self._scores(readings, ends, ids.to(self.device))  # attention is causal: what is behind needs no mask

    @torch.inference_mode()
    def _read_behind(self, readings: Sequence[_Reading]) -> list[tuple[float, bool]]:
        """The same of readings of which several have a context in common, which is not empty."""
        contexts = {reading.context: number for number, reading in enumerate({r.context: r for r in readings}.values())}
        ids, mask = self._padded_left(list(contexts))
        cache = DynamicCache(config=self.model.config)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        self.model.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )
        row_of = torch.tensor([contexts[reading.context] for reading in readings], device=self.device)
        cache.batch_select_indices(row_of)
        tails = _padded_right([reading.ids[-reading.scored :] for reading in readings])
        ends = [row * tails.shape[1] + reading.scored for row, reading in enumerate(readings)]
        mask = torch.nn.functional.pad(mask[row_of], (0, tails.shape[1]), value=1)
        places = (mask.cumsum(-1) - 1)[:, ids.shape[1] :].clamp(max=self.max_length - 1)  # of padding: any
        behind = {"attention_mask": mask, "position_ids": places, "past_key_values": cache, "use_cache": True}
        return self._scores(readings, ends, tails.to(self.device), **behind)

    def _scores(
        self, readings: Sequence[_Reading], ends: Sequence[int], ids: torch.Tensor, **named: Any
    ) -> list[tuple[float, bool]]:
        """`ends`: the flat position in `ids` behind the last token of each reading."""
        asks = [(end, continuation) for end, r in zip(ends, readings, strict=True) for _, continuation in r.asked]
        positions = torch.tensor([end - len(c) + offset for end, c in asks for offset in range(len(c))])
        targets = torch.tensor([token for _, continuation in asks for token in continuation])
        hidden, head = last_hidden(self.model, ids, positions.to(self.device), **named)
        many = max(1, memory.LOGITS_AT_ONCE // self._shape.vocab_size)
        values, likeliest = [], []
        for states, wanted in zip(torch.split(hidden, many), torch.split(targets.to(self.device), many), strict=True):
            logits = head(states)
            logs = torch.log_softmax(logits.float(), dim=-1)
            values.append(logs.gather(-1, wanted[:, None])[:, 0])
            likeliest.append(logits.argmax(-1) == wanted)
        sizes = [len(continuation) for _, continuation in asks]
        sums = [float(part.sum()) for part in torch.split(torch.cat(values).double().cpu(), sizes)]
        greedy = [bool(part.all()) for part in torch.split(torch.cat(likeliest).cpu(), sizes)]
        return list(zip(sums, greedy, strict=True))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes to each prompt, up to the first stop sequence.

        A prompt that leaves no room for the new tokens loses its beginning, as in lm-eval.
        """
        keys, groups = self._grouped(requests)
        answers = self._answers(keys, "answers")
        for settings, rows in groups:
            rows = [row for row in rows if row.key not in answers.found]
            rows.sort(key=lambda row: (-len(row.prompt), row))
            new = settings.pop("max_gen_toks")
            memory.in_batches(
                rows,
                partial(self._rows_that_fit, new),
                partial(self._write, answers=answers, new=new, **settings),
                device_name(self.device),
            )
        return [answers.found[key] for key in keys]

    def remember(self, requests: list[Any], texts: Sequence[str]) -> None:
        """Puts texts into the journal that this model wrote to these requests before, the first ones of each item."""
        assert self._journal is not None
        keys, _ = self._grouped(requests)
        self._journal.keep(dict(zip(keys, texts, strict=True)))

    def _grouped(self, requests: list[Any]) -> tuple[list[str], list[tuple[dict[str, Any], list[_Row]]]]:
        """The key of each request's text; and the rows, by the settings that they are written with."""
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(number)
        keys = [""] * len(requests)
        groups = []
        for text, numbers in alike.items():
            settings = normalize_gen_kwargs(json.loads(text), self.max_gen_toks)
            rows = self._rows([requests[number] for number in numbers], settings)
            for number, row in zip(numbers, rows, strict=True):
                keys[number] = row.key
            groups.append((settings, rows))
        return keys, groups

    def _rows(self, requests: list[Any], settings: dict[str, Any]) -> list[_Row]:
        """One for each request. lm-eval repeats a request, the very object, for each text that it asks for."""
        longest = self.max_length - settings["max_gen_toks"]
        assert longest > 0
        prompts = self._encoding.prompts([request.args[0] for request in requests])
        items: Counter[tuple[int, ...]] = Counter()
        occurrences: dict[int, int] = {}
        texts: Counter[int] = Counter()
        rows = []
        for request, ids in zip(requests, prompts, strict=True):
            prompt = tuple(ids[-longest:])
            item = id(request)
            if item not in occurrences:
                occurrences[item] = items[prompt]
                items[prompt] += 1
            which = (prompt, occurrences[item], texts[item])
            texts[item] += 1
            rows.append(_Row(*which, _key("text", *which, settings, self._seed)))
        return rows

    def _rows_that_fit(self, new: int, longest: _Row) -> int:
        prompt = len(longest.prompt)
        return memory.rows_written(self._shape, self._free(), prompt, prompt + new)

    def _write(
        self,
        rows: Sequence[_Row],
        answers: _Answers,
        new: int,
        until: list[str],
        do_sample: bool,
        temperature: float,
        **sampling: float,
    ) -> None:
        """The texts of one batch, kept as they are done; see `_continue`."""
        prompts, mask = self._padded_left([row.prompt for row in rows])
        noise = None
        if do_sample:
            noise = torch.from_numpy(
                np.stack([uniform(self._seed, row.prompt, row.sample, new, row.occurrence) for row in rows])
            )
            sampling["temperature"] = temperature

        def keep(done: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
            texts = [postprocess_generated_text(self.tok_decode(ids), until, None) for ids in tokens]
            answers.keep({rows[number].key: text for number, text in zip(done, texts, strict=True)})

        self._continue(prompts, new, until, keep, attention_mask=mask, noise=noise, **sampling)

    def _padded_left(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and which of them are no padding, both [rows, longest], on the device."""
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
        ids = pad([torch.tensor(row) for row in rows], padding_value=self._encoding.pad)
        mask = pad([torch.ones(len(row), dtype=torch.int64) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def _continue(
        self,
        context: torch.Tensor,
        steps: int,
        stop: list[str],
        done: Callable[[list[int], list[list[int]]], None],
        *,
        attention_mask: torch.Tensor,
        noise: torch.Tensor | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        """Continues left-padded prompts.

        Args:
            context, attention_mask: token ids and which of them are no padding, [rows, prompt].
            steps: tokens that are written to a row at most.
            stop: a row is done when one of these is in what was written, or the eos token.
            done: is told the numbers of rows that are done, and what was written to each. Text may go on behind a stop
                sequence within the last token: lm-eval cuts it.
            noise: float32 [rows, steps], uniform in [0, 1): decides each row's tokens, sampled from the nucleus of mass
                `top_p` at `temperature`. Without it the likeliest are taken.
        """
        rows = len(context)
        written = context.new_full((rows, steps), self._encoding.pad)
        noise = None if noise is None else noise.to(context.device)
        prompts, prompt_of_row = torch.unique(torch.stack([context, attention_mask]), dim=1, return_inverse=True)
        ids, mask = prompts
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits[prompt_of_row, -1]
        cache.batch_select_indices(prompt_of_row)
        mask, positions = mask[prompt_of_row], positions[prompt_of_row, -1:]

        # A token is at least one byte, so no stop sequence is spread over more tokens than it has bytes.
        stop = [sequence for sequence in stop if sequence]
        lookback = max((len(sequence.encode()) for sequence in stop), default=0)
        running = torch.arange(rows, device=context.device)
        for step in range(steps):
            if noise is None:
                tokens = logits.argmax(-1)
            else:
                tokens = sample_nucleus(logits, temperature, top_p, noise[running, step])
            written[running, step] = tokens
            tails = self._encoding.continuations(written[running, max(0, step + 1 - lookback) : step + 1].tolist())
            goes_on = torch.tensor([not any(text in tail for text in stop) for tail in tails]).to(context.device)
            goes_on &= tokens != self.eot_token_id
            if step + 1 == steps:
                goes_on[:] = False
            if not goes_on.all():
                ended = running[~goes_on]
                done(ended.tolist(), written[ended, : step + 1].tolist())
                if not goes_on.any():
                    break
                running, tokens, mask, positions = (x[goes_on] for x in (running, tokens, mask, positions))
                cache.batch_select_indices(goes_on.nonzero()[:, 0])
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            positions = positions + 1
            logits = self.model(
                input_ids=tokens[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache
            ).logits[:, -1]


def _padded_right(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids [rows, longest]."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def sample_nucleus(logits: torch.Tensor, temperature: float, top_p: float, noise: torch.Tensor) -> torch.Tensor:
    """One token for each row, from the fewest likeliest tokens that have the mass `top_p` together.

    The inverse of the cumulative distribution at `noise` (Holtzman et al. 2020, arXiv:1904.09751, section 3.1).

    Args:
        logits: [rows, vocabulary].
        noise: uniform in [0, 1), [rows].
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    # The nucleus seldom has more tokens than this, and sorting the whole vocabulary costs more than the model.
    likeliest, tokens = probabilities.topk(min(64, probabilities.shape[-1]), dim=-1)
    if (likeliest.sum(-1) < top_p).any():
        likeliest, tokens = probabilities.sort(dim=-1, descending=True)
    mass_before = likeliest.cumsum(-1) - likeliest
    cumulative = (likeliest * (mass_before < top_p)).cumsum(-1)
    index = (cumulative <= noise[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    # Rounding must not lead out of the nucleus.
    last = (mass_before < top_p).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, torch.minimum(index, last))[:, 0]
