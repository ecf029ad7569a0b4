#!/usr/bin/env bash
# safetensors 0.8.0: save_file makes a file that only its owner can read, whatever the umask and the old file.
#
# Expected: the file gets the mode of every new file (0644 with the umask 022); one that is written over keeps its own
# mode, its inode and its hard links, as it does with open(path, "wb").
# Seen: the mode is 0600, and the target is replaced by another file: a group that could read the old one cannot read
# the new one, and a hard link keeps the old contents.
# genreg: gives its files the mode that a new file has there (genreg._state_files).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    numpy==2.4.6 safetensors==0.8.0

cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import os
import stat
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file


def mode(path):
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


os.umask(0o022)
plain, new, old, link = map(Path, ("plain", "new.safetensors", "old.safetensors", "link.safetensors"))
plain.write_bytes(b"")
save_file({"a": np.ones(2)}, new)
save_file({"a": np.zeros(2)}, old)
old.chmod(0o664)
os.link(old, link)
before = old.stat().st_ino, mode(old)
save_file({"a": np.ones(2)}, old)
print("safetensors", safetensors.__version__, " umask 022")
print("mode of a file made by open:     ", mode(plain))
print("mode of a file made by save_file:", mode(new))
print("mode of a file written over:     ", before[1], "->", mode(old))
print("still the same file:             ", before[0] == old.stat().st_ino)
print("through the hard link:           ", load_file(link)["a"].tolist(), " in the file:", load_file(old)["a"].tolist())

assert safetensors.__version__ == "0.8.0"
assert (mode(plain), mode(new), before[1], mode(old)) == ("0644", "0600", "0664", "0600")
assert before[0] != old.stat().st_ino
assert load_file(link)["a"].tolist() == [0, 0] and load_file(old)["a"].tolist() == [1, 1]
print("as stated")
PYTHON
