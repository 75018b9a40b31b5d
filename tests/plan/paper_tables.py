"""The paper's tables of scores, typed from it: methods down, durations across, as an independent record."""

CPT = ("0.25B", "0.5B", "1B", "2B", "4B", "8B", "16B", "20B")
IFT = ("1", "2", "4", "8", "16")
CHAT = ("2", "4", "6")
METHODS = ("lora-r16", "lora-r64", "lora-r256", "full")

# artifact, setting, metric, durations, and a line for each of METHODS
_TABLES = (
    ("tableS1", "code-cpt", "humaneval", CPT, """
        0.143 0.144 0.141 0.141 0.154 0.159 0.162 0.162
        0.142 0.146 0.141 0.153 0.157 0.176 0.194 0.196
        0.144 0.142 0.143 0.159 0.159 0.208 0.211 0.224
        0.152 0.153 0.172 0.181 0.218 0.258 0.255 0.263
    """),
    ("tableS2", "code-cpt", "forgetting", CPT, """
        0.645 0.642 0.645 0.642 0.644 0.640 0.638 0.635
        0.646 0.644 0.646 0.646 0.639 0.634 0.626 0.626
        0.644 0.645 0.643 0.639 0.636 0.630 0.618 0.617
        0.625 0.624 0.625 0.616 0.599 0.583 0.551 0.545
    """),
    ("tableS3", "math-cpt", "gsm8k", CPT, """
        0.162 0.157 0.161 0.155 0.165 0.156 0.152 0.158
        0.163 0.167 0.150 0.166 0.164 0.168 0.179 0.163
        0.162 0.161 0.140 0.170 0.193 0.196 0.203 0.202
        0.155 0.152 0.165 0.158 0.224 0.238 0.283 0.293
    """),
    ("tableS4", "math-cpt", "forgetting", CPT, """
        0.640 0.641 0.646 0.641 0.643 0.641 0.636 0.637
        0.640 0.640 0.638 0.637 0.643 0.634 0.634 0.627
        0.638 0.638 0.637 0.634 0.633 0.620 0.620 0.616
        0.634 0.634 0.640 0.630 0.629 0.619 0.613 0.618
    """),
    ("tableS5", "code-ift", "humaneval", IFT, """
        0.197 0.275 0.358 0.338 0.324
        0.249 0.339 0.417 0.392 0.405
        0.299 0.385 0.498 0.437 0.466
        0.302 0.464 0.470 0.497 0.416
    """),
    ("tableS6", "code-ift", "forgetting", IFT, """
        0.653 0.648 0.652 0.646 0.609
        0.652 0.651 0.632 0.580 0.510
        0.655 0.659 0.631 0.552 0.517
        0.595 0.579 0.512 0.446 0.414
    """),
    ("tableS7", "math-ift", "gsm8k", IFT, """
        0.447 0.528 0.580 0.578 0.569
        0.527 0.588 0.624 0.624 0.595
        0.557 0.607 0.625 0.634 0.594
        0.604 0.641 0.642 0.619 0.599
    """),
    ("tableS8", "math-ift", "forgetting", IFT, """
        0.628 0.617 0.616 0.616 0.596
        0.617 0.609 0.608 0.586 0.568
        0.613 0.607 0.599 0.584 0.567
        0.598 0.599 0.590 0.572 0.559
    """),
    ("tableS10", "chat-ift", "mt_bench", CHAT, """
        5.681 5.997 5.712
        5.597 5.725 5.944
        5.788 5.834 5.894
        5.825 5.838 5.862
    """),
    ("tableS11", "chat-ift", "mmlu", CHAT, """
        0.491 0.502 0.504
        0.503 0.509 0.504
        0.502 0.496 0.492
        0.507 0.504 0.502
    """),
    ("tableS12", "chat-ift", "gsm8k", CHAT, """
        0.251 0.275 0.280
        0.285 0.270 0.295
        0.296 0.335 0.301
        0.324 0.291 0.303
    """),
    ("tableS13", "chat-ift", "forgetting", CHAT, """
        0.650 0.657 0.657
        0.649 0.655 0.647
        0.653 0.649 0.629
        0.660 0.652 0.621
    """),
)  # fmt: skip

SETTINGS = {name: setting for name, setting, *_ in _TABLES}
METRICS = {name: metric for name, _, metric, *_ in _TABLES}
CELLS: dict[str, dict[tuple[str, str], str]] = {
    name: {
        (method, duration): number
        for method, line in zip(METHODS, numbers.strip().splitlines(), strict=True)
        for duration, number in zip(durations, line.split(), strict=True)
    }
    for name, _, _, durations, numbers in _TABLES
}
"""Artifact to (method, duration) to the number as it is printed."""

BASE = {"humaneval": "0.138", "gsm8k": "0.145", "forgetting": "0.671", "mt_bench": "2.74"}
