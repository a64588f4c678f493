"""Pretraining: it learns, it resumes exactly, it sees no label, and its forward pass is open_clip's."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_cases import kill_after, losses

import ovsslib
from ovsslib.clip.loading import build_model, load_state
from ovsslib.clip.sceneclip import (
    coarsen_patches,
    enlarge_patches,
    load_sceneclip_state,
    save_sceneclip_state,
    shrink_patches,
    token_counts,
)
from ovsslib.errors import DataError, ModelError
from ovsslib.scenes.forward import (
    TokenMix,
    compose_mosaics,
    embed,
    encode_image,
    encode_text,
    run_block,
    sharpen_blocks,
)
from ovsslib.scenes.objective import learning_rate, to_pixels, tokenise
from ovsslib.scenes.optimiser import orthogonal_factor
from ovsslib.scenes.pretraining import (
    PretrainingSettings,
    Trainer,
    make_model,
)
from ovsslib.scenes.training_data import training_loader

MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY = PretrainingSettings(
    model=MODEL, seed=3, steps=50, batch=16, crops=2, lr=3e-3, warmup=5, patch_dropout=0.5, workers=0,
    mosaic=2, mosaic_share=0.4, mix=TokenMix(0.5, 0.5), sharpen={2: 2.0}, final_mix=TokenMix(0.3, 0.5), checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    Trainer.train(replace(TINY, checkpoint_seconds=1e9), out)
    return out


def test_fifty_steps_lower_the_loss(finished):
    curve = losses(finished)
    assert curve.shape == (50,)
    assert curve[-10:].mean() < curve[:10].mean() - 0.1


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(finished, tmp_path):
    kill_after(8, "from test_pretraining import TINY, Trainer; Trainer.train(TINY, out)", tmp_path)
    trainer = Trainer(TINY, tmp_path)
    assert trainer.resume() and 0 < trainer.step
    Trainer.train(TINY, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=0, atol=1e-6)


def test_the_loader_yields_images_and_captions_only():
    loader = training_loader(5, 8, 32, 2, workers=1)
    batch = next(iter(loader))
    assert len(batch) == 2
    images, captions = batch
    assert images.shape == (8, 32, 32, 3) and images.dtype == torch.uint8
    assert len(captions) == 8 and all(type(text) is str for text in captions)


def test_batches_depend_on_seed_and_step_alone():
    straight = iter(training_loader(5, 4, 32, 2, workers=0))
    [next(straight) for _ in range(3)]
    later = iter(training_loader(5, 4, 32, 2, first=3, workers=2))
    for _ in range(2):
        (a, texts_a), (b, texts_b) = next(straight), next(later)
        assert torch.equal(a, b) and texts_a == texts_b
    with pytest.raises(DataError, match="multiple"):
        training_loader(5, 5, 32, 2)


def test_forward_equals_open_clip():
    torch.manual_seed(0)
    model = build_model(MODEL).eval()
    for weight in model.parameters():  # open_clip starts some of them at zero
        torch.nn.init.normal_(weight, std=0.15)
    pixels = torch.randn(2, 3, 64, 64)
    tokens = tokenise(["a dog on the grass", "two big people by the sea"], 77)
    padded = F.pad(tokens, (0, 77 - tokens.shape[1]))
    with torch.no_grad():
        mine = encode_image(model, pixels, torch.Generator(), low=False)[:, 0]
        torch.testing.assert_close(
            mine, model.encode_image(pixels, normalize=True), atol=1e-5, rtol=1e-4
        )
        texts = encode_text(model, tokens, low=False)
        torch.testing.assert_close(
            texts, model.encode_text(padded, normalize=True), atol=1e-5, rtol=1e-4
        )
        rough = encode_image(model, pixels, torch.Generator(), low=True)[:, 0]
    assert float((rough * mine).sum(1).min()) > 0.99


def test_class_token_mix_cuts_the_class_tokens_own_evidence():
    torch.manual_seed(0)
    model = build_model(MODEL)
    pixels = torch.randn(3, 3, 64, 64)
    generator = torch.Generator().manual_seed(1)
    features = encode_image(model, pixels, generator, TokenMix(1.0, 0.5), low=False)
    assert features.shape == (3, 2, 32)
    last = model.visual.transformer.resblocks[-1]
    with (
        torch.no_grad()
    ):  # the last block's attention shut: only what the class token carries itself remains
        last.attn.out_proj.weight.zero_()
    carried = encode_image(model, pixels, generator, TokenMix(1.0, 0.0), low=False)[:, 0]
    torch.testing.assert_close(carried, carried[:1].expand(3, -1))
    free = encode_image(model, pixels, generator, TokenMix(0.0, 0.0), low=False)[:, 0]
    assert float((free - free[:1]).detach().abs().max()) > 1e-4
    with torch.no_grad():
        torch.nn.init.normal_(last.attn.out_proj.weight, generator=torch.Generator().manual_seed(2))
    features = encode_image(
        model, pixels, torch.Generator().manual_seed(1), TokenMix(1.0, 0.5), low=False
    )
    one = encode_image(
        model, pixels, torch.Generator().manual_seed(1), TokenMix(1.0, 0.0), low=False
    )
    assert one.shape == (3, 1, 32)
    torch.testing.assert_close(one[:, 0], features[:, 0])


def test_second_answer_stands_on_a_patch_of_another_picture():
    torch.manual_seed(0)
    model = build_model(MODEL)
    last = model.visual.transformer.resblocks[-1]
    with (
        torch.no_grad()
    ):  # the attention path shut: what remains is what the attention's result is added to
        last.attn.out_proj.weight.zero_()
    pixels = torch.randn(3, 3, 64, 64, requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    features = encode_image(model, pixels, generator, TokenMix(1.0, 0.5), low=False)
    (features[0, 1] * torch.arange(32)).sum().backward()
    reached = pixels.grad.abs().flatten(1).max(1).values
    assert reached[2] > 1e-6 and reached[0] == 0 and reached[1] == 0


def test_mosaics_hold_every_picture_once_at_its_place():
    pixels = torch.randn(8, 3, 64, 64)
    mosaics = compose_mosaics(pixels, 2)
    assert mosaics.shape == (2, 3, 64, 64)
    for number, picture in enumerate(F.avg_pool2d(pixels, 2)):
        which, row, column = number // 4, number % 4 // 2, number % 2
        tile = mosaics[which, :, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        assert torch.equal(tile, picture), number


def test_in_a_mosaic_each_picture_answers_from_its_own_patches():
    torch.manual_seed(0)
    model = build_model(MODEL)
    with torch.no_grad():  # no attention in the first block: patches know only themselves
        model.visual.transformer.resblocks[0].attn.out_proj.weight.zero_()

    def reached(answer: int) -> list[int]:
        pixels = torch.randn(8, 3, 64, 64, requires_grad=True)
        features = encode_image(
            model, pixels, torch.Generator().manual_seed(1), TokenMix(0.0, 0.5), low=False, mosaic=2
        )
        assert features.shape == (8, 2, 32)
        (features[5, answer] * torch.arange(32)).sum().backward()
        return (pixels.grad.abs().flatten(1).max(1).values > 1e-8).nonzero()[:, 0].tolist()

    assert reached(0) == [5]
    assert reached(1) == [1, 5]  # over a patch of the mosaic before, at the same place


def test_mosaics_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="mosaic 3 must divide"):
        replace(TINY, mosaic=3)
    with pytest.raises(DataError, match="batch of 18"):
        replace(TINY, batch=18)
    with pytest.raises(DataError, match="mosaic_share 1.5"):
        replace(TINY, mosaic_share=1.5)
    with pytest.raises(DataError, match="mosaic 1 must be"):
        replace(TINY, mosaic=1)
    assert replace(TINY, mosaic=3, mosaic_share=0.0).mosaic_share == 0


def test_sharpening_centres_queries_and_keys_and_scales_their_products():
    torch.manual_seed(0)
    model = build_model(MODEL)
    pixels = torch.randn(4, 3, 64, 64)
    first, last = model.visual.transformer.resblocks
    torch.nn.init.normal_(last.attn.in_proj_bias)
    untouched = first.attn.in_proj_weight.clone()

    def queries_and_keys():
        x, _ = embed(model, pixels, torch.Generator())
        normed = last.ln_1(run_block(first, x, low=False)[:, 1:])
        return F.linear(normed, last.attn.in_proj_weight, last.attn.in_proj_bias)[..., :64].detach()

    before = queries_and_keys()
    sharpen_blocks(model, pixels, {2: 4.0}, low=False)
    expected = 2 * (before - before.mean((0, 1)))
    torch.testing.assert_close(queries_and_keys(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(first.attn.in_proj_weight, untouched)


def test_finished_weights_are_centred_and_the_run_is_not_touched(tmp_path):
    trainer = Trainer(replace(TINY, centre=(2,), bfloat16=False), tmp_path)
    torch.nn.init.ones_(trainer.model.visual.transformer.resblocks[1].attn.in_proj_bias)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    model = trainer.finished()
    images, _ = next(iter(training_loader(TINY.held_out_seed, 16, TINY.size, 1, 0, 0)))
    x, _ = embed(model, to_pixels(images, torch.device("cpu")), torch.Generator())
    first, last = model.visual.transformer.resblocks
    normed = last.ln_1(run_block(first, x, low=False)[:, 1:])
    both = F.linear(normed, last.attn.in_proj_weight, last.attn.in_proj_bias)[..., :64]
    assert both.mean((0, 1)).abs().max() < 1e-4
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_enlarged_model_on_a_picture_is_the_small_one_on_its_average():
    small = make_model(TINY)
    torch.nn.init.normal_(small.visual.conv1.weight, std=0.1)
    large = build_model(MODEL)
    load_state(large, enlarge_patches(small.state_dict(), 2), "test")
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = small.encode_image(F.avg_pool2d(picture, 2))
        torch.testing.assert_close(large.encode_image(picture), expected, atol=1e-4, rtol=1e-3)
    coarse = coarsen_patches(small.state_dict(), 2)
    assert coarse["visual.positional_embedding"].shape == (5, 32)
    assert coarse["visual.conv1.weight"].shape == (32, 3, 16, 16)
    back = shrink_patches(enlarge_patches(small.state_dict(), 2), 2)
    torch.testing.assert_close(
        back["visual.conv1.weight"], small.state_dict()["visual.conv1.weight"]
    )


def test_exported_weights_open_and_know_their_words(finished):
    state, kept = load_sceneclip_state(finished / "model.safetensors")
    model = build_model(json.loads((finished / "config.json").read_text(encoding="utf-8")))
    load_state(model, state, "test")
    photo = tokenise(["a photo"], 77)[0, 2]
    assert photo in kept and 0 not in kept
    assert state["token_embedding.weight"].shape == (49408, 32)
    assert float(state["token_embedding.weight"][photo].abs().max()) > 0
    absent = np.setdiff1d(np.arange(49408), kept.numpy())
    assert len(absent) > 40000 and float(state["token_embedding.weight"][absent].abs().max()) == 0


def test_a_trained_folder_opens_like_the_shipped_model(finished, tmp_path):
    shipped = ovsslib.load_backbone("sceneclip")
    own = ovsslib.load_backbone("sceneclip", finished)
    assert own.weights_hash != shipped.weights_hash and own.pretrained == finished.name
    assert own.width == TINY.model["vision_cfg"]["width"]
    by_file = ovsslib.load_backbone("sceneclip", str(finished / "model.safetensors"))
    assert by_file.weights_hash == own.weights_hash
    with pytest.raises(ModelError, match=f"{tmp_path}.*ovss pretrain sceneclip"):
        ovsslib.load_backbone("sceneclip", tmp_path)


def test_training_goes_on_from_shipped_weights(finished):
    trained, kept = load_sceneclip_state(finished / "model.safetensors")
    model = make_model(replace(TINY, start=str(finished / "model.safetensors")))
    torch.testing.assert_close(
        model.token_embedding.weight[kept], trained["token_embedding.weight"][kept]
    )
    other = replace(
        TINY, start=str(finished / "model.safetensors"), model={**MODEL, "embed_dim": 16}
    )
    with pytest.raises(ModelError, match="does not fit"):
        make_model(other)


def test_damaged_or_foreign_weight_files_are_refused(tmp_path):
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"not a weight file")
    with pytest.raises(ModelError, match="cannot read"):
        load_sceneclip_state(broken)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, broken)
    with pytest.raises(ModelError, match="no SceneCLIP"):
        load_sceneclip_state(broken)
    table = torch.arange(49408.0)[:, None].expand(-1, 2)
    save_sceneclip_state(
        broken, {"token_embedding.weight": table}, torch.tensor([7, 3]), {"seed": "1"}
    )
    state, kept = load_sceneclip_state(broken)
    assert kept.tolist() == [3, 7] and state["token_embedding.weight"][7, 0] == 7


def test_orthogonal_factor_levels_the_singular_values():
    matrix = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal_factor(matrix).float())
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_learning_rate_warms_up_and_cools_to_zero():
    settings = replace(TINY, final_share=0.2)
    rates = [learning_rate(settings, step, step / 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(settings.lr / 5, rel=1e-3) and max(rates) <= settings.lr
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[5:]))


def test_minutes_end_the_run_and_a_non_finite_loss_stops_it(tmp_path):
    Trainer.train(TINY, tmp_path / "short", minutes=0.005)
    assert 1 <= len(losses(tmp_path / "short")) < 50
    trainer = Trainer(TINY, tmp_path / "broken")
    with torch.no_grad():
        trainer.model.visual.proj.fill_(float("nan"))
    trainer.batches = iter(training_loader(3, 16, 32, 2, workers=0))
    with pytest.raises(ModelError, match="lower lr"):
        trainer.learn(0.0)


def test_shipped_settings_read_and_unknown_ones_are_named(tmp_path):
    for name in ("sceneclip", "sceneclip-p32"):
        settings = Trainer.read_settings(ovsslib.paths.data(f"models/{name}.yaml"))
        assert settings.size == 112 and settings.batch % settings.crops == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {}\nlearning_rate: 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="learning_rate"):
        Trainer.read_settings(wrong)
    with pytest.raises(DataError, match="shares"):
        replace(TINY, patch_dropout=1.5)


@pytest.fixture(scope="module")
def reader(finished, tmp_path_factory) -> tuple[PretrainingSettings, Path]:
    """A text tower that learns from captions in other words, on the weights of the finished run."""
    out = tmp_path_factory.mktemp("words")
    settings = replace(
        TINY, start=str(finished / "model.safetensors"), sharpen={}, seed=4, steps=6, text_only=True,
        wordings=2, anchor=2.0,
    )  # fmt: skip
    Trainer.train(settings, out)
    return settings, out


def test_only_the_text_tower_learns_new_words(finished, reader):
    before, known = load_sceneclip_state(finished / "model.safetensors")
    after, more = load_sceneclip_state(reader[1] / "model.safetensors")
    for key, value in before.items():
        if key.startswith("visual."):
            assert torch.equal(after[key], value), key
    assert not torch.equal(after["text_projection"], before["text_projection"])
    assert set(known.tolist()) < set(more.tolist())
    counts = token_counts(reader[1] / "model.safetensors")
    assert set(counts) == set(more.tolist())
    assert sum(counts.values()) > 6 * 2 * TINY.batch * 4
    assert not token_counts(finished / "model.safetensors").keys() - set(known.tolist())


def test_the_anchor_keeps_readable_captions_where_they_were(finished, reader, tmp_path):
    settings, _ = reader
    moved = {}
    for weight in (0.0, 50.0):
        trainer = Trainer(replace(settings, anchor=weight), tmp_path / str(weight))
        trainer.run(6)
        tokens = tokenise(["a photo of a dog.", "a red car on the road"], 32)
        with torch.no_grad():
            old = encode_text(make_model(settings), tokens, low=False)
            new = encode_text(trainer.model, tokens, low=False)
        moved[weight] = float((1 - (old * new).sum(1)).mean())
    assert moved[50.0] < 0.5 * moved[0.0]


def test_text_only_needs_a_start():
    with pytest.raises(DataError, match="start"):
        replace(TINY, text_only=True)
    with pytest.raises(DataError, match="start"):
        replace(TINY, anchor=1.0)


def test_a_run_from_other_first_weights_is_refused(finished, reader, tmp_path):
    settings, _ = reader
    own = tmp_path / "start.safetensors"
    own.write_bytes(Path(settings.start).read_bytes())
    trainer = Trainer(replace(settings, start=str(own)), tmp_path / "run")
    trainer.save()
    state, known = load_sceneclip_state(own)
    save_sceneclip_state(own, {**state, "logit_scale": state["logit_scale"] + 1}, known, {})
    with pytest.raises(DataError, match="other weights"):
        Trainer(replace(settings, start=str(own)), tmp_path / "run").resume()


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_sceneclip_state(out / "model.safetensors")[0]


def stopped_halfway(settings: PretrainingSettings, out: Path) -> None:
    """Train in two goes: a trainer that stops after its second step, and another that goes on from its checkpoint."""

    class Stop(Exception):
        pass

    class Halfway(Trainer):
        def save(self):
            super().save()
            if self.step == 2:
                raise Stop

    with pytest.raises(Stop):
        Halfway.train(replace(settings, checkpoint_seconds=0.0), out)
    later = Trainer(settings, out)
    assert later.resume() and later.step == 2
    Trainer.train(settings, out)


@pytest.mark.parametrize("words", [False, True], ids=["both towers", "words"])
def test_the_same_seed_gives_the_same_weights_in_one_go_or_two(words, reader, tmp_path):
    settings = replace(reader[0] if words else TINY, steps=4)
    Trainer.train(replace(settings, checkpoint_seconds=1e9), tmp_path / "one")
    stopped_halfway(settings, tmp_path / "two")
    first, second = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert torch.equal(values, second[name]), name
    Trainer.train(replace(settings, seed=settings.seed + 1), tmp_path / "other")
    other = weights_of(tmp_path / "other")
    assert any(
        first[name].shape != other[name].shape or not torch.equal(first[name], other[name])
        for name in first
    )
