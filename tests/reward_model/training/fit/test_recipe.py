from __future__ import annotations

from pathlib import Path

import pytest

import reward_model
from reward_model.errors import BadInput
from reward_model.training.fit.recipe import load_recipe


def test_the_recipe_of_the_bundled_model_is_valid_and_finds_its_files() -> None:
    recipe = load_recipe(Path(reward_model.__file__).parent / "recipes/winnow-orm.toml")
    assert recipe.id == "winnow-orm@3"
    paths = [source.path for source in recipe.sources.values() if source.path]
    assert len(paths) == 3
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = ", "not TOML"),
        ('id = "x@1"\nsources = {}\nlayer = 3', "layer: Extra"),
        ('id = "x"\nsources = {}', "id: String should match"),
        ('id = "x@1"\n[sources.a]\nmax_pairs = 0', r"sources\.a\.max_pairs"),
        (
            'id = "x@1"\n[sources]\n[model]\nstart_from = "x"\n[optim]\nhead_start = 1',
            r"toml: model\.start_from brings",
        ),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_recipe(path)
    with pytest.raises(BadInput, match="No such file"):
        load_recipe(tmp_path / "none.toml")
