"""What every part of a study is made of: the base class, keys with their meaning, and types of values."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

from scripts.common.quantities import format_tokens, parse_tokens

LONGEST_NAME = 64
"""Letters of a name: a file's has at most 255, and some have the names of a method, a block and a task."""
MOST = 10**15
"""No number of a study is greater: beyond it, sums and estimates are no longer exact, or do not end."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-.][a-z0-9]+)*$", max_length=LONGEST_NAME)]
Tokens = Annotated[int, BeforeValidator(parse_tokens), PlainSerializer(format_tokens, return_type=str)]
Repository = Annotated[
    str, Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=193, description="OWNER/NAME on the Hugging Face hub")
]
Count = Annotated[int, Field(gt=0, lt=2**31)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

FILE_IS_READ = "file_is_read"
"""Of pydantic's context, where a study's file is read: what is installed is looked for then, not again in every job,
whose environment may be that of another stage."""


def field(meaning: str, *, unit: str | None = None, paper: str | None = None, **arguments: Any) -> Any:
    """A key of a study, as ``config/README.md`` and editors explain it (see `scripts.study.describe`).

    Args:
        meaning: what the key changes.
        unit: of its value, or of the values in it.
        paper: where the paper (its second version) says what this is there; "not said" where it leaves it open, so that
            a value is a choice; "beyond the paper" for what the paper does not do.
        arguments: of pydantic's `Field`: default, pattern, ...
    """
    extra: dict[str, Any] = {name: text for name, text in (("unit", unit), ("paper", paper)) if text}
    return Field(description=meaning, json_schema_extra=extra, **arguments)


class Part(BaseModel):
    """A part of a study: strict, closed to unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_sane(cls, value: Any) -> Any:
        several = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(one, int | float) and one > MOST for one in several):
            raise ValueError(f"must not be greater than 10^{len(str(MOST)) - 1}")
        if isinstance(value, list):
            names = [one for one in value if isinstance(one, str)]
            if again := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"names must differ from each other ({again!r} stands twice)")
        return value


def unusual(part: Part, *names: str) -> dict[str, Any]:
    """The named keys of a part that differ from their default."""
    fields = type(part).model_fields
    return {name: getattr(part, name) for name in names if getattr(part, name) != fields[name].default}


def slug(repository: str) -> str:
    """A repository's name as a path has it."""
    return repository.rpartition("/")[2].lower()
