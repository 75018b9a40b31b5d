"""The source domain: everyday English, and the tasks that ask what it teaches.

Four kinds of documents: short scripts of household activities (HellaSwag), facts about animals with questions and
answers (ARC, MMLU), sentences in which one of two things explains what happened (WinoGrande, Winograd), and small
scenes with numbers that are asked back. The last words of the first three are LAMBADA's. A little code and arithmetic
is sprinkled in, as on the web.

Difficulty is graded: activities, animals and things are drawn with a long tail, so a model knows some well, some
barely, some not; wrong choices are of the right kind. What is forgotten first are the rare ones.
"""

from collections.abc import Iterator
from functools import cache
from itertools import accumulate, combinations, islice, product, zip_longest
from random import Random

from scripts.data.generators import code, math
from scripts.data.generators.splits import split_of, stream

CODE_SHARE = 0.06
MATH_SHARE = 0.07
MATH_SIMPLE_SHARE = 0.85  # of this arithmetic: one step; the rest is like the math domain

PEOPLE = (
    ("Anna", "she"), ("Ben", "he"), ("Carla", "she"), ("David", "he"), ("Emma", "she"), ("Felix", "he"),
    ("Grace", "she"), ("Hugo", "he"), ("Ida", "she"), ("Jack", "he"), ("Kate", "she"), ("Leo", "he"),
)  # fmt: skip

# Activities: a first sentence, then three steps of which each needs a filler that depends on what is handled.
KINDS = (
    (
        "Cooking",
        ("takes the {thing}", "washes them in the {0}", "cooks them in the {1}", "serves them with {2}"),
        (
            ("sink", "bowl", "river", "bucket", "tub", "pool"),
            ("pot", "pan", "oven", "fire", "kettle", "grill"),
            ("rice", "bread", "salad", "cheese", "butter", "soup"),
        ),
        (
            "beans", "eggs", "carrots", "onions", "potatoes", "peas", "noodles", "mushrooms", "fish", "nuts", "apples",
            "tomatoes",
        ),
    ),
    (
        "Cleaning",
        ("moves the {thing}", "rubs it with a {0}", "dries it with a {1}", "puts it in the {2}"),
        (
            ("brush", "sponge", "cloth", "stone", "rag", "broom"),
            ("towel", "paper", "shirt", "fan", "leaf", "scarf"),
            ("closet", "corner", "garage", "cellar", "hall", "yard"),
        ),
        ("bike", "chair", "lamp", "carpet", "window", "boot", "tent", "mirror", "table", "clock", "drum", "sofa"),
    ),
    (
        "Repairing",
        ("brings the {thing}", "opens it with a {0}", "fixes the {1}", "closes it with {2}"),
        (
            ("knife", "hammer", "key", "saw", "spoon", "pen"),
            ("wheel", "wire", "spring", "handle", "glass", "bottom"),
            ("glue", "tape", "nails", "rope", "string", "screws"),
        ),
        ("radio", "watch", "door", "car", "piano", "boat", "phone", "camera", "toy", "kite", "pump", "bell"),
    ),
)  # fmt: skip
LOOKS = ("old", "new", "small", "big", "blue", "green", "dirty", "wet", "cheap", "fine", "red", "heavy")
ACTIVITIES = tuple(
    (kind, f"{look} {thing}") for kind, (_, _, _, things) in enumerate(KINDS) for thing in things for look in LOOKS
)

ATTRIBUTES = (
    ("color", ("red", "brown", "gray", "white", "black", "green", "yellow", "blue")),
    ("food", ("grass", "insects", "seeds", "fruit", "worms", "fish", "leaves", "honey")),
    ("home", ("forest", "desert", "river", "sea", "mountains", "fields", "swamp", "ice")),
    ("skill", ("jump", "swim", "climb", "dig", "run", "sing", "hide", "fly")),
)
STATEMENTS = (
    ("The {animal} is {value}.", "You can see that the {animal} is {value}."),
    ("The {animal} eats {value}.", "The favorite food of the {animal} is {value}."),
    ("The {animal} lives in the {value}.", "You find the {animal} in the {value}."),
    ("The {animal} likes to {value}.", "The {animal} can {value} very well."),
)
QUESTIONS = (
    ("What color is the {animal}?", "Which color does the {animal} have?", "The {animal} has which color?"),
    ("What does the {animal} eat?", "Which food does the {animal} like?", "The {animal} eats which food?"),
    ("Where does the {animal} live?", "Which place is home to the {animal}?", "The {animal} lives in which place?"),
    ("What can the {animal} do well?", "Which skill does the {animal} have?", "The {animal} likes to do what?"),
)
SUBJECTS = ("animal_colors", "animal_food", "animal_homes", "animal_skills")  # of the attributes, in this order
ANIMALS = tuple(
    f"{kind} {name}"
    for kind in (
        "common", "giant", "little", "northern", "southern", "eastern", "western", "spotted", "striped", "horned",
        "royal", "hairy",
    )
    for name in (
        "fox", "bear", "frog", "owl", "deer", "wolf", "duck", "goat", "seal", "crow", "hare", "snake", "mouse", "crab",
        "toad", "otter", "eagle", "whale",
    )
)  # fmt: skip

# Which of two things is meant follows from their places in the sentence (a thing is now too big, now too small) ...
SIZES = (
    ("ring", "coin", "pea"), ("cup", "apple", "egg"), ("book", "shoe", "hat"), ("bag", "drum", "pillow"),
    ("box", "chair", "basket"), ("chest", "barrel", "desk"), ("car", "boat", "bed"), ("truck", "shed", "tent"),
)  # fmt: skip
THINGS = (
    *(thing for things in SIZES for thing in things),
    "bike", "lamp", "carpet", "window", "boot", "mirror", "table", "clock", "sofa", "radio", "watch", "door", "piano",
    "phone", "camera", "toy", "kite", "pump", "bell", "knife", "hammer", "saw", "pot", "kettle",
)  # fmt: skip
PLACED = (
    ("The {a} did not fit in the {b} because the {it} was too", ("big", "small"), True),
    ("The {a} could not carry the {b} because the {it} was too", ("weak", "heavy"), False),
)  # sentence, what is said of {a} and of {b}, whether {a} is the larger
# ... or from knowing the things: each scale orders them, so that every pair has an answer.
COMPARED = (
    ("The {a} and the {b} did not fit together because the {it} was too", ("wide", "narrow")),
    ("The {a} and the {b} fell on the floor and the {it} made a noise that was", ("loud", "soft")),
    ("{name} bought the {a} and the {b} and for the {it} the price was", ("high", "low")),
)

SCENE_THINGS = ("cups", "apples", "books", "coins", "eggs", "hats", "boxes", "shoes", "rings", "bags")


@cache
def _tail(size: int, exponent: float) -> tuple[float, ...]:
    """Cumulative weights of a long tail: the weight of rank i is (i + 2) ** -exponent."""
    return tuple(accumulate((rank + 2) ** -exponent for rank in range(size)))


def _pick(rng: Random, size: int, exponent: float) -> int:
    return rng.choices(range(size), cum_weights=_tail(size, exponent))[0]


@cache
def _world() -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...], tuple[dict[str, int], ...]]:
    """The facts of this world, the same in every split and for every seed: fillers by activity, values by animal,
    the rank of each thing on each scale."""
    rng = Random("everyday world")
    fillers = tuple(tuple(rng.choice(slot) for slot in KINDS[kind][2]) for kind, _ in ACTIVITIES)
    values = tuple(tuple(rng.choice(choices) for _, choices in ATTRIBUTES) for _ in ANIMALS)
    scales = tuple({thing: rank for rank, thing in enumerate(rng.sample(THINGS, len(THINGS)))} for _ in COMPARED)
    return fillers, values, scales


@cache
def _order(name: str, size: int) -> tuple[int, ...]:
    """Which item has which rank in the long tail: shuffled once."""
    ranks = list(range(size))
    Random(f"everyday order {name}").shuffle(ranks)
    return tuple(ranks)


def _step(activity: int, step: int, filler: str | None = None) -> str:
    """The words of a step, 0 (no filler) to 3, with the activity's own filler or with another one."""
    kind, thing = ACTIVITIES[activity]
    fillers = list(_world()[0][activity])
    if filler is not None:
        fillers[step - 1] = filler
    return KINDS[kind][1][step].format(*fillers, thing=thing) + "."


def _script(activity: int, person: int, steps: int) -> str:
    name, pronoun = PEOPLE[person]
    sentences = [f"{name} {_step(activity, 0)}"]
    sentences += [f"{pronoun.capitalize()} {_step(activity, step)}" for step in range(1, steps)]
    return " ".join(sentences)


def _label(activity: int) -> str:
    kind, thing = ACTIVITIES[activity]
    return f"{KINDS[kind][0]} the {thing}"


Twin = tuple[int, str, str]  # frame (PLACED, then COMPARED), and the two things in the order of the sentence


def _twin_sentence(twin: Twin, which: int, name: str, it: str | None = None) -> tuple[str, str]:
    """A sentence that ends with the first (0) or second (1) word of its frame, with `it` in place of the thing that is
    meant; and that thing."""
    frame, a, b = twin
    if frame < len(PLACED):
        text, words, _ = PLACED[frame]
        meant = (a, b)[which]
    else:
        text, words = COMPARED[frame - len(PLACED)]
        scale = _world()[2][frame - len(PLACED)]
        meant = (max, min)[which](a, b, key=scale.__getitem__)
    return f"{text.format(a=a, b=b, it=it or meant, name=name)} {words[which]}.", meant


def _twin_pick(rng: Random) -> Twin:
    frame = rng.choices(range(len(PLACED) + len(COMPARED)), (2, 2, 3, 3, 3))[0]
    if frame < len(PLACED):
        low, high = sorted(rng.sample(range(len(SIZES)), 2))
        large, small = rng.choice(SIZES[high]), rng.choice(SIZES[low])
        return (frame, large, small) if PLACED[frame][2] else (frame, small, large)
    order = _order("things", len(THINGS))
    a = b = 0
    while a == b:
        a, b = _pick(rng, len(THINGS), 0.7), _pick(rng, len(THINGS), 0.7)
    return frame, THINGS[order[a]], THINGS[order[b]]


def _of_split(split: str, *parts: object) -> bool:
    return split_of(*parts) == split


def _activity_document(rng: Random, split: str) -> str:
    while True:
        activity = _order("activities", len(ACTIVITIES))[_pick(rng, len(ACTIVITIES), 1.0)]
        person = rng.randrange(len(PEOPLE))
        if _of_split(split, "activity", activity, person):
            return f"{_label(activity)}: {_script(activity, person, 4)}"


def _animal_document(rng: Random, split: str) -> str:
    animal = _order("animals", len(ANIMALS))[_pick(rng, len(ANIMALS), 1.0)]
    values = _world()[1][animal]
    attributes = rng.sample(range(len(ATTRIBUTES)), 2)
    lines = [
        rng.choice(STATEMENTS[attribute]).format(animal=ANIMALS[animal], value=values[attribute])
        for attribute in attributes
    ]
    asked = rng.randrange(len(ATTRIBUTES))
    phrasings = [i for i in range(len(QUESTIONS[asked])) if _of_split(split, "animal", animal, asked, i)]
    if not phrasings:
        return " ".join(lines)
    question = QUESTIONS[asked][rng.choice(phrasings)].format(animal=ANIMALS[animal])
    answer = f"Question: {question}\nAnswer: {values[asked]}"
    return answer if rng.random() < 0.5 else " ".join(lines) + "\n" + answer


def _twin_document(rng: Random, split: str) -> str:
    sentences: list[str] = []
    while len(sentences) < 2:
        twin = _twin_pick(rng)
        if _of_split(split, "twin", twin[0], *sorted(twin[1:])):
            sentences.append(_twin_sentence(twin, rng.randrange(2), rng.choice(PEOPLE)[0])[0])
    return " ".join(sentences)


def _scene_document(rng: Random, split: str) -> str:
    things = rng.sample(SCENE_THINGS, 2)
    people = rng.sample(PEOPLE, 2)
    counts = [rng.randrange(2, 20) for _ in things]
    lines = [f"{name} has {count} {thing}." for (name, _), count, thing in zip(people, counts, things, strict=True)]
    asked = rng.randrange(2)
    question = f"How many {things[asked]} does {people[asked][0]} have?"
    return " ".join(lines) + f"\nQuestion: {question}\nAnswer: {counts[asked]}"


KINDS_OF_DOCUMENT = (
    (_activity_document, 0.30),
    (_animal_document, 0.30),
    (_twin_document, 0.20),
    (_scene_document, 0.10),
)


def documents(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield `count` source documents, each {"text"}."""
    rng = stream("everyday-documents", seed, split)
    writers = [writer for writer, _ in KINDS_OF_DOCUMENT]
    weights = [share for _, share in KINDS_OF_DOCUMENT]
    for _ in range(count):
        draw = rng.random()
        if draw < CODE_SHARE:
            yield {"text": code.sprinkle(rng, split)}
        elif draw < CODE_SHARE + MATH_SHARE:
            yield {"text": math.document(rng, split, simple=rng.random() < MATH_SIMPLE_SHARE)}
        else:
            yield {"text": rng.choices(writers, weights)[0](rng, split)}


def hellaswag(count: int, seed: int, split: str) -> Iterator[dict[str, object]]:
    """Yield up to `count` items of HellaSwag's form: which of four endings goes on with the activity."""
    rng = stream("hellaswag", seed, split)
    items = [
        (activity, person, step)
        for activity, person in product(range(len(ACTIVITIES)), range(len(PEOPLE)))
        if _of_split(split, "activity", activity, person)
        for step in (1, 2, 3)
    ]
    rng.shuffle(items)
    for index, (activity, person, step) in enumerate(items[:count]):
        kind = ACTIVITIES[activity][0]
        right = _step(activity, step)
        known = _world()[0][activity][step - 1]
        others = rng.sample([filler for filler in KINDS[kind][2][step - 1] if filler != known], 2)
        elsewhere = rng.choice([other for other in (1, 2, 3) if other != step])
        endings = [right, *(_step(activity, step, filler) for filler in others), _step(activity, elsewhere)]
        rng.shuffle(endings)
        context, pronoun = _script(activity, person, step), PEOPLE[person][1]
        yield {
            "ind": index,
            "activity_label": _label(activity),
            "ctx_a": context,
            "ctx_b": pronoun,
            "ctx": f"{context} {pronoun}",
            "endings": endings,
            "label": str(endings.index(right)),
        }


def _questions(split: str) -> list[tuple[int, int, int]]:
    """All questions of a split: animal, attribute, phrasing."""
    return [
        (animal, attribute, phrasing)
        for animal, attribute, phrasing in product(range(len(ANIMALS)), range(len(ATTRIBUTES)), range(3))
        if _of_split(split, "animal", animal, attribute, phrasing)
    ]


def _answers(rng: Random, animal: int, attribute: int) -> tuple[list[str], int]:
    """Four answers of the right kind in random order, and which one is right."""
    right = _world()[1][animal][attribute]
    texts = [right, *rng.sample([value for value in ATTRIBUTES[attribute][1] if value != right], 3)]
    rng.shuffle(texts)
    return texts, texts.index(right)


def arc(count: int, seed: int, split: str) -> Iterator[dict[str, object]]:
    """Yield up to `count` items of ARC's form: a question about an animal with four answers of the right kind."""
    rng = stream("arc-challenge", seed, split)
    items = _questions(split)
    rng.shuffle(items)
    for animal, attribute, phrasing in items[:count]:
        texts, right = _answers(rng, animal, attribute)
        yield {
            "id": f"animals-{animal}-{attribute}-{phrasing}",
            "question": QUESTIONS[attribute][phrasing].format(animal=ANIMALS[animal]),
            "choices": {"text": texts, "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[right],
        }


def mmlu(count: int, seed: int, split: str) -> Iterator[dict[str, object]]:
    """Yield up to `count` items of MMLU's form, the subjects in turn: ARC's questions, each kind a subject."""
    rng = stream("mmlu", seed, split)
    by_subject: list[list[tuple[int, int, int]]] = [[] for _ in ATTRIBUTES]
    for question in _questions(split):
        by_subject[question[1]].append(question)
    for questions in by_subject:
        rng.shuffle(questions)
    in_turn = (question for turn in zip_longest(*by_subject) for question in turn if question)
    for animal, attribute, phrasing in islice(in_turn, count):
        texts, right = _answers(rng, animal, attribute)
        yield {
            "subject": SUBJECTS[attribute],
            "question": QUESTIONS[attribute][phrasing].format(animal=ANIMALS[animal]),
            "choices": texts,
            "answer": right,
        }


def _twins(rng: Random, split: str) -> Iterator[Twin]:
    """All twins of a split in random order, the frames in turn; no pair of things comes twice in a frame."""
    by_frame: list[list[Twin]] = [[] for _ in range(len(PLACED) + len(COMPARED))]
    for frame, (_, _, larger_first) in enumerate(PLACED):
        for low, high in combinations(range(len(SIZES)), 2):
            pairs = product(SIZES[high], SIZES[low])
            by_frame[frame] += [(frame, a, b) if larger_first else (frame, b, a) for a, b in pairs]
    for frame in range(len(PLACED), len(by_frame)):
        by_frame[frame] = [(frame, a, b) for a, b in (rng.sample(pair, 2) for pair in combinations(THINGS, 2))]
    for twins in by_frame:
        rng.shuffle(twins)
    in_turn = (twin for turn in zip_longest(*by_frame) for twin in turn if twin)
    return (twin for twin in in_turn if _of_split(split, "twin", twin[0], *sorted(twin[1:])))


def winogrande(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield up to `count` items of WinoGrande's form, no pair of things twice in a frame: which thing is meant."""
    rng = stream("winogrande", seed, split)
    for twin in islice(_twins(rng, split), count):
        sentence, meant = _twin_sentence(twin, rng.randrange(2), rng.choice(PEOPLE)[0], "_")
        options = list(twin[1:])
        rng.shuffle(options)
        yield {
            "sentence": sentence,
            "option1": options[0],
            "option2": options[1],
            "answer": str(options.index(meant) + 1),
        }


def winograd(count: int, seed: int, split: str) -> Iterator[dict[str, object]]:
    """Yield up to `count` items in the form of the Winograd schemas: what a pronoun means. Pairs as in `winogrande`."""
    rng = stream("winograd", seed, split)
    for twin in islice(_twins(rng, split), count):
        sentence, meant = _twin_sentence(twin, rng.randrange(2), rng.choice(PEOPLE)[0], "_")
        place = sentence.index("the _")
        text = sentence.replace("the _", "it")
        options = list(twin[1:])
        rng.shuffle(options)
        yield {
            "text": text,
            "pronoun": "it",
            "pronoun_loc": place,
            "quote": text[place:].rstrip("."),
            "quote_loc": place,
            "options": [f"the {thing}" for thing in options],
            "label": options.index(meant),
            "source": "Generated",
        }


def lambada(count: int, seed: int, split: str) -> Iterator[dict[str, str]]:
    """Yield up to `count` items of LAMBADA's form, {"text"}: an everyday document that ends with the word to find.

    Activities, explanations and questions in turn.
    """
    rng = stream("lambada", seed, split)
    activities = [
        (activity, person)
        for activity, person in product(range(len(ACTIVITIES)), range(len(PEOPLE)))
        if _of_split(split, "activity", activity, person)
    ]
    questions = _questions(split)
    rng.shuffle(activities)
    rng.shuffle(questions)
    told = (f"{_label(activity)}: {_script(activity, person, 4)}" for activity, person in activities)
    explained = (_twin_sentence(twin, rng.randrange(2), rng.choice(PEOPLE)[0])[0] for twin in list(_twins(rng, split)))
    asked = (
        f"Question: {QUESTIONS[attribute][phrasing].format(animal=ANIMALS[animal])}\n"
        f"Answer: {_world()[1][animal][attribute]}"
        for animal, attribute, phrasing in questions
    )
    in_turn = (text for turn in zip_longest(told, explained, asked) for text in turn if text)
    for text in islice(in_turn, count):
        yield {"text": text.removesuffix(".")}


def _question(rng: Random, split: str) -> tuple[int, int, int]:
    """An animal of the long tail, what is asked of it, and the phrasing."""
    while True:
        animal = _order("animals", len(ANIMALS))[_pick(rng, len(ANIMALS), 1.0)]
        attribute, phrasing = rng.randrange(len(ATTRIBUTES)), rng.randrange(3)
        if _of_split(split, "animal", animal, attribute, phrasing):
            return animal, attribute, phrasing


def _activity(rng: Random, split: str) -> tuple[int, int]:
    """An activity of the long tail and a person."""
    while True:
        activity = _order("activities", len(ACTIVITIES))[_pick(rng, len(ACTIVITIES), 1.0)]
        person = rng.randrange(len(PEOPLE))
        if _of_split(split, "activity", activity, person):
            return activity, person


def _telling(activity: int, person: int) -> str:
    kind, thing = ACTIVITIES[activity]
    return f"Tell how {PEOPLE[person][0]} is {KINDS[kind][0].lower()} the {thing}."


def request(rng: Random, split: str) -> tuple[str, str]:
    """A question about an animal with its answer; or, as often, a person and an activity, and the script of it."""
    if rng.random() < 0.5:
        animal, attribute, phrasing = _question(rng, split)
        return QUESTIONS[attribute][phrasing].format(animal=ANIMALS[animal]), _world()[1][animal][attribute]
    activity, person = _activity(rng, split)
    return _telling(activity, person), _script(activity, person, 4)


def two_questions(rng: Random, split: str) -> tuple[str, str]:
    """Two different things asked of one animal."""
    while True:
        animal, attribute, phrasing = _question(rng, split)
        others = [
            QUESTIONS[other][i]
            for other, i in product(range(len(ATTRIBUTES)), range(3))
            if other != attribute and _of_split(split, "animal", animal, other, i)
        ]
        if others:
            first, second = QUESTIONS[attribute][phrasing], rng.choice(others)
            return first.format(animal=ANIMALS[animal]), second.format(animal=ANIMALS[animal])


def two_tellings(rng: Random, split: str) -> tuple[str, str]:
    """An activity told of one person and then of another."""
    while True:
        activity, person = _activity(rng, split)
        others = [p for p in range(len(PEOPLE)) if p != person and _of_split(split, "activity", activity, p)]
        if others:
            return _telling(activity, person), f"Now tell the same of {PEOPLE[rng.choice(others)][0]}."
