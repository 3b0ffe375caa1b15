from __future__ import annotations

from pathlib import Path

import pytest

import reward_model
from reward_model.errors import BadInput
from reward_model.training.recipe import load_recipe


@pytest.mark.parametrize("name", ["winnow-orm-pairs", "winnow-orm"])
def test_the_recipes_of_the_bundled_model_are_valid_and_share_an_architecture(name: str) -> None:
    folder = Path(reward_model.__file__).parent / "recipes"
    recipe, first = load_recipe(folder / f"{name}.toml"), load_recipe(folder / "winnow-orm-pairs.toml")
    assert recipe.id == f"{name}@1"
    assert recipe.formatting == first.formatting
    assert recipe.model.model_copy(update={"start_from": None}) == first.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = ", "not TOML"),
        ('id = "x@1"\nsources = {}\nlayer = 3', "layer: Extra"),
        ('id = "x"\nsources = {}', "id: String should match"),
        ('id = "x@1"\n[sources.a]\nmax_pairs = 0', r"sources\.a\.max_pairs"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_recipe(path)
    with pytest.raises(BadInput, match="No such file"):
        load_recipe(tmp_path / "none.toml")
