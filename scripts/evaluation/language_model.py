"""The model as lm-eval sees it. Imports torch and lm-eval: only the harness imports this module."""

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate, islice, takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM, eval_logger
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from transformers import DynamicCache, PreTrainedTokenizerFast

from scripts.common.progress import Progress
from scripts.components.memory import JOINING, LOGITS_AT_ONCE, READ_AT_ONCE
from scripts.components.shape import Shape
from scripts.data.encoding import Encoding
from scripts.evaluation import memory
from scripts.evaluation.columns import SPARE, Columns
from scripts.evaluation.journal import Journal
from scripts.evaluation.noise import uniform
from scripts.evaluation.placement import device_name, free_bytes
from scripts.loading.hidden import last_hidden
from scripts.training.parallel import ALONE, Group


class _Row(NamedTuple):
    """A text to be written: the tokens of its prompt, and which of the texts to that prompt it is.

    `occurrence` counts the items with the prompt, `sample` the texts to one item: so the first texts to an item are
    the same however many are asked for. `key` stands for all that the text depends on.
    """

    prompt: tuple[int, ...]
    occurrence: int
    sample: int
    new: int  # tokens that are written at most
    key: str

    @property
    def longest(self) -> int:
        """Tokens, the prompt's included."""
        return len(self.prompt) + self.new


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


@dataclass
class _Text:
    """A text that is being written: its row, what decides its tokens, and those that it has."""

    row: _Row
    noise: Sequence[float]
    ids: list[int] = field(default_factory=list)


class _Read(NamedTuple):
    """Prompts that were read: the number of each, their keys and values, and their logits [prompts, vocabulary]."""

    numbers: Mapping[tuple[int, ...], int]
    cache: DynamicCache
    logits: torch.Tensor


def _is_of(prompts: Mapping[tuple[int, ...], int], row: _Row) -> bool:
    return row.prompt in prompts


class _Answers:
    """What is asked, by keys that stand for all that the answers depend on. What a journal has is there already.

    Args:
        asked: to each key what is read for it: of several processes one answers all that is asked behind a text.
        unit: what answers are called, in the plural.
        group: the processes; each has a journal of its own.
    """

    def __init__(
        self,
        asked: Mapping[str, tuple[int, ...]],
        unit: str,
        journal: Journal | None,
        progress: Callable[[str, int, int], Progress],
        group: Group = ALONE,
    ) -> None:
        self._journal = journal
        self._group = group
        self._new: dict[str, Any] = {}
        self.found: dict[str, Any] = {}
        for known in group.together(lambda: {key: journal[key] for key in asked if key in journal} if journal else {}):
            self.found |= known
        left = sorted({text for key, text in asked.items() if key not in self.found})
        mine = {*left[group.rank :: group.world]}
        self._mine = {key for key, text in asked.items() if key not in self.found and text in mine}
        self._progress = progress(unit, len(self._mine) + len(self.found), len(self.found))

    def is_left(self, key: str) -> bool:
        """Whether this process is to answer it, and has not yet."""
        return key in self._mine and key not in self.found

    def gather(self) -> None:
        """Waits for what the other processes have answered."""
        for new in self._group.together(lambda: self._new):
            self.found |= new

    def keep(self, answers: Mapping[str, Any]) -> None:
        new = {key: answer for key, answer in answers.items() if key not in self.found}
        self.found |= new
        self._new |= new
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
    each of its samples. Here a row that is done gives its place to one that waits, and samples share the prompt
    (`benchmarks.evaluation`).

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
        group: the processes that share what is asked; all of them are asked the same.
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
        group: Group = ALONE,
    ) -> None:
        self._encoding = encoding
        self._seed = seed
        self._as_rows = as_rows
        self._free = free or partial(free_bytes, model.device)
        self._journal = journal
        self._answers = partial(_Answers, journal=journal, progress=progress, group=group)
        self._shape = Shape.of(model.config, model.dtype.itemsize)
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
        """What tokens that the model wrote add to their prompt, up to one that ends a text.

        lm-eval asks for the text of the eos token to stop at it. It has none: what looks like it is text.
        """
        if isinstance(tokens, int):
            return ""
        ids = list(takewhile(lambda number: number not in self._encoding.ends, tokens))
        (text,) = self._encoding.continuations([ids])
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
        contexts = (tuple(context) for _, context, _ in requests)
        answers = self._answers(dict(zip(keys, contexts, strict=True)), "likelihoods")
        asked: defaultdict[tuple[int, ...], dict[str, list[int]]] = defaultdict(dict)
        for key, (_, context, continuation) in zip(keys, requests, strict=True):
            assert context
            assert 0 < len(continuation) <= self.max_length
            if answers.is_left(key):
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
        answers.gather()
        return [tuple(answers.found[key]) for key in keys]  # a journal has lists

    @staticmethod
    def _keep_scores(
        answers: _Answers, read: Callable[..., list[tuple[float, bool]]], readings: Sequence[_Reading], many: int
    ) -> int:
        some = readings[:many]
        keys = [key for reading in some for key, _ in reading.asked]
        answers.keep(dict(zip(keys, read(some), strict=True)))
        return len(some)

    def _sequences_that_fit(self, length: int, kept: int = 0) -> int:
        many = memory.sequences_scored(self._shape, self._free(), length, kept)
        return min(many, max(1, memory.CPU_TOKENS // length)) if self.device.type == "cpu" else many

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
        most = memory.CPU_LOGITS if self.device.type == "cpu" else LOGITS_AT_ONCE
        many = max(1, most // self._shape.vocab_size)
        values, likeliest = [], []
        for states, wanted in zip(torch.split(hidden, many), torch.split(targets.to(self.device), many), strict=True):
            logits = head(states)
            logs = torch.log_softmax(logits.float(), dim=-1)
            values.append(logs.gather(-1, wanted[:, None])[:, 0])
            likeliest.append(logits.argmax(-1) == wanted)
        starts = [0, *accumulate(len(continuation) for _, continuation in asks[:-1])]
        sums = np.add.reduceat(torch.cat(values).double().cpu().numpy(), starts)
        greedy = np.logical_and.reduceat(torch.cat(likeliest).cpu().numpy(), starts)
        return list(zip(sums.tolist(), greedy.tolist(), strict=True))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes to each prompt, up to the first stop sequence.

        A prompt that leaves no room for the new tokens (`max_gen_toks`) loses its beginning, as in lm-eval. With
        `max_length`, transformers' name for the tokens of prompt and text together, a text has what its prompt leaves.
        """
        keys, groups = self._grouped(requests)
        answers = self._answers({row.key: row.prompt for _, rows in groups for row in rows}, "answers")
        for settings, rows in groups:
            rows = [row for row in rows if answers.is_left(row.key)]
            rows.sort(key=lambda row: (-len(row.prompt), row))
            memory.in_batches(
                rows,
                self._rows_that_fit,
                partial(self._write, answers=answers, **settings),
                device_name(self.device),
            )
        answers.gather()
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
            limits = {"new": settings.pop("max_gen_toks"), "whole": settings.pop("max_length", None)}
            rows = self._rows([requests[number] for number in numbers], settings, **limits)
            for number, row in zip(numbers, rows, strict=True):
                keys[number] = row.key
            groups.append((settings, rows))
        return keys, groups

    def _rows(self, requests: list[Any], settings: dict[str, Any], new: int, whole: int | None) -> list[_Row]:
        """One for each request. lm-eval repeats a request, the very object, for each text that it asks for."""
        longest = self.max_length - new if whole is None else whole - 1
        assert 0 < longest < self.max_length
        asked = list(dict.fromkeys(request.args[0] for request in requests))
        prompts = {text: tuple(ids[-longest:]) for text, ids in zip(asked, self._encoding.prompts(asked), strict=True)}
        items: Counter[tuple[int, ...]] = Counter()
        occurrences: dict[int, int] = {}
        texts: Counter[int] = Counter()
        rows = []
        for request in requests:
            prompt = prompts[request.args[0]]
            count = new if whole is None else whole - len(prompt)
            item = id(request)
            if item not in occurrences:
                occurrences[item] = items[prompt]
                items[prompt] += 1
            which = (prompt, occurrences[item], texts[item])
            texts[item] += 1
            rows.append(_Row(*which, count, _key("text", *which, count, settings, self._seed)))
        return rows

    def _rows_that_fit(self, longest: _Row) -> int:
        rows = memory.rows_written(self._shape, self._free(), len(longest.prompt), longest.longest + SPARE)
        return min(rows, memory.CPU_ROWS) if self.device.type == "cpu" else rows

    @torch.inference_mode()
    def _write(
        self,
        rows: Sequence[_Row],
        places: int,
        answers: _Answers,
        until: list[str],
        do_sample: bool,
        temperature: float,
        top_p: float = 1.0,
    ) -> int:
        """Writes texts, some at a time: those that are done are kept, and give their places to others.

        Args:
            rows: of which the answers are not there yet; those with the longest prompts first.
            places: how many are written at a time.
            until: a text is done when one of these is in it, or a token that ends one.
            do_sample, temperature, top_p: whether tokens are sampled, and how; else the likeliest are taken.

        Returns:
            How many rows there are.
        """
        stop = tuple(text for text in until if text)
        ending = _ending(self._encoding, stop)
        # A token is at least one byte, so no stop sequence is spread over more tokens than it has bytes.
        lookback = max((len(text.encode()) for text in stop), default=0)
        waiting = deque(row for row in rows if answers.is_left(row.key))
        columns = Columns(self.model.config, places, max(row.longest for row in rows), self.device)
        joining = max(1, places // JOINING)
        texts: list[_Text] = []
        done: dict[str, str] = {}
        read = _Read({}, DynamicCache(), torch.empty(0))

        def go_on(logits: torch.Tensor) -> None:
            """One token more for the last texts, one for each row of logits."""
            last = texts[-len(logits) :]
            if do_sample:
                noise = torch.tensor([text.noise[len(text.ids)] for text in last], device=self.device)
                tokens = sample_nucleus(logits, temperature, top_p, noise).tolist()
            else:
                tokens = logits.argmax(-1).tolist()
            over, suspects = [], []
            for text, token in zip(last, tokens, strict=True):
                text.ids.append(token)
                if token in self._encoding.ends or len(text.ids) == text.row.new:
                    over.append(text)
                elif token in ending:
                    suspects.append(text)
            if suspects:
                tails = self._encoding.continuations([text.ids[-lookback:] for text in suspects])
                over += [text for text, tail in zip(suspects, tails, strict=True) if any(word in tail for word in stop)]
            if not over:
                return
            for text in over:
                done[text.row.key] = postprocess_generated_text(self.tok_decode(text.ids), until, None)
            ended = {id(text) for text in over}
            left = [number for number, text in enumerate(texts) if id(text) not in ended]
            texts[:] = [texts[number] for number in columns.keep(left)]

        try:
            while waiting or texts:
                while waiting and (not texts or places - len(texts) >= joining):
                    if waiting[0].prompt not in read.numbers:
                        some = dict.fromkeys(row.prompt for row in islice(waiting, places - len(texts)))
                        read = self._prompts_read(list(islice(some, max(READ_AT_ONCE, joining))))
                    known = partial(_is_of, read.numbers)
                    join = list(takewhile(known, islice(waiting, places - len(texts))))
                    for row in join:
                        of = (self._seed, row.prompt, row.sample, row.new, row.occurrence)
                        texts.append(_Text(waiting.popleft(), uniform(*of).tolist() if do_sample else ()))
                    numbers = [read.numbers[row.prompt] for row in join]
                    columns.join(read.cache, numbers, [len(row.prompt) for row in join])
                    go_on(read.logits[torch.tensor(numbers, device=self.device)])
                if len(done) >= joining:
                    answers.keep(done)
                    done.clear()
                if texts:
                    columns.step()
                    ids = torch.tensor([text.ids[-1:] for text in texts], device=self.device)
                    positions = torch.tensor([[len(text.row.prompt) + len(text.ids) - 1] for text in texts])
                    go_on(
                        self.model(
                            input_ids=ids,
                            attention_mask=columns.mask,
                            position_ids=positions.to(self.device),
                            past_key_values=columns,
                        ).logits[:, -1]
                    )
        finally:
            answers.keep(done)
        return len(rows)

    def _prompts_read(self, prompts: Sequence[tuple[int, ...]]) -> _Read:
        ids, mask = self._padded_left(prompts)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            logits_to_keep=1,
        ).logits[:, -1]
        return _Read({prompt: number for number, prompt in enumerate(prompts)}, cache, logits)

    def _padded_left(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and which of them are no padding, both [rows, longest], on the device."""
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
        ids = pad([torch.tensor(row) for row in rows], padding_value=self._encoding.pad)
        mask = pad([torch.ones(len(row), dtype=torch.int64) for row in rows])
        return ids.to(self.device), mask.to(self.device)


@lru_cache(maxsize=8)
def _ending(encoding: Encoding, stop: tuple[str, ...]) -> frozenset[int]:
    """The tokens with which a stop sequence can become whole: what has none of these behind it needs no look."""
    ends = {text[cut:] for text in stop for cut in range(1, len(text))}
    pattern = "|".join([f"^(?:{'|'.join(map(re.escape, ends))})"] * bool(ends) + [re.escape(text) for text in stop])
    if not all(text.isascii() for text in stop):
        pattern += "|\ufffd"  # of a character's bytes the last
    can_end = re.compile(pattern or r"\Z.").search
    texts = encoding.continuations([[number] for number in range(encoding.size)])
    return frozenset(number for number, text in enumerate(texts) if can_end(text))


def _padded_right(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids [rows, longest]."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def sample_nucleus(logits: torch.Tensor, temperature: float, top_p: float, noise: torch.Tensor) -> torch.Tensor:
    """One token for each row, from the fewest likeliest tokens that have the mass `top_p` together.

    The inverse of the cumulative distribution at `noise` (Holtzman et al. 2020, arXiv:1904.09751, section 3.1), in the
    order of the tokens' ids: in that of their probabilities, rounding would change a token where others are as likely.

    Args:
        logits: [rows, vocabulary].
        noise: uniform in [0, 1), [rows].
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    # A nucleus seldom has more tokens than this, and sorting the whole vocabulary costs more than the model.
    likeliest, tokens = probabilities.topk(min(64, probabilities.shape[-1]), dim=-1)
    tokens, order = tokens.sort(-1)
    masses = (likeliest * _inside(likeliest, top_p)).gather(-1, order)
    chosen = tokens.gather(-1, _drawn(masses, noise))[:, 0]
    wide = (likeliest.sum(-1) < top_p).nonzero()[:, 0]
    if len(wide):
        chosen[wide] = _drawn(_nucleus(probabilities[wide], top_p), noise[wide])[:, 0]
    return chosen


def _inside(likeliest: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which tokens are in the nucleus, of their probabilities in descending order, both [rows, some]."""
    return likeliest.cumsum(-1) - likeliest < top_p


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities, with zeros for tokens outside the nucleus, both [rows, vocabulary]."""
    if probabilities.device.type == "cpu":  # numpy sorts in an eighth of the time, but numbers alone
        likeliest = torch.from_numpy(np.sort(probabilities.numpy(), axis=-1)).flip(-1)
        count = _inside(likeliest, top_p).sum(-1, keepdim=True)
        inside = probabilities >= likeliest.gather(-1, count - 1)
        if torch.equal(inside.sum(-1, keepdim=True), count):  # else some outside are as likely as the last one inside
            return probabilities * inside
    likeliest, tokens = probabilities.sort(dim=-1, descending=True)
    return torch.zeros_like(probabilities).scatter_(-1, tokens, likeliest * _inside(likeliest, top_p))


def _drawn(masses: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Where the cumulative sum of the masses [rows, some] passes the noise's share of the whole, [rows, 1]."""
    cumulative = masses.cumsum(-1)
    whole = cumulative[:, -1:]
    # Rounding must not lead to the whole, which no sum is greater than.
    share = torch.minimum(noise[:, None] * whole, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(cumulative, share, right=True)
