"""The command ``genreg``: demo, train, evaluate, reconstruct, benchmark."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genreg", description="Generative regularisers for inverse problems."
    )
    version = importlib.metadata.version("genreg")
    parser.add_argument("--version", action="version", version=f"genreg {version}")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="reconstruct random shapes from tomographic data by five methods")
    demo.add_argument("--output", type=Path, default=Path("genreg-demo.png"), help="figure (PNG)")
    demo.add_argument("--images", type=int, default=12)
    demo.add_argument("--angles", type=int, default=40)
    demo.add_argument("--noise", type=float, default=0.05, help="relative to the largest value of the data")
    demo.add_argument("--seed", type=int, default=2023)
    demo.add_argument("--quick", action="store_true", help="two images, to see that it works")

    train = commands.add_parser(
        "train", help="train a prior on your own images, or one of the shipped models"
    )
    train.add_argument("name", help="name of your prior, or of a recipe, for example shapes-vae")
    train.add_argument("--out", type=Path, default=Path("runs"), help="folder for weights and checkpoints")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in that folder")
    train.add_argument("--device", default="cpu")
    train.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    own = train.add_argument_group("your own images")
    own.add_argument("--images", type=Path, help="folder of images: png, tif, npy, nii, dcm, h5 and more")
    own.add_argument("--config", type=Path, help="TOML file, see genreg.cli.own_images")
    own.add_argument("--crop", type=int, help="rows and columns of the crops to train on (64)")
    own.add_argument("--minutes", type=float, help="about how long to train on this machine")
    own.add_argument(
        "--range", type=float, nargs=2, metavar=("LO", "HI"), help="values that are 0 and 1 of the model"
    )
    own.add_argument("--strict", action="store_true", help="end at the first image that can't be used")

    measure = commands.add_parser("evaluate", help="measure a generative model and write a report")
    measure.add_argument("model", help="name of shipped weights, or a safetensors file")
    measure.add_argument("--images", type=int, default=1000, help="number of test images")
    measure.add_argument(
        "--data", type=Path, help="test images (npy), by default those of the model's recipe"
    )
    measure.add_argument("--reference", type=Path, help="other images of the same kind (npy), for scale")
    measure.add_argument("--output", type=Path, default=Path("report.html"), help="report (HTML)")
    measure.add_argument("--json", type=Path, help="all numbers (JSON)")
    measure.add_argument("--seed", type=int, default=0)
    measure.add_argument("--quick", action="store_true", help="at most 100 images, to see that it works")
    measure.add_argument("--silent", action="store_true", help="no progress bar")

    rec = commands.add_parser("reconstruct", help="reconstruct a data file as a small configuration says")
    rec.add_argument("config", type=Path, help="TOML file, see genreg.cli.configuration")
    rec.add_argument("--data", type=Path, help="data file (npy, npz, mat, h5); overrides the configuration")
    rec.add_argument("--output", type=Path, help="image file (npy); overrides the configuration")
    rec.add_argument("--silent", action="store_true", help="no progress bar")

    bench = commands.add_parser("benchmark", help="run a benchmark of a source checkout")
    bench.add_argument("name", nargs="?", help="script in benchmarks/, without .py; lists them if left out")
    bench.add_argument("options", nargs=argparse.REMAINDER, help="passed on, for example --quick")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments, by default those of the process.

    Returns
    -------
    int
        Exit status: 0; 2 for an error, of what was asked for or of what the machine could not do (memory, disk,
        device); 130 for an interrupt. Both end in one line on the standard error.
    """
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek shows a question mark
    try:
        status = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough
        _discard_output()
        return 0
    except KeyboardInterrupt as error:
        return _ended(options.command, str(error) or "interrupted", 130)
    except _EXPECTED as error:
        return _ended(options.command, _sentence(error), 2)
    return status


# Everything else is a fault of the program, of which the traceback tells.
_EXPECTED = (
    *(ValueError, TypeError, OSError, ImportError, ArithmeticError),  # of what was asked for
    *(RuntimeError, MemoryError),  # of torch, devices and libraries; recursion is one of the former
)


def _sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error)
    if isinstance(error, RuntimeError):  # below the first line torch explains its own sources
        text = text.strip().partition("\n")[0]
    line = " ".join(text.split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({line})"
    return line


def _ended(command: str, line: str, status: int) -> int:
    print(f"genreg {command}: {line}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, which the line above tells; Python would try again at the end
        _discard_output()
    return status


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _demo(options: argparse.Namespace) -> int:
    from genreg.cli.demo import demo

    demo(
        images=options.images,
        angles=options.angles,
        noise=options.noise,
        seed=options.seed,
        output=options.output,
        quick=options.quick,
    )
    return 0


def _train(options: argparse.Namespace) -> int:
    from genreg.cli.own_images import given, train_own
    from genreg.recipes.shipped import train

    own = options.images is not None or options.config is not None
    if not own and given(options):
        raise ValueError(f"{given(options)[0]} is for your own images: give --images FOLDER or --config FILE")
    _check_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        if own:
            return train_own(options)
        path = train(
            options.name, out=options.out, resume=options.resume, device=options.device, quick=options.quick
        )
    except KeyboardInterrupt:
        command = ["genreg", "train", options.name, "--out", str(options.out), "--resume"]
        command += ["--device", options.device] * (options.device != "cpu") + ["--quick"] * options.quick
        command += given(options)
        raise KeyboardInterrupt(f"interrupted, go on by: {shlex.join(command)}") from None
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    print(f"Weights: {path}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    import json

    from genreg.cli.data_files import load_array
    from genreg.evaluation import evaluate
    from genreg.evaluation.report import check_name
    from genreg.evaluation.result import lines
    from genreg.solvers.checkpoints import atomically

    check_name(options.output)
    result = evaluate(
        options.model,
        None if options.data is None else load_array(options.data),
        reference=None if options.reference is None else load_array(options.reference),
        count=options.images,
        seed=options.seed,
        quick=options.quick,
        progress=not options.silent,
    )
    if options.json is not None:
        text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        atomically(options.json, lambda target: target.write_text(text, encoding="utf-8"))
    print("\n".join(lines(result)) + f"\nReport: {result.report(options.output)}")
    return 0


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name).cpu()
    except Exception as error:  # torch has a type for every kind of device that is missing
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device must be a device that torch can use, got {name!r}: {reason}") from None


def _reconstruct(options: argparse.Namespace) -> int:
    from genreg.cli.configuration import reconstruct_file

    rec, output = reconstruct_file(
        options.config, data=options.data, output=options.output, progress=not options.silent
    )
    print(
        f"λ = {float(rec.lam):.4g}, residual / noise level = {float(rec.discrepancy):.3f}, "
        f"{rec.time:.1f} s\n{rec.advice()}\nImage: {output} (and {output.with_suffix('.png').name})"
    )
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    import subprocess

    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    scripts = {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    if not scripts:
        raise FileNotFoundError(
            f"benchmarks come with the source, not with the installed package; none in {folder}"
        )
    if options.name is None:
        print("\n".join(scripts))
        return 0
    if options.name not in scripts:
        raise ValueError(f"name must be one of {list(scripts)}, got {options.name!r}")
    return subprocess.call([sys.executable, str(scripts[options.name]), *options.options])


_COMMANDS = {
    "demo": _demo,
    "train": _train,
    "evaluate": _evaluate,
    "reconstruct": _reconstruct,
    "benchmark": _benchmark,
}
