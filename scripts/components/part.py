"""What every part of a study is made of: the base class, keys with their meaning, and types of values."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from scripts.common.quantities import format_tokens, parse_tokens

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-.][a-z0-9]+)*$")]
Tokens = Annotated[int, BeforeValidator(parse_tokens), PlainSerializer(format_tokens, return_type=str)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="OWNER/NAME on the Hugging Face hub")]
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


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


def unusual(part: Part, *names: str) -> dict[str, Any]:
    """The named keys of a part that differ from their default."""
    fields = type(part).model_fields
    return {name: getattr(part, name) for name in names if getattr(part, name) != fields[name].default}


def slug(repository: str) -> str:
    """A repository's name as a path has it."""
    return repository.rpartition("/")[2].lower()
