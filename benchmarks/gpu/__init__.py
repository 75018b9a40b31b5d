"""What runs on a GPU, in one run of minutes: whether it is right, how fast it is, and beside what.

python -m benchmarks.gpu                        every part, within five minutes
python -m benchmarks.gpu --parts speed peer     some of them
python -m benchmarks.gpu --list                 what there is, and what each needs
python -m benchmarks.gpu --device cpu --tiny    the same code on the CPU, on a model of four narrow layers

Every part is a module of this package and runs in a process of its own with a time limit. What it finds is printed and
kept as it is found: one line of JSON for each part in results/gpu.jsonl, with the machine, the versions and the code.
A part that fails, is cut off or lacks a package is a result with its reason, and the others go on.

Models have random weights, made on the device; nothing of a model's size is written to disk, and nothing is downloaded.
"""
