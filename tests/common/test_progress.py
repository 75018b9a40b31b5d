from scripts.common.progress import Progress


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    lines: list[str] = []
    now = [100.0]
    progress = Progress("humaneval", "programs", 8_200, 200, lines.append, lambda: now[0])
    now[0] += 10
    progress.add(100)
    assert lines == []  # too early
    now[0] += 30
    progress.add(1_900)
    assert lines == ["humaneval: 2,200 of 8,200 programs, 50/s, 0:02:00 left"]
    now[0] += 10
    progress.add(0)
    assert len(lines) == 1


def test_short_work_is_done_in_silence() -> None:
    lines: list[str] = []
    progress = Progress("gsm8k", "answers", 10, say=lines.append, clock=lambda: 0.0)
    progress.add(10)
    assert lines == []
