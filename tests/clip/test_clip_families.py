"""Every ViT of open_clip runs with open_clip's own embeddings, or is refused by name; the book's table says which."""

import csv

import clip_families
import open_clip
import pytest

from ovsslib.clip.architectures import check_configuration
from ovsslib.errors import ModelError

VITS = [name for name in open_clip.list_models() if name.startswith("ViT-")]
QUICK = ("ViT-B-16-quickgelu", "ViT-S-32", "ViT-B-16-SigLIP")  # the others take a minute together


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[str, str]]:
    """Model -> (runs or refused, why), as the book prints it."""
    with clip_families.TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: (row["here"], row["why"])
        for row in rows
        for name in row["models of open_clip"].split(", ")
    }


@pytest.mark.filterwarnings("ignore:nothing in weights.safetensors says")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VITS]
)
def test_embeddings_are_open_clips_or_the_model_is_refused(name, table, tmp_path):
    told = clip_families.attempt(name, tmp_path)
    if told == clip_families.RUNS:
        assert table[name] == ("runs", "")
    else:
        assert repr(name) in told and "choose a ViT model" in told
        assert table[name] == ("refused", clip_families.reason(told))


def test_the_table_has_every_model_of_open_clip(table):
    assert set(table) == set(open_clip.list_models())
    for name, (here, why) in table.items():
        config = clip_families.small(open_clip.get_model_config(name))
        try:
            check_configuration(config, name)
            assert (here, why) == ("runs", "")
        except ModelError as error:
            assert (here, why) == ("refused", clip_families.reason(str(error)))


def test_another_embedding_is_noticed(monkeypatch, tmp_path):
    """A trial that takes everything would be worth nothing."""
    build = clip_families.reference

    def other(config):
        return build({**config, "quick_gelu": True})

    monkeypatch.setattr(clip_families, "reference", other)
    with pytest.raises(AssertionError, match="ViT-S-32: embeddings are not open_clip's"):
        clip_families.attempt("ViT-S-32", tmp_path)
