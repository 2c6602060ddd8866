import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_recipe.cli import RecipeCLI
from lightning_rules import GradientClipping, LossAtInit, Rule, recommended

Command = Callable[..., RecipeCLI]
Error = Callable[..., str]
Capture = pytest.CaptureFixture[str]

# The options that are ours, with their defaults: a change here is a change to every user's YAML.
OPTIONS = {
    "rules": "recommended",
    "check_budget": 10.0,
    "ignore_rules": {},
    "report": "html",
    "test_after_fit": False,
    "measure_training": False,
    "fold": None,
    "held_out": None,
    "subset": None,
    "all_data": None,
    "bootstrap": None,
}
LIGHTNINGS_OPTIONS = {
    "seed_everything",
    "trainer",
    "model",
    "data",
    "ckpt_path",
    "weights_only",
    "config",
    "print_config",
}


def printed_config(command: Command, capsys: Capture, *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as raised:
        command(*arguments, "--print_config")
    assert raised.value.code == 0
    loaded: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return loaded


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict", "check", "lr-find", "distill"])
def test_options_are_frozen(command: Command, capsys: Capture, subcommand: str) -> None:
    with pytest.raises(SystemExit) as raised:
        command(subcommand, "--help")
    assert raised.value.code == 0
    text = capsys.readouterr().out
    options = {name.partition(".")[0] for name in re.findall(r"^ +(?:-\w, )?--([a-z_.]+)", text, re.MULTILINE)}
    own = {"return_predictions", "verbose", "help", "budget"}  # of single subcommands
    own |= {"teacher", "temperature", "mixing", "targets", "cache_dir", "plain"}
    own |= {"only", "skip", "capacity", "probe", "json"}
    assert options - LIGHTNINGS_OPTIONS - own == set(OPTIONS)


def test_defaults_are_frozen(command: Command, capsys: Capture) -> None:
    config = printed_config(command, capsys, "fit", "--model=Separable")
    assert {name: config[name] for name in OPTIONS} == OPTIONS
    assert config["seed_everything"] == 42
    assert config["trainer"]["logger"]["class_path"] == "lightning.pytorch.loggers.CSVLogger"


def test_top_level_help_names_the_subcommands(command: Command, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as raised:
        command("--help")
    assert raised.value.code == 0
    assert "{fit,validate,test,predict,check,lr-find,distill}" in capsys.readouterr().out


def test_printed_config_gives_itself_back(command: Command, capsys: Capture, tmp_path: Path) -> None:
    arguments = ("fit", "--model=Separable", "--data=Labelled", "--trainer.max_epochs=3", "--rules=none")
    first = printed_config(command, capsys, *arguments)
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(first))
    assert printed_config(command, capsys, "fit", "--config=printed.yaml") == first
    assert first["trainer"]["max_epochs"] == 3


def test_later_configs_are_laid_over_earlier_ones(command: Command, capsys: Capture, tmp_path: Path) -> None:
    base = {"model": "Separable", "trainer": {"max_epochs": 3, "callbacks": [{"class_path": "LearningRateMonitor"}]}}
    stage = {
        "trainer": {"max_epochs": 5, "callbacks+": [{"class_path": "EarlyStopping", "init_args": {"monitor": "a"}}]}
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(stage))
    config = printed_config(command, capsys, "fit", "--config=base.yaml", "--config=stage.yaml")
    assert config["trainer"]["max_epochs"] == 5
    names = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    assert names == ["LearningRateMonitor", "EarlyStopping"]


def test_our_models_and_data_go_by_short_names(command: Command, capsys: Capture) -> None:
    config = printed_config(command, capsys, "fit", "--model=SequenceClassifier", "--data=DigitsDataModule")
    assert config["model"]["class_path"].startswith("lightning_recipe.models")
    assert config["data"]["class_path"].startswith("lightning_recipe.data")


def test_unknown_key_gets_lightnings_own_error(command: Command, error: Error, tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("trainer: {max_epoch: 3}\n")
    assert "max_epoch" in error("fit", "--model=Separable", "--config=typo.yaml")
    assert "max_epox" in error("fit", "--model=Separable", "--trainer.max_epox=3")


def test_fit_saves_the_resolved_config(fit: Command, command: Command, capsys: Capture) -> None:
    cli = fit(arguments=["--rules=none"])
    saved = Path(str(cli.trainer.log_dir), "config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["class_path"].endswith("Separable")
    assert printed_config(command, capsys, "fit", f"--config={saved}")["trainer"]["max_epochs"] == 1


def test_fit_adds_the_recommended_rules(fit: Command) -> None:
    cli = fit()
    assert [rule.name for rule in _rules(cli)] == [rule.name for rule in recommended()]
    findings = Path(str(cli.trainer.log_dir), "rules", "findings.jsonl").read_text().splitlines()
    assert "loss-at-init" in {json.loads(line)["rule"] for line in findings}


def test_rules_can_be_left_out(fit: Command) -> None:
    cli = fit(arguments=["--rules=none"])
    assert not _rules(cli)
    assert not Path(str(cli.trainer.log_dir), "rules").exists()


def test_a_rule_of_the_config_is_not_added_again(fit: Command) -> None:
    own = ["--trainer.callbacks+=GradientClipping", "--trainer.callbacks.method=percentile"]
    cli = fit(arguments=[*own, "--trainer.callbacks+=LossAtInit", "--trainer.callbacks.on_error=raise"])
    assert [rule.method for rule in _rules(cli) if isinstance(rule, GradientClipping)] == ["percentile"]
    assert [rule.on_error for rule in _rules(cli) if isinstance(rule, LossAtInit)] == ["raise"]
    assert sorted(rule.name for rule in _rules(cli)) == sorted(rule.name for rule in recommended()), "and the others"


def test_an_ignored_rule_is_reported_with_its_reason(fit: Command, error: Error) -> None:
    cli = fit(arguments=['--ignore_rules={"loss-at-init": "the loss is scaled"}'])
    assert not any(isinstance(rule, LossAtInit) for rule in _rules(cli))
    assert "the loss is scaled" in Path(str(cli.trainer.log_dir), "rules", "findings.jsonl").read_text()
    assert "no-such-rule" in error("fit", "--model=Separable", '--ignore_rules={"no-such-rule": "because"}')


def test_summary_after_fit(fit: Command, capsys: Capture) -> None:
    keep = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/accuracy"]
    cli = fit(arguments=["--test_after_fit=true", *keep, "--trainer.callbacks.mode=max"])
    rows = _rows(capsys.readouterr().out)
    log_dir = cli.trainer.log_dir
    assert rows["Test accuracy"] == "82%, 95% interval 52% to 95% (Wilson): 9 of 11 examples right"
    assert rows["Baseline"].startswith("45%: what always answering '0'")
    assert rows["Baseline"].endswith("(5 of 11)")
    assert re.fullmatch(r"\d+\.\d s, 1 epoch, 3 steps, 1 process", rows["Training"])
    path, _, score = rows["Checkpoint"].partition(" ")
    assert Path(path).is_file()
    assert re.fullmatch(r"\(best val/accuracy: [01]\.?\d*\)", score)
    assert rows["Logs"] == log_dir
    assert Path(rows["Findings"]) == Path(str(log_dir), "rules", "findings.jsonl")
    assert Path(rows["Findings"]).is_file()


def test_summary_says_what_it_cannot_know(fit: Command, capsys: Capture) -> None:
    arguments = ["--test_after_fit=true", "--rules=none", "--model.log=test_score"]
    fit("Unlabelled", [*arguments, "--trainer.enable_checkpointing=false"])
    rows = _rows(capsys.readouterr().out)
    assert "logs no 'test/accuracy'" in rows["Test accuracy"]
    assert "test_score 0.8182" in rows["Test accuracy"]
    assert rows["Baseline"] == "unknown: Unlabelled has no method labels(split)"
    assert rows["Checkpoint"] == "none was kept: the weights at the end of training were tested"
    assert rows["Findings"] == "none recorded"


def test_test_prints_accuracy_with_its_interval(fit: Command, command: Command, capsys: Capture) -> None:
    checkpoint = fit().trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    capsys.readouterr()
    command("test", "--model=Separable", "--data=Labelled", "--ckpt_path", checkpoint)
    captured = capsys.readouterr()
    assert _rows(captured.out)["Test accuracy"].endswith("9 of 11 examples right")
    assert "callbacks need to be provided" not in captured.err


def test_test_after_fit_needs_something_to_test(error: Error, tmp_path: Path) -> None:
    said = error("fit", "--model=Separable", "--data=Untestable", "--test_after_fit=true")
    assert said.startswith("error: test_after_fit is on, but Untestable and Separable have not both")
    assert not (tmp_path / "logs").exists(), "nothing was trained or written"


def test_args_may_be_given_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    trainer = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    config = {"model": "Separable", "data": "Labelled", "trainer": trainer, "rules": "none"}
    assert RecipeCLI({"subcommand": "fit", "fit": config}).trainer.global_step == 3


def test_predictions_are_written(command: Command, tmp_path: Path) -> None:
    model = ("--model=SequenceClassifier", "--model.input_size=8", "--model.num_classes=10", "--model.hidden_size=4")
    data = ("--data=DigitsDataModule", "--data.form=rows", "--trainer.callbacks+=PredictionsCSV")
    cli = command("predict", *model, *data)
    lines = Path(str(cli.trainer.log_dir), "predictions.csv").read_text().splitlines()
    assert len(lines) == 1 + len(cli.datamodule.labels("test"))  # type: ignore[union-attr]


def _rules(cli: RecipeCLI) -> list[Rule]:
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, Rule)]  # type: ignore[attr-defined]


def _rows(printed: str) -> dict[str, str]:
    table = printed.strip().rpartition("\n\n")[2]
    return {name.strip(): text.strip() for name, text in (line.split("  ", 1) for line in table.splitlines()) if text}


class TestLearningRate:
    """`lr-find`: what a person at the command line gets."""

    ARGUMENTS = ("lr-find", "--model=Separable", "--data=Many", "--trainer.max_epochs=4", "--trainer.accelerator=cpu")

    def test_says_the_rate_and_where_the_curve_is(self, command: Command, capsys: Capture) -> None:
        cli = command(*self.ARGUMENTS)
        printed = capsys.readouterr().out
        found = re.search(r"^Learning rate +(\S+) \(it is set to 0.1\)$", printed, re.MULTILINE)
        assert found is not None, printed
        assert 0.01 < float(found[1]) < 1000
        curve = re.search(r"^Curve +(\S+)$", printed, re.MULTILINE)
        assert curve is not None, printed
        assert Path(curve[1]).stat().st_size > 10_000
        assert cli.trainer.global_step == 0
        assert not list(Path.cwd().rglob("*.ckpt"))

    def test_no_rate_is_status_1_and_a_reason(self, command: Command, capsys: Capture) -> None:
        with pytest.raises(SystemExit) as raised:
            command("lr-find", "--model=Separable", "--data=Labelled", "--trainer.max_epochs=4")
        assert raised.value.code == 1
        assert "Learning rate  none found. Does not apply: the whole run has 12 steps" in capsys.readouterr().out

    def test_budget_is_an_option(self, error: Error) -> None:
        assert "at least 420, but got 100" in error(*self.ARGUMENTS, "--budget=100")
