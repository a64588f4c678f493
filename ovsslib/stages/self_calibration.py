"""The last block of SC-CLIP, SFP and DiH-CLIP: patches that stick out repaired, patches averaged by likeness.

Sources: Bai et al., "Self-Calibrated CLIP" (arXiv 2411.15869); Jin et al., "Feature Purification Matters" (ICCV
2025); Duan et al., "Diversity of heads" (ICCV 2025); all as their released code computes it. Three recipes, one stage.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast

from torch import Tensor

from ovsslib.errors import RecipeError
from ovsslib.recipe import stage
from ovsslib.stages import calibrated as cal
from ovsslib.stages.contexts import AttentionContext, DenseTokens
from ovsslib.stages.replacing import rivals

if TYPE_CHECKING:
    from ovsslib.clip.backbone import Backbone, TrunkOutput
    from ovsslib.recipe import Recipe

Terms = Literal["kk", "kk+qq", "none"]


class Blocks(NamedTuple):
    """Blocks counted from 1, whose output is read, and the class token's share that goes with them."""

    guide: int
    detail: int
    fused: tuple[int, ...]
    class_weight: float


PUBLISHED = {
    # blocks of the tower: what SC-CLIP's authors use there (ViT-B/16; ViT-L/14)
    12: Blocks(9, 4, (4, 5, 6, 7, 8, 9, 10), 0.3),
    24: Blocks(17, 7, (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19), 0.1),
}


@stage(
    "self_calibration",
    point="attention",
    order=90,
    summary="outlier patches repaired, patches averaged by likeness, middle blocks added (SC-CLIP, SFP, DiH-CLIP)",
)
@dataclass(frozen=True)
class SelfCalibrationSettings:
    """Replaces the last block, for patches only: the class token is CLIP's own.

    With O_l the output of block l (counted from 1), X the patches entering the last block, c their class token:
    outliers of X are filled from their neighbours; S = cosines of the guide block's patches, filled alike;
    X <- S X / rows; Z = attention(X) + rho c, half of whose weights is softmax(temperature (S - mean S)); then
    Z <- S' Z / rows with S' the cosines of the detail block. A second pass over the sum M of the fused blocks adds
    S' (attention(M) + rho M_class) / rows. No residual, no feed-forward network.

    Attributes:
        outliers: patches to repair. "lof": local outlier factor as SC-CLIP's release has it; "lof-standard": the
            textbook's factor; "class_attention": the class token attends to them more than they to themselves, in
            the last but one block (SFP); "norm": the longest tokens; "none".
        neighbours, share: of both factors: size of the neighbourhood, share of the patches that are outliers.
        most: of "class_attention" and "norm": at most so many patches (SFP: 10).
        class_scale: factor of the class token's attention before the comparison (SFP: 1.5).
        guide_block, detail_block, fused_blocks, class_weight: blocks counted from 1 and rho; None: as published
            for the depth of the tower (12 blocks: 9, 4, 4 to 10, 0.3; 24 blocks: 17, 7, 9 to 19, 0.1).
        second_pass: whether the fused blocks go through the last block too.
        threshold: cosines below it count as 0 where patches are averaged.
        guide_thresholded: they count as 0 in the attention's share of S as well (SFP).
        temperature: of that share.
        terms, second_terms: similarities of the last block, whose softmaxes are averaged with that share, in the
            first and in the second pass; "none" leaves it alone.
        heads: 0: every head on its own values. k: the k heads of lowest entropy, each on the values of *all* heads;
            their sum is divided by the number of all heads (DiH-CLIP: 4).
        guide_heads: the guide block's patches get k-k attention paths of so many heads added, those of lowest
            entropy of its own q-k attention (DiH-CLIP: 4); 0: none.
    """

    version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"ignores_attention", "patches_only"})

    outliers: Literal["lof", "lof-standard", "class_attention", "norm", "none"] = "lof"
    neighbours: int = 30
    share: float = 0.05
    most: int = 10
    class_scale: float = 1.5
    guide_block: int | None = None
    detail_block: int | None = None
    fused_blocks: tuple[int, ...] | None = None
    class_weight: float | None = None
    second_pass: bool = True
    threshold: float = 0.4
    guide_thresholded: bool = False
    temperature: float = 3.0
    terms: Terms = "kk"
    second_terms: Terms = "kk"
    heads: int = 0
    guide_heads: int = 0

    def __post_init__(self):
        least = {
            "neighbours": 1,
            "most": 1,
            "class_scale": 0,
            "temperature": 0,
            "heads": 0,
            "guide_heads": 0,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(
                    f"self_calibration.{name}={getattr(self, name)}: must be {smallest} or more"
                )
        if not 0 < self.share < 1:
            raise RecipeError(f"self_calibration.share={self.share}: must lie between 0 and 1")
        if not -1 <= self.threshold < 1:
            raise RecipeError(f"self_calibration.threshold={self.threshold}: must lie in [-1, 1)")
        for name in ("guide_block", "detail_block"):
            block = getattr(self, name)
            if block is not None and block < 1:
                raise RecipeError(f"self_calibration.{name}={block}: blocks are counted from 1")
        fused = self.fused_blocks
        if fused is not None and (not fused or min(fused) < 1 or len(set(fused)) != len(fused)):
            raise RecipeError(
                f"self_calibration.fused_blocks={fused}: give different blocks counted from 1, or set "
                "self_calibration.second_pass to false"
            )

    # -- what the recipe may hold beside it -------------------------------------------------------------------

    def refuse(self, recipe: "Recipe") -> str | None:
        """Why these settings cannot work with the rest of a recipe."""
        return rivals(recipe, self)

    def inert(self, recipe: "Recipe") -> dict[str, str]:
        """Fields that were changed and have no part here, each with the reason."""
        unused: dict[str, str] = {}
        if not self.outliers.startswith("lof"):
            unused |= dict.fromkeys(("neighbours", "share"), f"outliers are {self.outliers!r}")
        if self.outliers not in ("class_attention", "norm"):
            unused["most"] = f"outliers are {self.outliers!r}"
        if self.outliers != "class_attention":
            unused["class_scale"] = f"outliers are {self.outliers!r}"
        if not self.second_pass:
            unused |= dict.fromkeys(("fused_blocks", "second_terms"), "there is no second pass")
        usual = {f.name: f.default for f in fields(self)}
        return {
            name: reason for name, reason in unused.items() if getattr(self, name) != usual[name]
        }

    def blocks(self, layers: int) -> Blocks:
        """The blocks that are read in a tower of `layers` blocks. Raises RecipeError for those it lacks."""
        values = (self.guide_block, self.detail_block, self.fused_blocks, self.class_weight)
        usual = PUBLISHED.get(layers)
        names = ("guide_block", "detail_block", "fused_blocks", "class_weight")
        missing = [n for n, v in zip(names, values, strict=True) if v is None]
        if missing and usual is None:
            raise RecipeError(
                f"self_calibration.{missing[0]}=None: nothing is published for a tower of {layers} blocks, only for "
                f"{' and '.join(map(str, PUBLISHED))}; set {', '.join(missing)}"
            )
        published: Any = usual  # there wherever a field is None
        chosen: list[Any] = [v if v is not None else published[i] for i, v in enumerate(values)]
        blocks = Blocks(*chosen)
        last = (blocks.guide, blocks.detail, max(blocks.fused))
        for name, value in zip(names[:3], last, strict=True):
            if value >= layers:
                raise RecipeError(
                    f"self_calibration.{name}: block {value} is asked for, the model has {layers} blocks, the last "
                    f"of them excluded; use blocks up to {layers - 1}"
                )
        return blocks

    def taps(self, layers: int) -> set[int]:
        """0-based blocks whose projections are needed."""
        blocks = set()
        if self.outliers == "class_attention":
            blocks.add(layers - 2)
        if self.guide_heads:
            blocks.add(self.blocks(layers).guide - 1)
        return blocks

    def inputs(self, layers: int) -> set[int]:
        """0-based blocks whose input tokens are needed: the input of block l is the output of block l - 1."""
        blocks = self.blocks(layers)
        return {blocks.guide, blocks.detail, *(blocks.fused if self.second_pass else ())}

    # -- the block ----------------------------------------------------------------------------------------------

    def replace_block(self, context: AttentionContext) -> DenseTokens:
        """Patches (B, P, width) before ln_post and projection."""
        steps = self.steps(context)
        return DenseTokens(steps["out"].to(context.backbone.stream_dtype), context.grid)

    def steps(self, context: AttentionContext) -> dict[str, Tensor]:
        """Every step by name, float32: "outliers" (B, P) bool (absent for "none"), "fixed", "similarity", "pre",
        "attention", "main", "multi", "out".
        """
        backbone, trunk, steps = context.backbone, context.trunk, {}
        blocks = self.blocks(backbone.layers)
        patches, guide = trunk.tokens[:, 1:], self._guide(backbone, trunk, blocks)
        outliers = self.find(backbone, trunk)
        if outliers is not None:
            steps["outliers"] = outliers
            patches, guide = (cal.filled(x, outliers, context.grid) for x in (patches, guide))
        steps["fixed"] = patches
        similarity = cal.cosines(guide)
        kept = cal.cut(similarity, self.threshold)
        steps["similarity"] = kept if self.guide_thresholded else similarity
        steps["pre"] = cal.aggregated(patches, kept)
        shared = cal.guide_weights(steps["similarity"], self.temperature)
        steps["attention"] = self._attend(backbone, steps["pre"], shared, self.terms)
        detail = cal.cosines(trunk.inputs[blocks.detail][:, 1:], self.threshold)

        def finished(attended: Tensor, class_token: Tensor) -> Tensor:
            return cal.aggregated(attended + blocks.class_weight * class_token.float(), detail)

        steps["main"] = steps["out"] = finished(steps["attention"], trunk.tokens[:, :1])
        if self.second_pass:
            fused = cast(Tensor, sum(trunk.inputs[block].float() for block in blocks.fused))
            attended = self._attend(backbone, fused[:, 1:], shared, self.second_terms)
            steps["multi"] = finished(attended, fused[:, :1])
            steps["out"] = steps["main"] + steps["multi"]
        return steps

    def find(self, backbone: "Backbone", trunk: "TrunkOutput") -> Tensor | None:
        """Outliers (B, P) bool among the patches entering the last block, or None where none are looked for."""
        patches = trunk.tokens[:, 1:].float()
        if self.outliers == "none":
            return None
        if self.outliers == "norm":
            return cal.strongest(patches.norm(dim=-1), self.most)
        if self.outliers == "class_attention":
            tap = trunk.taps[backbone.layers - 2]
            of_class, of_self = cal.class_and_self_attention(tap.q, tap.k, backbone.scale)
            of_class = self.class_scale * of_class
            return cal.strongest(of_class, self.most, of_class > of_self)
        factors = cal.local_outlier_factors(
            patches, self.neighbours, self.outliers == "lof-standard"
        )
        return cal.above_quantile(factors, self.share)

    def _guide(self, backbone: "Backbone", trunk: "TrunkOutput", blocks: Blocks) -> Tensor:
        """Patches (B, P, width) of the guide block, with head paths if they are on."""
        tokens = trunk.inputs[blocks.guide]
        if self.guide_heads:
            index = blocks.guide - 1
            paths = head_paths(backbone, index, trunk.taps[index], self.guide_heads)
            tokens = tokens.float() + paths.float()
        return tokens[:, 1:]

    def _attend(
        self, backbone: "Backbone", patches: Tensor, shared: Tensor, terms: Terms
    ) -> Tensor:
        """Attention output (B, P, width) of the last block among patches, `shared` (B, P, P) mixed in; float32."""
        last = backbone.layers - 1
        tap = backbone.project(last, patches.to(backbone.stream_dtype))
        weights, count = shared[:, None], 1
        if terms != "none":
            for term in terms.split("+"):
                weights = weights + self_attention(getattr(tap, term[0]), backbone.scale)
                count += 1
        weights = weights / count
        if self.heads:
            weights = weights.expand(-1, backbone.heads, -1, -1)
            mixed = cal.summed_heads(weights, cal.lowest_entropy(weights, self.heads))
            out = on_all_values(backbone, last, mixed / backbone.heads, tap)
        else:
            out = backbone.join(last, weights.to(tap.v.dtype) @ tap.v)
        return backbone.blocks[last].ls_1(out).float()


def self_attention(projection: Tensor, scale: float) -> Tensor:
    """softmax(scale p p^T) of projections p (B, heads, T, d): (B, heads, T, T) float32."""
    return ((projection * scale) @ projection.transpose(-2, -1)).float().softmax(dim=-1)


def on_all_values(backbone: "Backbone", index: int, weights: Tensor, tap: Any) -> Tensor:
    """One attention map (B, T, T) on the values of all heads side by side, through the block's output layer."""
    values = tap.v.transpose(1, 2).flatten(2)
    return backbone.output_layer(index, weights.to(values.dtype) @ values)


def head_paths(backbone: "Backbone", index: int, tap: Any, count: int) -> Tensor:
    """DiH-CLIP's paths (B, T, width) of a 0-based block: k-k attention of the heads that see most sharply.

    The heads are the `count` of lowest entropy of the block's own q-k attention; each one's softmax(k k^T) is applied
    to the values of all heads, and the results are summed.
    """
    attention = ((tap.q * backbone.scale) @ tap.k.transpose(-2, -1)).float().softmax(dim=-1)
    chosen = cal.lowest_entropy(attention, count)
    paths = cal.summed_heads(self_attention(tap.k, backbone.scale), chosen)
    return backbone.blocks[index].ls_1(on_all_values(backbone, index, paths, tap))
