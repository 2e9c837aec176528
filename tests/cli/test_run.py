from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from nilr.cli.boundary import run
from nilr.cli.variables import KNOWN
from nilr.commands import COMMANDS, Command, result_type
from nilr.config.base import Settings
from nilr.reporting import Reporter


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_recipe_and_display_fit_the_settings_and_the_result_of_their_command(command: Command) -> None:
    recipe, show = (get_type_hints(pkgutil.resolve_name(path)) for path in (command.recipe, command.show))
    assert recipe["settings"] is command.settings
    assert recipe["return"] == next(iter(show.values()))
    assert result_type(command) in (None, recipe["return"])


def test_a_result_is_stored_and_its_path_printed_on_stderr(
    probes: list[Settings], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe"]) == 0
    (stored,) = home.glob("results/*-probe-*.json")
    out, err = capsys.readouterr()
    assert out == ""
    assert f"result: {stored}\n" in err
    assert json.loads(stored.read_text())["schema"] == "nilr/probe/1"


def test_the_notes_are_the_last_lines(probes: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    run(["probe"])
    assert capsys.readouterr().err.endswith("\nthe last words\n")


def test_a_note_that_the_recipe_has_reported_is_not_repeated(
    install: Any, home: Path, probe_result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def recipe(_settings: Settings, reporter: Reporter) -> Any:
        reporter.note("the last words")
        return probe_result

    install("probe", recipe)
    assert run(["probe"]) == 0
    assert capsys.readouterr().err.count("the last words") == 1


@pytest.mark.parametrize(
    "words", ["probe maml --json -", "probe maml --json", "probe --json --seed 3 maml", "probe --json -- maml"]
)
def test_json_is_the_only_text_on_standard_output(
    probes: list[Settings], home: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert run(words.split()) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["maml"]["cross-task"]["accuracy"]["mean"] == 0.38
    assert "result: " in err
    assert probes[0].models == ("maml",)  # type: ignore[attr-defined]
    capsys.readouterr()
    assert run(["-q", *words.split()]) == 0
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_json_without_tables(
    probes: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["probe", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["command"] == "probe"
    assert "accuracy" not in err


@pytest.mark.parametrize("words", ["--json x.json", "--json=x.json", "--json=x.json -q", "-q --json x.json m"])
def test_json_with_a_path_writes_the_file_alone(
    probes: list[Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["probe", *words.split()]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["command"] == "probe"
    assert capsys.readouterr().out == ""


def test_json_to_a_path_gives_the_same_as_is_stored(probes: list[Settings], home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a [b].json"
    assert run(["probe", "--json", str(path)]) == 0
    (stored,) = home.glob("results/*.json")
    assert path.read_bytes() == stored.read_bytes()


def test_json_to_a_link_is_written_where_it_leads(probes: list[Settings], tmp_path: Path) -> None:
    link, target = tmp_path / "stdout", tmp_path / "target.json"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert run(["-q", "probe", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_bytes())["command"] == "probe"


def test_json_to_a_directory_is_refused_before_the_work(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", "--json", str(tmp_path)]) == 1
    assert probes == []
    assert capsys.readouterr().err == (
        f"error: cannot write `{tmp_path}`: it is a directory\nhint: give --json the name of a file\n"
    )


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        ("no/such/x.json", "there is no directory `{}/no/such`"),
        ("dangling", "there is no directory `{}/gone`"),
        ("file/x.json", "not a directory"),
        ("no/", "it is not a file"),
    ],
)
def test_a_mistyped_path_of_json_is_refused_before_the_work(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str], json: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "x.json")
    assert run(["probe", "--json", f"{tmp_path}/{json}"]) == 1
    assert probes == []
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write `{tmp_path}/{json}`: {reason.format(tmp_path)}\nhint: ")
    assert "--home" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize(
    "args",
    [
        "report x.json --out no/such/report.html",
        "report x.json --out no/such/report.md",
        "report x.json --out no/such/figures --format png",
        "meta-train --log-dir no/such",
        "probe --json no/such/x.json",
        "models import x --json no/such/x.json",
    ],
)
def test_every_output_path_lies_in_a_directory_that_exists(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(args.split()) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: cannot write `no/such")
    assert f"mkdir -p {tmp_path}/no" in said
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_that_the_shell_left_is_the_home_directory(
    probes: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user, work = tmp_path / "user", tmp_path / "work"
    user.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(user))
    assert run(["probe", "~/model", "--data=~/a.h5", "--home=~/x", "--json=~/x.json"]) == 0
    assert probes[0].explicit() == {"models": (f"{user}/model",), "data": f"{user}/a.h5", "home": user / "x"}
    assert (user / "x.json").is_file()
    monkeypatch.setenv("NILR_HOME", "~/y")
    monkeypatch.setenv("NILR_DATA_B", "~/b.h5")
    assert run(["probe"]) == 0
    assert probes[1].explicit() == {"data_b": f"{user}/b.h5"}
    assert sorted(path.name for path in user.iterdir()) == ["x", "x.json", "y"]
    assert run(["probe", "--home=~no-such-user/x"]) == 1
    assert "`~no-such-user` has no home directory" in capsys.readouterr().err
    assert list(work.iterdir()) == []


def test_a_misspelt_variable_is_named_with_the_nearest_one(
    probes: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("NILR_N_EPISODE", "nilr_seed", "NILR_NAME", "NILR_MODELS", "NILR_XYZZY", "NILR_OUTER_STEPS", "NILR_QUIET")
    for name in (*names, "NILR_Name", "NILR_NAMES", "NILR_SAV"):
        monkeypatch.setenv(name, "0")
    assert run(["probe"]) == 0
    assert capsys.readouterr().err.splitlines()[:8] == [
        "warning: the environment variable NILR_MODELS is ignored: give MODEL on the command line",
        "warning: the environment variable NILR_NAME is ignored: give --name on the command line",
        "warning: the environment variable NILR_NAMES is unknown and ignored: give --name on the command line",
        "warning: the environment variable NILR_N_EPISODE is unknown and ignored: did you mean NILR_N_EPISODES?",
        "warning: the environment variable NILR_Name is ignored: give --name on the command line",
        "warning: the environment variable NILR_SAV is unknown and ignored: did you mean NILR_SAVE? It takes 0 or 1.",
        "warning: the environment variable NILR_XYZZY is unknown and ignored: `nilr COMMAND --help` lists the options",
        "warning: the environment variable nilr_seed is unknown and ignored: did you mean NILR_SEED?",
    ]
    assert run(["-q", "probe"]) == 0
    assert capsys.readouterr().err == ""


def test_every_variable_that_is_read_anywhere_is_known() -> None:
    root = Path(__file__).parents[2]
    files = [
        root / "hatch_build.py",
        *root.glob("nilr/**/*.py"),
        *root.glob("tests/**/conftest.py"),
        *root.glob("docs/*.md"),
    ]
    found = {
        name
        for file in files
        for name in re.findall(r"environ.*?\b(NILR_[A-Z_]+)|`(NILR_[A-Z_]+)[`=]", file.read_text())
    }
    read = {name for pair in found for name in pair if name}
    assert {"NILR_HOME", "NILR_MINI_IMAGENET"} <= read <= KNOWN


@pytest.mark.parametrize("args", ["probe", "models ls", "prepare-data --synthetic", "report"])
def test_a_working_directory_that_was_removed_is_one_error(tmp_path: Path, args: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, sys; from nilr.cli.boundary import run; os.rmdir(os.getcwd()); sys.exit(run({args.split()}))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=gone, capture_output=True, text=True, check=False)
    said = "error: cannot use the working directory: no such file or directory\nhint: change to one that exists\n"
    assert (done.stderr, done.stdout, done.returncode) == (said, "", 1)


def test_json_to_a_pipe_is_written_into_it(probes: list[Settings], tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert run(["-q", "probe", "--json", str(pipe)]) == 0
    reader.join(timeout=240)
    assert json.loads(read[0])["command"] == "probe"
    assert pipe.is_fifo()


def test_the_demo_stores_its_results_itself(install: Any, home: Path, probe_result: Any) -> None:
    install("demo", lambda *_: probe_result)
    assert run(["demo"]) == 0
    assert not list(home.glob("results/*"))


def test_a_store_that_cannot_be_written_is_refused_before_the_work(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["probe", "--home", str(tmp_path / "file")]) == 1
    assert probes == []
    said = capsys.readouterr().err
    assert f"error: cannot write `{tmp_path / 'file' / 'results'}" in said
    assert "hint: a part of this path is a file; choose another place\n" in said


def test_a_result_is_stored_even_where_its_copy_cannot_be_written(
    install: Any, probe_result: Any, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def recipe(*_: object) -> Any:
        place.rmdir()
        place.touch()
        return probe_result

    install("probe", recipe)
    assert run(["probe", "--json", str(place / "x.json")]) == 1
    assert len(list(home.glob("results/*.json"))) == 1
    assert "error: cannot write" in capsys.readouterr().err


def test_settings_come_from_a_file_and_flags_and_variables_override_them(
    probes: list[Settings], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('models = ["a", "b"]\nn_way = 3\nn_shot = 2\nn_episodes = 9\nuntil_ci = 0.5\ncontrols = true\n')
    monkeypatch.setenv("NILR_N_SHOT", "4")
    assert run(["probe", "--config", str(file), "--n-way", "7"]) == 0
    from_file = {"models": ("a", "b"), "n_episodes": 9, "until_ci": 0.5, "controls": True}
    assert probes[0].explicit() == {**from_file, "n_way": 7, "n_shot": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n_wya = 5", "`{}`: `nilr probe` has no setting `n_wya`\nhint: did you mean `n_way`? "),
        ("[probe]\nn_way = 5", "`{}`: `nilr probe` has no setting `probe`"),
        ('n_way = "5"', "`{}: n_way` cannot be `5`: input should be a valid integer"),
        ("n_way = true", "`{}: n_way` cannot be `True`: input should be a valid integer"),
        ("n_way = 1", "`{}: n_way` cannot be `1`: input should be greater than or equal to 2"),
        ("data = 2026-01-01", "`{}: data` cannot be `2026-01-01`: input should be a valid string"),
        ('models = "maml"', "`{}: models` cannot be `maml`: input should be a valid array"),
        ('protocol = "same"', "`{}: protocol` cannot be `same`: input should be `meta-init`"),
        ("n_way 5", "`{}` is not valid TOML: "),
        ('home = ""', "`{}: home` cannot be ``: a path is not empty\n"),
        (None, "cannot read `{}`: no such file or directory\n"),
    ],
)
def test_a_mistake_in_a_file_of_settings_names_file_and_setting(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    file = tmp_path / "recipe.toml"
    if content is not None:
        file.write_text(content)
    assert run(["probe", "--config", str(file), "--n-way", "5"]) == (1 if content is None else 2)
    assert probes == []
    assert capsys.readouterr().err.replace("'", "`").startswith(f"error: {message.format(file)}")


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("probe", ["a", "b@last", "--rates", "learned,-0.1", "--until-ci", "1e-05", "--controls", "--home", "x"]),
        ("meta-train", ["--widths", "64,128,256,512", "--time", "1-0:30", "--no-norm-adapted", "--name", "a"]),
        ("adapt", ["--query", 'a"\x7f\u00e9.jpg', "--query", "b\\c", "--no-save", "--data", "x"]),
    ],
)
def test_saved_settings_are_the_same_when_they_are_read(
    install: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = install(command, lambda *_: pytest.skip())
    for words in ([*args, "--save-config", "recipe.toml"], ["--config", "recipe.toml"]):
        with pytest.raises(pytest.skip.Exception):
            run([command, *words])
    assert calls[0] == calls[1]
    assert calls[0].explicit() == calls[1].explicit()


def test_settings_are_saved_to_a_file_that_can_be_written(
    probes: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", "--save-config", str(tmp_path / "no" / "recipe.toml")]) == 1
    assert probes == []
    assert "hint: correct --save-config, or create the directory: " in capsys.readouterr().err
    assert run(["-q", "probe", "m", "--n-way", "3", "--save-config", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ['models = ["m"]', "n_way = 3"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("help probe nosuch", "`nilr probe` has no command `nosuch`"),
        ("models import nosuch.pt --data x", "`nosuch.pt` does not exist"),
        ("models import hf://a/b", "hint: `nilr models pull hf://USER/REPO"),
        ("probe --protocol meta-init --fail-below same-task.accuracy=0.1", "--protocol meta-init does not evaluate it"),
        ("probe --fail-below same-task.accuracy=45", "hint: a limit is a fraction: 0.45 is 45 %"),
        ("probe --fail-below same-task.accuracy=nan", "has no limit"),
        ("meta-train --threads 5000", "`--threads` cannot be `5000`"),
        ("meta-train --seeds 2 --seed 9223372036854775807 --dry-run", "are not all below 2**63"),
        ("data compare x", "a comparison needs two packs"),
    ],
)
def test_an_impossible_request_is_one_error_before_the_work(
    home: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    assert run([*args.split(), *([] if args.startswith("help") else ["--home", str(home)])]) != 0
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("error: ") == 1
    assert "internal" not in shown


def test_a_path_that_toml_cannot_contain_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "ls", "--home", f"{tmp_path}\udcff", "--save-config", str(tmp_path / "c.toml")]) == 2
    assert "`home` has a path that is not UTF-8" in capsys.readouterr().err


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text('\ufeffkind = "probe"\n', encoding="utf-8")
    assert run(["results", "ls", "--config", str(tmp_path / "x.toml")]) == 0, capsys.readouterr().err
