"""Files of computations that take long: when they are written, what they refuse, Ctrl-C."""

import signal

import pytest

from genreg.solvers.checkpoints import StateFile, begin, resumable, saving


def identity():
    return {"size": 3}


def test_written_about_every_minute_or_now(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resumable.time, "perf_counter", lambda: now[0])
    file, saved = begin(tmp_path / "deep" / "run", False, "test", identity)
    assert saved is None
    with saving(file, lambda: {"turn": now[0]}) as done:
        for now[0] in (30.0, 59.0):
            done()
            assert not file.path.exists()
        for now[0], last in ((60.0, 60.0), (119.0, 60.0), (120.0, 120.0)):
            done()
            assert file.load() == {"turn": last}
        now[0] = 121.0
        done(now=True)
    assert begin(file.path, True, "test", identity)[1] == {"turn": 121.0}
    with saving(None, identity) as done:
        done(now=True)


def test_what_is_refused(tmp_path, capsys):
    assert begin(None, False, "test", identity) == (None, None)
    with pytest.raises(ValueError, match="resume needs the file to resume from: give checkpoint"):
        begin(None, True, "test", identity)
    with pytest.raises(TypeError, match="checkpoint must be a string or a path, got int"):
        begin(3, False, "test", identity)
    file, _ = begin(tmp_path / "run", True, "test", identity)
    assert "There is no checkpoint" in capsys.readouterr().err
    begin(tmp_path / "run", True, "test", identity, progress=False)
    assert capsys.readouterr().err == ""
    file.save(dict)
    with pytest.raises(FileExistsError, match=r"checkpoint .*run is there already: go on .* by resume=True"):
        begin(tmp_path / "run", False, "test", identity)
    with pytest.raises(ValueError, match=r"checkpoint .*run belongs to another run: size was 3 and is 4"):
        begin(tmp_path / "run", True, "test", lambda: {"size": 4})
    with pytest.raises(ValueError, match="holds the state of a test, not of a sweep"):
        begin(tmp_path / "run", True, "sweep", identity)


def test_an_interrupt_waits_for_the_end_of_a_part(tmp_path):
    file, turns = StateFile(tmp_path / "run", "test", identity), []
    with (
        pytest.raises(KeyboardInterrupt, match=r"interrupted, with the state in .*run"),
        saving(file, lambda: {"turns": len(turns)}) as done,
    ):
        for turn in range(5):
            if turn == 2:
                signal.raise_signal(signal.SIGINT)
            turns.append(turn)
            done()
    assert file.load() == {"turns": 3} and signal.getsignal(signal.SIGINT) is signal.default_int_handler
