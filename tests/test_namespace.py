"""Both namespaces, and what each insists on; each in a fresh process, since the order of imports matters."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_COST = """
import sys, lightning.pytorch
before = set(sys.modules)
import lightning_rules
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert "pytorch_lightning" not in sys.modules
assert not new & {"timm", "torchvision", "sklearn", "matplotlib", "pandas", "wandb", "jinja2", "scipy"}, new
"""

PL_CLI = """
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel, BoringDataModule
from lightning_rules import Rule
import lightning.pytorch as L
cli = LightningCLI(BoringModel, BoringDataModule, args=[
    "fit", "--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false",
    "--trainer.enable_checkpointing=false", "--trainer.callbacks=lightning_rules.LossAtInit"])
rules = [callback for callback in cli.trainer.callbacks if isinstance(callback, Rule)]
assert len(rules) == 1 and rules[0].findings, cli.trainer.callbacks
assert isinstance(rules[0], L.Callback) and isinstance(rules[0], pl.Callback)
"""

LIGHTNING_CLI = PL_CLI.replace("import pytorch_lightning as pl", "import lightning.pytorch as pl").replace(
    "pytorch_lightning.", "lightning.pytorch."
)

RESUME = """
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
from lightning_rules import LossAtInit, recommended
for epochs in (1, 2):
    rule = LossAtInit()
    trainer = pl.Trainer(max_epochs=epochs, limit_train_batches=2, accelerator="cpu", callbacks=[rule])
    trainer.fit(BoringModel(), ckpt_path="last.ckpt" if epochs == 2 else None)
    trainer.save_checkpoint("last.ckpt")
assert len(rule.findings) == 2, rule.findings
"""

CHECKPOINTS = """
import os
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
import lightning.pytorch as L
from lightning_rules import GitTagCheckpoint
for epochs in (1, 2):
    keep = GitTagCheckpoint(dirpath="kept", monitor="x", save_last=True, filename="{step}")
    class Module(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("x", float(-self.current_epoch))
    trainer = pl.Trainer(max_epochs=epochs, limit_train_batches=2, limit_val_batches=1, accelerator="cpu",
                         logger=False, callbacks=[keep, EarlyStopping("x")])
    assert trainer.checkpoint_callbacks == [keep] and trainer.callbacks[-1] is keep, trainer.callbacks
    trainer.fit(Module(), ckpt_path="last")
    steps = epochs * 2
    assert sorted(os.listdir("kept")) == sorted(
        f"{name}.ckpt{end}" for name in ("last", f"step={steps}") for end in ("", ".json")), os.listdir("kept")
    assert trainer.global_step == steps and len(keep.best_k_models) == 1
    assert all("pytorch_lightning" not in finding.message for finding in keep.findings)
trainer.validate(Module(), ckpt_path="best")
lightning = L.Trainer(callbacks=[keep], logger=False, accelerator="cpu")
assert lightning.checkpoint_callbacks == [keep]
"""

LATE_PL = """
from lightning_rules import GitTagCheckpoint
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
keep = GitTagCheckpoint(dirpath="kept")
pl.Trainer(max_steps=1, accelerator="cpu", logger=False, callbacks=[keep]).fit(BoringModel())
assert any(finding.advice == "Import pytorch_lightning before lightning_rules." for finding in keep.findings)
"""


@pytest.mark.parametrize(
    "program",
    [IMPORT_COST, PL_CLI, LIGHTNING_CLI, RESUME, CHECKPOINTS, LATE_PL],
    ids=["imports-little", "pl-cli", "lightning-cli", "pl-resume", "pl-checkpoints", "pl-imported-late"],
)
def test_in_a_fresh_process(program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
