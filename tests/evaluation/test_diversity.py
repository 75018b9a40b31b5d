"""Distinct generations, counted again by pandas."""

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from scripts.evaluation.diversity import distinct_generations

WRITTEN = st.lists(
    st.tuples(st.sampled_from(["a", "A", "a ", "b", ""]), st.sampled_from(["passed", "wrong", "timed_out"])),
    min_size=1,
    max_size=12,
)


@given(st.lists(WRITTEN, min_size=1, max_size=6))
def test_distinct_texts_among_passing_and_failing_ones(problems: list[list[tuple[str, str]]]) -> None:
    samples = [
        {
            "item": item,
            "completions": [text for text, _ in row],
            "verdicts": [outcome for _, outcome in row],
            "pass@1": 0.5,
        }
        for item, row in enumerate(problems)
    ]
    frame = pd.DataFrame(
        [(item, text, outcome == "passed") for item, row in enumerate(problems) for text, outcome in row],
        columns=["item", "text", "passed"],
    )
    for found in distinct_generations(samples):
        of_item = frame[frame["item"] == found.item]
        passing, failing = of_item[of_item["passed"]], of_item[~of_item["passed"]]
        assert (found.passing, found.failing) == (passing["text"].nunique(), failing["text"].nunique())
        assert (found.passed, found.failed) == (len(passing), len(failing))
    assert [found.item for found in distinct_generations(samples)] == list(range(len(problems)))
