"""`search` at the command line: a real one from end to end, and what is refused before anything is trained."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_recipe.cli import RecipeCLI
from lightning_recipe.runs.manifest import Entry
from lightning_recipe.runs.search import command as search_command

Command = Callable[..., RecipeCLI | None]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

MODEL = ["--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=6"]
DATA = ["--data=DigitsDataModule", "--data.form=rows"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=5", "--trainer.accelerator=cpu", *QUIET]
KEEP = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
SETTINGS = [*MODEL, *DATA, *SHORT, *KEEP, "--rules=none", "--trainer.callbacks+=ReportCard"]
FOLDER = Path("logs/fit-search")


@pytest.mark.slow(seconds=25)
def test_a_search_from_end_to_end(command: Command, repository: Path, capfd: Capture) -> None:
    Path("train.py").write_text((repository / "scripts" / "train.py").read_text())
    Path("space.yaml").write_text("model.lr: {log10: [-3, -1]}\nmodel.hidden_size: {int: [4, 8]}\n")
    arguments = ["search", "--trials=3", "--jobs=2", "--space=space.yaml", *SETTINGS]
    command(*arguments)
    printed = capfd.readouterr().out
    assert re.search(r"^model.lr +0.001 to 0.1, on a logarithmic scale$", printed, re.MULTILINE)
    assert re.search(r"^Trials +3, by random, for the least val/loss$", printed, re.MULTILINE)
    assert re.search(r"^Trials +3 finished of 3$", printed, re.MULTILINE)
    records = [Entry(FOLDER / f"trial_{k:04d}.json").read() for k in range(3)]
    assert [record["status"] for record in records] == ["finished"] * 3
    losses = [record["best"]["value"] for record in records]
    number = losses.index(min(losses))
    assert re.search(rf"^Best +val/loss {min(losses):.4g} in trial_000{number}$", printed, re.MULTILINE)
    trained = yaml.safe_load((FOLDER / f"trial_000{number}.yaml").read_text())
    chosen = yaml.safe_load((FOLDER / "best.yaml").read_text())
    assert chosen["model"] == trained["model"]
    assert chosen["trainer"]["logger"] != trained["trainer"]["logger"], "as the user has it"
    page = (FOLDER / "report.html").read_text(encoding="utf-8")
    assert "<h1>fit-search: 3 runs</h1>" in page
    for title in ("Options one by one", "Trials side by side", "Best so far", "Trials"):
        assert f"<strong>{title}</strong>" in page
    assert "could not be drawn" not in page

    (line,) = re.findall(r"^Fit +python train.py (.+)$", printed, re.MULTILINE)
    cli = command(*shlex.split(line))
    assert float(cli.trainer.callback_metrics["val/loss"]) == pytest.approx(min(losses))  # type: ignore[union-attr]
    capfd.readouterr()
    command(*arguments)
    again = capfd.readouterr().out
    assert "starts" not in again
    assert re.search(r"^Trials +3 finished of 3$", again, re.MULTILINE)


@pytest.mark.slow(seconds=25)
def test_trials_on_folds_are_judged_as_a_cross_validation_judges(
    command: Command, repository: Path, capfd: Capture
) -> None:
    Path("train.py").write_text((repository / "scripts" / "train.py").read_text())
    Path("space.yaml").write_text("model.lr: {log10: [-3, -1]}\n")
    command("search", "--trials=2", "--folds=3", "--jobs=2", "--space=space.yaml", *SETTINGS)
    printed = capfd.readouterr().out
    assert re.search(r"^Trials +2, each on 3 folds, by random, for the least test/loss$", printed, re.MULTILINE)
    best = re.search(r"^Best +test/loss ([\d.]+) in trial_\d{4}, the mean of 3 folds$", printed, re.MULTILINE)
    assert best is not None
    assert "<h1>fit-search: 6 runs</h1>" in (FOLDER / "report.html").read_text(encoding="utf-8")
    command("crossval", "--folds=3", "--jobs=2", "--metric=test/loss", "--config", str(FOLDER / "best.yaml"))
    (mean,) = re.findall(r"^test/loss +([\d.]+), 95% interval", capfd.readouterr().out, re.MULTILINE)
    assert mean == best.group(1)


def test_what_is_refused_before_anything_is_trained(
    error: Error, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("space.yaml").write_text("model.learning_rate: {log10: [-3, -1]}\n")
    said = error("search", "--space=space.yaml", *SETTINGS)
    assert said == (
        "error: The space names the option model.learning_rate, which does not exist: did you mean model.lr?"
    )
    assert "There is no file none.yaml to read the space from" in error("search", "--space=none.yaml", *SETTINGS)
    assert "No checkpoint of these settings is kept by a metric: name" in error("search", *MODEL, *DATA, *SHORT)
    assert "Whether high or low is good is not known of val/luck: add" in error(
        "search", *SETTINGS, "--metric=val/luck"
    )
    assert "expected a whole number of at least 1, but got '0'" in error("search", *SETTINGS, "--trials=0")
    assert "invalid choice: 'luck'" in error("search", *SETTINGS, "--sampler=luck")
    assert "a grid of 4 or more wastes trials" in error("search", *SETTINGS, "--sampler=grid")
    folds = ["search", *SETTINGS, "--folds=3"]
    assert "expected a whole number of at least 2, but got '1'" in error(*folds, "--folds=1")
    assert "A search on folds gives each fit its own share of the data: leave --subset 99 out" in error(
        *folds, "--subset=99"
    )
    assert "too few for 300 folds: ask for 160 folds or fewer" in error(*folds, "--folds=300")
    assert "and epoch_loss does not tell which that is: name a metric" in error(*folds, "--metric=epoch_loss")
    assert "A run of a W&B sweep is one fit: leave --folds out" in error(*folds, "--emit=wandb")
    assert "leave --ckpt_path out" in error("search", *SETTINGS, "--ckpt_path=last")
    assert "--memberz" in error("search", *SETTINGS, "--memberz=3")
    assert not Path("logs").exists()
    Path("notes.txt").write_text("nothing")
    assert "--storage notes.txt is no journal of a study" in error("search", *SETTINGS, "--storage=notes.txt")
    FOLDER.mkdir(parents=True)
    (FOLDER / "trial_0000.yaml").write_text("")
    assert "holds trial_0000, of which the study fit-search in" in error("search", *SETTINGS)
    monkeypatch.setattr(search_command.importlib.util, "find_spec", lambda name: None)
    said = error("search", *SETTINGS)
    assert said == "error: search needs Optuna, which is not installed: `pip install 'lightning-rules[train]'`."


def test_the_example_is_a_space_of_its_configuration(command: Command, repository: Path, capfd: Capture) -> None:
    example = repository / "configs" / "search" / "digits.yaml"
    command("search", "--config", str(repository / "configs" / "digits.yaml"), "--space", str(example), "--print-space")
    assert "model.weight_decay: {log10: [-7, -1]}" in capfd.readouterr().out
    assert all(f"# {word}: " in example.read_text() for word in ("Purpose", "Launch", "Limits"))


def test_what_is_printed_instead(command: Command, capfd: Capture) -> None:
    command("search", "--print-space", *SETTINGS)
    printed = capfd.readouterr().out
    assert "model.lr: {log10: [-5, -1]}  # rank 1: 1e-05 to 0.1" in printed
    Path("space.yaml").write_text(printed)
    command("search", "--space", "space.yaml", "--emit", "wandb", *SETTINGS)
    sweep = yaml.safe_load(capfd.readouterr().out)
    words = [word for word in sweep["command"][3:] if word != "${args}"]
    arguments = [f"--{name}={one.get('min', one.get('values', [0])[0])}" for name, one in sweep["parameters"].items()]
    cli = command(*words[:-2], "--trainer.fast_dev_run=true", *arguments)
    assert cli.model.hparams["lr"] == 1e-5  # type: ignore[union-attr]
    capfd.readouterr()
    command("search", "--jobs=2", "--emit=commands", *SETTINGS)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("they share the study in logs/fit-search/study.journal")
    assert len(lines) == 3
    assert "--emit" not in lines[1]
    assert "--jobs" not in lines[1]
    assert not FOLDER.exists()
