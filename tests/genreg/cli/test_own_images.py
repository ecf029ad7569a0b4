"""``genreg train NAME --images FOLDER``: options, configuration, and errors in one line."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from genreg.cli import main, own_images
from genreg.own_images import PriorSettings

EVERYTHING = {
    "data": {
        "images": "slices",
        "key": "rss",
        "range": [-1.0, 2.5],
        "held_out": 0.3,
        "limit": 9,
        "strict": True,
    },
    "model": {
        "crop": 32,
        "channels": [4, 8],
        "latent_channels": 3,
        "top_channels": [],
        "top_latent_channels": 2,
        "head_channels": [4],
        "distance": 1,
    },
    "training": {
        "steps": 5,
        "precision_steps": 6,
        "batch_size": 2,
        "lr": 0.01,
        "patience": 4,
        "augment": False,
        "diagonal": True,
        "seed": 7,
    },
}


def fails(capsys, *arguments):
    assert main(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err.removeprefix("genreg train: ").rstrip("\n")


@pytest.fixture
def calls(monkeypatch):
    """What `train_prior` is called with, without a training."""
    found = []

    def train_prior(images, name, **options):
        found.append({"images": images, "name": name, **options})
        return SimpleNamespace(summary=lambda: "a summary", file="mine.safetensors", picture="mine.png")

    monkeypatch.setattr(own_images, "train_prior", train_prior)
    return found


def test_options(calls, capsys, tmp_path):
    out = tmp_path / "runs"
    command = [
        "train",
        "mine",
        "--images",
        "slices",
        "--crop",
        "48",
        "--minutes",
        "2.5",
        "--range",
        "-1000",
        "1e3",
    ]
    assert main([*command, "--strict", "--resume", "--out", str(out)]) == 0
    (call,) = calls
    assert call["settings"] == PriorSettings(crop=48, range=(-1000.0, 1000.0))
    wanted = {"name": "mine", "minutes": 2.5, "strict": True, "resume": True, "quick": False, "out": out}
    assert call.items() >= wanted.items() and str(call["images"]) == "slices" and out.is_dir()
    assert capsys.readouterr().out == "a summary\nWeights: mine.safetensors\nPicture: mine.png\n"


def test_configuration(calls, tmp_path, configuration_text):
    config = tmp_path / "train.toml"
    config.write_text(configuration_text(EVERYTHING))
    assert main(["train", "mine", "--config", str(config), "--out", str(tmp_path)]) == 0
    model, training, data = (EVERYTHING[table] for table in ("model", "training", "data"))
    own = {"range": data["range"], "held_out": data["held_out"]}
    assert calls[0]["settings"] == PriorSettings(**model, **training, **own)
    wanted = {"images": tmp_path / "slices", "key": "rss", "limit": 9, "strict": True, "minutes": None}
    assert calls[0].items() >= wanted.items()
    fields = {field.name for field in dataclasses.fields(PriorSettings)}
    assert fields == {*model, *training, "range", "held_out"}  # every setting has its entry
    options = ["--images", "elsewhere", "--crop", "40", "--range", "0", "1"]
    assert main(["train", "mine", "--config", str(config), *options, "--out", str(tmp_path)]) == 0
    assert str(calls[1]["images"]) == "elsewhere"
    assert (calls[1]["settings"].crop, calls[1]["settings"].range) == (40, (0.0, 1.0))


def test_minutes_of_the_configuration(calls, tmp_path, configuration_text, capsys):
    config = tmp_path / "train.toml"
    config.write_text(configuration_text({"data": {"images": "."}, "training": {"minutes": 3}}))
    command = ["train", "mine", "--config", str(config), "--out", str(tmp_path)]
    assert main(command) == 0 and main([*command, "--minutes", "4"]) == 0
    assert [call["minutes"] for call in calls] == [3, 4.0]
    capsys.readouterr()
    config.write_text(configuration_text({"data": {"images": "."}, "training": {"steps": 3}}))
    message = fails(capsys, *command, "--minutes", "4")
    assert message == "give minutes or steps, got minutes = 4 and steps = 3"


def test_errors(tmp_path, capsys, configuration_text):
    out = ("--out", tmp_path)
    message = fails(capsys, "train", "shapes-vae", "--images", tmp_path, *out)
    assert message == "name must not be that of a shipped recipe where images are given, got 'shapes-vae'"
    assert "must be a folder of images, got" in fails(
        capsys, "train", "mine", "--images", tmp_path / "no", *out
    )
    message = fails(capsys, "train", "shapes-vae", "--crop", "32", *out)
    assert message == "--crop is for your own images: give --images FOLDER or --config FILE"
    message = fails(capsys, "train", "mine", "--images", tmp_path, "--range", "1", "0", *out)
    assert message == "range must be two increasing numbers, got [1.0, 0.0]"
    np.save(tmp_path / "small.npy", np.eye(9))
    message = fails(capsys, "train", "mine", "--images", tmp_path, *out)
    assert "got none: small.npy (it must have at least 64 x 64 pixels, got 9 x 9)" in message
    config = tmp_path / "train.toml"
    assert "configuration must exist" in fails(capsys, "train", "mine", "--config", config, *out)
    for settings, wanted in (
        ({"training": {"step": 3}}, "table [training] may have the entries ['minutes', 'steps', "),
        ({"model": {"channels": [3, 0]}}, "model.channels must be a list of positive integers, got [3, 0]"),
        ({"data": {"held_out": 1}}, "data.held_out must be a number between 0 and 1, got 1"),
        ({"training": {"augment": 1}}, "training.augment must be true or false, got 1"),
        ({"prior": {}}, "configuration may have the tables ['data', 'model', 'training'], got 'prior'"),
        ({}, f"data.images must name the folder in {config}, or give --images FOLDER"),
    ):
        config.write_text(configuration_text(settings))
        assert wanted in fails(capsys, "train", "mine", "--config", config, *out)


def test_an_interrupt_tells_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(own_images, "train_prior", interrupted)
    command = [
        "train",
        "mine",
        "--out",
        str(tmp_path),
        "--images",
        "my slices",
        "--range",
        "-1",
        "2",
        "--strict",
    ]
    assert main(command) == 130
    message = f"interrupted, go on by: genreg train mine --out {tmp_path} --resume --images 'my slices' "
    assert message + "--range -1.0 2.0 --strict" in capsys.readouterr().err
