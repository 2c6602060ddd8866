"""The subcommands made of several fits; each is a module with a function `run`, imported when it is asked for."""

MODULES = {
    "crossval": "lightning_recipe.runs.crossval",
    "ensemble": "lightning_recipe.runs.ensemble",
    "learning-curve": "lightning_recipe.runs.learning_curve",
    "refit": "lightning_recipe.runs.refit",
    "search": "lightning_recipe.runs.search.command",
}
EPILOG = (
    "Of several fits: `crossval --folds 5` tests a configuration on examples that it has not seen, each in turn; "
    "`search --trials 20 --space FILE` finds the best options; `learning-curve --sizes 6` says what more data would "
    "bring; `refit --run FOLDER --strategy restart|continue` retrains on training and validation data together; "
    "`ensemble --members 5 --how seeds|folds|snapshots|bagging` trains several and makes one of them."
)
