"""The command line: every command at its quick size, and errors in one line."""

import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import genreg
from genreg import recipes, weights
from genreg.cli import main
from genreg.networks import DenseConfig
from genreg.training.amortised_encoder import EncoderTrainer, fit_encoder
from genreg.training.autoencoder import AutoencoderTrainer


def fails(capsys, *arguments):
    """The single line of an error of the user."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.endswith("\n") and captured.err.count("\n") == 1
    return captured.err


def test_help_and_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "train", "evaluate", "reconstruct", "benchmark"))
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"genreg {genreg.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--angles", "many"], ["reconstruct"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage: genreg" in capsys.readouterr().err


def test_module_runs_as_a_program(monkeypatch, capsys):
    """As ``python -m genreg.cli`` does; that the import in a new process prints nothing is test_package's."""
    monkeypatch.setattr(sys, "argv", ["cli.py", "train", "no-such-model"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("genreg.cli", run_name="__main__")
    captured = capsys.readouterr()
    assert end.value.code == 2 and captured.out == ""
    assert captured.err.startswith("genreg train: name must be one of [") and captured.err.count("\n") == 1


# reconstruct


def test_reconstruct(make_case, without_pictures, capsys, tmp_path):
    config = str(make_case().write())
    assert main(["reconstruct", config, "--silent"]) == 0
    captured = capsys.readouterr()
    assert "λ = 1, residual / noise level = " in captured.out and "image.npy (and image.png)" in captured.out
    assert captured.err == ""
    first = np.load(tmp_path / "image.npy")

    np.save(tmp_path / "zero.npy", np.zeros((20, 32)))
    out = tmp_path / "other.npy"
    assert main(["reconstruct", config, "--data", str(tmp_path / "zero.npy"), "--output", str(out)]) == 0
    assert np.abs(np.load(out)).max() < 1e-6 < np.abs(first).max()


def test_reconstruct_errors(case, capsys, tmp_path):
    message = fails(capsys, "reconstruct", str(case.write(data__noise_std="small")))
    assert message == "genreg reconstruct: data.noise_std must be a positive number, got 'small'\n"
    assert "configuration must exist" in fails(capsys, "reconstruct", str(tmp_path / "none.toml"))
    message = fails(
        capsys, "reconstruct", str(case.write(data__noise_std=1.0)), "--data", str(tmp_path / "none.npy")
    )
    assert "data.file must exist" in message


# train


def test_train_quickly(tmp_path, capsys, monkeypatch):
    layers = {
        "image_shape": (56, 56),
        "latent_dim": 3,
        "variational": False,
        "encoder": (4,),
        "decoder": (4,),
    }
    recipe = recipes.RECIPES["shapes-ae"]
    small = dataclasses.replace(recipe, architecture=DenseConfig(**layers), range_images=2)
    monkeypatch.setitem(recipes.RECIPES, "shapes-ae", small)
    assert main(["train", "shapes-ae", "--quick", "--out", str(tmp_path / "runs")]) == 0
    assert str(tmp_path / "runs" / "shapes-ae.safetensors") in capsys.readouterr().out
    model, card = weights.load(tmp_path / "runs" / "shapes-ae.safetensors")
    assert card["quick"] is True and model.image_shape == (56, 56)


SQUARES = DenseConfig(image_shape=(8, 8), latent_dim=2, variational=False, encoder=(4,), decoder=(4,))


def squares(n, *, seed=0):
    return torch.rand(n, 8, 8, generator=torch.Generator().manual_seed(seed))


def pairs(n, *, seed):
    return squares(n, seed=seed), 0.5 * squares(n, seed=seed)


def refined(model, quick, progress, checkpoint, resume):
    card = fit_encoder(model, pairs, steps=6, checkpoint=checkpoint, resume=resume, progress=progress)
    return {"encoder": card}


@pytest.mark.parametrize("stage", [AutoencoderTrainer, EncoderTrainer])
def test_ctrl_c_in_either_stage_tells_the_command_that_goes_on(stage, tmp_path, capsys, monkeypatch):
    data = recipes.Data("squares", lambda: squares, lambda: squares(4), lambda: squares(4))
    recipe = recipes.Recipe(SQUARES, data, {"steps": 20, "batch_size": 4}, range_images=2, refine=refined)
    monkeypatch.setitem(recipes.RECIPES, "squares", recipe)
    whole, out = tmp_path / "whole", tmp_path / "runs"
    command = ["train", "squares", "--quick", "--out", str(out)]
    assert main([*command[:-1], str(whole)]) == 0
    advance = stage.advance

    def pressed(run):
        if run.step == 3:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "advance", pressed)
        capsys.readouterr()
        assert main(command) == 130
    message = f"genreg train: interrupted, go on by: genreg train squares --out {out} --resume --quick"
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert "squares.checkpoint is there already" in fails(capsys, *command)
    assert main([*command, "--resume"]) == 0
    assert [file.name for file in sorted(out.iterdir())] == ["squares.json", "squares.safetensors"]
    for name in ("squares.json", "squares.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert main([*command, "--resume"]) == 0
    assert "There is no checkpoint" in capsys.readouterr().err


def test_train_errors(tmp_path, capsys):
    assert "got 'shapes'" in fails(capsys, "train", "shapes", "--out", str(tmp_path))
    for device in ("nonsense", "meta"):
        message = fails(capsys, "train", "shapes-ae", "--device", device, "--out", str(tmp_path))
        assert f"--device must be a device that torch can use, got {device!r}" in message
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "train", "shapes-ae", "--quick", "--out", str(tmp_path / "file"))


# evaluate


def test_evaluate(tmp_path, capsys, monkeypatch):
    figures = "histograms deciles earth-mover mmd prior far interpolation smoothness calibration".split()
    monkeypatch.setattr("genreg.evaluation.report.draw", lambda e: dict.fromkeys(figures))
    monkeypatch.setattr("genreg.evaluation.report._embedded", lambda name, figure: name)
    images = genreg.datasets.shapes(40, seed=5)
    np.save(tmp_path / "test.npy", images[:20].numpy())
    np.save(tmp_path / "other.npy", images[20:].numpy())
    options = ["--data", "test.npy", "--reference", "other.npy", "--output", "r.html", "--json", "r.json"]
    options = [str(tmp_path / o) if o[0] != "-" else o for o in options]
    assert main(["evaluate", "shapes-ae", *options, "--seed", "4", "--quick", "--silent"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "shapes-ae: 20 test images" in captured.out
    assert f"Report: {tmp_path / 'r.html'}" in captured.out
    numbers = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert numbers["model"] == "shapes-ae" and numbers["settings"]["seed"] == 4
    assert numbers["earth mover's distance"]["images"] == 20
    assert "Evaluation of shapes-ae" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_evaluate_errors(tmp_path, capsys):
    message = fails(capsys, "evaluate", "shapes-ae", "--output", str(tmp_path / "report.pdf"))
    assert "must end in .html, got 'report.pdf'" in message
    assert "got 'nothing'" in fails(capsys, "evaluate", "nothing")
    assert "at least 20, got 3" in fails(capsys, "evaluate", "shapes-ae", "--images", "3", "--silent")
    np.save(tmp_path / "test.npy", np.zeros((30, 4, 4)))
    message = fails(capsys, "evaluate", "shapes-ae", "--data", str(tmp_path / "test.npy"))
    np.save(tmp_path / "grey.npy", np.full((30, 56, 56), 255, "uint8"))
    grey = fails(capsys, "evaluate", "shapes-ae", "--data", str(tmp_path / "grey.npy"))
    assert "images must be in the range of the model's images, mostly [0, 1], got integers up to 255" in grey
    assert "images must have the shape (N, 56, 56), got (30, 4, 4)" in message


# demo and benchmark


def test_demo_errors(tmp_path, capsys):
    assert "images must be a positive integer, got 0" in fails(capsys, "demo", "--images", "0")
    assert "noise must be positive and finite, got -1.0" in fails(capsys, "demo", "--noise", "-1")
    message = fails(capsys, "demo", "--output", str(tmp_path / "x.bmp"))
    assert "output must end in .png or .pdf, got 'x.bmp'" in message


def test_benchmarks_are_listed(capsys):
    assert main(["benchmark"]) == 0
    names = capsys.readouterr().out.split()
    assert "ray_transform" in names and not any(name.startswith("_") for name in names)
    assert f"name must be one of {names}, got 'nothing'" in fails(capsys, "benchmark", "nothing")


def test_benchmark_runs_as_a_process(tmp_path, monkeypatch, capfd):
    """With its own arguments, and its exit status is passed on."""
    (tmp_path / "benchmarks").mkdir()
    script = "import sys, _helper; print(_helper.NAME, sys.argv[1:]); raise SystemExit(3)"
    (tmp_path / "benchmarks" / "tiny.py").write_text(script)
    (tmp_path / "benchmarks" / "_helper.py").write_text("NAME = 'helped'")
    monkeypatch.setattr("genreg.cli.commands.__file__", str(tmp_path / "genreg" / "cli" / "commands.py"))
    assert main(["benchmark", "tiny", "--quick"]) == 3
    assert capfd.readouterr().out == "helped ['--quick']\n"


def test_benchmarks_are_missing_in_an_installed_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("genreg.cli.commands.__file__", str(tmp_path / "genreg" / "cli" / "commands.py"))
    assert "benchmarks come with the source" in fails(capsys, "benchmark")


def test_interrupt(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__["_COMMANDS"], "demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "genreg demo: interrupted\n"


# errors of the machine


def failing(monkeypatch, error):
    def run(options):
        raise error

    monkeypatch.setitem(main.__globals__["_COMMANDS"], "demo", run)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "there is not enough memory (MemoryError)"),
        (MemoryError("no 8 PiB\nfor an array"), "there is not enough memory (no 8 PiB for an array)"),
        (
            RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
            "CUDA error: out of memory",
        ),
        (torch.OutOfMemoryError("Tried to allocate 1 TiB"), "Tried to allocate 1 TiB"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
        (NotImplementedError(), "NotImplementedError"),
        (OSError(28, "No space left on device", "x.npy"), "[Errno 28] No space left on device: 'x.npy'"),
        (OverflowError("int too large to convert to float"), "int too large to convert to float"),
    ],
)
def test_what_the_machine_cannot_do_is_one_sentence(error, line, monkeypatch, capsys):
    failing(monkeypatch, error)
    assert fails(capsys, "demo") == f"genreg demo: {line}\n"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    failing(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        main(["demo"])


def test_full_disk_names_the_file(case, capsys, monkeypatch):
    def full(stream, image):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()  # pictures, too
    monkeypatch.setenv("GENREG_CACHE", str(case.folder / "cache"))
    monkeypatch.setattr(np, "save", full)
    message = fails(capsys, "reconstruct", str(case.write(solve__max_iter=1)), "--silent")
    target = case.folder / "image.npy"
    assert message == f"genreg reconstruct: [Errno 28] No space left on device: '{target}'\n"
    assert not target.exists()


def test_recursion_in_a_configuration(tmp_path, capsys):
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    assert "genreg reconstruct: " in fails(capsys, "reconstruct", str(tmp_path / "deep.toml"))


def process(script, **options):
    """Run a command in a process that imports no torch."""
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('cli', sys.argv[1]);"
        f"cli = u.module_from_spec(s); s.loader.exec_module(cli); {script};"
        "cli._COMMANDS['demo'] = lambda options: print('λ') or 0; sys.exit(cli.main(['demo']))"
    )
    run = [sys.executable, "-c", code, genreg.cli.commands.__file__]
    return subprocess.run(run, stderr=subprocess.PIPE, check=False, text=True, **options)


def test_output_that_cannot_be_written(tmp_path):
    """To a full disk, to a reader that has gone, and to a terminal that has no Greek letters."""
    resource = pytest.importorskip("resource")
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (0, 0))"
    with open(tmp_path / "out.txt", "w") as full:
        result = process(limit, stdout=full)
    assert (result.returncode, result.stderr) == (2, "genreg demo: [Errno 27] File too large\n")
    read, write = os.pipe()
    os.close(read)
    result = process("0", stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = process("0", stdout=subprocess.PIPE, env=ascii_only)
    assert (result.returncode, result.stdout, result.stderr) == (0, "?\n", "")
