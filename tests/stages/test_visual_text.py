"""RF-CLIP's adapted text rows against outputs recorded from its official code."""

import pytest
import torch
from conftest import relative_error, vectors
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.stages.class_token_mix import ClassTokenMixSettings, mix_class_token
from ovsslib.stages.visual_text import VisualTextSettings, adapt_text, text_clusters

RFCLIP = vectors("rf-clip")
TEXT = RFCLIP["text9"]


def recorded(size):
    """Features (1, D, N) and class token (1, D) of the release's own denoising."""
    features = RFCLIP[f"features__release_sigma5__{size}"].transpose(1, 2)
    return features, RFCLIP[f"class_token__release_sigma5__{size}"]


def test_clusters_agree_with_the_official_code():
    ours, theirs = text_clusters(TEXT, 0.1), RFCLIP["clusters"].numpy()
    assert ((ours[:, None] == ours[None]) == (theirs[:, None] == theirs[None])).all()
    assert text_clusters(TEXT[:1], 0.1).tolist() == [0]
    assert len(set(text_clusters(TEXT, 2.0).tolist())) == 1
    assert len(set(text_clusters(TEXT, 0.0).tolist())) == len(TEXT)


@pytest.mark.parametrize("size", ["64x64", "80x112"])
@pytest.mark.parametrize(("weight", "mix"), [(0.03, 0.1), (0.3, 0.4)])
def test_rows_and_scores_agree_with_the_official_code(weight, mix, size):
    features, token = recorded(size)
    adapted = adapt_text(TEXT[None], features, token, weight, 0.1)
    key = f"a{weight}_w{mix}_h0.1__{size}"
    assert relative_error(adapted[0], RFCLIP[f"adjusted_text__{key}"]) < 1e-4
    grid = (4, 4) if size == "64x64" else (5, 7)
    logits = (adapted @ F.normalize(features, dim=1)).unflatten(2, grid)
    mixed = mix_class_token(logits, TEXT, token, mix)
    assert relative_error(mixed, RFCLIP[f"logits__{key}"]) < 1e-4


def test_windows_of_a_batch_do_not_meet():
    features, token = recorded("80x112")
    pair = torch.cat([features, features.flip(1)]), torch.cat([token, -token])
    both = adapt_text(TEXT.expand(2, -1, -1), *pair, 0.3, 0.1)
    for index in range(2):
        one = adapt_text(
            TEXT[None], pair[0][index : index + 1], pair[1][index : index + 1], 0.3, 0.1
        )
        torch.testing.assert_close(both[index : index + 1], one)


def test_one_row_of_every_cluster_moves():
    features, token = recorded("64x64")
    moved = (adapt_text(TEXT[None], features, token, 0.5, 0.1)[0] != TEXT).any(dim=1)
    cluster = text_clusters(TEXT, 0.1)
    for number in set(cluster.tolist()):
        assert moved[torch.from_numpy(cluster == number)].sum() == 1
    single = adapt_text(TEXT[None], features[..., :1], token, 0.5, 0.1)
    assert single.isfinite().all()


@pytest.mark.parametrize("name", ["visual_text", "class_token_mix"])
def test_a_map_of_the_whole_picture_has_no_windows(name):
    with pytest.raises(RecipeError, match="class_token to 'picture'"):
        Recipe("x").but({"stitch": True, name: {"class_token": "window"}})
    Recipe("x").but({"stitch": True, name: {"class_token": "picture"}})


@pytest.mark.parametrize("values", [{"weight": 1.5}, {"distance": -0.1}, {"patches": 0}])
def test_bad_values_are_refused(values):
    with pytest.raises(RecipeError, match=f"visual_text.{next(iter(values))}"):
        VisualTextSettings(**values)
    with pytest.raises(RecipeError, match="class_token_mix.weight=-1"):
        ClassTokenMixSettings(weight=-1.0)
