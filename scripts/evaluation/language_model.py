"""The model as lm-eval sees it. Imports torch and lm-eval: only the harness imports this module."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import DynamicCache, PreTrainedTokenizerFast

from scripts.data.encoding import Encoding


class LanguageModel(HFLM):  # type: ignore[misc]
    """lm-eval's model for transformers, without progress bars, and with its own loop for writing text.

    The loop of transformers goes on for a whole batch until its last row is done, and reads a prompt again for
    each of its samples. Here a row leaves the batch when it is done and samples share the prompt, which takes
    less than half the time (0.85 instead of 2.2 CPU-seconds for 4 programs to each of 100 problems).

    Tokens are those of the encoding, never of transformers' tokenizer, and begin as rows do.

    Args:
        model: the transformers model.
        as_rows: whether a text and what follows it become tokens as prompts and responses do in rows; else as lm-eval
            has it, as one text that is cut behind as many tokens as the first has alone.
    """

    def __init__(self, model: Any, encoding: Encoding, *, batch_size: int, as_rows: bool = False) -> None:
        self._encoding = encoding
        self._as_rows = as_rows
        super().__init__(
            pretrained=model,
            # lm-eval wants one, and asks it for nothing but what stands here
            tokenizer=PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
                tokenizer_object=encoding.backend(),
                eos_token=encoding.token(encoding.eos),
                pad_token=encoding.token(encoding.pad),
            ),
            batch_size=batch_size,
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

    def tok_batch_encode(
        self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts, padded at the left: token ids and which of them are no padding, both [prompts, tokens].

        A prompt that is longer than `left_truncate_len` loses its beginning, as in lm-eval.
        """
        assert padding_side == "left"
        prompts = [torch.tensor(ids[-(left_truncate_len or 0) :]) for ids in self._encoding.prompts(strings)]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(prompts, batch_first=True, padding_value=self._encoding.pad, padding_side="left")
        mask = pad([torch.ones_like(one) for one in prompts], batch_first=True, padding_side="left")
        return ids, mask

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
        # Overridden because loglikelihood_rolling asks for a bar here, whatever it was asked for itself.
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)  # type: ignore[no-any-return]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _model_generate(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: list[str],
        *,
        attention_mask: torch.Tensor,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> torch.Tensor:
        """Continues left-padded prompts.

        Args:
            context, attention_mask: token ids and which of them are no padding, [rows, prompt].
            max_length: tokens of a row, padding and prompt included.
            stop: a row is done when one of these is in what was written, or the eos token.
            do_sample: sample from the nucleus of mass `top_p` at `temperature`; otherwise take the likeliest.

        Returns:
            Token ids [rows, max_length] that begin with `context`; padding after what was written. Text may go
            on behind a stop sequence within the last token: lm-eval cuts it.
        """
        rows, prompt_length = context.shape
        steps = max_length - prompt_length
        written = context.new_full((rows, steps), self._encoding.pad)
        # Drawn on the CPU and before anything is known of the rows: a row's luck depends on nothing else.
        noise = torch.rand((rows, steps)).to(context.device)

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
            if do_sample:
                tokens = sample_nucleus(logits, temperature, top_p, noise[running, step])
            else:
                tokens = logits.argmax(-1)
            written[running, step] = tokens
            tails = self._encoding.continuations(written[running, max(0, step + 1 - lookback) : step + 1].tolist())
            goes_on = torch.tensor([not any(text in tail for text in stop) for tail in tails]).to(context.device)
            goes_on &= tokens != self.eot_token_id
            if step + 1 == steps or not goes_on.any():
                break
            if not goes_on.all():
                running, tokens, mask, positions = (x[goes_on] for x in (running, tokens, mask, positions))
                cache.batch_select_indices(goes_on.nonzero()[:, 0])
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            positions = positions + 1
            logits = self.model(
                input_ids=tokens[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache
            ).logits[:, -1]
        return torch.cat([context, written], dim=1)


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
