"""Groups first, classes second: not the identity, soft and hard, where the groups come from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovsslib.errors import RecipeError
from ovsslib.recipe import Recipe
from ovsslib.segmenter import Segmenter
from ovsslib.stages.hierarchy import HierarchySettings, class_means
from ovsslib.text.features import TextFeatures
from ovsslib.text.prompts import TextSettings
from ovsslib.text.vocabulary import Vocabulary

WORDS = ["cat", "dog", "car", "bus", "sky"]
GROUPS = ("animal", "animal", "vehicle", "vehicle", "scenery")


def vocabulary(groups=GROUPS):
    return Vocabulary(
        tuple(WORDS), tuple((word,) for word in WORDS), ("thing",) * 5, groups, name="five"
    )


def text_of(rows, groups=GROUPS):
    return TextFeatures(F.normalize(rows, dim=-1), torch.arange(len(rows)), vocabulary(groups))


@pytest.fixture
def scene():
    """Scaled logits of five classes and three groups on 6 x 8 pixels, and their context."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 6, 8, generator=generator)
    groups = 2 * torch.randn(3, 6, 8, generator=generator)
    text = text_of(torch.randn(5, 24, generator=generator))
    return logits, SimpleNamespace(text=text, group_logits=groups)


def test_with_the_sum_of_members_it_would_be_the_identity_and_it_is_not(scene):
    logits, context = scene
    plain = logits.softmax(0)
    settings = HierarchySettings()
    members = [[0, 1], [2, 3], [4]]
    context.group_logits = torch.stack([logits[m].logsumexp(0) for m in members])
    torch.testing.assert_close(settings.on_scores(plain, logits, context), plain)
    context.group_logits = scene[1].group_logits.flip(0)
    ours = settings.on_scores(plain, logits, context)
    assert (ours.argmax(0) != plain.argmax(0)).any()
    torch.testing.assert_close(ours.sum(0), torch.ones(6, 8))


def test_soft_is_group_times_class_given_group(scene):
    logits, context = scene
    ours = HierarchySettings().on_scores(logits.softmax(0), logits, context)
    group = context.group_logits.softmax(0)
    torch.testing.assert_close(ours[0], group[0] * torch.softmax(logits[:2], 0)[0])
    torch.testing.assert_close(ours[3], group[1] * torch.softmax(logits[2:4], 0)[1])
    torch.testing.assert_close(ours[4], group[2])


def test_hard_takes_the_best_class_of_the_best_group(scene):
    logits, context = scene
    ours = HierarchySettings(mode="hard").on_scores(logits.softmax(0), logits, context)
    best = context.group_logits.argmax(0)
    owner = torch.tensor([0, 0, 1, 1, 2])
    assert torch.equal(owner[ours.argmax(0)], best)
    within = logits.masked_fill(owner[:, None, None] != best, -torch.inf)
    assert torch.equal(ours.argmax(0), within.argmax(0))


def test_members_text_is_the_unit_mean_and_name_text_is_the_groups_own(tiny_backbone):
    text = text_of(torch.randn(5, 24, generator=torch.Generator().manual_seed(1)))
    members = HierarchySettings(text="members").group_features(tiny_backbone, text, TextSettings())
    expected = F.normalize(text.features[:2].mean(0), dim=0)
    torch.testing.assert_close(members[0], expected)
    torch.testing.assert_close(members.norm(dim=1), torch.ones(3))
    settings = TextSettings(templates=("a {}.",))
    named = HierarchySettings(text="name").group_features(tiny_backbone, text, settings)
    own = tiny_backbone.encode_text(
        tiny_backbone.tokenize(["a animal.", "a vehicle.", "a scenery."])
    )
    torch.testing.assert_close(named, F.normalize(own, dim=-1), atol=1e-5, rtol=1e-4)


def test_groups_come_from_the_vocabulary_or_from_clusters():
    rows = torch.zeros(5, 24)
    rows[[0, 2], 0] = 1.0
    rows[[1, 3, 4], 1] = 1.0
    rows[:, 2] = torch.linspace(0, 0.1, 5)
    names, index = HierarchySettings().membership(text_of(rows))
    assert names == ["animal", "vehicle", "scenery"] and index.tolist() == [0, 0, 1, 1, 2]
    names, index = HierarchySettings(groups="clusters", count=2).membership(text_of(rows))
    assert len(names) == 2 and index[0] == index[2] != index[1] == index[3] == index[4]
    free = text_of(rows, (None,) * 5)
    names, index = HierarchySettings().membership(free)
    assert len(names) == 2 and len(index) == 5
    with pytest.raises(RecipeError, match="does not give every class a group"):
        HierarchySettings(groups="vocabulary").membership(free)
    with pytest.raises(RecipeError, match="without a name"):
        HierarchySettings(text="name").membership(free)


def test_class_means_join_synonyms():
    words = Vocabulary(("cat", "car"), (("cat", "kitten"), ("car",)), ("thing",) * 2, (None,) * 2)
    rows = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(2)), dim=-1)
    means = class_means(TextFeatures(rows, torch.tensor([0, 0, 1]), words))
    torch.testing.assert_close(means[0], F.normalize(rows[0] + rows[1], dim=0))
    torch.testing.assert_close(means[1], rows[2])


@pytest.mark.parametrize("groups", ["vocabulary", "clusters"])
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_masks_change(groups, mode, tiny_backbone):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    recipe = Recipe("h").but({"windows.short_side": 96, "windows.crop": 0})
    words = vocabulary()
    plain = Segmenter(tiny_backbone, recipe)(image, words).mask
    settings = {"mode": mode, "groups": groups, "count": 2}
    ours = Segmenter(tiny_backbone, recipe.but(hierarchy=settings))(image, words).mask
    assert (ours != plain).any() and ours.max() < 5


def test_one_word_and_bad_values(tiny_backbone):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    recipe = Recipe("h").but({"windows.short_side": 64}, hierarchy=True)
    assert not Segmenter(tiny_backbone, recipe)(image, ["cat"]).mask.any()
    with pytest.raises(RecipeError, match="hierarchy.count"):
        HierarchySettings(count=-1)
    with pytest.raises(RecipeError, match="no name of their own"):
        Recipe("h").but(hierarchy={"groups": "clusters", "text": "name"})
