import pytest

from lightning_recipe.data import DigitsDataModule
from lightning_recipe.data.folds import Fold
from lightning_recipe.runs.folds import use_fold


@pytest.mark.parametrize(("text", "fold"), [("1/5", Fold(0, 5, 0)), ("5/5", Fold(4, 5, 0)), ("2/3@42", Fold(1, 3, 42))])
def test_a_fold_as_people_count(text: str, fold: Fold) -> None:
    data = DigitsDataModule()
    use_fold(text, data)
    assert data.fold == fold


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2", "2/5@", "-1/5", "a/b", "2/5@-1", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be K/N or K/N@SEED with K from 1 to N and N at least 2, as in 2/5"):
        use_fold(text, DigitsDataModule())


def test_data_that_cannot_be_cut_is_told_what_to_implement() -> None:
    with pytest.raises(ValueError, match=r"this run has no method `setup_fold\(k, n, seed\)`: implement it"):
        use_fold("1/5", None)
