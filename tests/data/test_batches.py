import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.data.batches import Batches, write_cpt_rows, write_ift_rows
from scripts.data.packing import shuffled

EOS, PAD, VOCABULARY = 1, 2, 5000
CPT = {
    "sequence_length": 8,
    "batch_rows": 2,
    "group_rows": 1,
    "eos": EOS,
    "pad": PAD,
    "vocab_size": VOCABULARY,
    "seed": 3,
}
IFT = {**CPT, "sequence_length": 16, "batch_rows": 4, "group_rows": 2, "packing_ratio": 2, "max_epochs": 3}


def numbered(lengths):
    """Sequences in which no token id occurs twice, so that a token names its place."""
    ids = iter(range(3, 3 + sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


def read_all(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_cpt_rows_are_the_shuffled_documents_with_eos(lengths, seed, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows")
    documents = numbered(lengths)
    text = [token for d in shuffled(len(documents), seed, 0) for token in [*documents[d], EOS]]
    if len(text) < 16:
        with pytest.raises(UserError, match="rows"):
            write_cpt_rows(iter(documents), out, **{**CPT, "seed": seed})
        return
    counts = write_cpt_rows(iter(documents), out, **{**CPT, "seed": seed})
    rows = np.load(out / "rows.npy")
    assert rows.dtype == np.uint16
    assert rows.reshape(-1).tolist() == text[: rows.size]
    assert counts["tokens"] == len(text) == rows.size + counts["dropped_tail_tokens"]
    assert 0 <= counts["dropped_tail_tokens"] < 8
    assert counts["documents"] == len(documents)
    assert sorted(path.name for path in out.iterdir()) == ["meta.json", "rows.npy"]


def test_cpt_batches_go_round(tmp_path):
    write_cpt_rows(numbered([10] * 5), tmp_path, **{**CPT, "batch_rows": 4, "group_rows": 2})
    rows = np.load(tmp_path / "rows.npy").astype(np.int64)
    assert rows.shape == (6, 8)
    batches = Batches(tmp_path)
    assert (batches.regime, batches.steps_per_epoch, batches.batch_rows, batches.group_rows) == (
        "cpt",
        None,
        4,
        2,
    )
    for step, expected in enumerate([[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5], [0, 1, 2, 3]]):
        input_ids, labels = batches.batch(step)
        assert input_ids.dtype == labels.dtype == np.int64
        assert (input_ids == rows[expected]).all()
        assert (labels == input_ids).all()
    input_ids[:] = 0
    assert labels.any(), "labels and input_ids must not share memory"


def test_a_big_vocabulary_takes_32_bits(tmp_path):
    write_cpt_rows([[70_000] * 40], tmp_path, **{**CPT, "vocab_size": 128_000})
    assert np.load(tmp_path / "rows.npy").dtype == np.uint32
    assert Batches(tmp_path).batch(0)[0].max() == 70_000


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(ValueError, match="vocabulary"):
        write_cpt_rows([[3] * 40, [token]], tmp_path, **CPT)


def test_documents_are_streamed(tmp_path):
    """Held as lists these documents would take 8 bytes a token, 16 MB; a row file of 4 MB is written."""
    document = list(range(3, 1003))
    tracemalloc.start()
    write_cpt_rows((list(document) for _ in range(2000)), tmp_path, **{**CPT, "sequence_length": 128})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def pairs(lengths):
    """(prompt, response) with unique ids from (prompt length, response length)."""
    flat = numbered([length for pair in lengths for length in pair])
    return list(zip(flat[::2], flat[1::2], strict=True))


lengths_of_pairs = st.lists(st.tuples(st.integers(0, 18), st.integers(0, 20)), min_size=0, max_size=60)


@settings(max_examples=100, deadline=None)
@given(lengths=lengths_of_pairs, seed=st.integers(0, 99))
def test_ift_trains_every_response_once_an_epoch_or_counts_it_as_dropped(lengths, seed, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows")
    examples = pairs(lengths)
    whole = [[*p, *r, EOS] for p, r in examples]
    # with a prompt, a response, and some of it in the first 16 tokens
    kept = {
        p[0]: ([*p, *r, EOS][:16], ([-100] * len(p) + r + [EOS])[:16]) for p, r in examples if p and r and p[15:] == []
    }
    if len(kept) < 8:
        with pytest.raises(UserError, match="examples have a token to learn in a row of 16 tokens"):
            write_ift_rows(iter(examples), out, **{**IFT, "seed": seed})
        return
    counts = write_ift_rows(iter(examples), out, **{**IFT, "seed": seed})
    batches = Batches(out)
    steps = len(kept) // 8
    assert (batches.steps_per_epoch, batches.epochs) == (steps, 3)
    for epoch in range(3):
        trained = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            input_ids, labels = batches.batch(step)
            assert input_ids.shape == labels.shape == (4, 16)
            for row, targets in zip(input_ids.tolist(), labels.tolist(), strict=True):
                begin = 0
                while begin < 16 and row[begin] != PAD:
                    # ids are unique, so the first of an example says which it is
                    ids, expected = kept[row[begin]]
                    trained.append(row[begin])
                    assert row[begin : begin + len(ids)] == ids
                    assert targets[begin : begin + len(ids)] == expected
                    begin += len(ids)
                assert begin > 0
                assert row[begin:] == [PAD] * (16 - begin)
                assert targets[begin:] == [-100] * (16 - begin)
        assert len(trained) == len(set(trained)), "trained twice in an epoch"
        found = counts["per_epoch"][epoch]
        assert found["trained_examples"] == len(trained)
        assert found["trained_tokens"] == sum(len(kept[first][0]) for first in trained)
        assert found.get("dropped_without_loss_examples", 0) == len(whole) - len(kept)
        assert found["dropped_too_long_examples"] == 0
        assert found["dropped_too_long_tokens"] == sum(max(0, len(ids) - 16) for ids in whole)
        for unit, total in (("examples", len(whole)), ("tokens", sum(map(len, whole)))):
            assert sum(value for name, value in found.items() if name.endswith(unit)) == total == counts[unit]


NONE = []
# What llm-foundry 0.8 does with one device microbatch of these examples, worked out by hand from its rules. Rows have
# 10 tokens; an example is (tokens of the prompt, tokens of the response), to which eos is added. From the longest
# example to the shortest, each goes into the first bin with room, which then is the last of the bins, or opens one; it
# opens one in any case once those that remain are just enough for the rows that have none. The fullest bins are kept.
FOUNDRY = {
    # 9 and 5 open bins; 4 joins the 5, behind it; 3 finds no room (9 + 3, 9 + 3) and opens a third, which waits
    "skewed": (2, [(1, 7), (1, 3), (1, 2), (1, 1)], [[0], [1, 2]], [3], NONE),
    # 7, 6; 4 fills the 6, whose bin moves to the end; 3 fills the 7, whose bin moves behind it
    "filled to the last token": (2, [(1, 5), (1, 4), (1, 2), (1, 1)], [[1, 2], [0, 3]], NONE, NONE),
    # the 4 would fit beside the 6, but then the second row would have nothing
    "a row is never empty": (2, [(1, 4), (1, 2)], [[0], [1]], NONE, NONE),
    # 5 opens; one row is without a bin and two remain, so 4 joins the 5; the last must open one, though it would fit
    "opened when just enough remain": (2, [(1, 3), (1, 2), (1, 1)], [[0, 1], [2]], NONE, NONE),
    # 23 tokens are cut to 10 before they are sorted: a row of their own, its end and eos gone
    "over-long": (2, [(2, 20), (1, 2), (1, 3)], [[0], [2, 1]], NONE, NONE),
    # the prompt has 9 tokens: one token of the response is left in the row, which is enough
    "over-long, one token left": (2, [(9, 5), (1, 2)], [[0], [1]], NONE, NONE),
    # a prompt of 10 tokens leaves none: dropped before it is packed, as is one that is longer still
    "over-long, all masked": (2, [(10, 3), (15, 1), (1, 3), (1, 2)], [[2], [3]], NONE, [0, 1]),
    # nothing to learn but to end: dropped
    "empty response": (2, [(4, 0), (1, 3), (1, 2)], [[1], [2]], NONE, [0]),
    # the first token of an example is never learned, and of one without a prompt it is the response's: dropped
    "empty prompt": (2, [(0, 4), (1, 3), (1, 2)], [[1], [2]], NONE, [0]),
    # prompt and response fill the row, and eos stands behind it: cut, so the model is not told to end there
    "eos alone is over": (2, [(4, 6), (1, 2)], [[0], [1]], NONE, NONE),
    # 9 and 8 have room for 1 and 2, and the shortest of all has 3 tokens: a bin of its own, which waits
    "room that nothing fits into": (2, [(1, 6), (2, 6), (1, 1)], [[1], [0]], [2], NONE),
    # one each, as many as rows
    "no packing": (3, [(1, 6), (1, 5), (1, 1)], [[0], [1], [2]], NONE, NONE),
}


@pytest.mark.parametrize("name", FOUNDRY)
def test_rows_drops_and_tokens_are_llm_foundrys(name, tmp_path):
    rows, lengths, expected, left_over, without_loss = FOUNDRY[name]
    examples = pairs(lengths)
    ratio = (len(lengths) - len(without_loss)) / rows
    layout = {"sequence_length": 10, "batch_rows": rows, "group_rows": rows, "packing_ratio": ratio, "max_epochs": 1}
    (counts,) = write_ift_rows(examples, tmp_path, **{**IFT, **layout})["per_epoch"]
    batches = Batches(tmp_path)
    assert batches.steps_per_epoch == 1
    for ids, labels, members in zip(*(array.tolist() for array in batches.batch(0)), expected, strict=True):
        prompts = [[*examples[i][0], *examples[i][1], EOS][:10] for i in members]
        stream = [token for part in prompts for token in part]
        assert ids == stream + [PAD] * (10 - len(stream))
        learned = [
            token for i in members for token in [*examples[i][0], *examples[i][1], EOS][len(examples[i][0]) : 10]
        ]
        assert [label for label in labels if label != -100] == learned
    assert counts["dropped_left_over_examples"] == len(left_over)
    assert counts["dropped_left_over_tokens"] == sum(sum(lengths[i]) + 1 for i in left_over)
    assert counts.get("dropped_without_loss_examples", 0) == len(without_loss)
    assert counts["dropped_too_long_examples"] == 0


def test_the_tokens_of_a_row_with_an_over_long_example_are_its_first(tmp_path):
    """The whole stream in literals: 3 4 are the prompt, 11 and 12 and eos stand in no row."""
    changes = {"sequence_length": 8, "batch_rows": 1, "group_rows": 1, "packing_ratio": 1, "max_epochs": 1}
    write_ift_rows([([3, 4], [5, 6, 7, 8, 9, 10, 11, 12])], tmp_path, **{**IFT, **changes})
    input_ids, labels = Batches(tmp_path).batch(0)
    assert input_ids.tolist() == [[3, 4, 5, 6, 7, 8, 9, 10]]
    assert labels.tolist() == [[-100, -100, 5, 6, 7, 8, 9, 10]]


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_pairs, seed=st.integers(0, 99))
def test_concatenated_rows_are_the_shuffled_examples_end_to_end(lengths, seed, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows")
    changes = {"packing": "concat", "seed": seed, "packing_ratio": 1}
    total = sum(p + r + 1 for p, r in lengths)
    steps = total // 64
    if not steps:
        with pytest.raises(UserError, match="packed as 'concat' they do not fill the 4 rows of one step"):
            write_ift_rows(pairs(lengths), out, **{**IFT, **changes})
        return
    counts = write_ift_rows(pairs(lengths), out, **{**IFT, **changes})
    batches = Batches(out)
    assert batches.steps_per_epoch == steps
    for epoch in range(3):
        order = shuffled(len(lengths), seed, epoch)
        text, targets, owner = [], [], []
        for number, (prompt, response) in ((i, pairs(lengths)[i]) for i in order):
            ids = [*prompt, *response, EOS]
            text += ids
            targets += [-100] * max(1, len(prompt)) + ids[max(1, len(prompt)) :]
            owner += [number] * len(ids)
        for step in range(steps):
            found = [*batches.batch(epoch * steps + step), batches.segments(epoch * steps + step)]
            for row in range(4):
                part = slice((step * 4 + row) * 16, (step * 4 + row + 1) * 16)
                ids, labels, segments = (array[row].tolist() for array in found)
                assert ids == text[part]
                assert labels == [-100, *targets[part][1:]]  # nothing stands before a row's first token
                assert segments == [list(dict.fromkeys(owner[part])).index(each) for each in owner[part]]
        said = counts["per_epoch"][epoch]
        assert said["trained_tokens"] == steps * 64
        assert said["trained_tokens"] + said["dropped_incomplete_step_tokens"] == total == counts["tokens"]
        assert said["trained_examples"] == len(set(owner[: steps * 64]))
        assert said["trained_examples"] + said["dropped_incomplete_step_examples"] == len(lengths)


@pytest.mark.parametrize("packing", ["foundry", "bfd", "none"])
def test_segments_are_the_examples_of_a_row(tmp_path, packing):
    write_ift_rows(pairs([(1 + i % 5, 2 + i % 7) for i in range(60)]), tmp_path, **{**IFT, "packing": packing})
    batches = Batches(tmp_path)
    for step in range(batches.steps_per_epoch * 3):
        segments = batches.segments(step)
        assert segments.dtype == np.int64
        for row, numbers in zip(batches.batch(step)[0].tolist(), segments.tolist(), strict=True):
            examples = 0
            for token, number in zip(row, numbers, strict=True):
                assert number == examples
                examples += token == EOS
            assert packing != "none" or examples == 1
    for step in (-1, batches.steps_per_epoch * 3):
        with pytest.raises(IndexError):
            batches.segments(step)


def test_segments_of_documents_end_with_eos(tmp_path):
    write_cpt_rows([[3, 4], [], [5] * 9, [6], [7] * 5], tmp_path, **{**CPT, "batch_rows": 1})
    batches = Batches(tmp_path)
    for step in range(4):
        row = batches.batch(step)[0][0].tolist()
        assert batches.segments(step)[0].tolist() == [row[:place].count(EOS) for place in range(8)]


def test_unknown_packing(tmp_path):
    with pytest.raises(UserError, match="the packing 'best' is unknown; allowed are foundry, none, bfd, concat"):
        write_ift_rows(pairs([(2, 4)] * 20), tmp_path, **{**IFT, "packing": "best"})


def test_ift_packs_into_fuller_rows_than_one_example_each(tmp_path):
    write_ift_rows(pairs([(2, 4)] * 64), tmp_path, **IFT)
    input_ids, _ = Batches(tmp_path).batch(0)
    assert (input_ids != PAD).sum() == 8 * 7


def test_ift_steps_end_with_the_last_epoch(tmp_path):
    write_ift_rows(pairs([(2, 4)] * 20), tmp_path, **IFT)
    batches = Batches(tmp_path)
    assert batches.steps_per_epoch == 2
    batches.batch(5)
    for step in (-1, 6):
        with pytest.raises(IndexError):
            batches.batch(step)


def test_composition_depends_on_lengths_and_seed_alone(tmp_path):
    lengths = [(1 + i % 5, 2 + i % 7) for i in range(50)]
    outs = {}
    for name, examples, changes in [
        ("first", pairs(lengths), {}),
        ("again", iter(pairs(lengths)), {}),
        ("other tokens", [([7] * p, [8] * r) for p, r in lengths], {}),
        ("more epochs", pairs(lengths), {"max_epochs": 5}),
        ("other seed", pairs(lengths), {"seed": 4}),
    ]:
        outs[name] = tmp_path / name
        outs[name].mkdir()
        np.random.seed(len(outs))
        write_ift_rows(examples, outs[name], **{**IFT, **changes})
    assert read_all(outs["first"]) == read_all(outs["again"])

    def composition(name, rows):
        offsets = np.load(outs[name] / "row_offsets.npy")[: rows + 1]
        return offsets.tolist(), np.load(outs[name] / "row_examples.npy")[: offsets[-1]].tolist()

    rows = 3 * 4 * Batches(outs["first"]).steps_per_epoch
    assert composition("first", rows) == composition("other tokens", rows) == composition("more epochs", rows)
    assert composition("first", rows) != composition("other seed", rows)


def test_meta_says_what_the_rows_are(tmp_path):
    counts = write_ift_rows(pairs([(2, 4)] * 20), tmp_path, **IFT)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta.pop("counts") == counts
    assert meta == {
        "regime": "ift",
        "sequence_length": 16,
        "batch_rows": 4,
        "group_rows": 2,
        "packing_ratio": 2,
        "steps_per_epoch": 2,
        "epochs": 3,
        "eos": EOS,
        "pad": PAD,
        "seed": 3,
    }
